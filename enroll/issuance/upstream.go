package issuance

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// Upstream is the SCEP servers of others, which templates point at. *scep.Client is one.
// Its errors wrap depot.ErrUpstreamUnavailable or depot.ErrUpstreamRefused.
type Upstream interface {
	// Request gets a certificate for csr, as it is.
	Request(ctx context.Context, u template.Upstream, csr *x509.CertificateRequest) (*x509.Certificate, error)

	// Challenge fetches a challenge from u.ChallengeURL.
	Challenge(ctx context.Context, u template.Upstream) (string, error)
}

// PathToken stands between a template's name and the token of a device, in the path of
// requests that are passed on.
const PathToken = "/k/"

// doorProxy is the Door of certificates that another authority issued through us.
const doorProxy = "proxy"

const (
	// forwardTime is how long the other server may take for one request of a device, which
	// waits for it.
	forwardTime = 25 * time.Second
	releaseTime = 5 * time.Second
)

// ticket is what a profile brings a device to show.
type ticket struct {
	secret string     // the challenge that goes into the request
	token  string     // that goes into the URL, if the request is to be passed on
	row    *challenge // to keep; nil: nobody will show us anything
}

// ticketFor makes the ticket for c, with the challenge of the other server where there is
// one: who signs a request signs the challenge in it, so that the device itself must
// have it, and we can't put it in later. Hence what it shows to us is in the URL.
func (s *Service) ticketFor(ctx context.Context, t template.Template, c challenge) (ticket, error) {
	if t.Issuer == template.Builtin {
		// Also where the template has a static challenge, which is for those who are not
		// enrolled here: one of its own ties the certificate to the device.
		row, secret := newChallenge(c)
		return ticket{secret: secret, row: &row}, nil
	}
	if s.upstream == nil {
		return ticket{}, ErrExternal
	}
	var out ticket
	switch u := t.Upstream; u.ChallengeType {
	case template.UpstreamStatic:
		out.secret = u.Challenge.Reveal()
	case template.UpstreamDynamic:
		fetched, err := s.upstream.Challenge(ctx, u)
		if err != nil && ctx.Err() == nil {
			return ticket{}, &rejection{Rejection{
				DeviceID: c.DeviceID, Code: codeUpstream, Field: "upstream.challenge_url", Reason: fmt.Sprintf("No challenge could be fetched: %v.", err),
			}}
		}
		if err != nil {
			return ticket{}, err
		}
		out.secret = fetched
	}
	if t.Issuer == template.Proxy {
		c.Upstream = upstreamHash(t.Upstream, out.secret)
		row, token := newChallenge(c)
		out.token, out.row = token, &row
	}
	return out, nil
}

// codeUpstream is the Code of a Rejection for whose reason the other server is to blame.
const codeUpstream = "upstream"

// previewTicket is what a preview shows in place of a ticket.
func previewTicket(t template.Template) ticket {
	out := ticket{secret: previewChallenge}
	if t.Issuer != template.Builtin && t.Upstream.ChallengeType == template.UpstreamNone {
		out.secret = ""
	}
	if t.Issuer == template.Proxy {
		out.token = previewChallenge
	}
	return out
}

// upstreamHash ties a ticket to the server that its challenge is for, and to the
// challenge.
func upstreamHash(u template.Upstream, challenge string) string {
	return hashSecret(string(storage.Key(u.URL, challenge)))
}

// IssueProxied decides on a SCEP request that came to the address with a token, which a
// profile of ours brought a device, and passes it on to the server that the template
// with a name points at: as it is, because only the device can sign it. So it is refused
// unless it asks for just what the template comes to for the device.
//
// The same request again gets the same certificate. One token is good for one request:
// the first one that was passed on is the only one, until it is granted. Every refusal
// is in the audit log, and so is it if the other server can't be reached; the error then
// wraps depot.ErrUpstreamUnavailable, and the device had better ask again.
func (s *Service) IssueProxied(ctx context.Context, name, token string, r depot.Request) (*x509.Certificate, error) {
	cert, err := s.issue(ctx, requestKey(name+PathToken+token, r), r, func(tx storage.Tx) (grant, error) {
		return s.grantProxied(tx, name, token, r)
	})
	s.auditSCEP(ctx, doorProxy, name, r, err)
	return cert, err
}

// auditSCEP records why a request got no certificate.
func (s *Service) auditSCEP(ctx context.Context, door, name string, r depot.Request, err error) {
	e := event.Event{
		Actor: door, Action: "certificate.refused", Outcome: event.Refused,
		Template: name, Peer: r.Peer, Details: details("transaction", r.TransactionID),
	}
	switch {
	case err == nil:
		return
	case errors.Is(err, depot.ErrUpstreamUnavailable):
		e.Outcome = event.Failed
	case !refused(err):
		return
	}
	e.Reason = err.Error()
	s.audit.Refused(ctx, e)
}

// grantProxied is the right by a token in the URL.
func (s *Service) grantProxied(tx storage.Tx, name, token string, r depot.Request) (grant, error) {
	c, err := s.openChallenge(tx, token)
	if err != nil {
		return grant{}, err
	}
	if c.Template != name {
		return grant{}, fmt.Errorf("%w: it is for another template", ErrChallenge)
	}
	g, err := s.grantDevice(tx, c)
	if err != nil {
		return grant{}, err
	}
	if g.template.Issuer != template.Proxy {
		return grant{}, fmt.Errorf("%w: requests for its template are not passed on", ErrChallenge)
	}
	if c.Upstream != upstreamHash(g.template.Upstream, r.Challenge) {
		return grant{}, fmt.Errorf("%w: the request has another challenge than its profile, or the template points at another server now", ErrChallenge)
	}
	return g, proxied(&g, r)
}

// proxied makes g a right to have r passed on, if r asks for nothing but what g's
// certificate would say.
func proxied(g *grant, r depot.Request) error {
	asked, err := guard.AskedBy(r.CSR)
	if err != nil {
		return err
	}
	if err := asksFor(asked, g.contents); err != nil {
		return err
	}
	g.record.Door = doorProxy
	return nil
}

// asksFor returns a *depot.FieldError unless a request asks for what c says: for all of
// its names, and at most for its usages.
func asksFor(asked guard.Asked, c depot.Contents) error {
	no := func(field, reason string) error { return &depot.FieldError{Field: field, Reason: reason} }
	subject, err := template.SubjectOf(asked.Subject)
	if err != nil {
		return err
	}
	der, err := subject.DER()
	if err != nil {
		return err
	}
	names := guard.AlternativeNames{
		EmailAddresses: c.EmailAddresses, DNSNames: c.DNSNames, URIs: c.URIs, UserPrincipalNames: c.UserPrincipalNames,
	}
	for _, ip := range c.IPs {
		if addr, ok := netip.AddrFromSlice(ip); ok {
			names.IPs = append(names.IPs, addr)
		}
	}
	switch {
	case !slices.Equal(der, c.RawSubject):
		return no("subject", "must be what the template comes to: the other authority would issue what is asked for")
	case !names.Equal(asked.Names):
		return no("san", "must be what the template comes to: the other authority would issue what is asked for")
	case asked.CA:
		return no("basic_constraints", "must not ask for an authority")
	case asked.KeyUsage&^c.KeyUsage != 0:
		return no("key_usage", "asks for more than the template has")
	case len(asked.Extensions) > 0:
		return no("extensions", "asks for "+asked.Extensions[0].String()+", which no template has")
	case len(asked.Attributes) > 0:
		return no("attributes", "has "+asked.Attributes[0].String()+", which is not passed on")
	case asked.Template != "":
		return no("template", "must not be named: the other authority might go by it")
	}
	for _, usage := range asked.ExtKeyUsage {
		if !slices.ContainsFunc(c.ExtKeyUsage, func(u x509.ExtKeyUsage) bool { return u.OID().String() == usage.String() }) &&
			!slices.ContainsFunc(c.ExtKeyUsageOIDs, usage.Equal) {
			return no("ext_key_usage", "asks for "+usage.String()+", which the template does not have")
		}
	}
	return nil
}

// passage is a request on its way to another authority. There is one at a time for each
// right to a certificate, because that authority issues at once what we are yet to
// record: two that raced would get two.
type passage struct {
	Key       string    `json:"key"`     // of the right: the hash of a token, or of the request
	Request   string    `json:"request"` // hash of the request that has it
	BusyUntil time.Time `json:"busy_until,omitzero"`
	ExpiresAt time.Time `json:"expires_at"`
}

var passages = storage.NewCollection("issuance.passages", 1,
	func(p passage) string { return p.Key },
	storage.Index[passage]{Name: byExpiry, Values: func(p passage) []string { return []string{sortable(p.ExpiresAt)} }},
)

// forward passes r on, and returns what the other authority issued for it. key is that
// of [Service.issue].
func (s *Service) forward(ctx context.Context, key string, r depot.Request, decide func(tx storage.Tx) (grant, error)) (*x509.Certificate, error) {
	if s.upstream == nil {
		return nil, ErrExternal
	}
	var g grant
	var p passage
	err := s.db.Update(ctx, func(tx storage.Tx) (err error) {
		if g, err = s.granted(tx, r, decide); err != nil {
			return err
		}
		if g.template.Issuer != template.Proxy {
			return ErrExternal // it has changed a moment ago
		}
		p, err = s.begin(tx, key, r, g)
		return err
	})
	if err != nil {
		return nil, err
	}
	asking, cancel := context.WithTimeout(ctx, forwardTime)
	defer cancel()
	cert, err := s.upstream.Request(asking, g.template.Upstream, r.CSR)
	if err == nil {
		return cert, nil
	}
	// The device may have given up waiting, and will be back.
	releasing, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	if releaseErr := s.db.Update(releasing, func(tx storage.Tx) error { return s.release(tx, p) }); releaseErr != nil {
		s.log.WarnContext(ctx, "request to another authority is held up until its time is over", "template", g.template.Name, "err", releaseErr)
	}
	return nil, fmt.Errorf("request to %s: %w", g.template.Upstream.URL, err)
}

func (s *Service) begin(tx storage.Tx, key string, r depot.Request, g grant) (passage, error) {
	now := s.now().UTC()
	request := hashSecret(string(r.CSR.Raw))
	p := passage{Key: key, Request: request, ExpiresAt: now.Add(answerLife)}
	if g.challenge != nil {
		p.Key, p.ExpiresAt = g.challenge.Hash, g.challenge.ExpiresAt
	}
	under, err := passages.Get(tx, p.Key)
	switch {
	case errors.Is(err, storage.ErrNotFound):
	case err != nil:
		return passage{}, err
	case under.Request != request:
		return passage{}, fmt.Errorf("%w: another request has been passed on for it", ErrChallenge)
	case now.Before(under.BusyUntil):
		return passage{}, fmt.Errorf("%w: it has been asked, and has not answered yet", depot.ErrUpstreamUnavailable)
	}
	p.BusyUntil = now.Add(forwardTime + releaseTime)
	return p, passages.Put(tx, p)
}

// release lets the same request be passed on again.
func (s *Service) release(tx storage.Tx, p passage) error {
	under, err := passages.Get(tx, p.Key)
	if errors.Is(err, storage.ErrNotFound) || err == nil && !under.BusyUntil.Equal(p.BusyUntil) {
		return nil
	}
	if err != nil {
		return err
	}
	under.BusyUntil = time.Time{}
	return passages.Put(tx, under)
}

// installedElsewhere notes that a device has a certificate which another authority
// issued to it, of which we know nothing but how long the template says that it lasts.
func (s *Service) installedElsewhere(tx storage.Tx, a Assignment, t template.Template) error {
	now := s.now().UTC()
	if a.Current != "" { // ours, of before the template pointed elsewhere: the profile has taken its place
		if err := s.depot.Revoke(tx, a.Current, reasonSuperseded, now); err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
	}
	a.Current, a.RenewAt = "", t.RenewAt(now, now.Add(t.ValidFor()))
	a.State, a.Failures, a.FailedAt, a.Reason, a.DueAt = Installed, 0, time.Time{}, "", a.RenewAt
	return assignments.Put(tx, a)
}
