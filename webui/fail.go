package webui

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// Pages sends pages to browsers and says to both browsers and programs what went
// wrong.
type Pages struct {
	views *view.Views
	log   *slog.Logger
}

// NewPages parses the pages.
func NewPages(log *slog.Logger) (*Pages, error) {
	if log == nil {
		return nil, errors.New("webui: a logger is required")
	}
	views, err := view.New()
	if err != nil {
		return nil, err
	}
	return &Pages{views: views, log: log}, nil
}

// Assets are the files that pages refer to.
func (p *Pages) Assets() *view.Assets { return p.views.Assets() }

// Write sends a page.
func (p *Pages) Write(w http.ResponseWriter, status int, page view.Page) error {
	return p.views.Write(w, status, page)
}

// Refusal is a problem that knows how to say itself to a person.
type Refusal struct {
	Problem Problem
	Page    view.Message // Title is taken from Heading, status and request ID from the problem
}

// Error says what went wrong in one line.
func (r *Refusal) Error() string { return r.Problem.Error() }

// Unwrap lets errors.As find the problem.
func (r *Refusal) Unwrap() error { return &r.Problem }

// Fail is the FailFunc of pages: a browser gets a page, a program a problem.
func (p *Pages) Fail(w http.ResponseWriter, r *http.Request, err error) {
	problem, answered := p.Report(w, r, err)
	if answered {
		return
	}
	var refusal *Refusal
	page := messageFor(problem)
	if errors.As(err, &refusal) {
		page = refusal.Page
	}
	page.Title = page.Heading
	if problem.Status >= http.StatusInternalServerError {
		page.RequestID = RequestID(r.Context())
	}
	if err := p.Write(w, problem.Status, page); err != nil {
		p.log.ErrorContext(r.Context(), "page not drawn", "request", RequestID(r.Context()), "err", err)
		http.Error(w, problem.Title, problem.Status)
	}
}

// Report logs what the client is not told of a failure, and answers a program with its
// problem. A browser is not answered yet: it is to get a page, with the problem's status.
func (p *Pages) Report(w http.ResponseWriter, r *http.Request, err error) (problem *Problem, answered bool) {
	problem = problemOf(err)
	logFailure(p.log, r, problem, err)
	askAgain(w, problem)
	if WantsHTML(r) {
		return problem, false
	}
	WriteProblem(w, r, problem.Status, problem.Code, problem.Title, problem.Detail)
	return problem, true
}

// messageFor says a problem that no page of its own explains.
func messageFor(problem *Problem) view.Message {
	m := view.Message{Heading: problem.Title, Text: problem.Detail, Action: view.Link{Label: "Go to the first page", URL: "/"}}
	switch problem.Code {
	case "not_found":
		m.Heading, m.Text, m.Code = "There is nothing here", "The address may be mistyped, or what it showed is gone.", "GH-E001"
	case "method_not_allowed":
		m.Heading, m.Text, m.Code = "This address is not for browsers", "A program uses it in another way.", "GH-E002"
	case "bad_query":
		m.Heading, m.Text, m.Code = "This address can’t be read", "The part after the question mark is malformed.", "GH-E003"
	case "body_too_large":
		m.Text, m.Code = "What was sent is larger than this page takes.", "GH-E004"
	case "cross_origin":
		m.Text, m.Code = "To protect you it was refused. Open the page here, and try again.", "GH-E005"
	case "timeout":
		m.Text, m.Code = "It may be busy. Try again in a minute.", "GH-E006"
	case codeNoDatabase:
		m.Heading, m.Text, m.Code = "Not available right now", "The server can’t reach its database. Try again in a minute.", "GH-E008"
	case "internal":
		m.Text, m.Code = "It is not your fault. Try again; if it stays, give the request below to who runs this server.", "GH-E007"
	}
	if m.Text == "" {
		m.Text = "The request was refused."
	}
	return m
}

// WantsHTML reports whether r comes from a browser that shows what it gets to a
// person.
func WantsHTML(r *http.Request) bool {
	for _, accept := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(accept, ",") {
			media, params, _ := strings.Cut(part, ";")
			media = strings.TrimSpace(media)
			if (strings.EqualFold(media, "text/html") || strings.EqualFold(media, "application/xhtml+xml")) &&
				strings.ReplaceAll(params, " ", "") != "q=0" {
				return true
			}
		}
	}
	return false
}
