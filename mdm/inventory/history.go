package inventory

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Change is something that was different between two good answers of a source.
type Change struct {
	DeviceID    mdm.DeviceID `json:"device_id"`
	Seq         string       `json:"seq"` // sorts by time
	At          time.Time    `json:"at"`  // of the later answer
	Source      Source       `json:"source"`
	CommandUUID string       `json:"command_uuid"`
	Kind        ChangeKind   `json:"kind"`
	// Path is the fact's ("FirewallSettings.StealthMode"), an app's or a profile's identifier,
	// or a certificate's SHA-256.
	Path  string `json:"path"`
	Label string `json:"label,omitempty"` // what people call an app, a profile or a certificate
	// Old and New are JSON values: of a fact the fact, of an app its version, of a managed app
	// its status, of a profile its UUID. Old is nil for what was added, New for what was removed.
	Old json.RawMessage `json:"old,omitempty"`
	New json.RawMessage `json:"new,omitempty"`
}

// ChangeKind says what has happened to something.
type ChangeKind string

// The kinds of changes.
const (
	Changed ChangeKind = "changed"
	Added   ChangeKind = "added"
	Removed ChangeKind = "removed"
	// Omitted stands for changes of one answer that were too many to keep: New is their number.
	Omitted ChangeKind = "omitted"
)

const (
	maxChanges    = 500                  // of a device
	maxChangesAge = 365 * 24 * time.Hour // of each
	maxAtOnce     = 200                  // from one answer: a new OS brings as many new apps
	maxOldNew     = 512                  // bytes of a value
)

// noisy are facts that are different each time, or say where a person is and what they are
// doing: a history of them would be one of the person.
var noisy = []string{
	"ActiveManagedUsers", "AvailableDeviceCapacity", "BatteryLevel", "DevicePropertiesAttestation",
	"EstimatedResidentUsers", "IsDoNotDisturbInEffect", "LastCloudBackupDate", "PushToken",
	"CurrentCarrierNetwork", "CurrentMCC", "CurrentMNC", "IsNetworkTethered", "IsRoaming", "SIMMCC", "SIMMNC", "TimeZone",
	"ServiceSubscriptions", // has most of these, of each line
}

// compareFacts returns what is different between two dictionaries. What was not known, or is
// not any more, has not changed: another question may have been asked.
func compareFacts(before, after map[string]any) (changes []Change) {
	was, is := flatten(before), flatten(after)
	for _, path := range slices.Sorted(maps.Keys(is)) {
		old, known := was[path]
		if !known || bytes.Equal(old, is[path]) {
			continue
		}
		changes = append(changes, Change{Kind: Changed, Path: path, Old: clip(old), New: clip(is[path])})
	}
	return changes
}

// flatten returns the values in d by their paths, without what no history is kept of.
func flatten(d map[string]any) map[string]json.RawMessage {
	flat := make(map[string]json.RawMessage)
	var walk func(prefix string, d map[string]any, depth int)
	walk = func(prefix string, d map[string]any, depth int) {
		for name, v := range d {
			if slices.Contains(noisy, name) {
				continue
			}
			if inner, ok := v.(map[string]any); ok && depth < 4 {
				walk(prefix+name+".", inner, depth+1)
				continue
			}
			b, err := json.Marshal(v)
			if err == nil && !bytes.Contains(b, []byte(command.Redacted)) {
				flat[clamp(prefix+name)] = b
			}
		}
	}
	walk("", d, 0)
	return flat
}

// clip returns a value that is short enough to be kept, or what it begins with as a text.
func clip(v json.RawMessage) json.RawMessage {
	if len(v) <= maxOldNew {
		return v
	}
	return quoted(strings.ToValidUTF8(string(v[:maxOldNew/2]), "") + "…")
}

func quoted(text string) json.RawMessage {
	b, _ := json.Marshal(text) // never fails for a string
	return b
}

// thing is an element of a list, as far as its history goes.
type thing struct {
	label  string
	states []string // versions; a Mac may have an app twice
}

func (t thing) state() json.RawMessage {
	slices.Sort(t.states)
	return clip(quoted(strings.Join(slices.Compact(t.states), ", ")))
}

// compareLists returns what came, went and changed between two answers of a source.
func compareLists(before, after record) (changes []Change) {
	was, is := things(before), things(after)
	for _, path := range slices.Sorted(maps.Keys(is)) {
		now := is[path]
		old, known := was[path]
		if !known {
			changes = append(changes, Change{Kind: Added, Path: path, Label: now.label, New: now.state()})
		} else if o, n := old.state(), now.state(); !bytes.Equal(o, n) {
			changes = append(changes, Change{Kind: Changed, Path: path, Label: now.label, Old: o, New: n})
		}
	}
	for _, path := range slices.Sorted(maps.Keys(was)) {
		if _, still := is[path]; !still {
			changes = append(changes, Change{Kind: Removed, Path: path, Label: was[path].label, Old: was[path].state()})
		}
	}
	return changes
}

func things(r record) map[string]thing {
	all := make(map[string]thing)
	add := func(path, label, state string) {
		t := all[path]
		t.label = cmp.Or(t.label, label)
		if state != "" {
			t.states = append(t.states, state)
		}
		all[path] = t
	}
	switch r.Source {
	case InstalledApplicationList:
		for _, a := range listOf[App](r) {
			add(cmp.Or(a.Identifier, a.Path, a.Name), a.Name, a.version())
		}
	case ManagedApplicationList:
		for _, a := range listOf[ManagedApp](r) {
			add(a.Identifier, "", a.Status)
		}
	case ProfileList:
		for _, p := range listOf[InstalledProfile](r) {
			add(p.Identifier, p.DisplayName, p.UUID)
		}
	case CertificateList:
		for _, c := range listOf[InstalledCertificate](r) {
			add(cmp.Or(c.SHA256, c.CommonName), c.CommonName, "")
		}
	}
	return all
}

var changesOf = storage.NewCollection(changesBucket, 1, func(c Change) string {
	return string(storage.Key(string(c.DeviceID), c.Seq))
})

const changesBucket = "inventory.changes"

// seqAt is what the Seq of a change at a time begins with.
func seqAt(t time.Time) string { return fmt.Sprintf("%016x", t.UnixNano()) }

// putChanges keeps what e's answer has changed, and lets go of what is old.
func putChanges(tx storage.Tx, e mdm.Entry, changes []Change, now time.Time) error {
	if len(changes) == 0 {
		return nil
	}
	if more := len(changes) - maxAtOnce; more > 0 {
		changes = append(changes[:maxAtOnce:maxAtOnce], Change{Kind: Omitted, New: json.RawMessage(fmt.Sprint(more))})
	}
	for i, c := range changes {
		c.DeviceID, c.Source, c.CommandUUID, c.At = e.DeviceID, Source(e.RequestType), e.UUID, e.FinishedAt
		// Of one answer, the first comes first also in a list that has the newest first.
		c.Seq = fmt.Sprintf("%s-%s-%04d", seqAt(e.FinishedAt), e.UUID, len(changes)-i)
		if err := changesOf.Put(tx, c); err != nil {
			return fmt.Errorf("history of %s: %w", e.DeviceID, err)
		}
	}
	return trimChanges(tx, e.DeviceID, now)
}

// trimChanges deletes the changes of a device that are too old or too many.
func trimChanges(tx storage.Tx, id mdm.DeviceID, now time.Time) error {
	oldest := storage.Key(string(id), seqAt(now.Add(-maxChangesAge)))
	n := 0
	for item, err := range tx.Scan(changesBucket, storage.Range{Prefix: storage.KeyPrefix(string(id)), Reverse: true}) {
		if err != nil {
			return fmt.Errorf("history of %s: %w", id, err)
		}
		if n++; n <= maxChanges && bytes.Compare(item.Key, oldest) >= 0 {
			continue
		}
		if err := tx.Delete(changesBucket, item.Key); err != nil {
			return fmt.Errorf("history of %s: %w", id, err)
		}
	}
	return nil
}

func forgetChanges(tx storage.Tx, id mdm.DeviceID) error {
	for item, err := range tx.Scan(changesBucket, storage.Range{Prefix: storage.KeyPrefix(string(id))}) {
		if err == nil {
			err = tx.Delete(changesBucket, item.Key)
		}
		if err != nil {
			return fmt.Errorf("history of %s: %w", id, err)
		}
	}
	return nil
}

// History returns a page of what has changed on a device, the newest first, and the cursor of
// the next page, empty at the end. The error wraps storage.ErrNotFound or storage.ErrBadCursor.
func (s *Service) History(ctx context.Context, id mdm.DeviceID, cursor string, limit int) (page []Change, next string, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		if _, err := mdm.GetDevice(tx, id); err != nil {
			return err
		}
		page, next, err = storage.PagePrefix(tx, changesOf, storage.KeyPrefix(string(id)), cursor, limit, true)
		return err
	})
	return page, next, err
}
