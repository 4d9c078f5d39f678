package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Report is what one source says of a device.
type Report struct {
	Source  Source
	Answer  Origin          // the last good one; zero: none so far
	Value   json.RawMessage // of DeviceInformation and SecurityInfo all that is known, as the device says it (see [command.Facts])
	Facts   []Fact          // the same, one by one, by name
	Count   int             // of a list, its elements
	Failure *Failure        // of the last refresh, where it came to nothing after Answer
	Waiting *mdm.Entry      // a question that the device has yet to answer
}

// Fact is something that a device said of itself.
type Fact struct {
	Name   string // as in Value: "DeviceName"
	Value  json.RawMessage
	Origin Origin // zero: kept by an earlier version of the server, which took no note of it
}

// Inventory is all that is known of a device, but for the elements of lists.
type Inventory struct {
	Device  mdm.Device
	Reports []Report  // of all sources, in their order
	NextAt  time.Time // when the device is to be asked next; zero: when somebody wants to know
	// ManagedOnly is whether lists have only what this server has installed: the device is a
	// person's own.
	ManagedOnly bool
}

// Inventory returns what is known of a device, or an error that wraps storage.ErrNotFound.
func (s *Service) Inventory(ctx context.Context, id mdm.DeviceID) (in Inventory, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		in, err = s.inventory(tx, id)
		return err
	})
	return in, err
}

func (s *Service) inventory(tx storage.Tx, id mdm.DeviceID) (in Inventory, err error) {
	tx.Prefetch(mdm.ReadDevice(id), mdm.ReadAttributes(id), mdm.ReadQueue(id), schedule.Read(string(id)))
	for _, source := range Sources() {
		tx.Prefetch(records.Read(recordKey(id, source)))
	}
	if in.Device, err = mdm.GetDevice(tx, id); err != nil {
		return in, err
	}
	in.ManagedOnly = minimal(in.Device)
	waiting := make(map[Source]*mdm.Entry)
	for e, err := range mdm.PendingCommands(tx, id) {
		if err != nil {
			return in, fmt.Errorf("queue of %s: %w", id, err)
		}
		if source := Source(e.RequestType); IsSource(e.RequestType) && waiting[source] == nil {
			waiting[source] = &e
		}
	}
	for _, source := range Sources() {
		r, err := getRecord(tx, id, source)
		if err != nil {
			return in, err
		}
		report := Report{Source: source, Answer: r.Answer, Failure: r.Failure, Waiting: waiting[source]}
		switch {
		case source == DeviceInformation:
			err = report.readInformation(tx, r)
		case source == SecurityInfo:
			err = report.readSecurity(r)
		default:
			report.Count = len(listOf[json.RawMessage](r))
		}
		if err != nil {
			return in, fmt.Errorf("inventory of %s: %w", id, err)
		}
		in.Reports = append(in.Reports, report)
	}
	settings, err := GetSettings(tx)
	if err != nil {
		return in, err
	}
	next, err := schedule.Get(tx, string(id))
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return in, err
	}
	if settings.Enabled {
		in.NextAt = next.At
	}
	return in, nil
}

func (p *Report) readInformation(tx storage.Tx, r record) error {
	known, err := mdm.Attributes(tx, r.DeviceID)
	if err != nil || known == nil {
		return err
	}
	if p.Value, err = json.Marshal(map[string]any{"QueryResponses": known}); err != nil {
		return err
	}
	p.Facts, err = factsIn(known, func(name string) Origin {
		if origin, older := r.Older[name]; older {
			return origin
		}
		return r.Answer
	})
	return err
}

func (p *Report) readSecurity(r record) error {
	told, ok := decode(r.Value)
	if !ok {
		return nil
	}
	var err error
	if p.Value, err = json.Marshal(map[string]any{string(SecurityInfo): told}); err != nil {
		return err
	}
	p.Facts, err = factsIn(told, func(string) Origin { return r.Answer })
	return err
}

func factsIn(known map[string]any, from func(name string) Origin) ([]Fact, error) {
	facts := make([]Fact, 0, len(known))
	for _, name := range slices.Sorted(maps.Keys(known)) {
		value, err := json.Marshal(known[name])
		if err != nil {
			return nil, err
		}
		facts = append(facts, Fact{Name: name, Value: value, Origin: from(name)})
	}
	return facts, nil
}

// DeviceApp is an app of a device as both lists of apps know it.
type DeviceApp struct {
	App
	// Managed is what the device says of the app as one of this server's; nil: it is none.
	Managed *ManagedApp
	// Installed is whether it stands in the list of installed apps. A managed one may not, where
	// that list was not asked for, or where the app is still on its way.
	Installed bool
}

// Apps returns the apps of a device, and from which answers that is known: of installed apps
// and of managed ones. The error may wrap storage.ErrNotFound.
func (s *Service) Apps(ctx context.Context, id mdm.DeviceID) (apps []DeviceApp, installed, managed Origin, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		if _, err := mdm.GetDevice(tx, id); err != nil {
			return err
		}
		ri, err := getRecord(tx, id, InstalledApplicationList)
		if err != nil {
			return err
		}
		rm, err := getRecord(tx, id, ManagedApplicationList)
		if err != nil {
			return err
		}
		apps, installed, managed = mergeApps(ri, rm), ri.Answer, rm.Answer
		return nil
	})
	return apps, installed, managed, err
}

func mergeApps(installed, managed record) []DeviceApp {
	ours := listOf[ManagedApp](managed)
	find := func(identifier string) *ManagedApp {
		i, found := slices.BinarySearchFunc(ours, identifier, func(a ManagedApp, id string) int {
			switch {
			case a.Identifier < id:
				return -1
			case a.Identifier > id:
				return 1
			}
			return 0
		})
		if !found {
			return nil
		}
		return &ours[i]
	}
	seen := make(map[string]bool)
	var apps []DeviceApp
	for _, a := range listOf[App](installed) {
		apps = append(apps, DeviceApp{App: a, Managed: find(a.Identifier), Installed: true})
		seen[a.Identifier] = true
	}
	for i, m := range ours {
		if !seen[m.Identifier] {
			apps = append(apps, DeviceApp{App: App{Identifier: m.Identifier}, Managed: &ours[i]})
		}
	}
	return apps
}

// Profiles returns the configuration profiles of a device, and from which answer they are
// known. The error may wrap storage.ErrNotFound.
func (s *Service) Profiles(ctx context.Context, id mdm.DeviceID) ([]InstalledProfile, Origin, error) {
	r, err := s.list(ctx, id, ProfileList)
	return listOf[InstalledProfile](r), r.Answer, err
}

// Certificates returns the certificates of a device, and from which answer they are known. The
// error may wrap storage.ErrNotFound.
func (s *Service) Certificates(ctx context.Context, id mdm.DeviceID) ([]InstalledCertificate, Origin, error) {
	r, err := s.list(ctx, id, CertificateList)
	return listOf[InstalledCertificate](r), r.Answer, err
}

func (s *Service) list(ctx context.Context, id mdm.DeviceID, source Source) (r record, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		if _, err := mdm.GetDevice(tx, id); err != nil {
			return err
		}
		r, err = getRecord(tx, id, source)
		return err
	})
	return r, err
}
