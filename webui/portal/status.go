package portal

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// status answers how far an enrollment is, to whoever has its ID.
func (p *Portal) status(w http.ResponseWriter, r *http.Request) error {
	v, err := p.visit(r)
	if err != nil {
		return explain(err)
	}
	f, err := p.Enroll.Follow(r.Context(), v.ID)
	if err != nil {
		return explain(err)
	}
	if v.Attempt = f.Attempt; v.Account != nil {
		v.method = byAccountDriven
	}
	page, err := p.statusPage(v, f)
	if err != nil {
		return err
	}
	return p.Pages.Write(w, http.StatusOK, page)
}

// state is how far an enrollment is, for the page's script. It holds nothing that is not
// on the page.
type state struct {
	Stage     enroll.Stage `json:"stage"`
	StageAt   time.Time    `json:"stage_at"`
	SignedIn  bool         `json:"signed_in"` // on the device
	Round     int          `json:"round"`     // profiles that were given up
	Commands  int          `json:"commands"`
	Finished  int          `json:"finished"`
	ErrorCode string       `json:"error_code,omitempty"`
	Over      bool         `json:"over"` // nothing more will happen
}

// idle is how long a device that has enrolled is asked nothing before it is taken to be
// set up.
const idle = 5 * time.Minute

func (p *Portal) stateOf(f enroll.Followed) state {
	s := state{
		Stage: f.Stage, StageAt: movedAt(f.Attempt), SignedIn: f.Account != nil, Round: f.Round,
		Commands: f.Commands, Finished: f.Finished, ErrorCode: f.ErrorCode,
	}
	switch f.Stage {
	case enroll.AttemptFailed:
		s.Over = true
	case enroll.Enrolled:
		s.Over = f.Commands == f.Finished && (f.Commands > 0 || p.Now().Sub(f.StageAt[enroll.Enrolled]) >= idle)
	}
	return s
}

// follow returns an enrollment that has a page.
func (p *Portal) follow(r *http.Request) (state, error) {
	f, err := p.Enroll.Follow(r.Context(), r.PathValue("id"))
	if err != nil {
		return state{}, unknownVisit(err)
	}
	if f.Visit == nil {
		return state{}, refusal(errUnknownVisit)
	}
	return p.stateOf(f), nil
}

// state answers GET /enroll/a/{id}/state.
func (p *Portal) state(w http.ResponseWriter, r *http.Request) error {
	s, err := p.follow(r)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, s)
}

// How a stream of events behaves.
const (
	streamLife  = 10 * time.Minute       // then the browser comes again, maybe to another replica
	streamLook  = 2 * time.Second        // commands make no noise of their own
	streamAlive = 20 * time.Second       // a line for what is in between and closes what is silent
	streamRetry = 500 * time.Millisecond // when the browser comes again after a cut
	streamWrite = 15 * time.Second       // for a browser that does not read
)

// events answers GET /enroll/a/{id}/events: a stream of server-sent events, of which each
// holds the state as it is by then. The first comes at once, so that whoever was cut off
// misses nothing.
func (p *Portal) events(w http.ResponseWriter, r *http.Request) error {
	if p.streams.Add(1) > int64(p.Streams) {
		p.streams.Add(-1)
		// The page looks by itself, less often.
		return &webui.Problem{Status: http.StatusServiceUnavailable, Code: "too_many_streams", Title: "Too many pages are followed at once"}
	}
	defer p.streams.Add(-1)
	ctx, cancel := webui.UntilDrain(r.Context())
	defer cancel()
	changed, stop := p.Enroll.Watch(r.PathValue("id"))
	defer stop()
	now, err := p.follow(r)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store, no-transform")
	h.Set("X-Accel-Buffering", "no") // a proxy is to pass on what comes, when it comes
	s := stream{w: w, control: http.NewResponseController(w)}
	s.send(fmt.Sprintf("retry: %d\n", streamRetry/time.Millisecond))
	s.state(now)

	look, alive, end := time.NewTicker(streamLook), time.NewTicker(streamAlive), time.NewTimer(streamLife)
	defer look.Stop()
	defer alive.Stop()
	defer end.Stop()
	for s.err == nil && !now.Over {
		select {
		case <-ctx.Done():
			return nil
		case <-end.C:
			return nil
		case <-alive.C:
			s.send(": still here\n\n")
			continue
		case <-look.C:
			if now.Stage != enroll.Enrolled {
				continue // until then, every step is told of
			}
		case <-changed:
		}
		next, err := p.follow(r)
		if err != nil {
			return nil // it was swept, or the database is away: the browser comes again
		}
		if next != now {
			now = next
			s.state(now)
		}
	}
	return nil
}

// stream writes events until the first error.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	err     error
}

func (s *stream) send(text string) {
	if s.err != nil {
		return
	}
	_ = s.control.SetWriteDeadline(time.Now().Add(streamWrite)) // not supported in tests with a recorder
	if _, s.err = s.w.Write([]byte(text)); s.err == nil {
		s.err = s.control.Flush()
	}
}

func (s *stream) state(now state) {
	data, err := json.Marshal(now)
	if err != nil {
		s.err = err
		return
	}
	s.send("data: " + string(data) + "\n\n")
}
