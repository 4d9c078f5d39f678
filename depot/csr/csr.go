// Package csr is the door for people and programs with an API token: they send a
// certificate request and get the certificate in the same form.
//
// It checks what can be checked without knowing what is allowed: the token and its
// scope, the request's form, its signature and its key. Whether a certificate is
// issued, and what it says, is its Issuer's to decide. It keeps no state.
package csr

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// Path is where the door is.
const Path = "/api/csr"

// Door is the name of the door in [depot.Application] and in the audit log.
const Door = "csr"

const (
	// maxBody bounds what is read: the largest request in PEM, and some text around it.
	maxBody = 128 << 10

	// maxTemplate bounds the name of a template.
	maxTemplate = 64
)

// Issuer decides on requests. [*issuance.Service] is one: the client is told of the
// errors that it names, and it writes them into the audit log.
type Issuer interface {
	IssueCSR(ctx context.Context, p identity.Principal, a depot.Application) (*x509.Certificate, error)
}

// Authenticator knows API tokens. [*identity.Service] is one.
type Authenticator interface {
	Authenticate(ctx context.Context, secret string) (identity.Principal, error)
}

// Auditor writes down what was refused before the Issuer saw it. [*event.Recorder]
// is one.
type Auditor interface {
	Refused(ctx context.Context, e event.Event)
}

// Config says what a Handler needs: all of it.
type Config struct {
	Issuer   Issuer
	Identity Authenticator
	Audit    Auditor
	Depot    *depot.Depot // has the certificates of issuers
	Log      *slog.Logger

	Peer      func(ctx context.Context) string // network address that a request came from; may be empty
	RequestID func(ctx context.Context) string // under which it is found in the log

	// Fail answers for errors that are nobody's fault but ours.
	Fail func(w http.ResponseWriter, r *http.Request, err error)
}

// Handler answers POST /api/csr.
type Handler struct{ Config }

// New returns a Handler, or says what c lacks.
func New(c Config) (*Handler, error) {
	if c.Issuer == nil || c.Identity == nil || c.Audit == nil || c.Depot == nil || c.Log == nil ||
		c.Peer == nil || c.RequestID == nil || c.Fail == nil {
		return nil, errors.New("csr: Issuer, Identity, Audit, Depot, Log, Peer, RequestID and Fail are required")
	}
	return &Handler{c}, nil
}

// ServeHTTP answers a certificate request with the certificate, in the form in which
// the request came: PEM, DER, or base64 of DER. The content type does not matter.
//
// ?template=NAME asks for the certificate template NAME. ?chain=true adds to PEM the
// certificates of the authorities between the certificate and the root.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if err := h.serve(w, r); err != nil {
		h.fail(w, r, err)
	}
}

// serve answers r, or returns why it could not.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodPost {
		return errMethod
	}
	ctx := r.Context()
	p, err := h.authenticate(r)
	if err != nil {
		return err
	}
	p.Peer = h.Peer(ctx)
	template, chain, err := options(r.URL)
	if err != nil {
		return h.refused(ctx, p, template, err)
	}
	if !p.Allows(identity.ScopeCertSelf) && !p.Allows(identity.ScopeCertAny) {
		return h.refused(ctx, p, template, errScope)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return err
	}
	a, armor, err := depot.ReadApplication(body)
	if err == nil && chain && armor != guard.ArmorPEM {
		err = &depot.FieldError{Field: "chain", Reason: "can only be had in PEM, and the request came in another form"}
	}
	if err != nil {
		return h.refused(ctx, p, template, err)
	}
	a.Template, a.Door, a.Peer = template, Door, p.Peer
	cert, err := h.Issuer.IssueCSR(ctx, p, a)
	if err != nil {
		return err
	}
	if cert == nil {
		return errors.New("the issuer returned no certificate")
	}
	h.Log.InfoContext(ctx, "certificate delivered", "door", Door, "serial", depot.SerialOf(cert), "by", p.String())
	contentType, body := h.wrap(cert, armor, chain)
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // the client may be gone; there is nobody to tell
	return nil
}

// authenticate returns whose bearer token r brings. A token in the query is not
// looked at: URLs end up in logs.
func (h *Handler) authenticate(r *http.Request) (identity.Principal, error) {
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		return identity.Principal{}, errNoToken
	}
	scheme, token, _ := strings.Cut(headers[0], " ")
	if len(headers) > 1 || !strings.EqualFold(scheme, "Bearer") {
		return identity.Principal{}, errNoToken
	}
	return h.Identity.Authenticate(r.Context(), strings.TrimLeft(token, " "))
}

// options reads the query.
func options(u *url.URL) (template string, chain bool, err error) {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return "", false, errQuery
	}
	for _, name := range []string{"template", "chain"} {
		if len(query[name]) > 1 {
			return "", false, &depot.FieldError{Field: name, Reason: "is there more than once"}
		}
	}
	if query.Has("chain") {
		if chain, err = strconv.ParseBool(query.Get("chain")); err != nil {
			return "", false, &depot.FieldError{Field: "chain", Reason: "must be true or false"}
		}
	}
	template = query.Get("template")
	if len(template) > maxTemplate || query.Has("template") && template == "" {
		return "", false, &depot.FieldError{Field: "template", Reason: fmt.Sprintf("must be the name of a certificate template, of at most %d characters", maxTemplate)}
	}
	return template, chain, nil
}

// refused writes err into the audit log, and returns it. Whoever has no valid token
// is not heard of there: anybody may try.
func (h *Handler) refused(ctx context.Context, p identity.Principal, template string, err error) error {
	h.Audit.Refused(ctx, event.Event{
		Actor: p.String(), Action: "certificate.refused", Reason: err.Error(),
		User: p.User, Template: template, Peer: p.Peer, Details: map[string]string{"door": Door},
	})
	return err
}

// wrap returns cert as the request was.
func (h *Handler) wrap(cert *x509.Certificate, armor guard.Armor, chain bool) (contentType string, body []byte) {
	switch armor {
	case guard.ArmorPEM:
		certs := []*x509.Certificate{cert}
		if chain {
			certs = append(certs, h.above(cert)...)
		}
		for _, c := range certs {
			body = append(body, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
		return "application/x-pem-file", body
	case guard.ArmorBase64:
		body = base64.StdEncoding.AppendEncode(nil, cert.Raw)
		return "application/pkix-cert; encoding=base64", append(body, '\n')
	}
	return "application/pkix-cert", cert.Raw
}

// above returns the authorities above cert, without the root, which whoever relies
// on the certificate has to have from elsewhere.
func (h *Handler) above(cert *x509.Certificate) []*x509.Certificate {
	a := h.Depot.Authority(hex.EncodeToString(cert.AuthorityKeyId[:min(8, len(cert.AuthorityKeyId))]))
	if a == nil {
		return nil // not ours
	}
	chain := a.Chain()
	return chain[:len(chain)-1]
}
