package identity_test

import (
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
)

func TestWhatAMappingReads(t *testing.T) {
	w := newWorld(t)
	p := w.provider(t, "directory", "one")
	for name, tt := range map[string]struct {
		mapping identity.MappingChange
		change  func(a *account)
		want    identity.Mapped
		warning string
	}{
		"attributes": {
			want: identity.Mapped{Username: "ana", Email: "ana@example.com", FullName: "Ana A."},
		},
		"only the first of several values": {
			change: func(a *account) { a.Attributes["mail"] = []string{"one@example.com", "two@example.com"} },
			want:   identity.Mapped{Username: "ana", Email: "one@example.com", FullName: "Ana A."},
		},
		"the address where there is no username": {
			change: func(a *account) { delete(a.Attributes, "uid") },
			want:   identity.Mapped{Username: "ana@example.com", Email: "ana@example.com", FullName: "Ana A."},
		},
		"spaces around it": {
			change: func(a *account) { a.Attributes["uid"] = []string{" ana "} },
			want:   identity.Mapped{Username: "ana", Email: "ana@example.com", FullName: "Ana A."},
		},
		"a template with what was mapped": {
			mapping: identity.MappingChange{ManagedAppleAccount: ptr("{username}@appleid.example.com")},
			want:    identity.Mapped{Username: "ana", Email: "ana@example.com", FullName: "Ana A.", ManagedAppleAccount: "ana@appleid.example.com"},
		},
		"a template with a part of an address": {
			mapping: identity.MappingChange{Username: ptr("mail"), ManagedAppleAccount: ptr("{email:local}@appleid.example.com")},
			want:    identity.Mapped{Username: "ana@example.com", Email: "ana@example.com", FullName: "Ana A.", ManagedAppleAccount: "ana@appleid.example.com"},
		},
		"a template with a part of an attribute": {
			mapping: identity.MappingChange{Username: ptr("{mail:local}")},
			want:    identity.Mapped{Username: "ana", Email: "ana@example.com", FullName: "Ana A."},
		},
		"a template without one of its values": {
			change:  func(a *account) { delete(a.Attributes, "sn") },
			want:    identity.Mapped{Username: "ana", Email: "ana@example.com"},
			warning: "full_name is left out: sn has no value",
		},
		"braces in a value stay": {
			change: func(a *account) { a.Attributes["sn"] = []string{"{mail}"} },
			want:   identity.Mapped{Username: "ana", Email: "ana@example.com", FullName: "Ana {mail}"},
		},
		"the table first, by username": {
			mapping: identity.MappingChange{ManagedAppleAccount: ptr("{username}@x.example"), ManagedAppleAccounts: &map[string]string{" ANA": "a@appleid.example.com"}},
			want:    identity.Mapped{Username: "ana", Email: "ana@example.com", FullName: "Ana A.", ManagedAppleAccount: "a@appleid.example.com"},
		},
		"the table first, by address": {
			mapping: identity.MappingChange{ManagedAppleAccounts: &map[string]string{"Ana@example.com": "a@appleid.example.com"}},
			want:    identity.Mapped{Username: "ana", Email: "ana@example.com", FullName: "Ana A.", ManagedAppleAccount: "a@appleid.example.com"},
		},
		"the template for who is not in the table": {
			mapping: identity.MappingChange{ManagedAppleAccount: ptr("{username}@x.example"), ManagedAppleAccounts: &map[string]string{"bea": "b@appleid.example.com"}},
			want:    identity.Mapped{Username: "ana", Email: "ana@example.com", FullName: "Ana A.", ManagedAppleAccount: "ana@x.example"},
		},
		"a Managed Apple Account that is no address": {
			change:  func(a *account) { a.Attributes["apple"] = []string{"ana at appleid"} },
			want:    identity.Mapped{Username: "ana", Email: "ana@example.com", FullName: "Ana A."},
			warning: "managed_apple_account is left out",
		},
		"an address that is none": {
			change:  func(a *account) { a.Attributes["mail"] = []string{"ana"} },
			want:    identity.Mapped{Username: "ana", FullName: "Ana A."},
			warning: "email is left out",
		},
		"an address that is not verified": {
			change:  func(a *account) { a.Unverified = true },
			want:    identity.Mapped{Username: "ana", FullName: "Ana A."},
			warning: "not verified",
		},
		"another address than the one that is not verified": {
			change: func(a *account) { a.Unverified = true; a.Email = "else@example.com" },
			want:   identity.Mapped{Username: "ana", Email: "ana@example.com", FullName: "Ana A."},
		},
		"an address that is not verified, under another name": {
			mapping: identity.MappingChange{Username: ptr("nick"), Email: ptr("aliases")},
			change: func(a *account) {
				a.Unverified = true
				a.Attributes["nick"], a.Attributes["aliases"] = []string{" ANA@example.com"}, []string{"ana@example.com"}
			},
			want:    identity.Mapped{FullName: "Ana A."},
			warning: "username is left out: it is an address that the provider has not verified; email is left out: it is",
		},
		"a part of an address that is not verified": {
			mapping: identity.MappingChange{Username: ptr("{mail:local}")},
			change:  func(a *account) { a.Unverified = true },
			want:    identity.Mapped{FullName: "Ana A."},
			warning: "username is left out: mail: it is an address that the provider has not verified",
		},
		"a part of an address that is not verified, with another domain": {
			mapping: identity.MappingChange{Username: ptr("{mail:local}@example.com")},
			change:  func(a *account) { a.Unverified = true },
			want:    identity.Mapped{FullName: "Ana A."},
			warning: "username is left out: mail: it is an address that the provider has not verified",
		},
		"a part of any address, where one is not verified": {
			mapping: identity.MappingChange{Username: ptr("{uid:local}"), ManagedAppleAccount: ptr("{uid:local}@appleid.example.com")},
			change: func(a *account) {
				a.Unverified, a.Email = true, "else@example.com"
				a.Attributes["uid"] = []string{"boss@example.com"}
			},
			want:    identity.Mapped{Username: "ana@example.com", Email: "ana@example.com", FullName: "Ana A."},
			warning: "managed_apple_account is left out: uid: it is an address",
		},
		"a username that is any address, where one is not verified": {
			mapping: identity.MappingChange{ManagedAppleAccount: ptr("uid")},
			change: func(a *account) {
				a.Unverified = true
				a.Attributes["uid"] = []string{"boss@example.com"}
			},
			want:    identity.Mapped{FullName: "Ana A."},
			warning: "managed_apple_account is left out: it is an address that the provider has not verified",
		},
		"a username like an address, where the provider says no address": {
			change: func(a *account) {
				a.Email = ""
				delete(a.Attributes, "mail")
				a.Attributes["uid"] = []string{"ana@corp.example.com"}
			},
			want: identity.Mapped{Username: "ana@corp.example.com", FullName: "Ana A."},
		},
		"a Managed Apple Account that is an address which is not verified": {
			mapping: identity.MappingChange{ManagedAppleAccount: ptr("mail")},
			change:  func(a *account) { a.Unverified = true },
			want:    identity.Mapped{Username: "ana", FullName: "Ana A."},
			warning: "managed_apple_account is left out: it is an address that the provider has not verified",
		},
		"a Managed Apple Account of a part of an address that is not verified": {
			mapping: identity.MappingChange{ManagedAppleAccount: ptr("{email:local}@appleid.example.com")},
			change:  func(a *account) { a.Unverified = true },
			want:    identity.Mapped{Username: "ana", FullName: "Ana A."},
			warning: "not verified",
		},
		"a username with a space": {
			change:  func(a *account) { a.Attributes["uid"] = []string{"ana a"} },
			want:    identity.Mapped{Username: "ana@example.com", Email: "ana@example.com", FullName: "Ana A."},
			warning: "username is left out",
		},
		"a name with a line break": {
			change:  func(a *account) { a.Attributes["sn"] = []string{"A\nB"} },
			want:    identity.Mapped{Username: "ana", Email: "ana@example.com"},
			warning: "full_name is left out",
		},
		"a very long name": {
			change:  func(a *account) { a.Attributes["sn"] = []string{strings.Repeat("x", 1<<16)} },
			want:    identity.Mapped{Username: "ana", Email: "ana@example.com"},
			warning: "full_name is left out",
		},
	} {
		t.Run(name, func(t *testing.T) {
			fresh := identity.MappingChange{
				Username: ptr("uid"), Email: ptr("mail"), FullName: ptr("{givenname} {sn}"), ManagedAppleAccount: ptr("apple"),
				ManagedAppleAccounts: &map[string]string{},
			}
			for _, mapping := range []identity.MappingChange{fresh, tt.mapping} {
				if _, err := w.UpdateProvider(ctx, identity.Local(), p.ID, identity.ProviderChange{Mapping: mapping}); err != nil {
					t.Fatal(err)
				}
			}
			a := ana()
			if tt.change != nil {
				tt.change(&a)
			}
			w.add("one", a, "ana")
			got, err := w.TrySignIn(ctx, admin("admin"), p.ID, "ana", "a good password")
			if err != nil {
				t.Fatal(err)
			}
			warnings := strings.Join(got.Mapped.Warnings, "; ")
			if (tt.warning == "") != (warnings == "") || !strings.Contains(warnings, tt.warning) {
				t.Errorf("warnings are %q, want %q", warnings, tt.warning)
			}
			got.Mapped.Warnings = nil
			if m := got.Mapped; m.Username != tt.want.Username || m.Email != tt.want.Email || m.FullName != tt.want.FullName || m.ManagedAppleAccount != tt.want.ManagedAppleAccount {
				t.Errorf("mapped is %+v, want %+v", m, tt.want)
			}
		})
	}
}
