package checkin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/micromdm/nanomdm/mdm"
	"github.com/micromdm/nanomdm/service"

	"github.com/gatehouse-mdm/gatehouse/enroll"
)

// DeclarativeServer answers what devices ask of declarative management. *Forwarder is one.
type DeclarativeServer interface {
	// Answer returns the status and the JSON that the device is to get, or an error if there
	// is nothing that it could make use of.
	Answer(ctx context.Context, q DeclarativeQuestion) (status int, json []byte, err error)
}

// DeclarativeQuestion is a DeclarativeManagement check-in (PROTOCOL 4.4) from a channel that is
// known.
type DeclarativeQuestion struct {
	EnrollmentID   string // UDID or EnrollmentID; of a user "DEVICE:USER", as NanoMDM has it
	ParentID       string // of a user the DEVICE; otherwise empty
	EnrollmentType string // in NanoMDM's words: "Device", "User", "User Enrollment (Device)", "User Enrollment", "Shared iPad"

	Endpoint string // a relative path, escaped as in a URL: "tokens", "declaration/configuration/com.example.a"
	Data     []byte // the status report; empty for everything else
}

const (
	maxAsking = 32              // questions that are with the declarative server at once
	askWait   = 5 * time.Second // how long another one waits for its turn

	maxEndpoint = 1024 // bytes
)

// errBusy means that the declarative server has enough to do.
var errBusy = errors.New("the declarative management server has too many questions to answer")

// DeclarativeManagement implements service.DeclarativeManagement.
func (s *Service) DeclarativeManagement(r *mdm.Request, m *mdm.DeclarativeManagement) ([]byte, error) {
	if s.declarative == nil {
		return nil, s.refuse(r, &m.Enrollment)
	}
	id, err := appleID(&m.Enrollment)
	if err != nil {
		return nil, err
	}
	q := DeclarativeQuestion{EnrollmentID: cmp.Or(id.UDID, id.EnrollmentID), Data: m.Data}
	if q.Endpoint, err = endpoint(m.Endpoint); err != nil {
		return nil, err
	}
	if resolved := m.Resolved(); resolved != nil {
		q.EnrollmentType = resolved.Type.String()
	}
	if id.UserID != "" {
		q.ParentID = q.EnrollmentID
		q.EnrollmentID += ":" + id.UserID
	}
	var status int
	var json []byte
	err = s.enroll.Declarative(r.Context(), s.peer(r), id, func(ctx context.Context) error {
		done, err := s.ask(r)
		if err != nil {
			return err
		}
		defer done()
		status, json, err = s.declarative.Answer(ctx, q)
		return err
	})
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, service.NewHTTPStatusError(status, errors.New("the declarative management server says so"))
	}
	return json, nil
}

// ask waits for the turn of r to be put to the declarative server, however slow that is: other
// messages are not to feel it. A large message does not wait, as it keeps a place that answers
// to commands need.
func (s *Service) ask(r *mdm.Request) (done func(), err error) {
	done = func() { <-s.asking }
	sent := sentIn(r)
	select {
	case s.asking <- struct{}{}:
		sent.release()
		return done, nil
	default:
	}
	if len(sent.Body) > smallBody {
		return nil, errBusy
	}
	wait := time.NewTimer(askWait)
	defer wait.Stop()
	select {
	case s.asking <- struct{}{}:
		return done, nil
	case <-wait.C:
		return nil, errBusy
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// endpoint returns what a device asks for as a relative path of a URL that leads nowhere else.
// NanoMDM takes it for one that is escaped already; devices were not seen to need that.
func endpoint(text string) (string, error) {
	if text == "" || len(text) > maxEndpoint {
		return "", fmt.Errorf("%w: Endpoint must be 1 to %d bytes", enroll.ErrBadMessage, maxEndpoint)
	}
	segments := strings.Split(text, "/")
	for i, s := range segments {
		if plain, err := url.PathUnescape(s); err == nil {
			s = plain
		}
		odd := func(r rune) bool { return r < 0x20 || r == 0x7f || r == '/' || r == '\\' }
		if s == "" || s == "." || s == ".." || strings.ContainsFunc(s, odd) {
			return "", fmt.Errorf("%w: Endpoint is no plain path", enroll.ErrBadMessage)
		}
		segments[i] = url.PathEscape(s)
	}
	// The first segment of a relative path is no scheme.
	segments[0] = strings.ReplaceAll(segments[0], ":", "%3A")
	return strings.Join(segments, "/"), nil
}
