package identity

import (
	"context"
	"slices"
)

// Scope is a right, of an API token or by a user's role.
type Scope string

// The scopes. Each of the first four includes those after it among the four. A
// token with a cert scope opens nothing else.
const (
	ScopeOwner      Scope = "owner"
	ScopeAdmin      Scope = "admin"
	ScopeHelpdesk   Scope = "helpdesk"
	ScopeReadOnly   Scope = "read_only"
	ScopeCertSelf   Scope = "cert:self"   // certificates in the token's user's own name
	ScopeCertAny    Scope = "cert:any"    // certificates in anybody's name
	ScopeCertManage Scope = "cert:manage" // list and revoke certificates; owners and admins may as well
)

// ladder is the order in which one scope includes another.
var ladder = [...]Scope{ScopeReadOnly, ScopeHelpdesk, ScopeAdmin, ScopeOwner}

// Valid reports whether there is such a scope.
func (s Scope) Valid() bool {
	return slices.Contains(ladder[:], s) || s == ScopeCertSelf || s == ScopeCertAny || s == ScopeCertManage
}

// includes reports whether who has s may do what wanted is asked for.
func (s Scope) includes(wanted Scope) bool {
	if s == wanted {
		return true
	}
	have := slices.Index(ladder[:], s)
	if wanted == ScopeCertManage {
		return have >= slices.Index(ladder[:], ScopeAdmin)
	}
	want := slices.Index(ladder[:], wanted)
	return want >= 0 && have > want
}

// Kind says how a Principal proved who it is.
type Kind string

// The kinds of principals.
const (
	KindUser  Kind = "user"  // by password
	KindToken Kind = "token" // by API token
	KindSetup Kind = "setup" // by the one-time setup link
	KindLocal Kind = "local" // by being on the server's machine, as the server's user

	KindProvider Kind = "provider" // an identity provider, for what it says of its users
)

// Principal is who does something.
type Principal struct {
	Kind   Kind
	ID     string // of the user or token; empty for the others
	Name   string // for people and the audit log
	User   string // the user that a token acts for, or who logged in; may be empty
	Peer   string // network address that a request of theirs came from; empty: not known, or this machine
	Scopes []Scope

	Session string // ID of the browser's session that they act by; empty: another way, or not known

	// Groups limits what Scopes allow to the devices in these groups, by their IDs; nil: to
	// none, everything is allowed everywhere. An ID that no group has any more is of no
	// device, so that a limit is never lost with its group.
	Groups []string
}

// Limited says that p's rights hold for the devices of some groups only, so that p has none
// over the installation as a whole.
func (p Principal) Limited() bool { return p.Groups != nil }

// governs reports whether p may do what scope is asked for in the whole installation.
func (p Principal) governs(scope Scope) bool { return p.Allows(scope) && !p.Limited() }

// Allows reports whether p may do what scope is asked for.
func (p Principal) Allows(scope Scope) bool {
	return slices.ContainsFunc(p.Scopes, func(have Scope) bool { return have.includes(scope) })
}

// String names p as the audit log does.
func (p Principal) String() string {
	if p.Name == "" {
		return string(p.Kind)
	}
	return string(p.Kind) + ":" + p.Name
}

// Local is whoever can open the server's socket: the operator of its machine.
func Local() Principal {
	return Principal{Kind: KindLocal, Name: "local", Scopes: []Scope{ScopeOwner}}
}

// SetupPrincipal is whoever redeemed a setup link.
func SetupPrincipal() Principal {
	return Principal{Kind: KindSetup, Name: "setup link", Scopes: []Scope{ScopeOwner}}
}

type principalKey struct{}

// WithPrincipal returns a context in which p acts.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// PrincipalFrom returns who acts in ctx; ok is false if nobody proved to be
// anybody.
func PrincipalFrom(ctx context.Context) (p Principal, ok bool) {
	p, ok = ctx.Value(principalKey{}).(Principal)
	return p, ok
}
