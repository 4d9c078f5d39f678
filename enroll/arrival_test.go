package enroll_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// otherServer is an MDM server that devices come from: its authority.
type otherServer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

func newOtherServer(t testing.TB, now time.Time, change ...func(*x509.Certificate)) *otherServer {
	t.Helper()
	o := &otherServer{next: 1}
	o.cert = o.sign(t, func(c *x509.Certificate) {
		c.Subject = pkix.Name{Organization: []string{"MicroMDM"}, OrganizationalUnit: []string{"MICROMDM SCEP CA"}, Country: []string{"US"}}
		c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
		c.NotBefore, c.NotAfter = now.AddDate(-1, 0, 0), now.AddDate(4, 0, 0)
		for _, fn := range change {
			fn(c)
		}
	})
	return o
}

// sign issues a certificate, its first one to itself. Serial numbers count from 1, as
// micromdm/scep's do.
func (o *otherServer) sign(t testing.TB, fill func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(o.next), BasicConstraintsValid: true}
	o.next++
	fill(template)
	parent := o.cert
	if parent == nil {
		parent, o.key = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), o.key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return cert
}

// identity issues a device's certificate that is valid for a year around now.
func (o *otherServer) identity(t testing.TB, cn string, now time.Time) *x509.Certificate {
	t.Helper()
	return o.sign(t, func(c *x509.Certificate) {
		c.Subject = pkix.Name{Organization: []string{"MicroMDM"}, CommonName: cn}
		c.NotBefore, c.NotAfter = now.AddDate(0, -6, 0), now.AddDate(0, 6, 0)
	})
}

const otherTopic = "com.apple.mgmt.External.other"

// former is a device as the other server tells of it.
func former(id mdm.AppleID, cert *x509.Certificate) enroll.Former {
	f := enroll.Former{
		ID: id, Facts: mdm.Facts{SerialNumber: "C02" + id.UDID, DeviceName: "Ana's", ProductName: "MacBookPro18,3"},
		Push: mdm.Push{Topic: otherTopic, Token: []byte{1, 2, 3}, Magic: "other-magic"},
	}
	if cert != nil {
		f.Certificate = depot.FingerprintOf(cert)
	}
	return f
}

var microMDM = enroll.FormerProfile{Identifier: "com.github.micromdm.micromdm.enroll"}

// takeOver takes devices over, and says what became of each.
func (h *house) takeOver(t testing.TB, devices ...enroll.Former) []enroll.Taken {
	t.Helper()
	all, err := h.TakeOver(context.Background(), enroll.TakeOver{Source: "micromdm", Profile: microMDM, Devices: devices})
	must(t, err)
	return all
}

// movedFrom is a house that awaits one device, by its certificate unless expected is false.
func movedFrom(t testing.TB, h *house, id mdm.AppleID, expected bool) (*otherServer, phone) {
	t.Helper()
	o := newOtherServer(t, h.now())
	_, err := h.AddPredecessor(context.Background(), o.cert.Raw, 0)
	must(t, err)
	p := phone{h: h, id: id, cert: o.identity(t, "MicroMDM Identity (Ana's)", h.now())}
	f := former(id, p.cert)
	if !expected {
		f.Certificate = ""
	}
	for _, one := range h.takeOver(t, f) {
		if one.Outcome != enroll.TakenOver {
			t.Fatalf("TakeOver: %+v", one)
		}
	}
	return o, p
}

func (p phone) arrives(t testing.TB) bool {
	t.Helper()
	arrived, err := p.h.Arrive(context.Background(), p.peer(), p.id)
	must(t, err)
	return arrived
}

func TestADeviceOfAnotherServerGoesOnAndMovesToOurAuthority(t *testing.T) {
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	o := newOtherServer(t, h.now())
	_, err := h.AddPredecessor(ctx, o.cert.Raw, 0)
	must(t, err)
	p := phone{h: h, id: mac, cert: o.identity(t, "MicroMDM Identity (Ana's)", h.now())}
	seen := h.now().Add(-time.Hour)
	f := former(mac, p.cert)
	f.UnlockToken, f.BootstrapToken, f.LastSeen = []byte("unlock"), []byte("bootstrap"), seen
	f.Users = []enroll.FormerUser{{UserID: "501", ShortName: "ana", Push: mdm.Push{Topic: otherTopic, Token: []byte{9}, Magic: "user-magic"}}}
	h.takeOver(t, f)

	d := h.device(t, mac)
	h.view(t, func(tx storage.Tx) error {
		for kind, want := range map[mdm.SecretKind]string{mdm.UnlockToken: "unlock", mdm.BootstrapToken: "bootstrap"} {
			if got, err := h.mdm.Secret(tx, d.ID, kind); string(got) != want || err != nil {
				t.Errorf("%s = %q, %v, want %q", kind, got, err, want)
			}
		}
		if got, err := h.mdm.LastSeen(tx, d.ID); !got.Equal(seen) || err != nil {
			t.Errorf("last seen at %v, %v, want %v", got, err, seen)
		}
		return nil
	})
	if d.State != mdm.Enrolled || d.Push.Magic != "other-magic" || d.Topic != otherTopic || d.SerialNumber != f.Facts.SerialNumber || d.AccessRights != enroll.AllRights {
		t.Errorf("device = %+v", d)
	}
	h.enqueue(t, "C1", d.ID)
	_, err = p.idle()
	wantErr(t, "a poll before it has arrived", err, enroll.ErrUnidentified)
	must(t, h.RenewDue(ctx))
	if h.device(t, mac).Renewal != nil {
		t.Error("a renewal began before the device was heard")
	}

	for range 2 { // again: its certificate is known
		if !p.arrives(t) {
			t.Fatal("the device has not arrived")
		}
	}
	if plist, err := p.idle(); err != nil || !strings.Contains(plist, "C1") {
		t.Fatalf("the first poll: %q, %v, want the command", plist, err)
	}
	must(t, p.report("C1", mdm.Acknowledged))
	if got := h.state(t, "C1"); got != mdm.Acknowledged {
		t.Errorf("the command is %s", got)
	}
	if _, err := p.idleAs(mdm.AppleID{UDID: mac.UDID, UserID: "501"}); err != nil {
		t.Errorf("a poll of its user: %v", err)
	}
	rec := h.record(t, p.cert)
	if rec.Authority != depot.AdoptedAuthority || rec.DeviceID != string(d.ID) || rec.Subject != "CN=MicroMDM Identity (Ana's),O=MicroMDM" {
		t.Errorf("record of its certificate = %+v", rec)
	}

	// It is renewed, at once, by a profile of the name that it knows.
	h.pass(time.Second)
	must(t, h.RenewDue(ctx))
	if h.device(t, mac).Renewal == nil {
		t.Fatal("no renewal began")
	}
	r := p.nextRenewal(t)
	top := profileOf(t, r.signed)
	mdmPayload := payloads(t, r.signed)["com.apple.mdm"]
	for key, want := range map[string]any{
		"PayloadIdentifier": microMDM.Identifier + ".mdm", "Topic": otherTopic, "ServerURL": "https://mdm.example.com/mdm/connect",
		"CheckInURL": "https://mdm.example.com/mdm/checkin",
	} {
		if mdmPayload[key] != want {
			t.Errorf("%s = %v, want %v", key, mdmPayload[key], want)
		}
	}
	if top["PayloadIdentifier"] != microMDM.Identifier {
		t.Errorf("the profile is %v, want %s", top["PayloadIdentifier"], microMDM.Identifier)
	}
	cert, err := h.IssueIdentity(ctx, h.renewalRequest(t, r.signed))
	must(t, err)
	renewed := phone{h: h, id: mac, cert: cert}
	must(t, renewed.authenticate())
	must(t, renewed.tokenUpdate("our-magic"))
	must(t, renewed.report(r.uuid, mdm.Acknowledged))
	if d := h.device(t, mac); d.Identity != string(depot.FingerprintOf(cert)) || d.Push.Magic != "our-magic" || d.Renewal != nil {
		t.Errorf("device = %+v, want it to have our certificate", d)
	}
	_, err = p.idle()
	wantErr(t, "a poll by the certificate of the other server", err, enroll.ErrRetired)

	// A year later it is the same.
	h.pass(9 * 30 * 24 * time.Hour)
	must(t, h.RenewDue(ctx))
	if again := profileOf(t, renewed.nextRenewal(t).signed); again["PayloadIdentifier"] != microMDM.Identifier {
		t.Errorf("the next renewal's profile is %v, want %s", again["PayloadIdentifier"], microMDM.Identifier)
	}
	_, err = h.Block(ctx, d.ID)
	must(t, err)
	_, err = renewed.idle()
	wantErr(t, "a poll when it is blocked", err, enroll.ErrGone)
}

// profileOf is what a signed profile says of itself.
func profileOf(t testing.TB, signed []byte) (top map[string]any) {
	t.Helper()
	plain, _, err := profile.Unwrap(signed)
	must(t, err)
	must(t, guard.DecodePlist(plain, &top, guard.PlistLimits{}))
	return top
}

// nextRenewal lets a device run commands until that of its renewal comes.
func (p phone) nextRenewal(t testing.TB) renewal {
	t.Helper()
	for range 20 {
		plist, err := p.idle()
		must(t, err)
		if strings.Contains(plist, "InstallProfile") {
			return p.h.fetchRenewal(t.(*testing.T), p)
		}
		_, uuid, ok := strings.Cut(plist, "<key>CommandUUID</key>")
		if !ok {
			t.Fatalf("no renewal comes: %q", plist)
		}
		uuid = uuid[strings.Index(uuid, "<string>")+len("<string>"):]
		must(t, p.report(uuid[:strings.Index(uuid, "<")], mdm.Failed))
	}
	t.Fatal("no renewal comes")
	return renewal{}
}

func TestWhoIsNoDeviceOfTheOtherServer(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	ctx := context.Background()
	second := mdm.AppleID{UDID: "BBBB-0002"}
	for name, tt := range map[string]struct {
		expected bool // its certificate is known
		act      func(t *testing.T, h *house, o *otherServer, p phone) phone
		reason   string // in the audit log; empty: it says nothing
	}{
		"one with another certificate of the same authority": {expected: true, reason: "another certificate", act: func(t *testing.T, h *house, o *otherServer, p phone) phone {
			p.cert = o.identity(t, "MicroMDM Identity", h.now())
			return p
		}},
		"one with another's certificate": {expected: true, reason: "another certificate", act: func(t *testing.T, h *house, o *otherServer, p phone) phone {
			other := o.identity(t, "MicroMDM Identity", h.now())
			h.takeOver(t, former(second, other))
			p.cert = other
			return p
		}},
		"one whose certificate the authority did not sign": {expected: true, reason: "no authority", act: func(t *testing.T, h *house, o *otherServer, p phone) phone {
			p.cert = newOtherServer(t, h.now()).identity(t, "MicroMDM Identity", h.now())
			h.takeOver(t, former(p.id, p.cert))
			return p
		}},
		"one whose authority was forgotten": {expected: true, reason: "no authority", act: func(t *testing.T, h *house, o *otherServer, p phone) phone {
			must(t, h.DeletePredecessor(ctx, depot.FingerprintOf(o.cert)))
			return p
		}},
		"one that nobody told of": {expected: true, act: func(t *testing.T, h *house, o *otherServer, p phone) phone {
			p.id = second
			return p
		}},
		"one whose identifier is none": {expected: true, act: func(t *testing.T, h *house, o *otherServer, p phone) phone {
			p.id = mdm.AppleID{UDID: "a/b"}
			return p
		}},
		"one without a certificate": {expected: true, act: func(t *testing.T, h *house, o *otherServer, p phone) phone {
			p.cert = nil
			return p
		}},

		"a claim after its time": {reason: "time is over", act: func(t *testing.T, h *house, o *otherServer, p phone) phone {
			h.pass(enroll.DefaultClaims)
			return p
		}},
		"a claim by an expired certificate": {reason: "not valid now", act: func(t *testing.T, h *house, o *otherServer, p phone) phone {
			p.cert = o.sign(t, func(c *x509.Certificate) {
				c.Subject, c.NotBefore, c.NotAfter = pkix.Name{CommonName: "old"}, h.now().AddDate(-1, 0, 0), h.now().Add(-time.Second)
			})
			return p
		}},
		"a claim by a certificate that is not valid yet": {reason: "not valid now", act: func(t *testing.T, h *house, o *otherServer, p phone) phone {
			p.cert = o.sign(t, func(c *x509.Certificate) {
				c.Subject, c.NotBefore, c.NotAfter = pkix.Name{CommonName: "new"}, h.now().Add(time.Hour), h.now().AddDate(1, 0, 0)
			})
			return p
		}},
		"a claim by a certificate of our own": {act: func(t *testing.T, h *house, o *otherServer, p phone) phone {
			return phone{h: h, id: p.id, cert: h.withIdentity(t, h.link(t, enroll.NewLink{}), p.id).cert}
		}},
		"a claim by a certificate that another device is known by": {reason: "names another", act: func(t *testing.T, h *house, o *otherServer, p phone) phone {
			p.cert = o.identity(t, "whoever", h.now())
			h.takeOver(t, former(second, p.cert))
			return p
		}},
		"a claim by a certificate that names another's UDID": {reason: "names another", act: func(t *testing.T, h *house, o *otherServer, p phone) phone {
			h.takeOver(t, former(second, nil))
			p.cert = o.identity(t, "MDM bbbb-0002", h.now())
			return p
		}},
		"a claim by a certificate that names another's serial number": {reason: "names another", act: func(t *testing.T, h *house, o *otherServer, p phone) phone {
			h.takeOver(t, former(second, nil))
			p.cert = o.sign(t, func(c *x509.Certificate) {
				c.Subject, c.NotBefore, c.NotAfter = pkix.Name{CommonName: "Mac", SerialNumber: "C02BBBB-0002"}, h.now(), h.now().AddDate(1, 0, 0)
			})
			return p
		}},
		"a claim by the authority itself": {reason: "no authority", act: func(t *testing.T, h *house, o *otherServer, p phone) phone {
			p.cert = o.cert
			return p
		}},
		"a claim of a device that was unenrolled": {act: func(t *testing.T, h *house, o *otherServer, p phone) phone {
			_, err := h.Unenroll(ctx, h.device(t, p.id).ID)
			must(t, err)
			return p
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			o, p := movedFrom(t, h, mac, tt.expected)
			before := h.device(t, mac)
			p = tt.act(t, h, o, p)
			if p.arrives(t) {
				t.Fatal("it has arrived")
			}
			after := h.device(t, mac)
			if after.Identity != before.Identity && before.Identity == "" {
				t.Errorf("the device has got the identity %s", after.Identity)
			}
			if p.cert != nil {
				if _, err := p.idle(); err == nil {
					t.Error("it is heard")
				}
			}
			var reason string
			if n := len(h.refused); n > 0 {
				reason = h.refused[n-1].Reason
			}
			if tt.reason == "" && reason != "" || !strings.Contains(reason, tt.reason) {
				t.Errorf("the audit log says %q, want %q in it", reason, tt.reason)
			}
		})
	}
}

func TestADeviceIsKnownByItsCertificateWhateverItsDates(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	h := newHouse(t)
	ctx := context.Background()
	o := newOtherServer(t, h.now(), func(c *x509.Certificate) { c.NotAfter = h.now().Add(-time.Hour) })
	_, err := h.AddPredecessor(ctx, o.cert.Raw, time.Second)
	must(t, err)
	p := phone{h: h, id: mac, cert: o.sign(t, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = h.now().AddDate(-1, 0, 0), h.now().Add(-time.Minute)
	})}
	h.takeOver(t, former(mac, p.cert))
	h.pass(enroll.DefaultClaims)
	if !p.arrives(t) {
		t.Fatal("the device has not arrived")
	}
	if _, err := p.idle(); err != nil {
		t.Errorf("its poll: %v", err)
	}
	h.pass(time.Second)
	must(t, h.RenewDue(ctx))
	if h.device(t, mac).Renewal == nil {
		t.Error("it is not renewed")
	}
}

func TestADeviceIsClaimedByTheFirstCertificateThatMay(t *testing.T) {
	keyring.reset()
	for name, cn := range map[string]string{
		"one that names no device": "MicroMDM Identity (Ana's MacBook 2021)",
		"one that names it":        "MDM " + mac.UDID,
		"one that names nobody":    "",
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			o, p := movedFrom(t, h, mac, false)
			p.cert = o.identity(t, cn, h.now())
			if !p.arrives(t) {
				t.Fatalf("the device has not arrived: %+v", h.refused)
			}
			if _, err := p.idle(); err != nil {
				t.Errorf("its poll: %v", err)
			}
			late := p
			late.cert = o.identity(t, "another", h.now())
			if late.arrives(t) || heard(late) || !heard(p) {
				t.Error("a second certificate has taken the device")
			}
			twice := p
			twice.id = mdm.AppleID{UDID: "BBBB-0002"}
			h.takeOver(t, former(twice.id, nil))
			if twice.arrives(t) || heard(twice) {
				t.Error("the certificate has claimed a second device")
			}
		})
	}
}

func TestArrivalsMeetEachOther(t *testing.T) {
	keyring.reset()
	ctx := context.Background()
	arrive := func(p phone) func(h *house) error {
		return func(h *house) error {
			arrived, err := h.Arrive(ctx, p.peer(), p.id)
			if err == nil && !arrived {
				err = enroll.ErrUnidentified
			}
			return err
		}
	}
	t.Run("two certificates that claim one device", func(t *testing.T) {
		h := newHouse(t)
		o, p := movedFrom(t, h, mac, false)
		other := p
		other.cert = o.identity(t, "another", h.now())
		a, b := h.atOnce(t, arrive(p), arrive(other))
		wantOne(t, a, b, enroll.ErrUnidentified)
		if heard(p) == heard(other) {
			t.Errorf("heard are %v and %v, want one of them", heard(p), heard(other))
		}
	})
	t.Run("one certificate that claims two devices", func(t *testing.T) {
		h := newHouse(t)
		_, p := movedFrom(t, h, mac, false)
		other := p
		other.id = mdm.AppleID{UDID: "BBBB-0002"}
		h.takeOver(t, former(other.id, nil))
		a, b := h.atOnce(t, arrive(p), arrive(other))
		wantOne(t, a, b, enroll.ErrUnidentified)
		if heard(p) == heard(other) {
			t.Errorf("heard are %v and %v, want one of them", heard(p), heard(other))
		}
	})
	t.Run("two messages of one device", func(t *testing.T) {
		h := newHouse(t)
		_, p := movedFrom(t, h, mac, true)
		a, b := h.atOnce(t, arrive(p), arrive(p))
		if a != nil || b != nil || !heard(p) {
			t.Errorf("it arrives: %v, %v", a, b)
		}
	})
	t.Run("a device that is blocked as it comes", func(t *testing.T) {
		h := newHouse(t)
		_, p := movedFrom(t, h, mac, true)
		id := h.device(t, mac).ID
		a, b := h.atOnce(t, arrive(p), func(h *house) error {
			_, err := h.Block(ctx, id)
			return err
		})
		must(t, errors.Join(a, b))
		_, err := p.idle()
		wantErr(t, "its poll", err, enroll.ErrGone)
		if left := h.inForce(t, id); len(left) > 0 {
			t.Errorf("in force are %+v", left)
		}
	})
	t.Run("a device that comes as it is taken over once more", func(t *testing.T) {
		h := newHouse(t)
		_, p := movedFrom(t, h, mac, true)
		a, b := h.atOnce(t, arrive(p), func(h *house) error {
			_, err := h.TakeOver(ctx, enroll.TakeOver{Source: "micromdm", Profile: microMDM, Devices: []enroll.Former{former(mac, p.cert)}})
			return err
		})
		must(t, errors.Join(a, b))
		if !heard(p) {
			t.Error("it is not heard")
		}
	})
}

func TestADeviceThatWasRemovedHereIsToldSoWhenItComes(t *testing.T) {
	keyring.reset()
	ctx := context.Background()
	for name, remove := range map[string]func(t *testing.T, h *house, p phone){
		"blocked before it came": func(t *testing.T, h *house, p phone) {
			_, err := h.Block(ctx, h.device(t, p.id).ID)
			must(t, err)
			if !p.arrives(t) {
				t.Error("it is not known")
			}
		},
		"unenrolled before it came": func(t *testing.T, h *house, p phone) {
			must(t, unenroll(h, p))
			if !p.arrives(t) {
				t.Error("it is not known")
			}
		},
		"unenrolled after it came": func(t *testing.T, h *house, p phone) {
			p.arrives(t)
			must(t, unenroll(h, p))
		},
		"its certificate is revoked": func(t *testing.T, h *house, p phone) {
			p.arrives(t)
			_, err := h.RevokeCertificate(ctx, depot.ExternalSerial(p.cert), "keyCompromise", "")
			must(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			_, p := movedFrom(t, h, mac, true)
			remove(t, h, p)
			_, err := p.idle()
			wantErr(t, "its poll", err, enroll.ErrGone)
			all := h.takeOver(t, former(mac, p.cert))
			if all[0].Outcome != enroll.TakeOverSkips {
				t.Errorf("taken over again: %+v, want it skipped", all[0])
			}
		})
	}
}

func TestDevicesAreTakenOverAgainUntilTheyHaveCome(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	o, p := movedFrom(t, h, mac, true)
	f := former(mac, p.cert)

	f.Push.Magic, f.Facts.DeviceName = "newer", "renamed"
	if got := h.takeOver(t, f)[0]; got.Outcome != enroll.TakenUpdate || got.Device != h.device(t, mac).ID {
		t.Errorf("TakeOver again: %+v", got)
	}
	if d := h.device(t, mac); d.Push.Magic != "newer" || d.DeviceName != "renamed" {
		t.Errorf("device = %+v, want what the other server says last", d)
	}
	dry, err := h.TakeOver(ctx, enroll.TakeOver{Source: "micromdm", Profile: microMDM, DryRun: true, Devices: []enroll.Former{f, former(iphone, nil)}})
	must(t, err)
	if dry[0].Outcome != enroll.TakenUpdate || dry[1].Outcome != enroll.TakenOver {
		t.Errorf("a dry run says %+v", dry)
	}
	page, _, err := h.mdm.Devices(ctx, "", 10)
	if len(page) != 1 || err != nil {
		t.Errorf("a dry run has left %d devices, %v, want 1", len(page), err)
	}

	p.arrives(t)
	must(t, p.tokenUpdate("ours"))
	f.Push.Magic = "stale"
	if got := h.takeOver(t, f)[0]; got.Outcome != enroll.TakenAlready {
		t.Errorf("TakeOver of one that has come: %+v", got)
	}
	if d := h.device(t, mac); d.Push.Magic != "ours" {
		t.Errorf("its push magic is %q, want its own", d.Push.Magic)
	}

	native := h.enrolled(t, "ana", iphone)
	left := h.enrolled(t, "ana", mdm.AppleID{UDID: "CCCC-0003"})
	must(t, unenroll(h, left))
	h.pass(time.Hour)
	back := former(left.id, o.identity(t, "back", h.now()))
	back.LastSeen = h.now().Add(-time.Minute)
	blocked := former(mdm.AppleID{UDID: "DDDD-0004"}, o.identity(t, "blocked", h.now()))
	blocked.Blocked, blocked.Push = true, mdm.Push{}
	taken := former(mdm.AppleID{UDID: "EEEE-0005"}, native.cert)
	same := former(mdm.AppleID{UDID: "FFFF-0006"}, p.cert)
	dumb := former(mdm.AppleID{UDID: "GGGG-0007"}, nil)
	dumb.Push.Token = nil
	hash := former(mdm.AppleID{UDID: "HHHH-0008"}, nil)
	hash.Certificate = "abc"
	stale := former(left.id, nil)
	stale.LastSeen = h.now().Add(-2 * time.Hour)
	all := h.takeOver(t, former(native.id, nil), stale, back, blocked, taken, same, dumb, hash, former(mdm.AppleID{UDID: "a b"}, nil))
	var got []string
	for _, one := range all {
		got = append(got, string(one.Outcome)+" "+one.Code)
	}
	want := []string{
		"skipped enrolled", "skipped unenrolled", "taken ", "taken ", "skipped certificate_taken", "skipped certificate_taken",
		"skipped no_push", "skipped bad_certificate_hash", "skipped bad_identifier",
	}
	if !slices.Equal(got, want) {
		t.Errorf("outcomes:\n%q\nwant\n%q", got, want)
	}
	if d := h.device(t, blocked.ID); d.State != mdm.Blocked {
		t.Errorf("one that the other server blocks is %s", d.State)
	}
	if !heard(native) {
		t.Error("a device that is enrolled here is not heard any more")
	}
	m, err := h.Migration(ctx)
	if err != nil || m.Waiting != 2 || m.Arrived != 1 || len(m.Predecessors) != 1 {
		t.Errorf("Migration() = %+v, %v, want 2 waiting and 1 arrived", m, err)
	}
}

func TestWhatIsNoAuthorityOfAnotherServer(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	h := newHouse(t)
	o := newOtherServer(t, h.now())
	for name, data := range map[string][]byte{
		"nothing":             nil,
		"text":                []byte("MICROMDM"),
		"DER that is cut off": o.cert.Raw[:100],
		"a device's":          o.identity(t, "Mac", h.now()).Raw,
		"our own":             h.depot.Identity().Certificate().Raw,
	} {
		var field *depot.FieldError
		if _, err := h.AddPredecessor(context.Background(), data, 0); !errors.As(err, &field) || field.Field != "certificate" {
			t.Errorf("AddPredecessor of %s = %v, want an error of the certificate", name, err)
		}
	}
	var field *enroll.FieldError
	if _, err := h.AddPredecessor(context.Background(), o.cert.Raw, enroll.MaxClaims+1); !errors.As(err, &field) {
		t.Errorf("AddPredecessor for ever = %v, want an error of its time", err)
	}
}

func TestACertificateForServersClaimsNoDevice(t *testing.T) {
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	o := newOtherServer(t, h.now())
	_, err := h.AddPredecessor(ctx, o.cert.Raw, time.Hour)
	must(t, err)
	must(t, h.HandedOver(ctx, enroll.HandOver{Message: "Authenticate", ID: mac}))
	must(t, h.HandedOver(ctx, enroll.HandOver{Message: "TokenUpdate", ID: mac, Push: mdm.Push{Topic: otherTopic, Token: []byte{1}, Magic: "m"}}))
	certificate := func(uses ...x509.ExtKeyUsage) *x509.Certificate {
		return o.sign(t, func(c *x509.Certificate) {
			c.Subject = pkix.Name{CommonName: "www.example.com"}
			c.KeyUsage, c.ExtKeyUsage = x509.KeyUsageDigitalSignature, uses
			c.NotBefore, c.NotAfter = h.now().Add(-time.Hour), h.now().Add(time.Hour)
		})
	}
	if (phone{h: h, id: mac, cert: certificate(x509.ExtKeyUsageServerAuth)}).arrives(t) {
		t.Fatal("a certificate for servers alone has claimed a device")
	}
	if !(phone{h: h, id: mac, cert: certificate(x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth)}).arrives(t) {
		t.Error("a certificate that is for clients, too, has not claimed the device")
	}
}

func TestACertificateOfADeviceThatIsNotHereYetClaimsNoOther(t *testing.T) {
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	o := newOtherServer(t, h.now())
	_, err := h.AddPredecessor(ctx, o.cert.Raw, time.Hour)
	must(t, err)
	victim := mdm.AppleID{UDID: "11111111-AAAA-4AAA-8AAA-111111111111"}
	other := "22222222-BBBB-4BBB-8BBB-222222222222" // not handed over yet
	push := mdm.Push{Topic: otherTopic, Token: []byte{1}, Magic: "m"}
	must(t, h.HandedOver(ctx, enroll.HandOver{Message: "Authenticate", ID: victim, Facts: mdm.Facts{SerialNumber: "C02VICTIM001"}}))
	must(t, h.HandedOver(ctx, enroll.HandOver{Message: "TokenUpdate", ID: victim, Push: push, UnlockToken: []byte("unlock")}))
	p := phone{h: h, id: victim, cert: o.identity(t, other, h.now())}
	if p.arrives(t) {
		h.enqueue(t, "C1", h.device(t, victim).ID)
		plist, err := p.idle()
		t.Errorf("the certificate of device %s (its CN is that UDID) has claimed %s and reads its queue: %d bytes, %v", other, victim.UDID, len(plist), err)
	}
}
