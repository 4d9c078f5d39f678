package mdm

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// A row is what a device is found and sorted by. It repeats what stands in the Device, in
// a form that a hundred thousand of can be looked through while somebody waits. PutDevice
// keeps it, in the same transaction; it is written only if it changes, which is seldom.
//
//	version, state, type, ownership, platform, supervised, demo   a byte each
//	OS version, as of versionNumber                               8 bytes
//	time of enrollment, Unix nanoseconds, 0 for never             8 bytes
//	length of the parent's id, and the id
//	texts, folded, with a zero byte in between
type row []byte

const (
	rowBucket  = "device_rows"
	rowVersion = 1

	// rowsFilled holds under filledKey by which rowVersion all devices have a row: those
	// that were put by an older program have none.
	rowsFilled = "device_rows.filled"
	filledKey  = "version"

	// maxRowText bounds each text, in bytes. Folded text may be longer than what it was.
	maxRowText = 1024
)

// Places in a row.
const (
	rowState      = 1
	rowType       = 2
	rowOwnership  = 3
	rowPlatform   = 4
	rowSupervised = 5
	rowDemo       = 6
	rowOS         = 7
	rowEnrolled   = 15
	rowParent     = 23
)

// The texts of a row, in their order. All are searched.
const (
	textName = iota
	textSerial
	textModel // as lists show it: the model's number or else the product's name
	textProduct
	textModelName
	textOS
	textUser
	textAccount
	textUDID
	textEnrollmentID
	textUserNames // of a user channel

	rowTexts
)

// What a byte of a row stands for: 0 is anything else, or unknown.
var (
	rowStates     = []State{Pending, Enrolled, Unenrolled, Blocked}
	rowTypes      = []EnrollmentType{TypeDevice, TypeUser, TypeAccountDevice, TypeUserChannel}
	rowOwnerships = []Ownership{Institutional, Personal}
	rowPlatforms  = []command.Platform{command.IOS, command.MacOS, command.TVOS, command.VisionOS, command.WatchOS}
	rowFlags      = []bool{false, true}
)

// code returns the byte that stands for v.
func code[T comparable](v T, of []T) byte { return byte(slices.Index(of, v) + 1) }

func (d Device) row() row {
	r := make(row, rowParent, 256)
	r[0] = rowVersion
	r[rowState], r[rowType], r[rowOwnership] = code(d.State, rowStates), code(d.Type, rowTypes), code(d.Ownership, rowOwnerships)
	r[rowPlatform] = code(d.eligibility().target.Platform, rowPlatforms)
	if d.Supervised != nil {
		r[rowSupervised] = code(*d.Supervised, rowFlags)
	}
	r[rowDemo] = code(d.Demo, rowFlags)
	binary.BigEndian.PutUint64(r[rowOS:], versionNumber(d.OSVersion))
	if !d.EnrolledAt.IsZero() {
		binary.BigEndian.PutUint64(r[rowEnrolled:], uint64(d.EnrolledAt.UnixNano()))
	}
	parent := d.ParentID
	if len(parent) > 255 {
		parent = "" // none of ours
	}
	r = append(append(r, byte(len(parent))), parent...)
	var texts [rowTexts]string
	texts[textName], texts[textSerial], texts[textModel] = d.DeviceName, d.SerialNumber, cmp.Or(d.Model, d.ProductName)
	texts[textProduct], texts[textModelName], texts[textOS] = d.ProductName, d.ModelName, d.OSVersion
	texts[textUser], texts[textAccount] = d.User, d.ManagedAppleAccount
	texts[textUDID], texts[textEnrollmentID] = d.UDID, d.EnrollmentID
	texts[textUserNames] = strings.TrimSpace(d.UserLongName + " " + d.UserShortName)
	for i, text := range texts {
		if i > 0 {
			r = append(r, 0)
		}
		if text = fold(text); len(text) > maxRowText {
			text = strings.ToValidUTF8(text[:maxRowText], "")
		}
		r = append(r, text...)
	}
	return r
}

// valid says whether r can be read: the other methods take that for granted.
func (r row) valid() bool {
	return len(r) > rowParent && r[0] == rowVersion && len(r) > rowParent+int(r[rowParent])
}

func (r row) os() uint64        { return binary.BigEndian.Uint64(r[rowOS:]) }
func (r row) enrolledAt() int64 { return int64(binary.BigEndian.Uint64(r[rowEnrolled:])) }
func (r row) parent() []byte    { return r[rowParent+1 : rowParent+1+int(r[rowParent])] }
func (r row) texts() []byte     { return r[rowParent+1+int(r[rowParent]):] }

// text returns one of the texts.
func (r row) text(n int) []byte {
	rest := r.texts()
	for range n {
		rest = rest[bytes.IndexByte(rest, 0)+1:]
	}
	if end := bytes.IndexByte(rest, 0); end >= 0 {
		rest = rest[:end]
	}
	return rest
}

// versionNumber is a number by which versions of an operating system compare: 16 bits for
// each of up to four parts. It is 0 for none, and for what does not begin with a number.
func versionNumber(version string) (n uint64) {
	version = strings.TrimSpace(version)
	for i := range 4 {
		digits := 0
		for digits < len(version) && '0' <= version[digits] && version[digits] <= '9' {
			digits++
		}
		part := uint64(0)
		for _, d := range []byte(version[:digits]) {
			part = min(part*10+uint64(d-'0'), 1<<16-1)
		}
		n |= part << (48 - 16*i)
		if digits == len(version) || digits == 0 || version[digits] != '.' {
			break
		}
		version = version[digits+1:]
	}
	return n
}

// readRow is what [storage.Tx.Prefetch] takes for putRow.
func readRow(id DeviceID) storage.Read { return storage.Read{Bucket: rowBucket, Key: []byte(id)} }

// putRow writes d's row if it differs from what is stored.
func putRow(tx storage.Tx, d Device) error {
	r := d.row()
	old, err := tx.Get(rowBucket, []byte(d.ID))
	if err == nil && bytes.Equal(old, r) {
		return nil
	}
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	return tx.Put(rowBucket, []byte(d.ID), r)
}

const (
	// fillBatch is how many devices get their rows in one transaction, which holds up
	// nobody for long.
	fillBatch = 500
	// fillEvery is how often all rows are compared with their devices. They can differ only
	// after an older program has been at work on the database again, as while replicas are
	// replaced one by one.
	fillEvery = 24 * time.Hour
)

// errNotFilled means that there may be devices without a row.
var errNotFilled = errors.New("devices have no rows yet")

// checkFilled returns errNotFilled unless every device has its row.
func checkFilled(tx storage.Tx) error {
	v, err := tx.Get(rowsFilled, []byte(filledKey))
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("rows of devices: %w", err)
	}
	if err != nil || len(v) != 1 || v[0] != rowVersion {
		return errNotFilled
	}
	return nil
}

// fillRows writes the rows that are missing or wrong. Two that do so at once do no harm:
// a device that somebody else writes meanwhile is a conflict on its row.
func (s *Service) fillRows(ctx context.Context) error {
	for cursor := ""; ; {
		next := ""
		err := s.db.Update(ctx, func(tx storage.Tx) (err error) {
			var page []Device
			page, next, err = storage.Page(tx, devices, cursor, fillBatch)
			if err != nil {
				return err
			}
			for _, d := range page {
				tx.Prefetch(readRow(d.ID), readTopic(d.ID))
			}
			for _, d := range page {
				if err := errors.Join(putRow(tx, d), putTopic(tx, d)); err != nil {
					return err
				}
			}
			if next != "" {
				return nil
			}
			if has, err := hasTopics(tx); err != nil || !has {
				err = errors.Join(err, tx.Put(rowsFilled, []byte(topicsKey), []byte{1}))
				if err != nil {
					return err
				}
			}
			if checkFilled(tx) == nil {
				return nil
			}
			return tx.Put(rowsFilled, []byte(filledKey), []byte{rowVersion})
		})
		if err != nil {
			return fmt.Errorf("fill rows of devices: %w", err)
		}
		if next == "" {
			return nil
		}
		cursor = next
	}
}

// viewRows is a View of the rows of all devices. Who finds that they are not there yet
// makes them, and others wait.
func (s *Service) viewRows(ctx context.Context, fn func(storage.Tx) error) error {
	checked := func(tx storage.Tx) error {
		if err := checkFilled(tx); err != nil {
			return err
		}
		return fn(tx)
	}
	err := s.db.View(ctx, checked)
	if !errors.Is(err, errNotFilled) {
		return err
	}
	s.filling.Lock()
	defer s.filling.Unlock()
	if err := s.db.View(ctx, checked); !errors.Is(err, errNotFilled) {
		return err
	}
	if err := s.fillRows(ctx); err != nil {
		return err
	}
	return s.db.View(ctx, checked)
}
