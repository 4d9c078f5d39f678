package issuance

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// OwnOrder is a certificate that somebody asks for who has signed in: for themself, or
// for a device of theirs.
type OwnOrder struct {
	DeviceID mdm.DeviceID // empty: for themself

	// CSR's key is certified, and its names say whom the certificate is for, so that there
	// is no DeviceID; nil: a key is made.
	CSR *depot.Application

	Peer string // network address that the order came from; may be empty
}

// IssueOwn makes a certificate for the user p, who may ask for what IssueCSR gives by the
// scope cert:self, whatever p's role is, and as often. Errors are a *depot.FieldError, or
// wrap ErrForbidden, ErrKeyReused or depot.ErrQuota. Every refusal is in the audit log.
func (s *Service) IssueOwn(ctx context.Context, p identity.Principal, o OwnOrder) (d Delivery, err error) {
	p.Scopes = []identity.Scope{identity.ScopeCertSelf}
	if o.CSR != nil {
		a := *o.CSR
		a.Template, a.Peer = "", o.Peer
		if d.Certificate, err = s.IssueCSR(ctx, p, a); err != nil {
			return Delivery{}, fmt.Errorf("issue own certificate: %w", err)
		}
	} else if d, err = s.issueOwn(ctx, p, o); err != nil {
		err = s.answered(ctx, err, event.Event{
			Actor: p.String(), User: p.User, DeviceID: string(o.DeviceID), Peer: o.Peer, Details: details("door", doorManual),
		})
		return Delivery{}, fmt.Errorf("issue own certificate: %w", err)
	}
	d.Chain = s.depot.Payload().Chain()
	return d, nil
}

// issueOwn makes the key, too.
func (s *Service) issueOwn(ctx context.Context, p identity.Principal, o OwnOrder) (d Delivery, err error) {
	if err := s.count(ctx, counterKey("self", strings.ToLower(p.User)), maxSelf, quotaWindow); err != nil {
		return Delivery{}, err
	}
	request := &x509.CertificateRequest{PublicKey: new(rsa.PublicKey)} // by which the usage is chosen
	decide := func(tx storage.Tx) (grant, error) {
		g, err := s.grantOwn(tx, p, o.DeviceID, request)
		g.record.Door, g.record.Requester = doorManual, p.String()
		return g, err
	}
	var bits int
	if err := s.db.View(ctx, func(tx storage.Tx) error { // what is refused need not cost a key
		g, err := decide(tx)
		bits = g.template.KeySize
		return err
	}); err != nil {
		return Delivery{}, err
	}
	if d.Key, err = rsa.GenerateKey(rand.Reader, bits); err != nil {
		return Delivery{}, fmt.Errorf("make key: %w", err)
	}
	request.PublicKey = d.Key.Public()
	if d.Certificate, err = s.issue(ctx, "", depot.Request{CSR: request}, decide); err != nil {
		return Delivery{}, err
	}
	return d, nil
}

// grantOwn is the right of a user to a certificate with all of the names that they may have.
func (s *Service) grantOwn(tx storage.Tx, p identity.Principal, id mdm.DeviceID, csr *x509.CertificateRequest) (grant, error) {
	u, err := identity.UserByLogin(tx, p.User)
	if errors.Is(err, storage.ErrNotFound) || err == nil && (u.Disabled || u.ID != p.ID) {
		return grant{}, fmt.Errorf("%w: its user is unknown, renamed or disabled", ErrForbidden)
	}
	if err != nil {
		return grant{}, err
	}
	a := depot.Application{CSR: csr}
	if id != "" {
		return s.grantOwnDevice(tx, u, id, "", a)
	}
	a.Asked.Names.UserPrincipalNames, a.Asked.Names.EmailAddresses = some(u.UPN()), some(u.Email)
	return s.grantOwnName(u, u.FullName, a)
}
