// Package est is the door for programs that speak Enrollment over Secure Transport
// (RFC 7030, with the clarifications of RFC 8951): printers, access points, servers,
// and curl.
//
// It checks what can be checked without knowing what is allowed: who asks, the
// request's form, its signature and its key, and in a renewal that the names are
// those of the old certificate. Whether a certificate is issued, and what it says, is
// its Issuer's to decide. It keeps no state, and never tells a client to come back
// later: nobody approves requests by hand.
package est

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// Path is where the door is: operations are below it, or below it and a label.
const Path = "/.well-known/est/"

// Door is the name of the door in [depot.Application] and in the audit log.
const Door = "est"

// maxBody bounds what is read: the largest request in base64, and some more.
const maxBody = 128 << 10

// Issuer decides on requests. [*issuance.Service] is one: the client is told of the
// errors that it names, and it writes them into the audit log.
type Issuer interface {
	IssueCSR(ctx context.Context, p identity.Principal, a depot.Application) (*x509.Certificate, error)

	// Reissue renews old, whose holder has proved to have its key, and nothing else:
	// whether we issued it, whether it is revoked, expired or due, whether it may be
	// renewed here, and whether a asks for the same names is not known yet.
	Reissue(ctx context.Context, old *x509.Certificate, a depot.Application) (*x509.Certificate, error)
}

// Identity knows API tokens and the passwords of people. [*identity.Service] is one.
type Identity interface {
	Authenticate(ctx context.Context, secret string) (identity.Principal, error)
	LoginWithoutCode(ctx context.Context, login, password, peer string) (identity.SignedIn, error)
}

// Auditor writes down what was refused before the Issuer saw it. [*event.Recorder]
// is one.
type Auditor interface {
	Refused(ctx context.Context, e event.Event)
}

// Config says what a Handler needs: all of it.
type Config struct {
	Issuer   Issuer
	Identity Identity
	Audit    Auditor
	Depot    *depot.Depot // has the certificates that cacerts hands out
	Log      *slog.Logger

	// HasTemplate says whether there is a certificate template of a name.
	HasTemplate func(ctx context.Context, name string) (bool, error)

	// ClientCertificate returns the certificate whose key the client of a request
	// proved to have, by TLS or to a trusted proxy; nil if there is none.
	ClientCertificate func(ctx context.Context) *x509.Certificate

	Peer func(ctx context.Context) string // network address that a request came from; may be empty
}

// Handler answers everything below Path.
type Handler struct{ Config }

// New returns a Handler, or says what c lacks.
func New(c Config) (*Handler, error) {
	if c.Issuer == nil || c.Identity == nil || c.Audit == nil || c.Depot == nil || c.Log == nil ||
		c.HasTemplate == nil || c.ClientCertificate == nil || c.Peer == nil {
		return nil, errors.New("est: Issuer, Identity, Audit, Depot, Log, HasTemplate, ClientCertificate and Peer are required")
	}
	return &Handler{c}, nil
}

// operation is one that RFC 7030, 3.2.2, names.
type operation struct {
	name   string
	method string
	answer func(h *Handler, w http.ResponseWriter, r *http.Request, label string) error
}

// operations are those that are here. fullcmc and serverkeygen are not: both are
// optional.
func operations() []operation {
	return []operation{
		{"cacerts", http.MethodGet, (*Handler).caCerts},
		{"csrattrs", http.MethodGet, (*Handler).csrAttrs},
		{"simpleenroll", http.MethodPost, (*Handler).simpleEnroll},
		{"simplereenroll", http.MethodPost, (*Handler).simpleReenroll},
	}
}

// ServeHTTP answers an EST request. The label of a path, /.well-known/est/LABEL/…, is
// the name of a certificate template.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if err := h.serve(w, r); err != nil {
		h.fail(w, r, err)
	}
}

// serve answers r, or returns why it could not.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request) error {
	label, name, labelled := strings.Cut(strings.TrimPrefix(r.URL.Path, Path), "/")
	if !labelled {
		label, name = "", label
	}
	all := operations()
	at := func(name string) int {
		return slices.IndexFunc(all, func(o operation) bool { return o.name == name })
	}
	// A label must not be the name of an operation (RFC 7030, 3.2.2).
	i := at(name)
	if i < 0 || labelled && (label == "" || at(label) >= 0) {
		return errNoOperation
	}
	if m := r.Method; m != all[i].method && (m != http.MethodHead || all[i].method != http.MethodGet) {
		return methodError(all[i].method)
	}
	if labelled {
		known, err := h.HasTemplate(r.Context(), label)
		if err != nil {
			return fmt.Errorf("look up template: %w", err)
		}
		if !known {
			return errNoTemplate
		}
	}
	return all[i].answer(h, w, r, label)
}

// caCerts answers with the certificates to trust (RFC 7030, 4.1): those of the issuer
// and of the root above it, for whoever asks.
func (h *Handler) caCerts(w http.ResponseWriter, _ *http.Request, _ string) error {
	return writeCertificates(w, "application/pkcs7-mime", h.Depot.Payload().Chain()...)
}

// csrAttrs says that there is nothing that a request must hold (RFC 7030, 4.5.2):
// what a certificate says is known here.
func (h *Handler) csrAttrs(w http.ResponseWriter, _ *http.Request, _ string) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// simpleEnroll issues a certificate to who has signed in (RFC 7030, 4.2.1).
func (h *Handler) simpleEnroll(w http.ResponseWriter, r *http.Request, label string) error {
	ctx := r.Context()
	p, err := h.authenticate(r)
	if err != nil {
		return err
	}
	who := event.Event{Actor: p.String(), User: p.User, Template: label, Peer: p.Peer}
	if !p.Allows(identity.ScopeCertSelf) && !p.Allows(identity.ScopeCertAny) {
		return h.refused(ctx, who, errScope)
	}
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	a, err := h.application(ctx, body, label)
	if err != nil {
		return h.refused(ctx, who, err)
	}
	cert, err := h.Issuer.IssueCSR(ctx, p, a)
	if err != nil {
		return err
	}
	return h.deliver(ctx, w, cert, p.String())
}

// simpleReenroll issues a certificate in place of the one by which the client
// authenticates (RFC 7030, 4.2.2).
func (h *Handler) simpleReenroll(w http.ResponseWriter, r *http.Request, label string) error {
	ctx := r.Context()
	old := h.ClientCertificate(ctx)
	if old == nil {
		return errNoCertificate
	}
	actor := "certificate:" + string(depot.SerialOf(old))
	who := event.Event{Actor: actor, Certificate: string(depot.SerialOf(old)), Template: label, Peer: h.Peer(ctx)}
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	a, err := h.application(ctx, body, label)
	if err == nil {
		err = keepsNames(a.Asked)
	}
	if err != nil {
		return h.refused(ctx, who, err)
	}
	cert, err := h.Issuer.Reissue(ctx, old, a)
	if err != nil {
		return err
	}
	return h.deliver(ctx, w, cert, actor)
}

// changeSubjectName is the attribute by which a request to renew a certificate asks
// for other names than its own (RFC 6402, 2.8).
func changeSubjectName() asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 7, 36}
}

// keepsNames refuses a renewal that asks for other names than those that it has
// itself.
func keepsNames(asked guard.Asked) error {
	if slices.ContainsFunc(asked.Attributes, changeSubjectName().Equal) {
		return &depot.FieldError{Field: "attributes", Reason: "ask for another subject, which a renewal can't have"}
	}
	return nil
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	if err != nil && !errors.As(err, &tooLarge) {
		return nil, errUnread
	}
	return body, err
}

// application reads a request in base64, as the standard has it, or in PEM or DER,
// which clients send as well, whatever they call it.
func (h *Handler) application(ctx context.Context, body []byte, label string) (depot.Application, error) {
	a, _, err := depot.ReadApplication(body)
	if err != nil {
		return depot.Application{}, err
	}
	a.Template, a.Door, a.Peer = label, Door, h.Peer(ctx)
	return a, nil
}

// deliver answers with the certificate alone (RFC 7030, 4.2.3).
func (h *Handler) deliver(ctx context.Context, w http.ResponseWriter, cert *x509.Certificate, to string) error {
	if cert == nil {
		return errors.New("the issuer returned no certificate")
	}
	h.Log.InfoContext(ctx, "certificate delivered", "door", Door, "serial", depot.SerialOf(cert), "by", to)
	return writeCertificates(w, "application/pkcs7-mime; smime-type=certs-only", cert)
}

// refused writes err into the audit log under who, and returns it.
func (h *Handler) refused(ctx context.Context, who event.Event, err error) error {
	who.Action, who.Reason, who.Details = "certificate.refused", err.Error(), map[string]string{"door": Door}
	h.Audit.Refused(ctx, who)
	return err
}
