// Package scep is the door through which devices ask for certificates: the Simple
// Certificate Enrolment Protocol (RFC 8894) as Apple's clients speak it.
//
// It checks what can be checked without knowing who asks: the message, both
// signatures and keys, and that one fits the other. Whether a certificate is
// issued, and what it says, is its Issuer's to decide; of a request's subject, it
// passes on nothing that it relies on. It keeps no state.
package scep

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	scepserver "github.com/micromdm/scep/v2/server"
	"github.com/smallstep/scep"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Issuer decides on requests that were encrypted to an authority. It answers a
// request that it has answered before, by the same transaction and the same CSR, with
// the same certificate: devices repeat a request whose answer was lost.
type Issuer interface {
	Issue(ctx context.Context, a *depot.Authority, r depot.Request) (*x509.Certificate, error)
}

// IssuerFunc is an Issuer that is a function.
type IssuerFunc func(ctx context.Context, a *depot.Authority, r depot.Request) (*x509.Certificate, error)

// Issue implements [Issuer].
func (f IssuerFunc) Issue(ctx context.Context, a *depot.Authority, r depot.Request) (*x509.Certificate, error) {
	return f(ctx, a, r)
}

// maxMessage bounds a request. Apple's have about 3 KB.
const maxMessage = 64 << 10

// errMalformed means that a request is not one of SCEP's, or not signed by the
// certificate that it brings, so that there is nobody to answer to.
var errMalformed = errors.New("malformed SCEP message")

// Config says what a Service needs: all of it but Retired and Peer.
type Config struct {
	// Authorities are those that clients may encrypt to: each signs the replies to
	// what was encrypted to it. GetCACert announces the first; the others are there
	// for clients that were told of them before it took their place.
	Authorities []*depot.Authority

	// Retired are authorities that take no messages any more, and whose certificates may
	// still sign a renewal.
	Retired []*depot.Authority

	Issuer Issuer
	Peer   func(*http.Request) string // the network address that a request came from, for [depot.Request]; may be nil
	Log    *slog.Logger
}

// Service answers SCEP requests at one address. It is an http.Handler for any path.
type Service struct {
	authorities []*depot.Authority
	retired     []*depot.Authority
	issuer      Issuer
	peer        func(*http.Request) string
	log         *slog.Logger
}

var _ scepserver.Service = (*Service)(nil)

// New returns a Service, or says what c lacks.
func New(c Config) (*Service, error) {
	if len(c.Authorities) == 0 || slices.Contains(c.Authorities, nil) || c.Issuer == nil || c.Log == nil {
		return nil, errors.New("scep: Authorities, Issuer and Log are required")
	}
	if c.Peer == nil {
		c.Peer = func(*http.Request) string { return "" }
	}
	return &Service{authorities: c.Authorities, retired: c.Retired, issuer: c.Issuer, peer: c.Peer, log: c.Log}, nil
}

// capabilities are all that are true (RFC 8894, 3.5.2). Apple looks for each by
// its own name: SCEPStandard implies none of the others to it. strongSwan 5.9 takes
// SHA-384, which is no keyword of the RFC's, for a part of AES.
func capabilities() []string {
	return []string{"Renewal", "SHA-1", "SHA-256", "SHA-384", "SHA-512", "AES", "DES3", "SCEPStandard", "POSTPKIOperation"}
}

// GetCACaps returns the capabilities, one a line. Only "\n" separates them: Apple
// takes a carriage return for a part of the word.
func (s *Service) GetCACaps(context.Context) ([]byte, error) {
	return []byte(strings.Join(capabilities(), "\n")), nil
}

// GetCACert returns the first authority's certificate in DER, alone. A list of several
// would make Apple's clients look for a registration authority among them.
func (s *Service) GetCACert(context.Context, string) ([]byte, int, error) {
	return s.authorities[0].Certificate().Raw, 1, nil
}

// GetNextCACert always fails: the capability is not announced.
func (s *Service) GetNextCACert(context.Context) ([]byte, error) {
	return nil, errors.New("scep: GetNextCACert is not supported")
}

// PKIOperation answers one pkiMessage in BER with a CertRep in DER. It returns an
// error only if the message is so malformed, or its signature so wrong, that there
// is no transaction to answer in, or if the database or the other authority that it
// takes to answer is not there; what is refused for any other reason gets a CertRep
// that says FAILURE and badRequest, whatever the reason was. That goes to the log.
func (s *Service) PKIOperation(ctx context.Context, message []byte) ([]byte, error) {
	return s.operate(ctx, message, "")
}

func (s *Service) operate(ctx context.Context, message []byte, peer string) ([]byte, error) {
	m, err := parseMessage(message)
	if err != nil {
		s.log.InfoContext(ctx, "scep message refused", "err", err)
		return nil, errMalformed
	}
	m.peer = peer
	s.address(m)
	cert, err := s.issue(ctx, m)
	if unavailable(err) {
		return nil, err
	}
	if err != nil {
		s.log.WarnContext(ctx, "scep request refused", "transaction", m.transactionID, "type", m.messageType, "err", err)
		return reply(m, certRep{status: scep.FAILURE, failInfo: scep.BadRequest})
	}
	sealed, err := seal(cert, m)
	if err != nil {
		return nil, err
	}
	s.log.InfoContext(ctx, "scep certificate delivered", "transaction", m.transactionID, "serial", depot.SerialOf(cert))
	return reply(m, certRep{status: scep.SUCCESS, content: sealed})
}

// unavailable reports whether the same request may be granted a little later, so that the
// device must not be told that it was refused.
func unavailable(err error) bool {
	return errors.Is(err, storage.ErrUnavailable) || errors.Is(err, storage.ErrCommit) || errors.Is(err, storage.ErrClosed) ||
		errors.Is(err, depot.ErrUpstreamUnavailable) || errors.Is(err, depot.ErrQuota) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// issue gets the certificate that m asks for. What it does up to the Issuer's
// decision must look the same from outside wherever it fails: see open.
func (s *Service) issue(ctx context.Context, m *message) (*x509.Certificate, error) {
	if err := s.admit(m); err != nil {
		return nil, err
	}
	r, err := s.request(m)
	if err != nil {
		return nil, err
	}
	cert, err := s.issuer.Issue(ctx, m.authority, r)
	if err != nil {
		return nil, err
	}
	if cert == nil {
		return nil, errors.New("the issuer returned no certificate")
	}
	return cert, nil
}
