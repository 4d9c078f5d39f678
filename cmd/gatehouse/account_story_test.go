package main

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity/ldap/ldaptest"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity/oidc/oidctest"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// accountSource is where people come from who enrol by account, and how one of them signs in.
type accountSource struct {
	login string // what they are called here
	fresh func() *mdmtest.Browser
	// later makes it possible to sign in anew; nil: it always is.
	later func()
}

// accountSources are the sources, each at a server of its own.
var accountSources = map[string]func(*testing.T, *composed) accountSource{
	"a password here": func(t *testing.T, c *composed) accountSource {
		c.member(t, "ana")
		return accountSource{login: "ana", fresh: func() *mdmtest.Browser { return &mdmtest.Browser{Password: anaPassword} }}
	},
	"a password here and a code": func(t *testing.T, c *composed) accountSource {
		id := c.member(t, "tom")
		setup, err := c.identity.BeginSecondFactor(t.Context(), id, "Gatehouse")
		must(t, err)
		code := authenticator(setup.Key.Reveal(), c.now)
		first, err := code()
		must(t, err)
		_, _, err = c.identity.ConfirmSecondFactor(t.Context(), id, first, "192.0.2.1")
		must(t, err)
		later := func() { c.ahead.Add(int64(time.Minute)) } // a code is good once
		later()
		return accountSource{login: "tom", later: later, fresh: func() *mdmtest.Browser { return &mdmtest.Browser{Password: anaPassword, Code: code} }}
	},
	"a directory": func(t *testing.T, c *composed) accountSource {
		dir := ldaptest.Open(t)
		dir.Add(t, "walker", nil)
		c.api(t, "POST", "/identity-providers", map[string]any{
			"kind": "ldap", "name": "Example directory", "enabled": true, "settings": dir.Settings(nil), "uses": []string{"user", "account_device"},
			"mapping": map[string]any{"managed_apple_account": "{email:local}@apple.example.com"},
		}, nil)
		return accountSource{login: "walker", fresh: func() *mdmtest.Browser { return &mdmtest.Browser{Password: ldaptest.Password("walker")} }}
	},
	"an OpenID provider": func(t *testing.T, c *composed) accountSource {
		idp := oidctest.NewStandIn(t, c.now)
		c.openIDProvider(t, idp.Issuer)
		return accountSource{login: "ana", fresh: func() *mdmtest.Browser { return &mdmtest.Browser{Click: []string{"Continue with Example ID"}} }}
	},
	"a certified OpenID provider": func(t *testing.T, c *composed) accountSource {
		idp := oidctest.Start(t)
		idp.SetAccount(t, "ana", oidctest.Account{Password: "right", Claims: map[string]any{
			"sub": "4f1c", "preferred_username": "ana", "name": "Ana Example", "email": "ana@example.com", "email_verified": true,
		}})
		p := c.openIDProvider(t, idp.Issuer)
		idp.SetClient(t, oidctest.Client{RedirectURIs: []string{p.CallbackURL}, LogoutURIs: []string{c.url + "/logout"}})
		return accountSource{login: "ana", fresh: func() *mdmtest.Browser {
			return &mdmtest.Browser{
				Login: "ana", Password: "right", Click: []string{"Continue with Example ID", "sign-in"}, Fields: map[string]string{"login": "ana"},
			}
		}}
	},
}

// openIDProvider makes a provider known at which people enrol by account.
func (c *composed) openIDProvider(t *testing.T, issuer string) (p redirectProvider) {
	t.Helper()
	c.api(t, "POST", "/identity-providers", map[string]any{
		"kind": "oidc", "name": "Example ID", "uses": []string{"user", "account_device"},
		"settings": map[string]any{"issuer": issuer, "client_id": oidctest.ClientID, "client_secret": oidctest.ClientSecret, "allow_private": true},
		"mapping":  map[string]any{"managed_apple_account": "{email:local}@apple.example.com"},
	}, &p)
	return p
}

// TestDevicesEnrolByAccountFromEverySource has somebody of each source enrol a phone of their
// own and a Mac of the organisation, by each method, and leave again.
func TestDevicesEnrolByAccountFromEverySource(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	for name, open := range accountSources {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newComposed(t, nil)
			source := open(t, c)
			for _, method := range methods {
				c.decides(t, method)
				for _, model := range []mdmtest.Model{mdmtest.IPhone, mdmtest.Mac, mdmtest.IPad} {
					if model == mdmtest.IPad && name != "a password here" {
						continue // an iPad differs from a Mac in what it sends, and not in who holds it
					}
					t.Run(method+" on "+string(model), func(t *testing.T) {
						if source.later != nil {
							source.later()
						}
						c.comesAndGoes(t, source, model, method)
					})
				}
			}
		})
	}
}

// decides sets the policy as an operator does: phones are their users', all else is not.
func (c *composed) decides(t *testing.T, method string) {
	t.Helper()
	var now struct{ Method string }
	c.api(t, "PUT", "/account-driven", map[string]any{
		"domains": []any{map[string]any{"domain": "example.com", "policy": map[string]any{"iPhone": "byod", "iPad": "adde", "Mac": "adde"}}},
		"method":  method,
	}, &now)
	if now.Method != method {
		t.Fatalf("the method is %q, want %q", now.Method, method)
	}
}

// comesAndGoes is the life of an enrollment.
func (c *composed) comesAndGoes(t *testing.T, source accountSource, model mdmtest.Model, method string) {
	t.Helper()
	before := len(c.attemptsOf(t, source.login))
	d := c.accountDevice(t, source.login+"@example.com", source.fresh(), mdmtest.Options{Model: model})
	must(t, d.EnrollAccount(t.Context()))

	item := c.deviceItem(t, d)
	want := apiDevice{EnrollmentType: "account_device", EnrollmentMode: "ADDE", Ownership: "institutional"}
	serial := d.Options().Serial
	if model == mdmtest.IPhone {
		want = apiDevice{EnrollmentType: "user", EnrollmentMode: "BYOD", Ownership: "personal"}
		serial = ""
	}
	if item.EnrollmentType != want.EnrollmentType || item.EnrollmentMode != want.EnrollmentMode || item.Ownership != want.Ownership ||
		item.State != "enrolled" || !strings.HasPrefix(item.User, source.login) || item.ManagedAppleAccount != source.login+"@apple.example.com" {
		t.Errorf("the device is %+v, want %+v of %s", item, want, source.login)
	}
	if said(item.SerialNumber) != serial || (said(item.UDID) == "") != (model == mdmtest.IPhone) || (item.EnrollmentID != "") != (model == mdmtest.IPhone) {
		t.Errorf("the device is %q %q %q", said(item.UDID), item.EnrollmentID, said(item.SerialNumber))
	}

	attempts := c.attemptsOf(t, source.login)
	if len(attempts) != before+1 {
		t.Fatalf("%d attempts, want one more than %d", len(attempts), before)
	}
	attempt := attempts[slices.IndexFunc(attempts, func(a apiAttempt) bool { return a.DeviceID == item.ID })]
	if attempt.Stage != "enrolled" || attempt.EnrollmentMode != want.EnrollmentMode || attempt.Ownership != want.Ownership || attempt.ErrorCode != "" {
		t.Errorf("the attempt is %+v", attempt)
	}
	for _, stage := range []string{"opened", "authenticated", "profile_downloaded", "identity_issued", "checked_in", "enrolled"} {
		if attempt.StageAt[stage].IsZero() {
			t.Errorf("the attempt has never been %s", stage)
		}
	}
	for _, u := range c.allDevices(t) {
		if u.ParentID == item.ID && (u.EnrollmentType != "user_channel" || u.State != "enrolled") {
			t.Errorf("its user channel is %+v", u)
		}
	}

	c.answers(t, d, item.ID)
	c.renews(t, d, item, method)

	must(t, d.Remove(t.Context()))
	var gone apiDevice
	c.api(t, "GET", "/devices/"+item.ID, nil, &gone)
	if gone.State != "unenrolled" {
		t.Errorf("after it was removed it is %s", gone.State)
	}
	c.wantStatus(t, "the identity of a device that was removed", item.Identity.Serial, "revoked")
	var heard struct {
		Items []struct{ Action, User string }
	}
	c.api(t, "GET", "/audit?device_id="+item.ID, nil, &heard)
	for _, action := range []string{"certificate.issued", "device.unenrolled"} {
		if !slices.ContainsFunc(heard.Items, func(e struct{ Action, User string }) bool { return e.Action == action }) {
			t.Errorf("the audit log has no %s of the device: %+v", action, heard.Items)
		}
	}
}

func said(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// answers has a device answer a command.
func (c *composed) answers(t *testing.T, d *mdmtest.Device, id string) {
	t.Helper()
	var sent struct {
		CommandUUID string `json:"command_uuid"`
	}
	c.api(t, "POST", "/commands", map[string]any{
		"request_type": "DeviceInformation", "params": map[string]any{"Queries": []string{"DeviceName", "OSVersion"}}, "device_ids": []string{id},
	}, &sent)
	if _, err := d.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Devices []struct {
			State  string
			Result json.RawMessage
		}
	}
	c.api(t, "GET", "/commands/"+sent.CommandUUID, nil, &got)
	if len(got.Devices) != 1 || got.Devices[0].State != "acknowledged" || !strings.Contains(string(got.Devices[0].Result), d.Options().OSVersion) {
		t.Errorf("DeviceInformation is %+v", got.Devices)
	}
}

// renews gives a device another identity. What it is stays.
func (c *composed) renews(t *testing.T, d *mdmtest.Device, item apiDevice, method string) {
	t.Helper()
	before, token := d.Profile().MDM, d.Token().Access
	c.api(t, "POST", "/devices/"+item.ID+"/renew-identity", map[string]any{}, nil)
	if _, err := d.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, now := d.Profile().MDM, c.deviceItem(t, d)
	if now.Identity.Serial == item.Identity.Serial || now.ID != item.ID || now.EnrollmentMode != item.EnrollmentMode || now.State != "enrolled" ||
		after.EnrollmentMode != before.EnrollmentMode || after.AssignedManagedAppleID != before.AssignedManagedAppleID || after.AccessRights != before.AccessRights {
		t.Errorf("renewed, it is %+v with %+v", now, after)
	}
	if method == mdmtest.MethodOAuth2 {
		if _, err := d.Refresh(t.Context()); err != nil {
			t.Errorf("refresh: %v", err)
		}
	}
	if _, err := d.Poll(t.Context()); err != nil {
		t.Errorf("after the renewal: %v", err)
	}
	if same := d.Token().Access == token; same != (method == mdmtest.MethodWeb) {
		t.Errorf("the token is the one of before: %v", same)
	}
}

// TestWhoMayNotEnrolByAccountReadsWhy has people sign in who get no further than a page.
func TestWhoMayNotEnrolByAccountReadsWhy(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	c := newComposed(t, nil)
	c.user(t, "noaccount", "Without an account")
	c.member(t, "leaver")
	c.member(t, "foreign")
	for _, login := range []string{"noaccount", "leaver", "foreign"} {
		c.api(t, "PATCH", "/users/"+c.userNamed(t, login).ID, map[string]any{"password": anaPassword}, nil)
	}
	c.api(t, "PATCH", "/users/"+c.userNamed(t, "leaver").ID, map[string]any{"can_enroll": false}, nil)
	c.api(t, "PATCH", "/users/"+c.userNamed(t, "foreign").ID, map[string]any{"managed_apple_account": "foreign@elsewhere.example"}, nil)
	c.api(t, "PATCH", "/settings", map[string]any{"account_domains": []string{"apple.example.com"}}, nil)
	for _, method := range methods {
		c.byAccount(t, method)
		for login, code := range map[string]string{"noaccount": "GH-E502", "foreign": "GH-E503", "leaver": "GH-E106"} {
			person := &mdmtest.Browser{Password: anaPassword}
			d := c.accountDevice(t, login+"@example.com", person, mdmtest.Options{})
			err := d.EnrollAccount(t.Context())
			visits := person.Visits()
			last := visits[len(visits)-1]
			if err == nil || last.Status != http.StatusForbidden || !strings.Contains(string(last.Body), code) {
				t.Errorf("%s by %s: %v at %d, want a page with %s", login, method, err, last.Status, code)
			}
			if at, _ := url.Parse(last.URL); at == nil || at.Scheme != "http" || d.State() != mdmtest.New {
				t.Errorf("%s by %s: at %s, and the device is %v", login, method, last.URL, d.State())
			}
			if n := len(c.devicesOf(t, login)); n > 0 {
				t.Errorf("%s has %d devices", login, n)
			}
		}
	}
	if n := c.issued(t); n > 0 {
		t.Errorf("%d certificates were issued", n)
	}
}
