package account_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// enrol goes on with a profile until the device is enrolled, and returns how it speaks.
func (d device) enrol(token string) (enroll.Peer, mdm.AppleID) {
	d.t.Helper()
	signed, err := d.post(token)
	must(d.t, err)
	challenge := regexp.MustCompile(`<key>Challenge</key>\s*<string>([^<]+)</string>`).FindSubmatch(signed)
	if challenge == nil {
		d.t.Fatal("the profile holds no challenge")
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(d.t, err)
	raw, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "device"}}, key)
	must(d.t, err)
	csr, err := x509.ParseCertificateRequest(raw)
	must(d.t, err)
	self := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: d.h.now(), NotAfter: d.h.now().Add(time.Hour)}
	raw, err = x509.CreateCertificate(rand.Reader, self, self, key.Public(), key)
	must(d.t, err)
	signer, err := x509.ParseCertificate(raw)
	must(d.t, err)
	cert, err := d.h.IssueIdentity(d.t.Context(), depot.Request{TransactionID: "T1", Challenge: string(challenge[1]), CSR: csr, Signer: signer})
	must(d.t, err)
	const topic = "com.apple.mgmt.External.0000"
	peer, id := enroll.Peer{Certificate: cert, Bearer: token}, mdm.AppleID{EnrollmentID: "5C8CB0B4-3B0D-4E2A-9A9C-4C0F4D6F3A11"}
	must(d.t, d.h.Authenticate(d.t.Context(), peer, enroll.AuthenticateMessage{ID: id, Topic: topic, Facts: mdm.Facts{ProductName: d.product, OSVersion: d.version}}))
	must(d.t, d.h.TokenUpdate(d.t.Context(), peer, enroll.TokenUpdateMessage{ID: id, Push: mdm.Push{Topic: topic, Token: []byte{1, 2, 3}, Magic: "magic"}}))
	return peer, id
}

// TestTheUserOfADeviceSignsInAgain is about a device that is enrolled, and whose token is
// good for nothing any more.
func TestTheUserOfADeviceSignsInAgain(t *testing.T) {
	t.Parallel()
	h := newHouse(t, enroll.MethodWeb)
	d, p := h.iPhone(t), h.person(t)
	peer, id := d.enrol(d.redeem(p.signIn(p.get(d.challenge("ana")), "ana").handedBack(t)))
	idle := func() error {
		_, err := h.Connect(t.Context(), peer, enroll.ConnectMessage{ID: id, Idle: true})
		return err
	}
	must(t, idle())
	var known mdm.Device
	must(t, h.db.View(t.Context(), func(tx storage.Tx) (err error) {
		known, err = mdm.FindDevice(tx, id)
		return err
	}))
	_, err := h.RequireSignIn(t.Context(), known.ID)
	must(t, err)

	var required *enroll.SignInRequired
	if err := idle(); !errors.As(err, &required) {
		t.Fatalf("the device is answered %v, want a challenge", err)
	}
	path := strings.TrimPrefix(regexp.MustCompile(`url="([^"]+)"`).FindStringSubmatch(required.Challenge)[1], h.url)

	// Another person may not, and terms were agreed to before.
	must(t, h.texts.Change(t.Context(), "test", "en", map[string]string{"portal.terms": "Be good."}))
	ben := h.person(t)
	refused := ben.signIn(ben.get(path), "ben").has(t, 403, "GH-E504", "ben@example.com", "Sign in as somebody else")
	link := regexp.MustCompile(`class="button" href="(/login[^"]*)"`).FindStringSubmatch(refused.body)
	ana := ben.get(strings.ReplaceAll(link[1], "&amp;", "&"))
	peer.Bearer = ben.signIn(ana, "ana").handedBack(t).Get("access-token")
	must(t, idle())

	// A session that was begun for anything else is asked, here as well.
	other := h.person(t)
	other.signIn(other.get("/login?next=/me"), "ana").at(t, "/me")
	asked := other.get(path).has(t, 200, "Sign in again on this device?", "ana@example.com", "iPhone")
	if strings.Contains(asked.body, "Be good.") {
		t.Error("the terms are asked for again")
	}
	other.send(asked, "/enroll/byod/").handedBack(t)
}
