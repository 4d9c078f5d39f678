package authproxy

import (
	"io"
	"net/http"
	"time"
)

// steady lets an exchange take as long as it goes on: the server's deadlines are for whole
// requests, and what comes through here may be large.
type steady struct {
	http.ResponseWriter
	control *http.ResponseController
	own     http.Header // of the answer, before the other server had a say
	stream  bool        // of HTTP/2, where a deadline that passes in a pause ends it; the server has others for it
}

func newSteady(w http.ResponseWriter, r *http.Request) *steady {
	s := &steady{ResponseWriter: w, control: http.NewResponseController(w), own: w.Header().Clone(), stream: r.ProtoMajor >= 2}
	// One that passes while nothing is read counts as a client that has left. Neither is
	// supported in tests with a recorder.
	_ = s.control.SetReadDeadline(time.Time{})
	_ = s.control.SetWriteDeadline(time.Time{})
	return s
}

// WriteHeader keeps hints of the other server to itself: they come unexamined, and
// httputil.ReverseProxy empties the headers after them, of which ours then come back.
func (s *steady) WriteHeader(status int) {
	if status < http.StatusOK {
		return
	}
	h := s.Header()
	for name, values := range s.own {
		if _, ok := h[name]; !ok {
			h[name] = values
		}
	}
	s.ResponseWriter.WriteHeader(status)
}

func (s *steady) Write(p []byte) (int, error) {
	if !s.stream {
		_ = s.control.SetWriteDeadline(time.Now().Add(stepTime))
	}
	return s.ResponseWriter.Write(p)
}

// Unwrap lets [http.ResponseController] reach the connection.
func (s *steady) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// reading is body, each of whose steps gets its time.
func (s *steady) reading(body io.ReadCloser) io.ReadCloser {
	if body == nil || body == http.NoBody || s.stream {
		return body
	}
	return &steadyBody{ReadCloser: body, control: s.control}
}

type steadyBody struct {
	io.ReadCloser
	control *http.ResponseController
}

func (b *steadyBody) Read(p []byte) (int, error) {
	_ = b.control.SetReadDeadline(time.Now().Add(stepTime))
	n, err := b.ReadCloser.Read(p)
	_ = b.control.SetReadDeadline(time.Time{})
	return n, err
}
