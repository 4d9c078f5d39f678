package identity

import (
	"cmp"
	"context"
	"encoding/json"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Fact is something that happened to a user or a token.
type Fact struct {
	At      time.Time
	Actor   string // as [Principal.String] says it; empty: nobody who proved to be anybody
	Action  string // "user.created"
	Reason  string // of what was refused
	User    string // whom it is about, as [User.Login] says it
	Peer    string // network address that it came from
	Details map[string]string

	// Before and After are what was changed, as JSON has it; nil: it was made, or nothing was
	// changed. Secret are fields of it that are not to be told.
	Before, After any
	Secret        []string
}

// Audit writes down what happened.
type Audit interface {
	// Record writes f in the transaction that makes it true.
	Record(tx storage.Tx, f Fact) error

	// Refused writes down what was refused, unless that comes too often.
	Refused(ctx context.Context, f Fact)
}

// fact is what p does. user is whom it is about.
func (p Principal) fact(action, user string, details map[string]string) Fact {
	return Fact{Actor: p.String(), Action: action, User: user, Peer: p.Peer, Details: details}
}

// changing is f of something that became another.
func (f Fact) changing(before, after any, secret ...string) Fact {
	f.Before, f.After, f.Secret = before, after, secret
	return f
}

// audited is u as the audit log tells of changes: as the API spells it.
func (u User) audited() map[string]any {
	return map[string]any{
		"username": u.Username, "email": u.Email, "full_name": u.FullName, "managed_apple_account": u.ManagedAppleAccount,
		"can_enroll": !u.NoEnroll, "role": u.Role, "password": u.Password, "provider": cmp.Or(u.Provider, LocalProvider), "group_ids": u.GroupIDs,
	}
}

// disabled is whether a user is, as the audit log tells of changes.
func disabled(is bool) map[string]any { return map[string]any{"disabled": is} }

// audited is p as the audit log tells of changes, and which fields are secret.
func (p Provider) audited() (fields map[string]any, secret []string) {
	settings := map[string]any{}
	_ = json.Unmarshal(p.Settings, &settings) // there are none, or they were read before
	for name, sealed := range p.Sealed {
		settings[name] = sealed
		secret = append(secret, "settings."+name)
	}
	return map[string]any{
		"name": p.Name, "kind": p.Kind, "enabled": p.Enabled, "uses": p.Uses, "groups": p.Groups, "mapping": p.Mapping, "settings": settings,
		"position": p.Position, "disable_missing": p.DisableMissing, "require_second_factor": p.RequireSecondFactor,
	}, secret
}

func (s *Service) record(tx storage.Tx, f Fact) error {
	if s.audit == nil {
		return nil
	}
	f.At = s.now().UTC()
	return s.audit.Record(tx, f)
}

func (s *Service) refused(ctx context.Context, f Fact) {
	if s.audit == nil {
		return
	}
	f.At = s.now().UTC()
	s.audit.Refused(ctx, f)
}
