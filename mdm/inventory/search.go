package inventory

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Installed is a condition on what a device has installed, as it last said. A device that has
// not said meets none, not even one on what is not installed.
type Installed struct {
	Source     Source `json:"source"` // InstalledApplicationList or ProfileList
	Identifier string `json:"identifier"`

	// Op is mdm.Present or mdm.Absent, or for an app compares its version with Version. Of an
	// app that a Mac has more than once it is enough if one meets it, but for mdm.NotEqual.
	Op      mdm.AttributeOp `json:"op"`
	Version string          `json:"version,omitempty"`
}

// Limits of a search.
const (
	maxIdentifier = 256 // bytes
	maxInstalled  = 20  // conditions
	maxSearched   = 100_000
)

// ParseApp reads a condition on an app: "com.example.slack" (installed), "!com.example.slack"
// (not installed), or "com.example.slack<4.42", with the operators of
// [mdm.ParseAttributeCondition]. The error is a *mdm.QueryError.
func ParseApp(text string) (Installed, error) {
	c, err := mdm.ParseCondition("app", text, "the identifier of an app, such as com.example.slack<4.42")
	if err != nil {
		return Installed{}, err
	}
	return Installed{InstalledApplicationList, c.Name, c.Op, c.Value}, nil
}

// ParseProfile reads a condition on a profile, which is its identifier, with ! before it if it
// must not be installed. The error is a *mdm.QueryError.
func ParseProfile(text string) (Installed, error) {
	c := Installed{Source: ProfileList, Op: mdm.Present}
	var not bool
	if c.Identifier, not = strings.CutPrefix(text, "!"); not {
		c.Op = mdm.Absent
	}
	switch {
	case c.Identifier == "" || len(c.Identifier) > maxIdentifier:
		return Installed{}, &mdm.QueryError{Field: "profile", Reason: fmt.Sprintf("must be the identifier of a profile, such as com.example.wifi, of at most %d bytes", maxIdentifier)}
	case strings.ContainsAny(c.Identifier, "=<>~"):
		return Installed{}, &mdm.QueryError{Field: "profile", Reason: "takes no operator: it must be the identifier of a profile, such as com.example.wifi, perhaps with ! before it"}
	}
	return c, nil
}

// Narrow adds to q that all conditions hold. The error is a *mdm.QueryError.
func Narrow(q *mdm.Query, conditions []Installed) error {
	if len(conditions) == 0 {
		return nil
	}
	if len(conditions) > maxInstalled {
		return &mdm.QueryError{Field: conditions[0].field(), Reason: fmt.Sprintf("is among more than %d conditions on what is installed", maxInstalled)}
	}
	is, err := json.Marshal(conditions)
	if err != nil {
		return err
	}
	var lists []Source
	for _, c := range conditions {
		if !slices.Contains(lists, c.Source) {
			lists = append(lists, c.Source)
		}
	}
	reads := func(id mdm.DeviceID) []storage.Read {
		all := make([]storage.Read, len(lists))
		for i, list := range lists {
			all[i] = records.Read(recordKey(id, list))
		}
		return all
	}
	var of storage.Tx // in which so many were searched
	var searched int
	q.Require(string(is), reads, func(tx storage.Tx, id mdm.DeviceID) (bool, error) {
		if tx != of {
			of, searched = tx, 0
		}
		if searched++; searched > maxSearched {
			return false, &mdm.QueryError{Field: conditions[0].field(), Reason: fmt.Sprintf("is asked of more than %d devices at once: narrow the list by another condition as well", maxSearched)}
		}
		for _, list := range lists {
			if ok, err := meets(tx, id, list, conditions); !ok || err != nil {
				return false, err
			}
		}
		return true, nil
	})
	return nil
}

// field returns by which parameter c was asked.
func (c Installed) field() string {
	if c.Source == ProfileList {
		return "profile"
	}
	return "app"
}

// meets says whether a list of a device meets those conditions that are on it.
func meets(tx storage.Tx, id mdm.DeviceID, list Source, conditions []Installed) (bool, error) {
	at := records.Read(recordKey(id, list))
	stored, err := tx.Get(at.Bucket, at.Key)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("inventory of %s: %w", id, err)
	}
	for _, c := range conditions {
		if c.Source != list {
			continue
		}
		ok, err := c.holds(stored)
		if ok && c.Op == mdm.Absent { // also where nothing is known
			var r record
			r, err = getRecord(tx, id, list)
			ok = r.known()
		}
		if !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// holds says whether c holds for a list in a stored record. That is not decoded, but for the
// app whose version is wanted: a phone has hundreds of them. What is sought can't be part of a
// text, where quotes are escaped, nor of anything else in these records: Identifier is the
// first field of App and of InstalledProfile, and of nothing inside of them.
func (c Installed) holds(stored []byte) (bool, error) {
	identifier, err := json.Marshal(c.Identifier)
	if err != nil {
		return false, err
	}
	begin := slices.Concat([]byte(`{"identifier":`), identifier, []byte(","))
	end := slices.Concat([]byte(`{"identifier":`), identifier, []byte("}")) // nothing else is known of it
	switch there := bytes.Contains(stored, begin) || bytes.Contains(stored, end); {
	case c.Op == mdm.Absent:
		return !there, nil
	case c.Op == mdm.Present || !there:
		return there, nil
	}
	var versions []string
	for {
		at := bytes.Index(stored, begin)
		if at < 0 {
			break
		}
		stored = stored[at:]
		var app App
		if err := json.NewDecoder(bytes.NewReader(stored)).Decode(&app); err != nil {
			return false, fmt.Errorf("app %s: %w", c.Identifier, storage.ErrCorrupt)
		}
		if v := app.version(); v != "" {
			versions = append(versions, v)
		}
		stored = stored[len(begin):]
	}
	return mdm.AttributeCondition{Name: c.Identifier, Op: c.Op, Value: c.Version}.Holds(versions...), nil
}
