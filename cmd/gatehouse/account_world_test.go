package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// byAccount decides about account-driven enrollment: phones of example.com are their users',
// iPads and Macs of it the organisation's; Macs of own.example are their users', too.
func (c *composed) byAccount(t testing.TB, method string, change ...func(*enroll.AccountDriven)) {
	t.Helper()
	_, err := c.enroll.UpdateAccountDriven(t.Context(), func(a *enroll.AccountDriven) error {
		*a = enroll.DefaultAccountDriven()
		a.Method = enroll.SignInMethod(method)
		a.Domains = []enroll.AccountDomain{
			{Domain: "example.com", Policy: map[enroll.ModelFamily]enroll.AccountMode{
				"iPhone": enroll.ModeBYOD, "iPad": enroll.ModeADDE, "Mac": enroll.ModeADDE, "RealityDevice": enroll.ModeOff,
			}},
			{Domain: "own.example", Policy: map[enroll.ModelFamily]enroll.AccountMode{"Mac": enroll.ModeBYOD}, Message: "Ask at the front desk."},
		}
		for _, change := range change {
			change(a)
		}
		return nil
	})
	must(t, err)
}

// methods are those of a sign-in.
var methods = []string{mdmtest.MethodWeb, mdmtest.MethodOAuth2}

// member makes a user with a password and a Managed Apple Account, and returns the ID.
func (c *composed) member(t testing.TB, name string) string {
	t.Helper()
	var u struct{ ID string }
	c.api(t, "POST", "/users", map[string]any{
		"username": name, "email": name + "@example.com", "full_name": name, "password": anaPassword, "managed_apple_account": name + "@apple.example.com",
	}, &u)
	return u.ID
}

// reach is where the simulated web servers of all domains are.
func (c *composed) reach(string) string { return c.url }

// accountDevice is a device on which somebody has typed an identifier. Options.Account may
// say more.
func (c *composed) accountDevice(t testing.TB, identifier string, person mdmtest.Person, o mdmtest.Options) *mdmtest.Device {
	t.Helper()
	account := mdmtest.Account{}
	if o.Account != nil {
		account = *o.Account
	}
	account.Identifier, account.Person, account.Reach = identifier, person, c.reach
	o.Account = &account
	return c.device(t, o)
}

// called enrolls a device for somebody who signs in at once, without pages.
func (c *composed) called(t testing.TB, name string, o mdmtest.Options) *mdmtest.Device {
	t.Helper()
	d := c.accountDevice(t, name+"@example.com", c.inPerson(name), o)
	must(t, d.EnrollAccount(t.Context()))
	return d
}

// inPerson is a person whom the server recognizes at once: what the pages do when somebody
// has signed in, and nothing else.
func (c *composed) inPerson(name string) mdmtest.PersonFunc {
	return func(ctx context.Context, session mdmtest.WebSession) (mdmtest.Redirect, error) {
		u, err := url.Parse(session.URL)
		if err != nil {
			return mdmtest.Redirect{}, err
		}
		var user identity.User
		err = c.db.View(ctx, func(tx storage.Tx) (err error) {
			user, err = identity.UserByLogin(tx, name)
			return err
		})
		if err != nil {
			return mdmtest.Redirect{}, err
		}
		var asked *enroll.AuthorizationRequest
		if strings.Contains(u.Path, "/authorize/") {
			request, err := enroll.ParseAuthorizationRequest(u.Query())
			if err != nil {
				return mdmtest.Redirect{}, err
			}
			asked = &request
		}
		back, err := c.enroll.FinishAccountSignIn(ctx, path.Base(u.Path), user, asked)
		return mdmtest.Redirect{Status: http.StatusPermanentRedirect, Location: back.Location}, err
	}
}

// discovered is the service that a device finds, and the challenge of its first POST.
func discovered(t testing.TB, d *mdmtest.Device) (*mdmtest.Service, mdmtest.Challenge) {
	t.Helper()
	service, err := d.Discover(t.Context())
	must(t, err)
	_, err = d.PostEnrollment(t.Context(), service.BaseURL, "")
	return service, challenged(t, err)
}

// challenged is the challenge that a request was answered with.
func challenged(t testing.TB, err error) mdmtest.Challenge {
	t.Helper()
	var need *mdmtest.SignInRequired
	if !errors.As(err, &need) {
		t.Fatalf("%v, want a challenge", err)
	}
	return need.Challenge
}

// signedIn is what a device has whose user has signed in: its profile, not installed yet.
func signedIn(t testing.TB, d *mdmtest.Device) (service *mdmtest.Service, profile []byte) {
	t.Helper()
	service, err := d.Discover(t.Context())
	must(t, err)
	profile, err = d.FetchEnrollment(t.Context(), service)
	must(t, err)
	return service, profile
}

// wantRefused fails unless err is an answer with this status and, if it is not empty, this
// text in it. It returns the answer.
func wantRefused(t testing.TB, what string, err error, status int, text string) *mdmtest.Reply {
	t.Helper()
	var answer *mdmtest.HTTPError
	var need *mdmtest.SignInRequired
	var reply *mdmtest.Reply
	switch {
	case errors.As(err, &answer):
		reply = &answer.Reply
	case errors.As(err, &need):
		reply = need.Reply
	default:
		t.Errorf("%s: %v, want %d", what, err, status)
		return nil
	}
	if reply.Status != status || !strings.Contains(string(reply.Body), text) {
		t.Errorf("%s: %d %q, want %d with %q", what, reply.Status, reply.Body, status, text)
	}
	if challenged := reply.Header.Get("WWW-Authenticate") != ""; challenged != (status == http.StatusUnauthorized) {
		t.Errorf("%s: %d with the challenge %q", what, reply.Status, reply.Header.Get("WWW-Authenticate"))
	}
	return reply
}

// apiDevice is what the API says of a device.
type apiDevice struct {
	ID                  string
	EnrollmentType      string `json:"enrollment_type"`
	EnrollmentMode      string `json:"enrollment_mode"`
	Ownership, State    string
	UDID                *string
	EnrollmentID        string  `json:"enrollment_id"`
	ParentID            string  `json:"parent_id"`
	SerialNumber        *string `json:"serial_number"`
	User                string
	ManagedAppleAccount string `json:"managed_apple_account"`
	Identity            *struct{ Serial string }
	PendingCommands     int `json:"pending_commands"`
}

// apiAttempt is what the API says of an attempt.
type apiAttempt struct {
	ID, User, Ownership, Stage string
	StageAt                    map[string]time.Time `json:"stage_at"`
	DeviceID                   string               `json:"device_id"`
	ErrorCode                  string               `json:"error_code"`
	EnrollmentMode             string               `json:"enrollment_mode"`
}

// devicesOf are the devices of a user, user channels included.
func (c *composed) devicesOf(t testing.TB, user string) (list []apiDevice) {
	t.Helper()
	for _, d := range c.allDevices(t) {
		if strings.HasPrefix(d.User, user) {
			list = append(list, d)
		}
	}
	return list
}

func (c *composed) allDevices(t testing.TB) []apiDevice {
	t.Helper()
	var page struct{ Items []apiDevice }
	c.api(t, "GET", "/devices?limit=1000", nil, &page)
	return page.Items
}

// attemptsOf are the attempts of a user.
func (c *composed) attemptsOf(t testing.TB, user string) []apiAttempt {
	t.Helper()
	var page struct{ Items []apiAttempt }
	c.api(t, "GET", "/enrollment-attempts?limit=1000", nil, &page)
	return slices.DeleteFunc(page.Items, func(a apiAttempt) bool { return !strings.HasPrefix(a.User, user) })
}

// deviceItem is what the API says of d.
func (c *composed) deviceItem(t testing.TB, d *mdmtest.Device) apiDevice {
	t.Helper()
	for _, item := range c.allDevices(t) {
		if item.ParentID == "" && (item.EnrollmentID == d.ID() || item.UDID != nil && *item.UDID == d.ID()) {
			var whole apiDevice
			c.api(t, "GET", "/devices/"+item.ID, nil, &whole)
			return whole
		}
	}
	t.Fatalf("no device has the id %s", d.ID())
	return apiDevice{}
}

// dump is all that the database holds, and the names of its buckets.
func (c *composed) dump(t testing.TB) string {
	t.Helper()
	var text strings.Builder
	must(t, c.db.View(t.Context(), func(tx storage.Tx) error {
		text.Reset()
		names, err := tx.Buckets()
		if err != nil {
			return err
		}
		for _, name := range names {
			for item, err := range tx.Scan(name, storage.Range{}) {
				if err != nil {
					return err
				}
				fmt.Fprintf(&text, "%s %q %s\n", name, item.Key, item.Value)
			}
		}
		return nil
	}))
	return text.String()
}

// ask sends a request as it is, by a client that keeps no cookies and follows nothing.
func (c *composed) ask(t testing.TB, method, url string, body []byte, header ...string) *mdmtest.Reply {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	must(t, err)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := c.http.RoundTrip(r)
	must(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(t, err)
	return &mdmtest.Reply{Status: resp.StatusCode, Header: resp.Header, Body: text}
}

// send sends a prepared request as it is.
func (c *composed) send(t testing.TB, p mdmtest.Prepared) *mdmtest.Reply {
	t.Helper()
	var header []string
	for name := range p.Header {
		header = append(header, name, p.Header.Get(name))
	}
	return c.ask(t, p.Method, p.URL, p.Body, header...)
}

// try calls the API and returns the answer, whatever it is.
func (c *composed) try(t testing.TB, method, path string, in any) (status int, body string) {
	t.Helper()
	raw, err := json.Marshal(in)
	must(t, err)
	r := httptest.NewRequest(method, "/api/v1"+path, bytes.NewReader(raw))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	c.local.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// authenticator is the app that shows codes for a key (RFC 6238).
func authenticator(key string, now func() time.Time) func() (string, error) {
	return func() (string, error) {
		raw, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ReplaceAll(key, " ", ""))
		if err != nil {
			return "", err
		}
		mac := hmac.New(sha1.New, raw)
		_ = binary.Write(mac, binary.BigEndian, uint64(now().Unix()/30))
		sum := mac.Sum(nil)
		offset := sum[len(sum)-1] & 15
		return fmt.Sprintf("%06d", binary.BigEndian.Uint32(sum[offset:])&0x7fffffff%1_000_000), nil
	}
}
