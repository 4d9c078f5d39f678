package checkin_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	gatehouse "github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// refused wants a 4xx that is not one which removes a profile.
func (h *house) refused(t testing.TB, what string, p mdmtest.Prepared) {
	t.Helper()
	got, body := h.send(t, p)
	if got < 400 || got >= 500 || got == 401 || got == 410 || strings.Contains(body, "com.apple.unrecognized.device") {
		t.Errorf("%s: %d %.200q, want a refusal that leaves the device enrolled", what, got, body)
	}
}

func TestACertificateSpeaksForNobodyElse(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	for name, o := range map[string]mdmtest.Options{"a UDID": {}, "an EnrollmentID": {UserEnrollment: true}} {
		t.Run(name, func(t *testing.T) {
			victim := h.enrolled(t, o)
			uuid := gatehouse.NewUUID()
			h.queue(t, victim.IDs(), "ProfileList", uuid)
			before := h.record(t, victim.IDs())
			must(t, h.db.Update(t.Context(), func(tx storage.Tx) error {
				return h.mdm.SetSecret(tx, before.ID, gatehouse.BootstrapToken, []byte("bootstrap"))
			}))
			as := changed(victim.IDs(), nil)
			if o.UserEnrollment {
				as["UDID"] = nil
			}
			for name, thief := range map[string]*mdmtest.Device{
				"one that has not enrolled": h.identified(t, mdmtest.Options{}),
				"one that has":              h.enrolled(t, mdmtest.Options{}),
			} {
				for _, kind := range []string{"Authenticate", "TokenUpdate", "CheckOut", "SetBootstrapToken", "GetBootstrapToken", "UserAuthenticate", "DeclarativeManagement"} {
					h.refused(t, name+": "+kind, saying(t, thief, kind, changed(as, mdmtest.Dict{"UserID": nil, "BootstrapToken": []byte("mine")})))
				}
				h.refused(t, name+": Authenticate that names a user", saying(t, thief, "Authenticate", changed(as, mdmtest.Dict{"UserID": "U"})))
				body, err := mdmtest.MarshalPlist(changed(changed(thief.IDs(), as), mdmtest.Dict{"Status": "Idle", "UDID": as["UDID"]}))
				must(t, err)
				h.refused(t, name+": Idle", raw(t, thief, string(body)))
				body, err = mdmtest.MarshalPlist(changed(changed(thief.IDs(), as), mdmtest.Dict{"Status": "Acknowledged", "CommandUUID": uuid, "UDID": as["UDID"]}))
				must(t, err)
				h.refused(t, name+": Acknowledged", raw(t, thief, string(body)))
			}
			if after := h.record(t, victim.IDs()); fmt.Sprint(after.Identity, after.State, after.Push.Magic, after.TokenUpdates) != fmt.Sprint(before.Identity, before.State, before.Push.Magic, before.TokenUpdates) {
				t.Errorf("the victim is %+v, was %+v", after, before)
			}
			if got := idle(t, victim.Channel()); got != uuid {
				t.Errorf("the victim gets %q, want its command", got)
			}
		})
	}
}

func TestOneCertificateEnrollsOneDevice(t *testing.T) {
	h := newHouse(t)
	d := h.identified(t, mdmtest.Options{})
	const racers = 16
	statuses := make([]int, racers)
	prepared := make([]mdmtest.Prepared, racers)
	for i := range prepared {
		prepared[i] = saying(t, d, "Authenticate", mdmtest.Dict{"UDID": fmt.Sprintf("UDID-%d", i)})
	}
	var all sync.WaitGroup
	for i, p := range prepared {
		all.Go(func() { statuses[i], _ = h.send(t, p) })
	}
	all.Wait()
	won := 0
	for _, s := range statuses {
		switch s {
		case 200:
			won++
		case 403:
		default:
			t.Errorf("status %d", s)
		}
	}
	devices, _, err := h.mdm.Devices(t.Context(), "", 100)
	must(t, err)
	if won != 1 || len(devices) != 1 {
		t.Errorf("%d were let in and %d devices exist, want 1 and 1", won, len(devices))
	}
}

func TestIdentifiersKeepToTheirGrammar(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	d := h.enrolled(t, mdmtest.Options{Model: mdmtest.Mac})
	for name, ids := range map[string]mdmtest.Dict{
		"another's user channel in a UDID": {"UDID": d.ID() + ":" + d.User().User().ID},
		"a UDID with a slash":              {"UDID": "a/b"},
		"a UDID of 65 letters":             {"UDID": strings.Repeat("a", 65)},
		"a UDID of white space":            {"UDID": " "},
		"a UDID with a line break":         {"UDID": "a\nb"},
		"a UDID that looks like one":       {"UDID": "АBCD"}, // the first letter is Cyrillic
		"an empty UDID":                    {"UDID": ""},
		"no identifier":                    {"UDID": nil},
		"both identifiers":                 {"EnrollmentID": "E1"},
		"a User Enrollment's user":         {"EnrollmentUserID": "U1"},
		"an EnrollmentID that is a UDID":   {"UDID": nil, "EnrollmentID": d.ID()},
		"a UserID of 256 letters":          {"UserID": strings.Repeat("a", 256)},
		"a UserID in two lines":            {"UserID": "a\nb"},
		"a UDID that is a number":          {"UDID": 1},
		"a UDID that is an array":          {"UDID": []any{d.ID()}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, kind := range []string{"Authenticate", "TokenUpdate", "CheckOut", "GetBootstrapToken"} {
				h.refused(t, kind, saying(t, d, kind, ids))
			}
			body, err := mdmtest.MarshalPlist(changed(changed(d.IDs(), mdmtest.Dict{"Status": "Idle"}), ids))
			must(t, err)
			h.refused(t, "Idle", raw(t, d, string(body)))
		})
	}
	devices, _, err := h.mdm.Devices(t.Context(), "", 100)
	must(t, err)
	if len(devices) != 2 {
		t.Errorf("%d enrollments exist, want the Mac and its user", len(devices))
	}
	if got := h.record(t, d.IDs()).State; got != gatehouse.Enrolled {
		t.Errorf("the Mac is %s", got)
	}
}

func TestCertificatesThatIdentifyNobody(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	enrolled := h.enrolled(t, mdmtest.Options{})
	// issue makes a certificate of an authority of ours for a fresh key, recorded or not.
	issue := func(t *testing.T, d *mdmtest.Device, a *depot.Authority, record bool, change func(*depot.Contents)) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		must(t, err)
		template := depot.Contents{
			Name: "identity", Subject: pkix.Name{CommonName: "x"}, NotBefore: h.now().Add(-time.Hour), NotAfter: h.now().Add(time.Hour),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}
		change(&template)
		cert, err := a.Sign(key.Public(), template)
		must(t, err)
		if record {
			must(t, h.db.Update(t.Context(), func(tx storage.Tx) error {
				return h.depot.Record(tx, cert, depot.Certificate{Authority: a.Name(), Template: "other", IssuedAt: h.now()})
			}))
		}
		d.SetIdentity(cert, key)
	}
	nothing := func(*depot.Contents) {}
	for name, prepare := range map[string]func(t *testing.T, d *mdmtest.Device){
		"a stranger's":                func(t *testing.T, d *mdmtest.Device) { d.SetIdentity(selfSigned(t)) },
		"of the root, for payloads":   func(t *testing.T, d *mdmtest.Device) { issue(t, d, h.depot.Root(), true, nothing) },
		"of the CA, but on no record": func(t *testing.T, d *mdmtest.Device) { issue(t, d, h.depot.Identity(), false, nothing) },
		"of no attempt":               func(t *testing.T, d *mdmtest.Device) { issue(t, d, h.depot.Identity(), true, nothing) },
		"not valid yet": func(t *testing.T, d *mdmtest.Device) {
			issue(t, d, h.depot.Identity(), true, func(c *depot.Contents) { c.NotBefore = h.now().Add(30 * time.Minute) })
		},
		"expired before its first use": func(t *testing.T, d *mdmtest.Device) {
			issue(t, d, h.depot.Identity(), true, func(c *depot.Contents) { c.NotAfter = h.now().Add(-time.Minute) })
		},
		"without clientAuth": func(t *testing.T, d *mdmtest.Device) {
			issue(t, d, h.depot.Root(), true, func(c *depot.Contents) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := h.identified(t, mdmtest.Options{})
			prepare(t, d)
			for _, ids := range []mdmtest.Dict{d.IDs(), enrolled.IDs()} {
				for _, kind := range []string{"Authenticate", "TokenUpdate", "CheckOut", "UserAuthenticate"} {
					h.refused(t, kind, saying(t, d, kind, ids))
				}
				body, err := mdmtest.MarshalPlist(changed(ids, mdmtest.Dict{"Status": "Idle"}))
				must(t, err)
				h.refused(t, "Idle", raw(t, d, string(body)))
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		p := saying(t, enrolled, "CheckOut", nil)
		p.Header.Del("Mdm-Signature")
		h.refused(t, "CheckOut", p)
		p.Header.Set("Mdm-Signature", "")
		h.refused(t, "CheckOut with an empty signature", p)
	})
	if got := h.record(t, enrolled.IDs()).State; got != gatehouse.Enrolled {
		t.Errorf("the enrolled device is %s", got)
	}
	h.pass(2 * 365 * 24 * time.Hour)
	h.queue(t, enrolled.IDs(), "ProfileList", "RENEWME")
	if got := idle(t, enrolled.Channel()); got != "RENEWME" {
		t.Errorf("a device whose certificate has expired gets %q, want to be reachable", got)
	}
}

func TestAMessageIsOnlyGoodInItsPlaceAndTime(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	d := h.enrolled(t, mdmtest.Options{})
	old := saying(t, d, "TokenUpdate", mdmtest.Dict{"PushMagic": "old"})
	authenticate := saying(t, d, "Authenticate", nil)
	h.pass(time.Minute)
	h.wantStatus(t, "a newer TokenUpdate", saying(t, d, "TokenUpdate", mdmtest.Dict{"PushMagic": "new"}), 200)
	h.wantStatus(t, "the older TokenUpdate again", old, 400)
	if got := h.record(t, d.IDs()).Push.Magic; got != "new" {
		t.Errorf("the push magic is %q, want the newer one", got)
	}
	h.queue(t, d.IDs(), "ProfileList", "KEPT")
	h.wantStatus(t, "Authenticate again", authenticate, 200)
	h.wantState(t, "KEPT", gatehouse.Queued)
	if got := h.record(t, d.IDs()).State; got != gatehouse.Enrolled {
		t.Errorf("after Authenticate again the device is %s", got)
	}

	p := reporting(t, d, mdmtest.Result{Status: mdmtest.StatusIdle})
	swap := func(change func(*mdmtest.Prepared)) mdmtest.Prepared {
		q := p
		q.Header = p.Header.Clone()
		change(&q)
		return q
	}
	signature := p.Header.Get("Mdm-Signature")
	damaged := []byte(signature)
	damaged[len(damaged)/2] ^= 1
	for name, q := range map[string]mdmtest.Prepared{
		"the signature of another body": swap(func(q *mdmtest.Prepared) { q.Header.Set("Mdm-Signature", old.Header.Get("Mdm-Signature")) }),
		"a body with a space more":      swap(func(q *mdmtest.Prepared) { q.Body = append(q.Body[:len(q.Body):len(q.Body)], ' ') }),
		"two signatures":                swap(func(q *mdmtest.Prepared) { q.Header.Add("Mdm-Signature", signature) }),
		"a damaged signature":           swap(func(q *mdmtest.Prepared) { q.Header.Set("Mdm-Signature", string(damaged)) }),
		"half a signature":              swap(func(q *mdmtest.Prepared) { q.Header.Set("Mdm-Signature", signature[:len(signature)/8*4]) }),
		"no base64":                     swap(func(q *mdmtest.Prepared) { q.Header.Set("Mdm-Signature", "%%%") }),
		"a signature of 40 KiB": swap(func(q *mdmtest.Prepared) {
			q.Header.Set("Mdm-Signature", base64.StdEncoding.EncodeToString(make([]byte, 40<<10)))
		}),
		"lengths that overflow": swap(func(q *mdmtest.Prepared) {
			q.Header.Set("Mdm-Signature", base64.StdEncoding.EncodeToString([]byte(strings.Repeat("0\x7f", 68))))
		}),
		"indefinite lengths, nested": swap(func(q *mdmtest.Prepared) {
			q.Header.Set("Mdm-Signature", base64.StdEncoding.EncodeToString([]byte(strings.Repeat("0\x80", 12<<10))))
		}),
	} {
		start := time.Now()
		h.refused(t, name, q)
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s took %v", name, took)
		}
	}
	h.wantStatus(t, "the message itself", p, 200)
	h.pass(50 * time.Minute)
	h.wantStatus(t, "the message after fifty minutes", p, 200)
	h.pass(20 * time.Minute)
	h.wantStatus(t, "the message after an hour", p, 400)
	early := h.device(t, mdmtest.Options{Now: func() time.Time { return h.now().Add(5 * time.Minute) }})
	must(t, early.Enroll(t.Context(), h.link(t, "x")))

	// What was captured in one enrollment does nothing to the next.
	checkOut := saying(t, d, "CheckOut", nil)
	authenticate = saying(t, d, "Authenticate", nil)
	token := saying(t, d, "TokenUpdate", nil)
	must(t, d.Remove(t.Context()))
	for range 2 {
		h.wantStatus(t, "CheckOut again", checkOut, 200)
		if got, body := h.send(t, token); got != 403 || !strings.Contains(body, "com.apple.unrecognized.device") {
			t.Errorf("TokenUpdate after CheckOut: %d %q, want the device told to remove its profile", got, body)
		}
	}
	if got := h.record(t, d.IDs()); got.State != gatehouse.Unenrolled || got.Push != nil {
		t.Errorf("the device is %s", got.State)
	}
	must(t, d.Enroll(t.Context(), h.link(t, "ana@example.com")))
	h.queue(t, d.IDs(), "ProfileList", "MINE")
	for name, p := range map[string]mdmtest.Prepared{"CheckOut": checkOut, "Authenticate": authenticate, "TokenUpdate": token} {
		h.refused(t, "the old "+name, p)
	}
	if got := idle(t, d.Channel()); got != "MINE" || h.record(t, d.IDs()).State != gatehouse.Enrolled {
		t.Errorf("the new enrollment gets %q, want its command", got)
	}
}

func TestMessagesOutOfOrder(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	d := h.identified(t, mdmtest.Options{Model: mdmtest.Mac})
	poll := func() mdmtest.Prepared { return reporting(t, d, mdmtest.Result{Status: mdmtest.StatusIdle}) }
	for _, kind := range []string{"TokenUpdate", "CheckOut", "SetBootstrapToken", "GetBootstrapToken", "UserAuthenticate"} {
		h.refused(t, kind+" before Authenticate", saying(t, d, kind, nil))
	}
	h.refused(t, "a poll before Authenticate", poll())
	must(t, d.Authenticate(t.Context()))
	h.refused(t, "a poll before TokenUpdate", poll())
	if rec := h.record(t, d.IDs()); rec.State != gatehouse.Pending || rec.Push != nil {
		t.Errorf("the device is %s, push %v; want pending and none", rec.State, rec.Push)
	}
	for name, change := range map[string]mdmtest.Dict{
		"without Token":               {"Token": nil},
		"with an empty Token":         {"Token": []byte{}},
		"without PushMagic":           {"PushMagic": nil},
		"without Topic":               {"Topic": nil},
		"with a PushMagic of 1 KiB":   {"PushMagic": strings.Repeat("m", 1024)},
		"with a Token of 2 KiB":       {"Token": make([]byte, 2048)},
		"with an endless UnlockToken": {"UnlockToken": make([]byte, 128<<10)},
		"with a Token that is text":   {"Token": "text"},
	} {
		h.refused(t, "TokenUpdate "+name, saying(t, d, "TokenUpdate", change))
	}
	must(t, d.TokenUpdate(t.Context()))
	must(t, d.SetBootstrapToken(t.Context(), []byte("boot")))
	if got := must2(d.GetBootstrapToken(t.Context()))(t); string(got) != "boot" {
		t.Errorf("bootstrap token %q", got)
	}
	if got, _ := h.send(t, saying(t, d, "UserAuthenticate", mdmtest.Dict{"UserID": "U"})); got != 410 {
		t.Errorf("UserAuthenticate: %d, want 410: declined", got)
	}

	// The rightful user enrolls it again: nothing of before is there.
	h.queue(t, d.IDs(), "ProfileList", "OLD")
	d.Vanish()
	must(t, d.Install(must2(d.Download(t.Context(), h.link(t, "eve@example.com")))(t)))
	must(t, d.RequestIdentity(t.Context()))
	must(t, d.Authenticate(t.Context()))
	h.wantState(t, "OLD", gatehouse.Cancelled)
	must(t, d.TokenUpdate(t.Context()))
	if got := idle(t, d.Channel()); got != "" {
		t.Errorf("after enrolling again comes %q, want nothing", got)
	}
	if got := must2(d.GetBootstrapToken(t.Context()))(t); len(got) != 0 {
		t.Errorf("after enrolling again the bootstrap token is %q, want none", got)
	}
}
