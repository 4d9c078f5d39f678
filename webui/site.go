package webui

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/groob/plist"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// SiteConfig says what a Site needs: all of it but SetupUsed.
type SiteConfig struct {
	Pages     *Pages
	Identity  *identity.Service
	Sessions  *Sessions
	Health    *Health
	ServerURL *url.URL

	// Anchors are what certificates of ours chain to: the organisation root that is in
	// force, then others that are to be trusted, too.
	Anchors    func() []*x509.Certificate
	IdentityCA func() *x509.Certificate
	OwnCA      bool // the TLS certificate is from the root, so that browsers and devices must be told to trust it

	SetupUsed func(context.Context) // called when a setup link was used; may be nil

	Version any // the answer of GET /version, as JSON
	Release string
}

// Site is the pages and files that belong to no other room: the first page, setup,
// health, version, and the authorities' certificates.
type Site struct{ SiteConfig }

// NewSite returns a Site, or says what c lacks.
func NewSite(c SiteConfig) (*Site, error) {
	if c.Pages == nil || c.Identity == nil || c.Sessions == nil || c.Health == nil ||
		c.ServerURL == nil || c.Anchors == nil || c.IdentityCA == nil || c.Version == nil {
		return nil, errors.New("webui: Pages, Identity, Sessions, Health, ServerURL, Anchors, IdentityCA and Version are required for a site")
	}
	return &Site{c}, nil
}

// Mount registers the routes.
func (s *Site) Mount(r Router) {
	r.Handle("GET /{$}", s.welcome)
	r.Handle("GET /setup", s.setup)
	r.Handle("POST /setup", s.redeem)
	r.Handle("GET "+view.AssetsPath, s.asset)

	r.Handle("GET /livez", s.Health.live)
	r.Handle("GET /readyz", s.Health.ready)
	r.Handle("GET /version", s.version)

	r.Handle("GET /ca.pem", certificates(s.Anchors, "gatehouse-ca", asPEM))
	r.Handle("GET /ca.cer", certificates(s.root, "gatehouse-ca", asDER))
	r.Handle("GET /ca/identity.pem", certificates(s.identityCA, "gatehouse-identity-ca", asPEM))
	r.Handle("GET /ca.mobileconfig", s.rootProfile)
}

func (s *Site) welcome(w http.ResponseWriter, r *http.Request) error {
	state, err := s.Identity.SetupState(r.Context())
	if err != nil {
		return err
	}
	return s.Pages.Write(w, http.StatusOK, view.Welcome{
		Layout:      view.Layout{Title: "Welcome"},
		SetUp:       state.Done,
		OwnCA:       s.OwnCA,
		Fingerprint: Fingerprint(s.Anchors()[0]),
		Version:     s.Release,
	})
}

// setup shows the form that takes a setup token, while there is one to take.
func (s *Site) setup(w http.ResponseWriter, r *http.Request) error {
	state, err := s.Identity.SetupState(r.Context())
	if err != nil {
		return err
	}
	if !state.Open {
		return errNoSetupLink
	}
	return s.Pages.Write(w, http.StatusOK, view.Setup{Layout: view.Layout{Title: "Finish setup"}})
}

var errNoSetupLink = &Refusal{
	Problem: Problem{Status: http.StatusNotFound, Code: "setup_link_invalid", Title: "The setup link is not valid"},
	Page: view.Message{
		Heading: "This setup link doesn’t work",
		Text:    "A setup link is good for 30 minutes and for one use, and a newer one replaces it. Make a new one on the server’s machine, and open what it prints:",
		Command: "gatehouse setup-link",
		Code:    "GH-E010",
	},
}

// redeem spends the setup token of a form and starts a session.
func (s *Site) redeem(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return formProblem(err)
	}
	_, err := s.Identity.RedeemSetupToken(r.Context(), r.PostForm.Get("token"))
	if errors.Is(err, identity.ErrSetupToken) {
		return s.wrongToken(w, r)
	}
	if err != nil {
		return err
	}
	if s.SetupUsed != nil {
		s.SetupUsed(r.Context())
	}
	if err := s.Sessions.StartSetup(r.Context()); err != nil {
		return err
	}
	http.Redirect(w, r, "/admin/welcome", http.StatusSeeOther)
	return nil
}

// wrongToken answers a token that is none: with the form again while another one
// would do.
func (s *Site) wrongToken(w http.ResponseWriter, r *http.Request) error {
	state, err := s.Identity.SetupState(r.Context())
	if err != nil {
		return err
	}
	if !state.Open || !WantsHTML(r) {
		return errNoSetupLink
	}
	return s.Pages.Write(w, errNoSetupLink.Problem.Status, view.Setup{
		Layout: view.Layout{Title: "Finish setup"},
		Error:  "That code is not right. A newer link replaces the one before it.",
	})
}

// formProblem says why a form can't be read.
func formProblem(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return err
	}
	return &Problem{Status: http.StatusBadRequest, Code: "bad_form", Title: "The form can’t be read"}
}

func (s *Site) asset(w http.ResponseWriter, r *http.Request) error {
	if !s.Pages.views.Assets().Serve(w, r) {
		return errNoPage
	}
	return nil
}

func (s *Site) version(w http.ResponseWriter, _ *http.Request) error {
	return WriteJSON(w, http.StatusOK, s.Version)
}

// certificateForm is how a certificate is sent.
type certificateForm struct {
	extension, contentType string
	encode                 func(*x509.Certificate) []byte
}

var (
	asPEM = certificateForm{".pem", "application/x-pem-file", func(c *x509.Certificate) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}}
	// Safari offers to install what has this type.
	asDER = certificateForm{".cer", "application/x-x509-ca-cert", func(c *x509.Certificate) []byte { return c.Raw }}
)

// root is the one that is in force: DER holds one certificate.
func (s *Site) root() []*x509.Certificate { return s.Anchors()[:1] }

func (s *Site) identityCA() []*x509.Certificate { return []*x509.Certificate{s.IdentityCA()} }

// certificates returns the handler that sends certificates, as they are by then.
func certificates(certs func() []*x509.Certificate, name string, form certificateForm) HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) error {
		var body []byte
		for _, cert := range certs() {
			body = append(body, form.encode(cert)...)
		}
		SendFile(w, form.contentType, name+form.extension, body)
		return nil
	}
}

// SendFile sends a file that a browser shall not show. What Apple devices get must
// arrive byte for byte, so nobody on the way may keep or change it.
func SendFile(w http.ResponseWriter, contentType, name string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", name))
	h.Set("Cache-Control", "no-store, no-transform")
	_, _ = w.Write(body)
}

func (s *Site) rootProfile(w http.ResponseWriter, _ *http.Request) error {
	profile, err := RootProfile(s.Anchors(), s.ServerURL)
	if err != nil {
		return err
	}
	SendFile(w, "application/x-apple-aspen-config", "gatehouse-ca.mobileconfig", profile)
	return nil
}

// RootProfile returns a configuration profile that installs roots, so that a device
// can be told to trust this server before it enrols. Apple's page is
// "CertificateRoot".
func RootProfile(roots []*x509.Certificate, serverURL *url.URL) ([]byte, error) {
	type certificatePayload struct {
		PayloadType                string
		PayloadVersion             int
		PayloadIdentifier          string
		PayloadUUID                string
		PayloadDisplayName         string
		PayloadCertificateFileName string
		PayloadContent             []byte
	}
	type configuration struct {
		PayloadType        string
		PayloadVersion     int
		PayloadIdentifier  string
		PayloadUUID        string
		PayloadDisplayName string
		PayloadDescription string
		PayloadContent     []certificatePayload
	}
	identifier := "gatehouse.ca." + serverURL.Hostname()
	root := roots[0]
	var payloads []certificatePayload
	for i, cert := range roots {
		name := identifier + ".root"
		if i > 0 {
			name += "." + strings.ToLower(uuidOf(cert, "payload")[:8])
		}
		payloads = append(payloads, certificatePayload{
			PayloadType:                "com.apple.security.root",
			PayloadVersion:             1,
			PayloadIdentifier:          name,
			PayloadUUID:                uuidOf(cert, "payload"),
			PayloadDisplayName:         cert.Subject.CommonName,
			PayloadCertificateFileName: "gatehouse-ca.cer",
			PayloadContent:             cert.Raw,
		})
	}
	data, err := plist.MarshalIndent(configuration{
		PayloadType:        "Configuration",
		PayloadVersion:     1,
		PayloadIdentifier:  identifier,
		PayloadUUID:        uuidOf(root, "profile"),
		PayloadDisplayName: root.Subject.CommonName,
		PayloadDescription: "Lets this device trust " + serverURL.Host + ".",
		PayloadContent:     payloads,
	}, "\t")
	if err != nil {
		return nil, fmt.Errorf("webui: profile of the root: %w", err)
	}
	return data, nil
}

// uuidOf derives a UUID from a certificate, so that a profile stays the same from
// one start to the next (RFC 9562, version 8).
func uuidOf(cert *x509.Certificate, salt string) string {
	sum := sha256.Sum256(append([]byte(salt+"\x00"), cert.Raw...))
	u := sum[:16]
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return strings.ToUpper(fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]))
}

// Fingerprint is the SHA-256 of cert as people compare it: 5F:2C:….
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	pairs := make([]string, len(sum))
	for i, b := range sum {
		pairs[i] = fmt.Sprintf("%02X", b)
	}
	return strings.Join(pairs, ":")
}

// RequireScope lets only those pass who may do what scope is asked for. Others are
// answered by otherwise, which is told whether they are signed in at all.
func RequireScope(scope identity.Scope, otherwise func(w http.ResponseWriter, r *http.Request, signedIn bool)) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p, ok := identity.PrincipalFrom(r.Context())
			if !ok || !p.Allows(scope) {
				otherwise(w, r, ok)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}
