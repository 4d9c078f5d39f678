// Package ocsp answers whether certificates are revoked: the Online Certificate
// Status Protocol (RFC 6960) over HTTP, by POST and by GET, as the profile for many
// clients wants it (RFC 5019).
//
// It knows of certificates what the depot's records say, and decides nothing.
package ocsp

import (
	"context"
	"crypto"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	// answerLife is how long an answer may be believed. Clients may keep one for so
	// long, so it is how late a client can learn of a revocation that does not care.
	answerLife = time.Hour

	// handOut is for how long a ready answer is given out again: who gets it should
	// be able to keep it for a while.
	handOut = answerLife / 2

	// patience is how long the database may take.
	patience = 5 * time.Second
)

// Config says what a Handler needs: all of it.
type Config struct {
	Depot *depot.Depot
	Log   *slog.Logger
	Now   func() time.Time
}

// Handler answers OCSP requests over HTTP. It serves [depot.PathOCSP] and what is
// below it, and wants to be behind [OneSegment] there.
//
// Answers without a nonce are kept, and given out again while no certificate of their
// authority was revoked: that is looked up in the database when news of a revocation
// came, and at least every second. While the database can't be asked, nothing is
// answered but "try later".
type Handler struct {
	depot *depot.Depot
	log   *slog.Logger
	now   func() time.Time
	shelves
}

// New returns a Handler, or says what c lacks. The handler listens for revocations as
// long as the database is open.
func New(c Config) (*Handler, error) {
	if c.Depot == nil || c.Log == nil || c.Now == nil {
		return nil, errors.New("ocsp: Depot, Log and Now are required")
	}
	h := &Handler{depot: c.Depot, log: c.Log, now: c.Now}
	h.changed, _ = c.Depot.WatchRevocations()
	return h, nil
}

// answer is a response, and for how long it is good.
type answer struct {
	der      []byte
	at, next time.Time // thisUpdate and nextUpdate; zero of a refusal
	tag      string    // entity tag; empty if nobody will ask for it again
	number   int64     // of its authority's CRL at the time
}

// answer answers a request. It never fails: what went wrong becomes a response, too.
func (h *Handler) answer(ctx context.Context, der []byte) answer {
	req, err := parseRequest(der)
	if err != nil {
		return answer{der: refusal(malformedRequest)}
	}
	a, err := h.find(ctx, req)
	switch {
	case err == nil:
		return a
	case errors.Is(err, errUnauthorized):
		return answer{der: refusal(unauthorized)}
	case unavailable(err):
		return answer{der: refusal(tryLater)} // the database says in the log why
	}
	h.log.ErrorContext(ctx, "ocsp answer failed", "err", err)
	return answer{der: refusal(internalError)}
}

func unavailable(err error) bool {
	return errors.Is(err, storage.ErrUnavailable) || errors.Is(err, storage.ErrCommit) || errors.Is(err, storage.ErrClosed) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// errUnauthorized means that the certificates are of somebody else's authority.
var errUnauthorized = errors.New("no authority of ours")

// find takes the answer from its shelf, or makes it.
func (h *Handler) find(ctx context.Context, req request) (answer, error) {
	var s *shelf
	for _, id := range req.certIDs {
		if s = h.shelf(h.depot, id.issuer); s != nil {
			break // one answer is in the name of one authority: see make
		}
	}
	if s == nil {
		return answer{}, errUnauthorized
	}
	var key string
	if len(req.certIDs) == 1 && req.nonce == nil {
		key = req.certIDs[0].raw
	}
	began := h.now()
	ready, ok, news := h.take(s, key, began)
	if ok {
		return ready, nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var serials []depot.Serial
	for _, id := range req.certIDs {
		serials = append(serials, id.serial)
	}
	standing, err := h.depot.Standing(ctx, s.authority, serials...)
	if err != nil {
		return answer{}, err
	}
	h.learn(s, standing.Number, began, news)
	if ready, ok, _ := h.take(s, key, h.now()); ok {
		return ready, nil
	}
	a, err := h.make(ctx, s, req, standing)
	if err != nil {
		return answer{}, err
	}
	if key != "" && standing.Certificates[0].Serial != "" { // strangers can think up numbers without end
		a = h.put(s, key, a)
	}
	return a, nil
}

// make makes an answer. It is signed in the name of one authority, and no other may
// say anything of a certificate (RFC 6960, 4.2.2.2): those of another one that the
// same request asks about are unknown.
func (h *Handler) make(ctx context.Context, s *shelf, req request, st depot.Standing) (answer, error) {
	now := h.now()
	by, err := h.responder(ctx, s, now)
	if err != nil {
		return answer{}, err
	}
	r := response{at: now.UTC().Truncate(time.Second), nonce: req.nonce}
	r.next = r.at.Add(answerLife)
	if end := by.Certificate().NotAfter; r.next.After(end) {
		r.next = end
	}
	for i, id := range req.certIDs {
		c := st.Certificates[i]
		r.singles = append(r.singles, single{certID: id.raw, known: c.Serial != "" && s.named(id.issuer), Certificate: c})
	}
	der, err := r.sign(by)
	if err != nil {
		return answer{}, err
	}
	return answer{der: der, at: r.at, next: r.next, number: st.Number}, nil
}

// namesOf returns how requests name an authority, by each hash.
func namesOf(a *depot.Authority) (names []issuerID, err error) {
	// The key's bits alone, without what kind of key it is.
	var info, key cryptobyte.String
	var unused uint8
	spki := cryptobyte.String(a.Certificate().RawSubjectPublicKeyInfo)
	if !spki.ReadASN1(&info, cbasn1.SEQUENCE) || !info.SkipASN1(cbasn1.SEQUENCE) ||
		!info.ReadASN1(&key, cbasn1.BIT_STRING) || !key.ReadUint8(&unused) {
		return nil, errors.New("ocsp: an authority's key can't be read")
	}
	sum := func(h crypto.Hash, data []byte) string {
		d := h.New()
		d.Write(data)
		return string(d.Sum(nil))
	}
	for _, h := range hashes {
		names = append(names, issuerID{h, sum(h, a.Certificate().RawSubject), sum(h, key)})
	}
	return names, nil
}
