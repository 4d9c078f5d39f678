package issuance

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// doorManual is the Door of certificates that were made by hand.
const doorManual = "manual"

// maxByHand is how many certificates one caller may have made in a minute: making a key
// takes us up to seconds.
const maxByHand = 30

// Order is a certificate that somebody asks for by hand.
type Order struct {
	Template string

	// Whom it is for: a device or a user, of whom the template's variables tell. With
	// neither, Subject and SANs say what the template leaves open, and without them the
	// CSR does.
	DeviceID mdm.DeviceID
	User     string // username or e-mail address
	Subject  template.Subject
	SANs     template.SANs

	CSR  *depot.Application // its key is certified; nil: a key is made
	Peer string             // network address that the order came from; may be empty
}

// Delivery is what somebody gets who asked for a certificate by hand.
type Delivery struct {
	Certificate *x509.Certificate
	Chain       []*x509.Certificate // who issued it, up to the root
	Key         *rsa.PrivateKey     // nil if there was a CSR; it is kept nowhere else
}

// IssueByHand makes a certificate for p, who may ask for anybody's. Errors are a
// *template.FieldError or a *depot.FieldError, or wrap ErrForbidden, ErrExternal,
// ErrKeyReused, depot.ErrQuota or storage.ErrNotFound, if there is no such template.
// Every refusal is in the audit log.
func (s *Service) IssueByHand(ctx context.Context, p identity.Principal, o Order) (Delivery, error) {
	d, err := s.issueByHand(ctx, p, o)
	if err != nil && refused(err) {
		s.audit.Refused(ctx, event.Event{
			Actor: p.String(), Action: "certificate.refused", Outcome: event.Refused, Reason: err.Error(),
			DeviceID: string(o.DeviceID), User: o.User, Template: o.Template, Peer: o.Peer, Details: details("door", doorManual),
		})
	}
	if err != nil {
		return Delivery{}, fmt.Errorf("issue by hand: %w", err)
	}
	return d, nil
}

// PreviewByHand returns what IssueByHand would have signed, and issues nothing. Its errors
// are those of IssueByHand, which is not bound by it: what a key must be like is known of a
// certificate only when it is signed.
func (s *Service) PreviewByHand(ctx context.Context, p identity.Principal, o Order) (c depot.Contents, err error) {
	asked, err := askedByHand(p, o)
	if err == nil {
		err = s.db.View(ctx, func(tx storage.Tx) error {
			g, err := s.grantByHand(tx, o, asked)
			c = g.contents
			return err
		})
	}
	if err != nil {
		return depot.Contents{}, fmt.Errorf("preview by hand: %w", err)
	}
	return c, nil
}

// askedByHand returns the names that o asks for, if p may ask for anybody's certificate.
func askedByHand(p identity.Principal, o Order) (asked guard.Asked, err error) {
	if !p.Allows(identity.ScopeAdmin) && !p.Allows(identity.ScopeCertAny) {
		return asked, fmt.Errorf("%w: that takes the scope admin or cert:any", ErrForbidden)
	}
	if asked, err = template.Asked(o.Subject, o.SANs); err != nil {
		return asked, err
	}
	named := len(asked.Subject) > 0 || asked.Names.Count() > 0
	switch {
	case o.DeviceID != "" && o.User != "":
		return asked, &template.FieldError{Field: "user", Reason: "must not be there with device_id: a device has its user"}
	case named && (o.DeviceID != "" || o.User != ""):
		return asked, &template.FieldError{Field: "subject", Reason: "and sans must not be there with device_id or user: the template names those itself"}
	case !named && o.CSR != nil:
		asked = o.CSR.Asked
	}
	return asked, nil
}

func (s *Service) issueByHand(ctx context.Context, p identity.Principal, o Order) (d Delivery, err error) {
	asked, err := askedByHand(p, o)
	if err != nil {
		return Delivery{}, err
	}
	if err := s.count(ctx, counterKey("hand", string(p.Kind), p.ID), maxByHand, quotaWindow); err != nil {
		return Delivery{}, err
	}
	decide := func(tx storage.Tx) (grant, error) {
		g, err := s.grantByHand(tx, o, asked)
		g.record.Door, g.record.Requester = doorManual, p.String()
		return g, err
	}
	var r depot.Request
	if o.CSR != nil {
		r.CSR = o.CSR.CSR
	} else {
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
		r.CSR = &x509.CertificateRequest{PublicKey: d.Key.Public()}
	}
	if d.Certificate, err = s.issue(ctx, "", r, decide); err != nil {
		return Delivery{}, err
	}
	d.Chain = s.depot.Payload().Chain()
	return d, nil
}

// grantByHand is the right of whoever may ask for anybody's certificate to what o says.
func (s *Service) grantByHand(tx storage.Tx, o Order, asked guard.Asked) (g grant, err error) {
	t, err := s.templates.Get(tx, o.Template)
	if err != nil {
		return grant{}, err
	}
	if t.Issuer != template.Builtin {
		return grant{}, ErrExternal
	}
	switch {
	case o.DeviceID != "":
		d, err := mdm.GetDevice(tx, o.DeviceID)
		if errors.Is(err, storage.ErrNotFound) || err == nil && !d.Live() {
			return grant{}, &template.FieldError{Field: "device_id", Reason: "names no device that is enrolled"}
		}
		if err != nil {
			return grant{}, err
		}
		if off, err := s.suspended(tx, d); err != nil || off {
			return grant{}, cmp.Or[error](err, &template.FieldError{Field: "device_id", Reason: "names a device whose user is disabled"})
		}
		if g, err = s.forDevice(tx, t, d); err != nil {
			return grant{}, err
		}
	case o.User != "":
		if g, err = s.forUser(tx, t, o.User); err != nil {
			return grant{}, err
		}
	default:
		e, err := t.Match(asked)
		if err != nil {
			return grant{}, err
		}
		if g, err = s.belonging(tx, grant{template: t, contents: contents(t, e, s.now())}); err != nil {
			return grant{}, err
		}
	}
	if o.CSR != nil {
		g.contents.KeyUsage = usageFor(o.CSR.CSR, g.contents.KeyUsage)
	}
	return g, nil
}

// forUser is what t comes to for a user, without any device.
func (s *Service) forUser(tx storage.Tx, t template.Template, login string) (grant, error) {
	u, err := identity.UserByLogin(tx, login)
	if errors.Is(err, storage.ErrNotFound) || err == nil && u.Disabled {
		return grant{}, &template.FieldError{Field: "user", Reason: "names nobody, or somebody who is disabled"}
	}
	if err != nil {
		return grant{}, err
	}
	e, err := t.Expand(ofUser(template.Facts{}, u))
	if err != nil {
		return grant{}, err
	}
	return grant{template: t, contents: contents(t, e, s.now()), record: depot.Certificate{User: u.Login()}}, nil
}

// ofUser returns f with what is known of a user.
func ofUser(f template.Facts, u identity.User) template.Facts {
	f.Username, f.Email, f.UPN, f.FullName = u.Username, u.Email, u.UPN(), u.FullName
	f.ManagedAppleAccount = u.ManagedAppleAccount
	return f
}
