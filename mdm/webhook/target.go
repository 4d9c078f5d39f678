package webhook

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
)

// Format is in which form, and of what, a target is told.
type Format string

// The formats.
const (
	NanoMDM     Format = "nanomdm"     // messages of devices, as NanoMDM and MicroMDM post them
	CloudEvents Format = "cloudevents" // events of the audit log as CloudEvents 1.0; messages too, if asked for
)

// Why a target is off that nobody has switched off.
const disabledGone = "gone" // it answered 410 Gone

// Target is a server that wants to be told.
type Target struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	URL    string `json:"url"` // may be a secret itself: it goes into no log
	Format Format `json:"format"`

	// Events are what the topics begin with that it is told of: "device.", "mdm.TokenUpdate".
	// None: all of its format.
	Events      []string       `json:"events,omitempty"`
	DeviceIDs   []mdm.DeviceID `json:"device_ids,omitempty"` // none: all, and what is about no device
	RawPayloads bool           `json:"raw_payloads,omitempty"`

	AllowPrivate bool      `json:"allow_private,omitempty"`
	Enabled      bool      `json:"enabled"`
	DisabledWhy  string    `json:"disabled_why,omitempty"`
	CreatedAt    time.Time `json:"created_at"`
	UpdatedAt    time.Time `json:"updated_at"`

	Secret   []byte    `json:"secret,omitempty"`   // sealed
	Replaced []byte    `json:"replaced,omitempty"` // the secret before, sealed
	Until    time.Time `json:"until,omitzero"`     // both are used
	Headers  []byte    `json:"headers,omitempty"`  // sealed JSON of map[string]string
	Names    []string  `json:"names,omitempty"`    // of Headers, in order
	FromSeq  uint64    `json:"from_seq,omitempty"` // it is told of events behind this one
	Revision int64     `json:"revision,omitempty"` // grows with each change
}

// SecretSet says that there is a secret, which nobody is ever shown.
func (t Target) SecretSet() bool { return len(t.Secret) > 0 }

// Host is where the target is, as it may be told to anybody: a path may be a secret.
func (t Target) Host() string {
	u, err := url.Parse(t.URL)
	if err != nil {
		return ""
	}
	return u.Host
}

var targets = storage.NewCollection("webhook.target", 1, func(t Target) string { return t.ID })

// Change is what is said of a target, made or changed: what is nil stays as it is.
type Change struct {
	Name         *string
	URL          *string
	Format       *Format // of a new one only
	Secret       *seal.Secret
	Events       *[]string
	DeviceIDs    *[]string
	RawPayloads  *bool
	AllowPrivate *bool
	Enabled      *bool
	Headers      *map[string]string // all there are; the values are secrets
}

// FieldError says which field of a Change is wrong.
type FieldError struct{ Field, Reason string }

func (e *FieldError) Error() string { return e.Field + " " + e.Reason }

func wrong(field, format string, args ...any) error {
	return &FieldError{Field: field, Reason: fmt.Sprintf(format, args...)}
}

// ErrTooMany means that there are as many targets as there may be.
var ErrTooMany = errors.New("there are too many webhooks")

// Limits of targets.
const (
	maxTargets = 50
	maxName    = 100 // bytes
	maxFilters = 50
	maxDevices = 100
	maxHeaders = 20
	maxHeader  = 4 << 10 // bytes of a value

	// secretOverlap is how long the secret before still signs, for receivers to change over.
	secretOverlap = 24 * time.Hour
)

func secretPurpose(id string) string  { return "webhook/secret/" + id }
func headersPurpose(id string) string { return "webhook/headers/" + id }

// Create makes a target, which is told of what happens from now on. The error may be a
// [FieldError], or wrap [ErrTooMany].
func (s *Service) Create(ctx context.Context, by string, c Change) (Target, error) {
	at := s.now().UTC()
	t := Target{ID: newID(at), Format: NanoMDM, Enabled: true, CreatedAt: at, UpdatedAt: at}
	switch {
	case c.Name == nil:
		return Target{}, wrong("name", "is required")
	case c.URL == nil:
		return Target{}, wrong("url", "is required")
	case c.Format != nil:
		t.Format = *c.Format
	}
	if err := s.apply(ctx, &t, c, at); err != nil {
		return Target{}, err
	}
	var made Target
	err := s.db.Update(ctx, func(tx storage.Tx) (err error) {
		made = t
		if made.FromSeq, err = event.LastSeq(tx); err != nil {
			return err
		}
		n := 0
		for _, err := range targets.All(tx, storage.Range{}) {
			if err != nil {
				return err
			}
			n++
		}
		if n >= maxTargets {
			return fmt.Errorf("%w: %d at most", ErrTooMany, maxTargets)
		}
		return s.putTarget(tx, &made, by, "webhook.created", "", event.Changes(nil, made.audited(), "url"))
	})
	if err != nil {
		return Target{}, fmt.Errorf("create webhook: %w", err)
	}
	return made, nil
}

// Update changes a target. The error may be a [FieldError].
func (s *Service) Update(ctx context.Context, by, id string, c Change) (Target, error) {
	for { // names are looked up outside of any transaction
		before, err := s.Target(ctx, id)
		if err != nil {
			return Target{}, err
		}
		t, at := before, s.now().UTC()
		if c.Format != nil && *c.Format != t.Format {
			return Target{}, wrong("format", "can't be changed: make another webhook")
		}
		if err := s.apply(ctx, &t, c, at); err != nil {
			return Target{}, err
		}
		t.UpdatedAt = at
		overtaken := false
		var made Target
		err = s.db.Update(ctx, func(tx storage.Tx) error {
			overtaken = false
			made = t
			now, err := targets.Get(tx, id)
			if err != nil {
				return err
			}
			if overtaken = now.Revision != before.Revision; overtaken {
				return nil
			}
			if made.Enabled && !now.Enabled {
				if made.FromSeq, err = event.LastSeq(tx); err != nil {
					return err
				}
			}
			// Whoever says that it is on, or elsewhere, has it tried: it may be there now.
			if c.Enabled != nil && made.Enabled || made.URL != now.URL || made.AllowPrivate != now.AllowPrivate {
				if err := forgiveHealth(tx, id, at); err != nil {
					return err
				}
			}
			return s.putTarget(tx, &made, by, "webhook.changed", changed(now, made), event.Changes(now.audited(), made.audited(), "url"))
		})
		if err != nil {
			return Target{}, fmt.Errorf("change webhook: %w", err)
		}
		if !overtaken {
			return made, nil
		}
	}
}

// changed names the fields in which two targets differ, for the audit log.
func changed(a, b Target) string {
	var names []string
	for _, f := range []struct {
		name string
		same bool
	}{
		{"name", a.Name == b.Name},
		{"url", a.URL == b.URL},
		{"events", slices.Equal(a.Events, b.Events)},
		{"device_ids", slices.Equal(a.DeviceIDs, b.DeviceIDs)},
		{"raw_payloads", a.RawPayloads == b.RawPayloads},
		{"allow_private", a.AllowPrivate == b.AllowPrivate},
		{"enabled", a.Enabled == b.Enabled},
		{"secret", string(a.Secret) == string(b.Secret)},
		{"headers", string(a.Headers) == string(b.Headers)},
	} {
		if !f.same {
			names = append(names, f.name)
		}
	}
	return strings.Join(names, ", ")
}

// Delete ends a target; what waits for it is not sent any more.
func (s *Service) Delete(ctx context.Context, by, id string) error {
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		t, err := targets.Get(tx, id)
		if err != nil {
			return err
		}
		if err := errors.Join(targets.Delete(tx, id), standings.Delete(tx, id)); err != nil {
			return err
		}
		if err := remains.Put(tx, remain{Target: id, Since: s.now().UTC()}); err != nil {
			return err
		}
		return s.settleTargets(tx, t, by, "webhook.deleted", "", event.Changes(t.audited(), nil, "url"))
	})
	if err != nil {
		return fmt.Errorf("delete webhook: %w", err)
	}
	return nil
}

// Target returns a target, or an error that wraps [storage.ErrNotFound].
func (s *Service) Target(ctx context.Context, id string) (t Target, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		t, err = targets.Get(tx, id)
		return err
	})
	return t, err
}

// Targets returns all targets, by the time they were made.
func (s *Service) Targets(ctx context.Context) (all []Target, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		all, err = allTargets(tx)
		return err
	})
	return all, err
}

func allTargets(tx storage.Tx) (all []Target, err error) {
	for t, err := range targets.All(tx, storage.Range{}) {
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return all, nil
}

// putTarget writes t, what is read of targets where there is no time to read them all, and
// what was done.
func (s *Service) putTarget(tx storage.Tx, t *Target, by, action, what string, changes []event.Change) error {
	t.Revision++
	if err := targets.Put(tx, *t); err != nil {
		return err
	}
	return s.settleTargets(tx, *t, by, action, what, changes)
}

func (s *Service) settleTargets(tx storage.Tx, t Target, by, action, what string, changes []event.Change) error {
	all, err := allTargets(tx)
	if err != nil {
		return err
	}
	if err := putInterests(tx, all); err != nil {
		return err
	}
	if err := errors.Join(tx.Notify(targetsTopic), tx.Notify(queueTopic(t.ID))); err != nil {
		return err
	}
	e := t.event(action, s.now())
	e.Actor, e.Changes = by, changes
	if what != "" {
		e.Details["changed"] = what
	}
	return event.Record(tx, e)
}

// audited is t as the API spells it. Secrets are in it as they are sealed, by names that
// are never told; nor is the url to be, whose path is a secret often, but for its host.
func (t Target) audited() map[string]any {
	return map[string]any{
		"name": t.Name, "format": t.Format, "host": t.Host(), "url": t.URL, "events": t.Events, "device_ids": t.DeviceIDs, "raw_payloads": t.RawPayloads,
		"allow_private": t.AllowPrivate, "enabled": t.Enabled, "secret": t.Secret, "headers": t.Headers,
	}
}

// event returns an event about t.
func (t Target) event(action string, at time.Time) event.Event {
	return event.Event{At: at, Action: action, Details: map[string]string{"webhook": t.ID, "name": t.Name, "host": t.Host()}}
}

// apply makes the changes of c to t, and checks what comes of them.
func (s *Service) apply(ctx context.Context, t *Target, c Change, at time.Time) error {
	if t.Format != NanoMDM && t.Format != CloudEvents {
		return wrong("format", "must be nanomdm or cloudevents")
	}
	if c.Name != nil {
		t.Name = strings.TrimSpace(*c.Name)
		switch {
		case t.Name == "":
			return wrong("name", "is required")
		case len(t.Name) > maxName:
			return wrong("name", "must have at most %d bytes", maxName)
		case strings.ContainsFunc(t.Name, func(r rune) bool { return r < ' ' || r == 0x7f }):
			return wrong("name", "must be one line of text")
		}
	}
	set(&t.AllowPrivate, c.AllowPrivate)
	set(&t.RawPayloads, c.RawPayloads)
	if c.Enabled != nil {
		if *c.Enabled {
			t.DisabledWhy = ""
		}
		t.Enabled = *c.Enabled
	}
	if c.URL != nil || c.AllowPrivate != nil {
		before := t.URL
		set(&t.URL, c.URL)
		u, err := s.checkURL(ctx, t.URL, t.AllowPrivate)
		if err != nil {
			return err
		}
		if before != "" && len(t.Headers) > 0 && c.Headers == nil && !sameOrigin(before, u) {
			return wrong("headers", "must be given again, as they would be sent to another server than before")
		}
	}
	if c.Events != nil || c.RawPayloads != nil {
		set(&t.Events, c.Events)
		var err error
		if t.Events, err = checkFilters(t.Format, t.RawPayloads, t.Events); err != nil {
			return err
		}
	}
	if c.DeviceIDs != nil {
		ids, err := checkDevices(*c.DeviceIDs)
		if err != nil {
			return err
		}
		t.DeviceIDs = ids
	}
	if c.Secret != nil {
		if err := checkSecret(*c.Secret); err != nil {
			return wrong("secret", "%v", err)
		}
		s.replaceSecret(t, *c.Secret, at)
	}
	if c.Headers != nil {
		return s.setHeaders(t, *c.Headers)
	}
	return nil
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

func checkDevices(all []string) ([]mdm.DeviceID, error) {
	if len(all) > maxDevices {
		return nil, wrong("device_ids", "must be at most %d", maxDevices)
	}
	var ids []mdm.DeviceID
	for i, id := range all {
		if id == "" || len(id) > 128 {
			return nil, wrong(fmt.Sprintf("device_ids[%d]", i), "is no id of a device")
		}
		ids = append(ids, mdm.DeviceID(id))
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// replaceSecret gives t another secret. The one before goes on signing for a while, unless
// there is to be none.
func (s *Service) replaceSecret(t *Target, secret seal.Secret, at time.Time) {
	if secret == "" {
		t.Secret, t.Replaced, t.Until = nil, nil, time.Time{}
		return
	}
	if old, err := s.box.Open(secretPurpose(t.ID), t.Secret); err == nil && string(old) == string(secret) {
		return
	}
	t.Replaced, t.Until = t.Secret, at.Add(secretOverlap)
	if len(t.Replaced) == 0 {
		t.Until = time.Time{}
	}
	t.Secret = s.box.Seal(secretPurpose(t.ID), []byte(secret))
}

// secrets are what a request at that time is signed with.
func (s *Service) secrets(t Target, at time.Time) ([]seal.Secret, error) {
	var all []seal.Secret
	sealed := [][]byte{t.Secret}
	if at.Before(t.Until) {
		sealed = append(sealed, t.Replaced)
	}
	for _, value := range sealed {
		if len(value) == 0 {
			continue
		}
		secret, err := s.box.Open(secretPurpose(t.ID), value)
		if err != nil {
			return nil, fmt.Errorf("secret of webhook %s: %w", t.ID, err)
		}
		all = append(all, seal.Secret(secret))
	}
	return all, nil
}

// ourHeaders are those that the server sets itself, or that would change what a request is.
var ourHeaders = []string{
	"Accept-Encoding", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Expect", "Host", "Keep-Alive", "Proxy-Authorization",
	"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "X-Hmac-Signature",
}

func (s *Service) setHeaders(t *Target, headers map[string]string) error {
	if len(headers) > maxHeaders {
		return wrong("headers", "must be at most %d", maxHeaders)
	}
	kept := make(map[string]string, len(headers))
	for _, given := range slices.Sorted(maps.Keys(headers)) {
		name, value := http.CanonicalHeaderKey(given), headers[given]
		field := "headers." + given
		_, twice := kept[name]
		switch {
		case !httpguts.ValidHeaderFieldName(given):
			return wrong("headers", "has a name that no header can have")
		case slices.Contains(ourHeaders, name) || strings.HasPrefix(name, "Webhook-") || strings.HasPrefix(name, "Sec-"):
			return wrong(field, "is a header that the server sets itself")
		case twice:
			return wrong(field, "is there twice")
		case len(value) > maxHeader || !httpguts.ValidHeaderFieldValue(value):
			return wrong(field, "must be a line of at most %d bytes", maxHeader)
		}
		kept[name] = value
	}
	t.Headers, t.Names = nil, nil
	if len(kept) == 0 {
		return nil
	}
	plain, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	t.Headers, t.Names = s.box.Seal(headersPurpose(t.ID), plain), slices.Sorted(maps.Keys(kept))
	return nil
}

// headers are the operator's own, for a request to t.
func (s *Service) headers(t Target) (http.Header, error) {
	h := make(http.Header)
	if len(t.Headers) == 0 {
		return h, nil
	}
	plain, err := s.box.Open(headersPurpose(t.ID), t.Headers)
	if err != nil {
		return nil, fmt.Errorf("headers of webhook %s: %w", t.ID, err)
	}
	var values map[string]string
	if err := json.Unmarshal(plain, &values); err != nil {
		return nil, fmt.Errorf("headers of webhook %s: %w", t.ID, err)
	}
	for name, value := range values {
		h.Set(name, value)
	}
	return h, nil
}

// newID returns an ID that sorts by at, and among IDs of the same time by when it was made.
func newID(at time.Time) string {
	var id [8 + 8 + 4]byte
	binary.BigEndian.PutUint64(id[:], uint64(max(0, at.UnixNano())))
	binary.BigEndian.PutUint64(id[8:], uint64(time.Now().UnixNano())) // no fact: only an order
	_, _ = rand.Read(id[16:])                                         // never fails: it ends the program instead
	return idEncoding.EncodeToString(id[:])
}

// idEncoding keeps the order of bytes.
var idEncoding = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)
