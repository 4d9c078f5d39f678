// Package crl publishes what the authorities say of themselves: their lists of revoked
// certificates (CRLs, RFC 5280, 5), and their own certificates, at the URLs that each
// certificate names.
//
// It knows nothing of who is on a list and why.
package crl

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	// patience is how long the database may take to say whether there is a newer list.
	patience = 3 * time.Second

	// patienceForList is how long it may take to collect and sign one.
	patienceForList = time.Minute

	// Caches on the way should not keep a revocation from being seen, as nextUpdate
	// would let them. An authority's certificate is for years.
	mayKeepList        = "max-age=60, public, no-transform, must-revalidate"
	mayKeepCertificate = "max-age=3600, public, no-transform"
)

// Config says what a Handler needs: all of it.
type Config struct {
	Depot *depot.Depot
	Log   *slog.Logger
	Now   func() time.Time
}

// Handler answers below [depot.PathCRL] and [depot.PathIssuer], by an authority's ID:
// its CRL as ID.crl and, in PEM, ID.pem; its certificate as ID.cer and, with those
// above it in PEM, ID.pem.
//
// Each request for a list asks the database for the state of it, which is one small
// record, so that no revocation is ever missing; the list is signed when that has
// changed. While the database can't be asked, the last list is handed out until its
// end.
type Handler struct {
	depot *depot.Depot
	log   *slog.Logger
	now   func() time.Time

	mu       sync.Mutex
	lists    map[string]*list // the last one of each authority, by its ID
	building map[string]*build
}

// list is a CRL.
type list struct {
	state depot.ListState
	der   file
	pem   func() file // made when somebody asks for it
}

// file is what is sent, with its entity tag: hashing a long list takes a while.
type file struct {
	body []byte
	tag  string
}

func newFile(body []byte) file {
	sum := sha256.Sum256(body)
	return file{body, `"` + hex.EncodeToString(sum[:16]) + `"`}
}

// build is a list in the making. Who needs it waits for it.
type build struct {
	done chan struct{}
	list *list
	err  error
}

// New returns a Handler, or says what c lacks.
func New(c Config) (*Handler, error) {
	if c.Depot == nil || c.Log == nil || c.Now == nil {
		return nil, errors.New("crl: Depot, Log and Now are required")
	}
	return &Handler{depot: c.Depot, log: c.Log, now: c.Now, lists: map[string]*list{}, building: map[string]*build{}}, nil
}

// ServeHTTP answers GET and HEAD.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	if file, ok := strings.CutPrefix(r.URL.Path, depot.PathCRL); ok {
		h.list(w, r, file)
		return
	}
	h.certificate(w, r, strings.TrimPrefix(r.URL.Path, depot.PathIssuer))
}

func (h *Handler) list(w http.ResponseWriter, r *http.Request, file string) {
	id, form, _ := strings.Cut(file, ".")
	a := h.depot.Authority(id)
	if a == nil || form != "crl" && form != "pem" {
		http.NotFound(w, r)
		return
	}
	l, err := h.current(r.Context(), a)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Last-Modified", l.state.ThisUpdate.Format(http.TimeFormat))
	w.Header().Set("Cache-Control", mayKeepList)
	if form == "pem" {
		send(w, r, "application/x-pem-file", l.pem())
		return
	}
	send(w, r, "application/pkix-crl", l.der)
}

func (h *Handler) certificate(w http.ResponseWriter, r *http.Request, file string) {
	id, form, _ := strings.Cut(file, ".")
	a := h.depot.Authority(id)
	if a == nil || form != "cer" && form != "pem" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Cache-Control", mayKeepCertificate)
	if form == "cer" { // RFC 5280, 4.2.2.1
		send(w, r, "application/pkix-cert", newFile(a.Certificate().Raw))
		return
	}
	var chain []byte
	for _, cert := range a.Chain() {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	send(w, r, "application/pem-certificate-chain", newFile(chain))
}

// send sends a file. Two lists can be of one second, so that only the tag tells them
// apart: ServeContent gets no time, and does not look at If-Modified-Since.
func send(w http.ResponseWriter, r *http.Request, contentType string, f file) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Etag", f.tag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.body))
}

func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, storage.ErrUnavailable) || errors.Is(err, storage.ErrCommit) || errors.Is(err, storage.ErrClosed) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		w.Header().Set("Retry-After", "10")
		http.Error(w, "not available now; try again later", http.StatusServiceUnavailable)
		return
	}
	h.log.ErrorContext(r.Context(), "crl failed", "err", err)
	http.Error(w, "internal error", http.StatusInternalServerError)
}

// current returns the current list of a.
func (h *Handler) current(ctx context.Context, a *depot.Authority) (*list, error) {
	look, cancel := context.WithTimeout(ctx, patience)
	state, err := h.depot.ListState(look, a)
	cancel()
	l := h.last(a)
	// A list that was already in the making may be the one before.
	for err == nil && (l == nil || l.state.Number < state.Number) {
		l, err = h.build(ctx, a)
	}
	if err == nil {
		return l, nil
	}
	if l = h.last(a); l != nil && h.now().Before(l.state.NextUpdate) {
		return l, nil
	}
	return nil, err
}

func (h *Handler) last(a *depot.Authority) *list {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lists[a.ID()]
}

// build makes the list of a, or waits for the one that is in the making. However many
// ask, one is signed at a time; that goes on when who asked first has gone.
func (h *Handler) build(ctx context.Context, a *depot.Authority) (*list, error) {
	h.mu.Lock()
	if b := h.building[a.ID()]; b != nil {
		h.mu.Unlock()
		select {
		case <-b.done:
			return b.list, b.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	b := &build{done: make(chan struct{}), err: errors.New("crl: signing a list was broken off")}
	h.building[a.ID()] = b
	h.mu.Unlock()

	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.building, a.ID())
		if b.err == nil {
			h.lists[a.ID()] = b.list
		}
		close(b.done)
	}()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patienceForList)
	defer cancel()
	der, state, err := h.depot.RevocationList(ctx, a)
	if err != nil {
		b.err = err
		return nil, err
	}
	b.list, b.err = &list{state: state, der: newFile(der), pem: sync.OnceValue(func() file {
		return newFile(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
	})}, nil
	return b.list, nil
}
