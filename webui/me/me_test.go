package me_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base32"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"mime/multipart"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

func TestWhoIsLetIn(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for name, tt := range map[string]struct {
		who      string
		to       string // where nobody is sent
		status   int
		location string
		says     string
	}{
		"nobody goes to the login":               {"", "/me", 303, "/login?next=%2Fme", ""},
		"and comes back to the page":             {"", "/me/devices/" + anas + "?done=lost", 303, "/login?next=%2Fme%2Fdevices%2F" + anas + "%3Fdone%3Dlost", ""},
		"a user":                                 {h.ben.ID, "/me", 200, "", "Ben’s Mac"},
		"an owner, who sees no more than others": {h.ana.ID, "/me", 200, "", "Ana’s phone"},
		"a setup link, which is nobody's":        {"setup", "/me", 403, "", "GH-E401"},
	} {
		t.Run(name, func(t *testing.T) {
			b := h.as(t, tt.who)
			if status := b.get(tt.to); status != tt.status || b.last.Header.Get("Location") != tt.location {
				t.Errorf("GET %s = %d %s, want %d %s", tt.to, status, b.last.Header.Get("Location"), tt.status, tt.location)
			}
			b.says(tt.says)
		})
	}
	b := h.as(t, "")
	if status := b.post("/me/devices/" + anas + "/end"); status != 303 || b.last.Header.Get("Location") != "/login?next=%2Fme" {
		t.Errorf("a form of nobody's = %d %s", status, b.last.Header.Get("Location"))
	}
	b = h.as(t, h.ben.ID)
	_, err := h.people.UpdateUser(context.Background(), identity.Local(), h.ben.ID, identity.UserChange{Disabled: new(true)})
	must(t, err)
	if status := b.get("/me"); status != 303 {
		t.Errorf("a user who was disabled = %d, want the login", status)
	}
}

func TestMyDevices(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.device(t, "old", func(d *mdm.Device) {
		d.DeviceName, d.State, d.UnenrolledAt = "Ben’s old one", mdm.Unenrolled, h.now()
	})
	h.mdm.Saw(bens)
	h.wait(50 * time.Minute)
	b := h.as(t, h.ben.ID)
	b.get("/me")
	b.says("My devices", "Ben’s Mac", "Managed", "Mac14,2", "macOS 15.1", "C02"+strings.ToUpper(bens), "Belongs to your organization", "Users on it: Ben at home",
		"Enrolled "+h.get(t, bens).EnrolledAt.Format(time.DateOnly), "Last seen 50 minutes ago", "1 device that is not managed anymore", "Ben’s old one", "ben@example.com")
	b.hides("Ana’s phone", anas)
	if strings.Index(b.page, "Ben’s Mac") > strings.Index(b.page, "Ben’s old one") {
		t.Error("a device that has left stands before one that is managed")
	}

	zoe := h.user(t, identity.NewUser{Email: "zoe@example.com"})
	b = h.as(t, zoe.ID)
	b.get("/me")
	b.says("No devices yet", "Enroll a device")
	if !strings.Contains(b.page, `href="/enroll"`) {
		t.Error("the page for who has none does not lead to the portal")
	}
}

func TestWhatIsStoredAboutADevice(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	ctx := context.Background()
	must(t, h.db.Update(ctx, func(tx storage.Tx) error {
		d, err := mdm.GetDevice(tx, anas)
		if err != nil {
			return err
		}
		if err := mdm.LearnInformation(tx, &d, []byte(`{"QueryResponses":{"BatteryLevel":0.5,"IsSupervised":true,"ModelName":"iPhone 16","ICCID":"8943"}}`)); err != nil {
			return err
		}
		if err := h.mdm.SetSecret(tx, anas, mdm.UnlockToken, []byte("very secret token")); err != nil {
			return err
		}
		return event.Record(tx, event.Event{At: h.now(), Actor: "user:ben@example.com", Action: "device.blocked", DeviceID: anas})
	}))
	must(t, h.enroll.ReportLost(ctx, h.ana.Principal(), anas, "In the <b>tram</b>"))
	b := h.as(t, h.ana.ID)
	if status := b.get("/me/devices/" + anas); status != 200 {
		t.Fatalf("status %d", status)
	}
	b.says("Ana’s phone", "iPhone 16 (iPhone17,3)", "C02ANAS-PHONE", "UDID-"+anas, "Yours", "Device Enrollment", "Push Yes, since", "Unlock token Yes",
		"So that you and whoever helps you know which device is meant.", "4 facts", "BatteryLevel 0.5", "ICCID 8943",
		"Erase the device, with everything on it", "Read your messages", "In the <b>tram</b>", "Reported lost You", "Blocked your organization")
	b.hides("very secret", "ben@example.com")
	if strings.Contains(b.page, "<b>tram") {
		t.Error("a note is HTML")
	}

	b.says("Remove management", "I have it again")
	h.device(t, "byod", func(d *mdm.Device) {
		d.User, d.Ownership, d.Type, d.AppleID, d.AccessRights = "ana@example.com", mdm.Personal, mdm.TypeUser, mdm.AppleID{EnrollmentID: "E-1"}, 0
	})
	b.get("/me/devices/byod")
	b.says("User Enrollment (personal)", "E-1", "See the apps that it has installed, and none of your own", "Erase the device")
	b.hides("privacy.can.erase", "with everything on it", "C02BYOD", "/sign-in") // whatever is in the store
	b.get("/me")
	b.hides("C02BYOD")
}

func TestADeviceAsksForANewSignIn(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	const phone = "anas-own"
	h.device(t, phone, func(d *mdm.Device) {
		d.User, d.Ownership, d.Type, d.AppleID, d.AccessRights = "ana@example.com", mdm.Personal, mdm.TypeUser, mdm.AppleID{EnrollmentID: "E-1"}, 0
		d.DeviceName, d.EnrollmentMode, d.ManagedAppleAccount, d.ProductName = "Ana’s own", "BYOD", "ana@appleid.example.com", "iPhone17,3"
	})
	h.device(t, "anas-other", func(d *mdm.Device) {
		d.User, d.Type, d.EnrollmentMode = "ana@example.com", mdm.TypeAccountDevice, "ADDE"
	})
	b := h.as(t, h.ana.ID)
	b.get("/me/devices/anas-other")
	b.says("Device Enrollment by account", "UDID-anas-other", "Sign in on it again")
	b.get("/me/devices/anas-other/sign-in")
	b.says("What is for the Mac itself goes on")
	path := "/me/devices/" + phone
	b.get(path + "?done=sign_in")
	b.says("ana@appleid.example.com", "Sign in on it again")
	b.hides("will ask you to sign in")
	b.get(path + "/sign-in")
	b.says("Have Ana’s own ask for a new sign-in?", "it gets nothing new")
	b.post(path + "/sign-in")
	b.follow()
	b.says("will ask you to sign in", "Asked for a new sign-in You")
	if got, want := h.actions(t, event.Filter{Action: "device.sign_in_required"}), "device.sign_in_required by user:ana@example.com"; got != want {
		t.Errorf("the audit log says %q, want %q", got, want)
	}

	// Where that would end the management, there is the other way to do so.
	_, err := h.enroll.UpdateAccountDriven(t.Context(), func(c *enroll.AccountDriven) error { c.TokenRevoked = enroll.AfterUnenroll; return nil })
	must(t, err)
	b.get(path)
	b.hides("Sign in on it again")
	h.device(t, "anas-old", func(d *mdm.Device) {
		d.User, d.EnrollmentMode, d.State = "ana@example.com", "ADDE", mdm.Unenrolled
	})
	for at, want := range map[string]int{path: 404, "/me/devices/" + anas: 404, "/me/devices/" + bens: 404, "/me/devices/anas-old": 409} {
		if get, post := b.get(at+"/sign-in"), b.post(at+"/sign-in"); get != want || post != want {
			t.Errorf("%s: %d and %d, want %d", at, get, post, want)
		}
	}
	if state := h.get(t, phone).State; state != mdm.Enrolled {
		t.Errorf("the device is %s", state)
	}
}

// TestWhatIsAnothersLooksLikeNothing tries every address and every form with what belongs
// to somebody else, as an owner and as a user.
func TestWhatIsAnothersLooksLikeNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	ctx := context.Background()
	serials := map[string]depot.Serial{}
	for _, u := range []identity.User{h.ana, h.ben} {
		made, err := h.issuance.IssueOwn(ctx, u.Principal(), issuance.OwnOrder{})
		must(t, err)
		serials[u.ID] = depot.SerialOf(made.Certificate)
	}
	for _, who := range []struct {
		name, id, other string
		device          mdm.DeviceID
	}{{"an owner", h.ana.ID, h.ben.ID, bens}, {"a user", h.ben.ID, h.ana.ID, anas}} {
		t.Run(who.name, func(t *testing.T) {
			b := h.as(t, who.id)
			var bodies []string
			for _, id := range []string{string(who.device), "nothing", "bens-channel", strings.Repeat("x", 3000), "%00", "..%2f" + string(who.device)} {
				for _, action := range []string{"", "/remove", "/end", "/lost", "/sign-in"} {
					if status := b.get("/me/devices/" + id + action); status != 404 {
						t.Errorf("GET of the device %.40s%s = %d, want 404", id, action, status)
					}
					b.says("GH-E402")
					b.hides("Ana’s phone", "Ben’s Mac")
					bodies = append(bodies, regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:]+Z`).ReplaceAllString(b.text(), ""))
				}
				for _, action := range []string{"remove", "end", "lost", "found", "sign-in"} {
					if status := b.post("/me/devices/"+id+"/"+action, "note", "x"); status != 404 {
						t.Errorf("POST of the device %.40s/%s = %d, want 404", id, action, status)
					}
				}
			}
			for _, body := range bodies {
				if body != bodies[0] {
					t.Errorf("what is another's looks like %q, and what there is not like %q", bodies[0], body)
					break
				}
			}
			for _, serial := range []string{string(serials[who.other]), "abcdef", strings.Repeat("a", 3000), "%00"} {
				for _, action := range []string{"", "/certificate.pem", "/certificate.cer", "/chain.pem", "/revoke", "/key.pem"} {
					if status := b.get("/me/certificates/" + serial + action); status != 404 {
						t.Errorf("GET of the certificate %.40s%s = %d, want 404", serial, action, status)
					}
				}
				if status := b.post("/me/certificates/"+serial+"/revoke", "reason", "keyCompromise"); status != 404 {
					t.Errorf("POST to revoke the certificate %.40s = %d, want 404", serial, status)
				}
				if status := b.get("/me/certificates/new?renew=" + serial); status != 404 {
					t.Errorf("GET to renew the certificate %.40s = %d, want 404", serial, status)
				}
			}
			if status := b.post("/me/certificates/file", "for", string(who.device), "password", "long enough for it"); status != 422 {
				t.Errorf("a certificate for another's device = %d, want 422", status)
			}
			b.says("GH-E415")
			b.hides(string(who.device))
		})
	}
	for _, id := range []mdm.DeviceID{anas, bens} {
		if d := h.get(t, id); d.State != mdm.Enrolled {
			t.Errorf("%s is %s after all that", id, d.State)
		}
	}
	if got := h.actions(t, event.Filter{Action: "device."}); got != "" {
		t.Errorf("the audit log says %s", got)
	}
	if got := h.actions(t, event.Filter{Action: "certificate.revoked"}); got != "" {
		t.Errorf("the audit log says %s", got)
	}
}

func TestManagementIsRemoved(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	b := h.as(t, h.ana.ID)
	path := "/me/devices/" + anas
	b.get(path + "/remove")
	b.says("Remove management from Ana’s phone?", "Your own apps, photos and files stay.", "Cancel", "End it now")
	b.post(path + "/remove")
	b.follow()
	b.says("The device was asked to remove management.", "It was asked to remove management", "asked just now", "It doesn’t answer? End it now")
	if d := h.get(t, anas); d.State != mdm.Enrolled {
		t.Errorf("asked, the device is %s at once", d.State)
	}
	b.get(path + "/end")
	b.says("End the management of Ana’s phone now?", "VPN & Device Management", "This can’t be undone.")
	b.post(path + "/end")
	b.follow()
	b.says("Management has ended.", "Not managed anymore")
	if d := h.get(t, anas); d.State != mdm.Unenrolled {
		t.Errorf("ended, the device is %s", d.State)
	}
	if got, want := h.actions(t, event.Filter{DeviceID: anas, Action: "device."}), "device.unenrolled by user:ana@example.com, device.removal_requested by user:ana@example.com"; got != want {
		t.Errorf("the audit log says %s, want %s", got, want)
	}
	for _, action := range []string{"/remove", "/end", "/lost"} {
		if status := b.post(path + action); status != 409 {
			t.Errorf("once more %s = %d, want 409", action, status)
		}
		b.says("GH-E404")
		if status := b.get(path + action); status != 409 {
			t.Errorf("the page of %s = %d, want 409", action, status)
		}
	}
	b.get(path + "?done=lost")
	b.hides("Your report has arrived")
}

func TestManagementThatIsNotOnesOwnToRemove(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	b := h.as(t, h.ben.ID)
	b.get("/me/devices/" + bens)
	b.says("Only your organization can end the management of this device.")
	for _, action := range []string{"/remove", "/end"} {
		if status := b.get("/me/devices/" + bens + action); status != 403 {
			t.Errorf("GET %s = %d, want 403", action, status)
		}
		if status := b.post("/me/devices/" + bens + action); status != 403 {
			t.Errorf("POST %s = %d, want 403", action, status)
		}
		b.says("GH-E403")
	}
	h.device(t, "new", func(d *mdm.Device) { d.State, d.User, d.Ownership = mdm.Pending, "ana", mdm.Personal })
	b = h.as(t, h.ana.ID)
	b.get("/me/devices/new")
	b.says("Not finished enrolling")
	if status := b.get("/me/devices/new/remove"); status != 303 || b.last.Header.Get("Location") != "/me/devices/new/end" {
		t.Errorf("a device that can't be asked yet leads to %s", b.last.Header.Get("Location"))
	}
	if status := b.post("/me/devices/new/remove"); status != 409 {
		t.Errorf("POST = %d, want 409", status)
	}
	b.says("GH-E405")
	if !strings.Contains(b.page, `href="/me/devices/new/end"`) {
		t.Error("the refusal does not lead to what can be done")
	}
}

func TestADeviceIsLost(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	b := h.as(t, h.ben.ID)
	path := "/me/devices/" + bens
	b.get(path + "/lost")
	b.says("Report Ben’s Mac as lost?", "locks and erases nothing")
	if status := b.post(path+"/lost", "note", strings.Repeat("very ", 101)); status != 422 {
		t.Errorf("a note that is too long = %d, want 422", status)
	}
	b.says("GH-E410", "at most 500 characters", strings.TrimSpace(strings.Repeat("very ", 101)))
	b.post(path+"/lost", "note", "On the train")
	b.follow()
	b.says("Your report has arrived", "Reported lost", "On the train")
	b.get("/me")
	b.says("Reported lost")
	b.get(path + "/lost")
	b.says("You have Ben’s Mac again?")
	b.post(path + "/found")
	b.follow()
	b.says("The report was taken back.")
	b.post(path + "/found") // by another window
	b.follow()
	if got, want := h.actions(t, event.Filter{DeviceID: bens}), "device.lost_withdrawn by user:ben@example.com, device.lost_reported by user:ben@example.com"; got != want {
		t.Errorf("the audit log says %s, want %s", got, want)
	}
}

// serials are the serial numbers that a page links to.
func (b *browser) serials() (serials []string) {
	for _, m := range regexp.MustCompile(`href="/me/certificates/([0-9a-f]+)"`).FindAllStringSubmatch(b.page, -1) {
		serials = append(serials, m[1])
	}
	return serials
}

func TestAFileWithAKey(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	b := h.as(t, h.ben.ID)
	b.get("/me/certificates")
	b.says("No certificates", "Get a certificate")
	b.get("/me/certificates/new")
	b.says("Me: Ben Cee", "The device Ben’s Mac")
	offered := regexp.MustCompile(`value="([a-z2-7]{5}(-[a-z2-7]{5}){3})"`).FindStringSubmatch(b.page)
	if offered == nil {
		t.Fatal("no password is offered")
	}
	for name, tt := range map[string]struct{ whose, password, says string }{
		"for nobody":                          {"", offered[1], "Choose whom it is for (GH-E414)."},
		"with a short password":               {"me", "elevenchars", "at least 12 characters (GH-E414)"},
		"with an emoji":                       {"me", "long enough but 🙈", "without emoji"},
		"with a password of a novel's length": {"me", strings.Repeat("x", 129), "not be longer than 128"},
	} {
		if status := b.post("/me/certificates/file", "for", tt.whose, "password", tt.password); status != 422 {
			t.Errorf("a file %s = %d, want 422", name, status)
		}
		b.says(tt.says)
		if !strings.Contains(b.page, tt.password) {
			t.Errorf("a file %s: the password that was chosen is lost", name)
		}
	}
	for _, whose := range []string{"me", bens} {
		if status := b.post("/me/certificates/file", "for", whose, "password", offered[1]); status != 200 {
			t.Fatalf("a file for %s = %d: %s", whose, status, b.text())
		}
		if got := b.last.Header.Get("Content-Type"); got != "application/x-pkcs12" || !strings.HasPrefix(b.last.Header.Get("Content-Disposition"), "attachment") {
			t.Errorf("the file is %s, %s", got, b.last.Header.Get("Content-Disposition"))
		}
		key, cert, chain, err := pkcs12.DecodeChain([]byte(b.page), offered[1])
		must(t, err)
		if !key.(*rsa.PrivateKey).PublicKey.Equal(cert.PublicKey) || len(chain) != 2 {
			t.Errorf("the file has another key, or a chain of %d", len(chain))
		}
		if want := map[string]string{"me": "Ben Cee", bens: bens}[whose]; cert.Subject.CommonName != want {
			t.Errorf("the certificate is for %s, want %s", cert.Subject.CommonName, want)
		}
	}
	b.get("/me/certificates")
	if got := len(b.serials()); got != 2 {
		t.Errorf("%d certificates are listed, want 2", got)
	}
	b.says("Self-service", "CN=Ben Cee", "Ben’s Mac", "Good")
}

func TestACertificateIsLookedAtRenewedAndRevoked(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	made, err := h.issuance.IssueOwn(context.Background(), h.ben.Principal(), issuance.OwnOrder{DeviceID: bens})
	must(t, err)
	serial := string(depot.SerialOf(made.Certificate))
	path := "/me/certificates/" + serial
	b := h.as(t, h.ben.ID)
	b.get(path)
	b.says("Self-service", "Good", "mdm-device://"+bens, serial, "Ben’s Mac", "Get a new one like it", "Revoke it")
	b.get(path + "/certificate.cer")
	if b.page != string(made.Certificate.Raw) {
		t.Error("the DER is another certificate")
	}
	b.get(path + "/chain.pem")
	var chain []*x509.Certificate
	for rest := []byte(b.page); len(rest) > 0; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		cert, err := x509.ParseCertificate(block.Bytes)
		must(t, err)
		chain = append(chain, cert)
	}
	if len(chain) != 3 || !chain[0].Equal(made.Certificate) || !chain[2].Equal(h.depot.Root().Certificate()) {
		t.Errorf("the chain has %d certificates, want the one, its issuer and the root", len(chain))
	}
	b.get("/me/certificates/new?renew=" + serial)
	b.says("It is to take the place of")
	if !regexp.MustCompile(`value="` + bens + `" required checked`).MatchString(b.page) {
		t.Error("the device of the old one is not chosen")
	}

	b.get(path + "/revoke")
	b.says("Revoke this certificate?", "It was lost, or somebody else may have it")
	for _, reason := range []string{"", "cACompromise"} {
		if status := b.post(path+"/revoke", "reason", reason); status != 422 {
			t.Errorf("the reason %q = %d, want 422", reason, status)
		}
		b.says("GH-E411")
	}
	b.post(path+"/revoke", "reason", "keyCompromise")
	b.follow()
	b.says("The certificate was revoked.", "Revoked", "It was lost, or somebody else may have it")
	b.hides("Revoke it")
	b.post(path+"/revoke", "reason", "superseded") // by another window
	b.follow()
	b.says("It was lost, or somebody else may have it")
	if status := b.get(path + "/revoke"); status != 303 {
		t.Errorf("the page to revoke it again = %d, want its own page", status)
	}
	if got, want := h.actions(t, event.Filter{Certificate: serial}), "certificate.revoked by user:ben@example.com, certificate.issued by user:ben@example.com"; got != want {
		t.Errorf("the audit log says %s, want %s", got, want)
	}
	b.get("/me/certificates")
	b.says("1 that is over")
}

// request returns a certificate request in PEM, for a new key.
func request(t testing.TB, r x509.CertificateRequest) (*ecdsa.PrivateKey, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &r, key)
	must(t, err)
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// upload sends a form with a file.
func (b *browser) upload(path, name string, file []byte, fields ...string) int {
	b.t.Helper()
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	for i := 0; i < len(fields); i += 2 {
		must(b.t, w.WriteField(fields[i], fields[i+1]))
	}
	part, err := w.CreateFormFile("file", name)
	must(b.t, err)
	_, err = part.Write(file)
	must(b.t, err)
	must(b.t, w.Close())
	r, err := http.NewRequest("POST", b.h.url+path, &body)
	must(b.t, err)
	r.Header.Set("Content-Type", w.FormDataContentType())
	return b.do(r)
}

func TestARequestIsCertified(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	b := h.as(t, h.ben.ID)
	_, pasted := request(t, x509.CertificateRequest{Subject: pkix.Name{CommonName: "Ben Cee"}})
	b.post("/me/certificates/request", "request", pasted)
	b.follow()
	b.says("The certificate was issued.", "CN=Ben Cee")

	_, uploaded := request(t, x509.CertificateRequest{Subject: pkix.Name{CommonName: bens}})
	block, _ := pem.Decode([]byte(uploaded))
	if status := b.upload("/me/certificates/request", "../../etc/passwd", block.Bytes, "request", ""); status != 303 {
		t.Fatalf("an uploaded file = %d: %s", status, b.text())
	}
	b.follow()
	b.says("mdm-device://" + bens)
	_, again := request(t, x509.CertificateRequest{Subject: pkix.Name{CommonName: "Ben Cee"}})
	if status := b.upload("/me/certificates/request", "", nil, "request", again); status != 303 { // as browsers send no file
		t.Errorf("a pasted one beside an empty file = %d: %s", status, b.text())
	}

	ana := h.as(t, h.ana.ID)
	_, bens1 := request(t, x509.CertificateRequest{Subject: pkix.Name{CommonName: "Ben Cee"}})
	_, server := request(t, x509.CertificateRequest{Subject: pkix.Name{CommonName: "Ana Bee"}, DNSNames: []string{"www.example.com"}})
	for name, tt := range map[string]struct {
		request string
		status  int
		says    string
	}{
		"nothing":                        {" \n", 422, "Paste a request, or choose its file (GH-E412)."},
		"what is no request":             {"hello", 422, "it is no certificate request that can be read"},
		"another's name, for an owner":   {bens1, 422, "it asks for another name"},
		"a host":                         {server, 422, "it asks for another name"},
		"a key that there is one of":     {pasted, 409, "there is a certificate for this key already"},
		"a <script> instead of anything": {"<script>alert(1)</script>", 422, "GH-E412"},
	} {
		t.Run(name, func(t *testing.T) {
			who := *ana
			who.t = t
			if name == "a key that there is one of" {
				// Ben's key in a request of Ana's own.
				key, _ := request(t, x509.CertificateRequest{})
				der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "Ana Bee"}}, key)
				must(t, err)
				tt.request = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
				who.post("/me/certificates/request", "request", tt.request)
				der, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "Ana Bee"}, EmailAddresses: []string{"ana@example.com"}}, key)
				must(t, err)
				tt.request = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
			}
			if status := who.post("/me/certificates/request", "request", tt.request); status != tt.status {
				t.Errorf("status %d, want %d", status, tt.status)
			}
			who.says(tt.says)
			if strings.Contains(who.page, "<script>alert") {
				t.Error("a request is HTML")
			}
			if !strings.Contains(who.text(), strings.TrimSpace(spaces.ReplaceAllString(tt.request, " "))) && !strings.Contains(tt.request, "<") {
				t.Error("what was pasted is lost")
			}
		})
	}
	if status := ana.upload("/me/certificates/request", "huge", make([]byte, 1<<20)); status != 413 {
		t.Errorf("a file of a megabyte = %d, want 413", status)
	}
	if status := ana.upload("/me/certificates/request", "large", make([]byte, 100<<10)); status != 422 {
		t.Errorf("a file of 100 KiB = %d, want 422", status)
	}
}

func TestTooManyCertificates(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	b := h.as(t, h.ben.ID)
	_, others := request(t, x509.CertificateRequest{Subject: pkix.Name{CommonName: "Ana Bee"}})
	status := 0
	for range 31 {
		status = b.post("/me/certificates/request", "request", others)
	}
	if status != 429 || b.last.Header.Get("Retry-After") == "" {
		t.Errorf("the 31st request in a minute = %d, Retry-After %q", status, b.last.Header.Get("Retry-After"))
	}
	b.says("GH-E413")
	if status := b.post("/me/certificates/file", "for", "me", "password", "long enough for it"); status != 429 {
		t.Errorf("a file then = %d, want 429", status)
	}
}

func TestWhoHasNoNameGetsNoCertificateInIt(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	zoe := h.user(t, identity.NewUser{Email: "zoe@example.com"})
	b := h.as(t, zoe.ID)
	b.get("/me/certificates/new")
	b.says("You can’t get one: your full name is not known here")
	b.hides("/me/certificates/file")
	if status := b.post("/me/certificates/file", "for", "me", "password", "long enough for it"); status != 422 {
		t.Errorf("the form all the same = %d, want 422", status)
	}
}

func TestAPasswordIsChanged(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.withPassword(t)
	b, other := h.as(t, h.ben.ID), h.as(t, h.ben.ID)
	h.wait(time.Minute)
	for name, tt := range map[string]struct {
		old, fresh string
		says       string
	}{
		"the old one is wrong":   {"wrong", "a better password", "That is not your password (GH-E420)."},
		"the new one is short":   {password, "short", "at least 8 characters (GH-E421)"},
		"the new one is common":  {password, "Password1!", "among the first that somebody would guess (GH-E421)"},
		"the new one is a name":  {password, h.ben.Username + "2024", "(GH-E421)"},
		"the new one is endless": {password, strings.Repeat("x", 1025), "too long (GH-E421)"},
	} {
		if status := b.post("/me/security/password", "old", tt.old, "new", tt.fresh); status != 422 {
			t.Errorf("%s = %d, want 422", name, status)
		}
		b.says(tt.says)
		b.hides(tt.fresh, password)
	}
	before := b.jar["gatehouse"]
	b.post("/me/security/password", "old", password, "new", "a better password")
	b.follow()
	b.says("Your password was changed.")
	if b.jar["gatehouse"] == before {
		t.Error("the session has the same ID as before")
	}
	if status := other.get("/me"); status != 303 {
		t.Errorf("another browser = %d, want the login", status)
	}
	if _, err := h.people.Login(t.Context(), "ben@example.com", "a better password", "192.0.2.1"); err != nil {
		t.Errorf("Login with the new password: %v", err)
	}
	status := 0
	for range 20 {
		if status = b.post("/me/security/password", "old", "guess", "new", "another password"); status == 429 {
			break
		}
	}
	if status != 429 || b.last.Header.Get("Retry-After") == "" {
		t.Errorf("the 20th guess = %d, Retry-After %q", status, b.last.Header.Get("Retry-After"))
	}
	b.says("GH-E422")
}

// code is what an authenticator app shows for a key (RFC 6238).
func code(t testing.TB, key string, at time.Time) string {
	t.Helper()
	raw, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(key)
	must(t, err)
	mac := hmac.New(sha1.New, raw)
	must(t, binary.Write(mac, binary.BigEndian, uint64(at.Unix()/30)))
	sum := mac.Sum(nil)
	at4 := sum[len(sum)-1] & 15
	return fmt.Sprintf("%06d", binary.BigEndian.Uint32(sum[at4:at4+4])&0x7fffffff%1_000_000)
}

func TestCodesFromAnApp(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.withPassword(t)
	b := h.as(t, h.ben.ID)
	b.get("/me/security")
	b.says("Set it up")
	if status := b.post("/me/security/factor", "do", "remove", "code", "123456"); status != 409 {
		t.Errorf("to remove what there is not = %d, want 409", status)
	}
	b.says("GH-E424")
	for _, wrong := range []string{"", "another password"} {
		if status := b.post("/me/security/factor/begin", "password", wrong); status != 422 {
			t.Errorf("with the password %q = %d, want 422", wrong, status)
		}
		b.says("GH-E420", "Set it up")
		b.hides("Set up codes from an app")
	}
	b.post("/me/security/factor/begin", "password", password)
	b.says("Set up codes from an app")
	if b.last.Header.Get("Cache-Control") != "no-store" || !strings.Contains(b.page, "<svg") {
		t.Errorf("the page with the key: Cache-Control %q", b.last.Header.Get("Cache-Control"))
	}
	key := regexp.MustCompile(`name="key" value="([A-Z2-7]+)"`).FindStringSubmatch(b.page)[1]
	if status := b.post("/me/security/factor/confirm", "key", key, "code", "000000"); status != 422 {
		t.Errorf("a wrong code = %d, want 422", status)
	}
	b.says("GH-E423")
	if !strings.Contains(b.page, `value="`+key+`"`) {
		t.Error("the key is lost with a wrong code")
	}
	other, before := h.as(t, h.ben.ID), b.jar["gatehouse"]
	b.post("/me/security/factor/confirm", "key", key, "code", code(t, key, h.now()))
	b.says("Keep these recovery codes")
	if b.jar["gatehouse"] == before {
		t.Error("with the second factor the session has the same ID as before")
	}
	if status := other.get("/me"); status != 303 {
		t.Errorf("another browser, which gave no code = %d, want the login", status)
	}
	codes := regexp.MustCompile(`<li>([a-zA-Z0-9-]{8,})</li>`).FindAllStringSubmatch(b.page, -1)
	if len(codes) != 10 {
		t.Fatalf("%d recovery codes, want 10: %s", len(codes), b.text())
	}
	b.get("/me/security?done=factor")
	b.says("Codes are asked for when you sign in from now on.", "You have 10 recovery codes left.")
	b.hides(key, codes[0][1])
	b.post("/me/security/factor/begin", "password", password)
	b.follow()
	b.post("/me/security/factor", "do", "codes", "code", codes[0][1])
	b.says("Keep these recovery codes")
	b.hides(codes[1][1])
	if status := b.post("/me/security/factor", "do", "remove", "code", codes[1][1]); status != 422 {
		t.Errorf("an old recovery code = %d, want 422", status)
	}
	if status := b.post("/me/security/factor", "do", "anything"); status != 400 {
		t.Errorf("a form that does nothing = %d, want 400", status)
	}
	h.wait(time.Minute)
	b.post("/me/security/factor", "do", "remove", "code", code(t, key, h.now()))
	b.follow()
	b.says("Codes are not asked for anymore.", "Set it up")
	if got, want := h.actions(t, event.Filter{Action: "user.second_factor"}), "user.second_factor_removed by user:ben@example.com"; !strings.HasPrefix(got, want) {
		t.Errorf("the audit log says %s, want %s first", got, want)
	}
}

func TestWhoSignsInElsewhere(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	zoe := h.user(t, identity.NewUser{Email: "zoe@example.com"}) // without a password here
	b := h.as(t, zoe.ID)
	b.get("/me/security")
	b.says("Your password and any codes are kept there")
	b.hides("<input")
	for _, form := range []string{"password", "factor", "factor/begin", "factor/confirm"} {
		if status := b.post("/me/security/"+form, "old", "", "new", "a good password", "code", "1"); status != 409 {
			t.Errorf("%s = %d, want 409", form, status)
		}
		b.says("GH-E409")
	}
}

// Where a directory knows the password, codes are asked for here all the same.
func TestWhoSignsInWithADirectorysPassword(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	p, err := h.people.CreateProvider(t.Context(), identity.Local(), "directory", identity.ProviderChange{
		Name: new("Example directory"), Uses: &[]identity.Use{identity.UseAdmin}, RequireSecondFactor: new(true),
	})
	must(t, err)
	dan := h.user(t, identity.NewUser{Email: "dan@example.com", Provider: p.ID, Role: identity.RoleHelpdesk})
	helps := func() bool {
		t.Helper()
		_, by, err := h.people.Acting(t.Context(), dan.ID)
		must(t, err)
		return by.Allows(identity.ScopeHelpdesk)
	}
	if helps() {
		t.Fatal("the role counts without a second factor")
	}
	b := h.as(t, dan.ID)
	b.get("/me/security")
	b.says("your account at Example directory", "Your password is kept there", "Your role needs this", "Set it up")
	b.hides(`name="old"`)
	if status := b.post("/me/security/password", "old", "", "new", "a good password"); status != 409 {
		t.Errorf("another password = %d, want 409", status)
	}
	if status := b.post("/me/security/factor/begin", "password", "another"); status != 422 {
		t.Errorf("with a password that the directory does not know = %d, want 422", status)
	}
	b.post("/me/security/factor/begin", "password", password)
	key := regexp.MustCompile(`name="key" value="([A-Z2-7]+)"`).FindStringSubmatch(b.page)[1]
	b.post("/me/security/factor/confirm", "key", key, "code", code(t, key, h.now()))
	b.says("Keep these recovery codes")
	if !helps() {
		t.Error("the role does not count with a second factor")
	}
	b.get("/me/security")
	b.says("You have 10 recovery codes left.")
	h.wait(time.Minute)
	b.post("/me/security/factor", "do", "remove", "code", code(t, key, h.now()))
	b.follow()
	b.says("Your role needs this", "Set it up")
}

func TestFormsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	b := h.as(t, h.ben.ID)
	many := strings.Repeat("--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n\r\n", 2000) + "--x--\r\n"
	for _, form := range []struct{ path, contentType, body string }{
		{"/me/devices/" + bens + "/lost", "application/x-www-form-urlencoded", "note=%zz"},
		{"/me/certificates/file", "application/x-www-form-urlencoded", "for=%zz"},
		{"/me/certificates/ab/revoke", "application/x-www-form-urlencoded", "reason=%zz"},
		{"/me/security/password", "application/x-www-form-urlencoded", "old=%zz"},
		{"/me/security/factor", "application/x-www-form-urlencoded", "do=%zz"},
		{"/me/security/factor/confirm", "application/x-www-form-urlencoded", "code=%zz"},
		{"/me/certificates/request", "application/x-www-form-urlencoded", "request=%zz"},
		{"/me/certificates/request", "multipart/form-data; boundary=x", "no parts"},
		{"/me/certificates/request", "multipart/form-data; boundary=x", many},
	} {
		r, err := http.NewRequest("POST", h.url+form.path, strings.NewReader(form.body))
		must(t, err)
		r.Header.Set("Content-Type", form.contentType)
		if status := b.do(r); status != 400 {
			t.Errorf("POST %s %s %.20q = %d, want 400", form.path, form.contentType, form.body, status)
		}
	}
	if status := b.post("/me/certificates/file", "password", strings.Repeat("x", 1<<20)); status != 413 {
		t.Errorf("a form of a megabyte = %d, want 413", status)
	}
	if d := h.get(t, bens); d.State != mdm.Enrolled {
		t.Errorf("the Mac is %s", d.State)
	}
}
