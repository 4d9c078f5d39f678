package issuance_test

import (
	"context"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// What an account on a Mac is called must not stand in certificates as if it were known.
func TestAMacsOwnAccountNamesNobody(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		user     string            // that the Mac was enrolled for
		known    *identity.NewUser // in the directory
		subject  string            // of the template
		want     string            // subject of the certificate; empty: there is none
		variable string            // that is said to be empty then
	}{
		"with nobody known of the Mac, by its short name":   {subject: "/CN=$USERNAME", variable: "$USERNAME"},
		"with nobody known of the Mac, by its long name":    {subject: "/CN=$FULLNAME", variable: "$FULLNAME"},
		"with a user whose full name is not known":          {user: "ana", known: &identity.NewUser{Username: "ana"}, subject: "/CN=$FULLNAME", variable: "$FULLNAME"},
		"with a user who is not in the directory":           {user: "ana", subject: "/CN=$FULLNAME", variable: "$FULLNAME"},
		"with a user who is not in the directory, by login": {user: "ana", subject: "/CN=$USERNAME", want: "CN=ana"},
		"with a user of the directory":                      {user: "ana", known: &identity.NewUser{Username: "ana", FullName: "Ana Bee"}, subject: "/CN=$FULLNAME/OU=$USERNAME", want: "OU=ana,CN=Ana Bee"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			h := newHouse(t)
			if tt.known != nil {
				_, err := h.people.CreateUser(ctx, identity.Local(), *tt.known)
				must(t, err)
			}
			h.template(t, "wifi", func(tm *template.Template) { tm.Subject = subject(t, tt.subject) })
			h.device(t, "mac", func(d *mdm.Device) { d.Model, d.ProductName, d.User = "Mac", "Mac14,2", tt.user })
			h.device(t, "channel", func(d *mdm.Device) {
				d.ParentID, d.AppleID, d.User = "mac", mdm.AppleID{UDID: "UDID-mac", UserID: "U1"}, tt.user
				d.Type, d.UserShortName, d.UserLongName = mdm.TypeUserChannel, "ceo", "The CEO"
				d.Model, d.ProductName = "Mac", "Mac14,2"
			})
			if tt.want == "" {
				_, rejected, err := h.Send(ctx, "user:admin", "wifi", []mdm.DeviceID{"channel"})
				must(t, err)
				if len(rejected) != 1 || !strings.Contains(rejected[0].Reason, tt.variable+" is empty") {
					t.Errorf("rejected %+v, want that %s is empty", rejected, tt.variable)
				}
				return
			}
			cert := h.install(t, "wifi", "channel")
			if got := h.record(t, cert).Subject; got != tt.want {
				t.Errorf("the certificate is for %s, want %s", got, tt.want)
			}
		})
	}
}

// What somebody typed as a Managed Apple Account must not stand in certificates as if it
// were known.
func TestAManagedAppleAccountThatWasTypedNamesNobody(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		user string // that the device was enrolled for
		want string // subject of the certificate; empty: there is none
	}{
		"with a user who has another one":         {user: "ana@example.com", want: "CN=ana@corp.example.com"},
		"with a user of whom none is known":       {user: "ben@example.com"},
		"with a user who is not in the directory": {user: "eve@example.com"},
		"with nobody known of the device":         {},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.user(t, "ben@example.com", "Ben")
			_, err := h.people.CreateUser(t.Context(), identity.Local(), identity.NewUser{Email: "ana@example.com", ManagedAppleAccount: "ana@corp.example.com"})
			must(t, err)
			h.template(t, "wifi", func(tm *template.Template) { tm.Subject = subject(t, "/CN=$MANAGED_APPLE_ACCOUNT") })
			h.device(t, "phone", func(d *mdm.Device) { d.User, d.ManagedAppleAccount = tt.user, "boss@corp.example.com" })
			if tt.want == "" {
				_, rejected, err := h.Send(t.Context(), "user:admin", "wifi", []mdm.DeviceID{"phone"})
				must(t, err)
				if len(rejected) != 1 || !strings.Contains(rejected[0].Reason, "$MANAGED_APPLE_ACCOUNT is empty") {
					t.Errorf("rejected %+v, want that the variable is empty", rejected)
				}
				return
			}
			if got := h.record(t, h.install(t, "wifi", "phone")).Subject; got != tt.want {
				t.Errorf("the certificate is for %s, want %s", got, tt.want)
			}
		})
	}
}
