package apiv1

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// How streams of events behave.
const (
	streamAlive = 15 * time.Second // a line that shows that the stream is alive, and a look at the token
	streamRetry = 2 * time.Second  // when the client comes again after a cut
	streamWrite = 15 * time.Second // for a client that does not read
	streamBatch = 200              // events read at once

	maxStreams     = 200 // that a process serves at once
	maxStreamsEach = 10  // of one token
)

// streams counts the streams that are open. Its zero value is ready.
type streams struct {
	mu  sync.Mutex
	all int
	of  map[string]int // by token
}

// open reports whether one more may be open; if so, it has to be closed.
func (s *streams) open(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= maxStreams || s.of[token] >= maxStreamsEach {
		return false
	}
	if s.of == nil {
		s.of = make(map[string]int)
	}
	s.all++
	s.of[token]++
	return true
}

func (s *streams) close(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.of[token]--; s.of[token] == 0 {
		delete(s.of, token)
	}
}

// followed says which events a stream is to tell.
type followed struct {
	after   uint64   // the place of the last event that the client has
	types   []string // what actions begin with; none: all
	device  string
	seen    []string      // what the token may see, as types
	groups  []mdm.GroupID // that it may see the devices of; nil: it is not limited
	replays bool          // the client says where it was
	unnamed bool          // events have no names
}

func followedOf(r *http.Request) (f followed, err error) {
	query := r.URL.Query()
	if err := onlyParameters(query, "after", "type", "device_id", "unnamed"); err != nil {
		return followed{}, err
	}
	if f.device, err = textOf(query, "device_id"); err != nil {
		return followed{}, err
	}
	if f.unnamed, err = flag(query, "unnamed"); err != nil {
		return followed{}, err
	}
	for _, list := range query["type"] {
		for typ := range strings.SplitSeq(list, ",") {
			if typ = strings.TrimSpace(typ); typ == "" {
				return followed{}, invalid("type", "must be what actions begin with, such as device.,command.finished")
			}
			f.types = append(f.types, typ)
		}
	}
	after, err := textOf(query, "after")
	if err != nil {
		return followed{}, err
	}
	if last := r.Header.Get("Last-Event-ID"); last != "" { // a client that comes again comes with the first URL
		after = last
	}
	if after != "" {
		f.replays = true
		if f.after, err = strconv.ParseUint(after, 10, 64); err != nil || f.after > math.MaxInt64 {
			return followed{}, invalid("after", "must be the number of an event, as the id of one in the stream; 0 is before the first")
		}
	}
	return f, nil
}

// wants says whether the stream tells e.
func (f followed) wants(e event.Event) bool {
	begins := func(types []string) bool {
		return len(types) == 0 || slices.ContainsFunc(types, func(typ string) bool { return strings.HasPrefix(e.Action, typ) })
	}
	return begins(f.types) && begins(f.seen) && (f.device == "" || e.DeviceID == f.device)
}

// maySee limits what is told to what p may read in the audit log.
func (f *followed) maySee(p identity.Principal) {
	f.seen, f.groups = nil, limitOf(p)
	if !p.Allows(identity.ScopeReadOnly) {
		f.seen = []string{certificateEvents}
	}
}

// followEvents answers with a stream of server-sent events, which are read from the
// database by their places: a client that reads slowly holds up nobody, and one that comes
// again misses nothing.
func (a *API) followEvents(w http.ResponseWriter, r *http.Request) error {
	f, err := followedOf(r)
	if err != nil {
		return err
	}
	p := principal(r)
	f.maySee(p)
	who := string(p.Kind) + ":" + p.ID
	if !a.streams.open(who) {
		w.Header().Set("Retry-After", "30")
		return &problem{Problem: webui.Problem{
			Status: http.StatusTooManyRequests, Code: "too_many_streams", Title: "Too many streams of events are open",
			Detail: fmt.Sprintf("A token may have %d open, all together %d.", maxStreamsEach, maxStreams),
		}}
	}
	defer a.streams.close(who)
	ctx, cancel := webui.UntilDrain(r.Context())
	defer cancel()
	grew, stop := a.db.Watch(event.FeedTopic)
	defer stop()
	var last uint64
	err = a.db.View(ctx, func(tx storage.Tx) (err error) {
		last, err = event.LastSeq(tx)
		return err
	})
	if err != nil {
		return err
	}

	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store, no-transform")
	h.Set("X-Accel-Buffering", "no") // a proxy is to pass on what comes, when it comes
	s := &eventStream{patient: patient{w: w, control: http.NewResponseController(w)}}
	s.text(fmt.Sprintf("retry: %d\n\n", streamRetry.Milliseconds()))
	switch {
	case !f.replays:
		f.after = last
		s.text(fmt.Sprintf("id: %d\n\n", last))
	case f.after > last: // the database is a copy of earlier times
		s.text(gapText(last+1, f.after))
		f.after = last
	}

	alive, looked := time.NewTimer(a.streamAlive), time.Now()
	defer alive.Stop()
	for s.err == nil {
		var more bool
		if f.after, more, err = a.tell(ctx, s, f); err != nil {
			if ctx.Err() == nil {
				a.log.WarnContext(ctx, "stream of events ends", "err", err)
			}
			return nil // the client comes again
		}
		if !more {
			select {
			case <-ctx.Done():
				return nil
			case <-grew:
			case <-alive.C:
			}
		}
		if time.Since(looked) < a.streamAlive {
			continue
		}
		// Between any two batches: a client that reads slowly may take hours to catch up.
		now, err := a.stillIs(r)
		if err != nil || !allowed(now, auditing) {
			return nil // the token was revoked or has expired, or the database is away: the client comes again
		}
		f.maySee(now)
		s.text(fmt.Sprintf(": alive\nid: %d\n\n", f.after)) // which remembers the place without an event
		looked = time.Now()
		alive.Reset(a.streamAlive)
	}
	return nil
}

// stillIs authenticates r anew. Of a user who came by a session it reads what they may by now.
func (a *API) stillIs(r *http.Request) (identity.Principal, error) {
	p, err := a.authenticate(r)
	if err != nil || p.Kind != identity.KindUser || p.ID == "" {
		return p, err
	}
	u, err := a.identity.User(r.Context(), p.ID)
	switch {
	case errors.Is(err, storage.ErrNotFound) || err == nil && u.Disabled:
		return identity.Principal{}, identity.ErrUnauthenticated
	case err != nil:
		return identity.Principal{}, err
	}
	return u.Principal(), nil
}

// tell writes the next events behind f.after, and returns the place that it has come to and
// whether there may be more by now.
func (a *API) tell(ctx context.Context, s *eventStream, f followed) (after uint64, more bool, err error) {
	var list []event.Sequenced
	var last uint64
	var wanted []bool // of list
	err = a.mdm.ViewScope(ctx, f.groups, func(tx storage.Tx, scope *mdm.Scope) (err error) {
		if last, err = event.LastSeq(tx); err == nil {
			list, err = event.Feed(tx, f.after, streamBatch)
		}
		wanted = make([]bool, len(list))
		for i, e := range list {
			if err == nil && f.wants(e.Event) {
				wanted[i], err = inScope(scope, e.Event.DeviceID)
			}
		}
		return err
	})
	if err != nil {
		return f.after, false, err
	}
	var out bytes.Buffer
	for i, e := range list {
		if e.Seq > f.after+1 { // places have no gaps: what is not there is forgotten
			out.WriteString(gapText(f.after+1, e.Seq-1))
		}
		f.after = e.Seq
		if !wanted[i] {
			continue
		}
		data, err := json.Marshal(auditEvent(e))
		if err != nil {
			return f.after, false, err
		}
		fmt.Fprintf(&out, "id: %d\n", e.Seq)
		if !f.unnamed {
			fmt.Fprintf(&out, "event: %s\n", e.Action)
		}
		fmt.Fprintf(&out, "data: %s\n\n", data)
	}
	more = len(list) == streamBatch
	if !more && last > f.after {
		out.WriteString(gapText(f.after+1, last))
		f.after = last
	}
	if out.Len() > 0 {
		s.text(out.String())
	}
	return f.after, more, nil
}

// eventStream writes events until the first error.
type eventStream struct{ patient }

func (s *eventStream) text(text string) {
	if s.err != nil {
		return
	}
	if _, err := s.Write([]byte(text)); err == nil {
		s.err = s.control.Flush()
	}
}

// gapText tells that events from first to last are forgotten, or that there are none yet.
func gapText(first, last uint64) string {
	return fmt.Sprintf("event: gap\ndata: {\"first\":%d,\"last\":%d}\n\n", first, last)
}
