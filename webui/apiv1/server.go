package apiv1

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll/wellknown"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// Server is what only the process knows: how it was started, and how it is reached.
type Server struct {
	Version string
	Store   string // bolt or postgres
	Demo    bool   // it makes simulated devices
	TLSMode string // acme, files, own-ca or proxy

	// Certificates are those that it shows now, its own first; none where a proxy in front
	// of it does TLS.
	Certificates []*x509.Certificate
	Public       bool // the machine's list of public authorities has what they chain to

	Options []Option // of its command line, as far as others may know them
}

// Option is an option of the command line and its value, empty where it is not set.
type Option struct {
	Flag  string `json:"flag"`
	Value string `json:"value"`
}

// tlsOwnCA is the TLSMode in which devices must be told to trust our root.
const tlsOwnCA = "own-ca"

type serverJSON struct {
	Version   string        `json:"version"`
	ServerURL string        `json:"server_url"`
	Store     string        `json:"store"`
	Demo      bool          `json:"demo"`
	Time      time.Time     `json:"time"`
	TLS       serverTLSJSON `json:"tls"`
	Options   []Option      `json:"options"`
}

type serverTLSJSON struct {
	Mode        string             `json:"mode"`
	Public      bool               `json:"public"`      // devices trust the certificate without being told to
	Certificate *serverCertificate `json:"certificate"` // null: a proxy has it
	Root        serverRootJSON     `json:"root"`        // of our own authority
}

// serverCertificate is the certificate that clients are shown.
type serverCertificate struct {
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	Names     []string  `json:"names"`
	Key       string    `json:"key"`
	Serial    string    `json:"serial"`
	SHA256    string    `json:"sha256"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	DaysLeft  int       `json:"days_left"`
	Chain     []string  `json:"chain"` // subjects of what is sent with it
}

type serverRootJSON struct {
	Subject    string    `json:"subject"`
	SHA256     string    `json:"sha256"`
	NotAfter   time.Time `json:"not_after"`
	ProfileURL string    `json:"profile_url"` // for Apple devices
	PEMURL     string    `json:"pem_url"`
}

func (a *API) getServer(w http.ResponseWriter, _ *http.Request) error {
	s, root := a.server(), a.depot.Root().Certificate()
	out := serverJSON{
		Version: s.Version, ServerURL: a.serverURL.String(), Store: s.Store, Demo: s.Demo, Time: a.now().UTC(), Options: orEmpty(s.Options),
		TLS: serverTLSJSON{Mode: s.TLSMode, Public: s.Public, Root: serverRootJSON{
			Subject: root.Subject.String(), SHA256: sha256Of(root), NotAfter: root.NotAfter.UTC(),
			ProfileURL: a.serverURL.JoinPath("ca.mobileconfig").String(), PEMURL: a.serverURL.JoinPath("ca.pem").String(),
		}},
	}
	if len(s.Certificates) > 0 {
		out.TLS.Certificate = a.shown(s.Certificates)
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}

func (a *API) shown(certs []*x509.Certificate) *serverCertificate {
	leaf := certs[0]
	out := &serverCertificate{
		Subject: leaf.Subject.String(), Issuer: leaf.Issuer.String(), Names: orEmpty(append([]string(nil), leaf.DNSNames...)), Key: keyInWords(leaf),
		Serial: string(depot.SerialOf(leaf)), SHA256: sha256Of(leaf), NotBefore: leaf.NotBefore.UTC(), NotAfter: leaf.NotAfter.UTC(),
		DaysLeft: int(max(0, leaf.NotAfter.Sub(a.now())) / (24 * time.Hour)), Chain: []string{},
	}
	for _, ip := range leaf.IPAddresses {
		out.Names = append(out.Names, ip.String())
	}
	for _, c := range certs[1:] {
		out.Chain = append(out.Chain, c.Subject.String())
	}
	return out
}

// keyInWords is "RSA 2048" or "ECDSA P-256".
func keyInWords(c *x509.Certificate) string {
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", key.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA " + key.Params().Name
	}
	return c.PublicKeyAlgorithm.String()
}

func sha256Of(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

type serverCheckJSON struct {
	CheckedAt    time.Time       `json:"checked_at"`
	OK           bool            `json:"ok"`
	Milliseconds int64           `json:"milliseconds"`
	Findings     []serverFinding `json:"findings"`
	TLS          *tlsJSON        `json:"tls"` // null: it came to none
}

type serverFinding struct {
	Severity string `json:"severity"`
	Code     string `json:"code"`
	Sentence string `json:"sentence"`
	Fix      string `json:"fix"`
}

// checkServer has the server ask itself by its own URL, as a device would.
func (a *API) checkServer(w http.ResponseWriter, r *http.Request) error {
	var roots *x509.CertPool // the system's
	if a.server().TLSMode == tlsOwnCA {
		var err error
		if roots, err = x509.SystemCertPool(); err != nil {
			roots = x509.NewCertPool() // a machine without such a list has ours
		}
		for _, anchor := range a.depot.Anchors() {
			roots.AddCert(anchor) // as a device that was told to trust it
		}
	}
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.depot.Root().Certificate().Raw})
	got := wellknown.Reach(r.Context(), a.serverURL, "ca.pem", roots, func(body []byte) bool { return bytes.Contains(body, root) }, a.now)
	out := serverCheckJSON{CheckedAt: got.At.UTC(), OK: got.OK, Milliseconds: got.Took.Milliseconds(), Findings: make([]serverFinding, len(got.Findings))}
	for i, f := range got.Findings {
		out.Findings[i] = serverFinding{string(f.Severity), f.Code, f.Sentence, f.Fix}
	}
	if t := got.TLS; t != nil {
		out.TLS = &tlsJSON{t.Version, t.CipherSuite, t.Subject, t.Issuer, orEmpty(t.Names), t.Key, t.NotBefore.UTC(), t.NotAfter.UTC(), t.Chain}
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}
