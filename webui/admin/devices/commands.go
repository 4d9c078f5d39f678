package devices

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// command is a command of a device as the API tells of it.
type command struct {
	UUID         string          `json:"command_uuid"`
	RequestType  string          `json:"request_type"`
	CreatedAt    time.Time       `json:"created_at"`
	State        string          `json:"state"`
	Priority     string          `json:"priority"`
	DeliveredAt  *time.Time      `json:"delivered_at"`
	FinishedAt   *time.Time      `json:"finished_at"`
	ExpiresAt    *time.Time      `json:"expires_at"`
	PushedAt     *time.Time      `json:"pushed_at"`
	NotNowCount  int             `json:"not_now_count"`
	WaitingFor   *waits          `json:"waiting_for"`
	SupersededBy string          `json:"superseded_by"`
	Error        string          `json:"error"`
	Summary      string          `json:"summary"`
	Result       json.RawMessage `json:"result"`
}

// URL is the command's page.
func (c command) URL() string { return "/admin/commands/" + url.PathEscape(c.UUID) }

// Words is the command's name in words.
func (c command) Words() string { return admin.Words(c.RequestType) }

// Open reports whether the device has yet to finish it.
func (c command) Open() bool {
	return c.State == "queued" || c.State == "delivered" || c.State == "not_now"
}

// CanCancel reports whether it can be withdrawn: the device does not have it.
func (c command) CanCancel() bool { return c.State == "queued" || c.State == "not_now" }

// CanRetry reports whether it came to nothing.
func (c command) CanRetry() bool {
	return c.State == "error" || c.State == "expired" || c.State == "cancelled" && c.SupersededBy == ""
}

// StateWords is how far it is, with what that means.
func (c command) StateWords() view.State {
	waiting := ""
	if c.WaitingFor != nil {
		waiting = c.WaitingFor.Reason
	}
	switch c.State {
	case "queued":
		return view.State{Text: "queued", Tone: view.Waiting, Hint: waiting}
	case "delivered":
		return view.State{Text: "delivered", Tone: view.Waiting, Hint: waiting}
	case "not_now":
		return view.State{Text: "not now", Tone: view.Waiting, Hint: waiting}
	case "acknowledged":
		return view.State{Text: "acknowledged", Tone: view.Good, Hint: said(c.Summary)}
	case "error":
		return view.State{Text: "failed", Tone: view.Bad, Hint: c.Error}
	case "cancelled":
		if c.SupersededBy != "" {
			return view.State{Text: "superseded", Tone: view.Neutral, Hint: "A newer one took its place before the device had it."}
		}
		return view.State{Text: "cancelled", Tone: view.Neutral, Hint: "Withdrawn before the device took it."}
	case "expired":
		return view.State{Text: "expired", Tone: view.Neutral, Hint: "The device did not come for it in time."}
	}
	return view.State{Text: c.State, Tone: view.Neutral}
}

// said is what there is to say beside that a command is done.
func said(summary string) string {
	if summary == "Done" {
		return ""
	}
	return summary
}

// once has of commands one after the other that wait or failed for the same reason only the
// first say it, and none that waits for the reason which the page tells anyway.
func once(list []command, told *waits) {
	const same = "For the same reason."
	last := ""
	for i := range list {
		c := &list[i]
		switch w := c.WaitingFor; {
		case w != nil && told != nil && w.Reason == told.Reason:
			c.WaitingFor = nil
		case w != nil && w.Reason == last:
			c.WaitingFor = &waits{Code: w.Code, Reason: same}
		case w != nil:
			last = w.Reason
		case c.Error != "" && c.Error == last:
			c.Error = same
		default:
			last = c.Error
		}
	}
}

// Tone is the colour of its point in the timeline.
func (c command) Tone() view.Tone { return c.StateWords().Tone }

// step is something that became of a command.
type step struct {
	Words string
	At    *time.Time
}

// Steps is what became of it so far, in order, with the time where that is another minute
// than the one before.
func (c command) Steps() []step {
	steps := []step{{"queued", &c.CreatedAt}}
	at := c.CreatedAt
	next := func(words string, when time.Time) {
		s := step{Words: words}
		if when.Sub(at) >= time.Minute {
			s.At, at = &when, when
		}
		steps = append(steps, s)
	}
	if c.PushedAt != nil {
		next("pushed", *c.PushedAt)
	}
	if c.DeliveredAt != nil {
		next("delivered", *c.DeliveredAt)
	}
	if c.NotNowCount > 0 {
		times := "once"
		if c.NotNowCount > 1 {
			times = fmt.Sprintf("%d times", c.NotNowCount)
		}
		steps = append(steps, step{"put off " + times + ": locked or busy", nil})
	}
	if c.FinishedAt != nil {
		next(c.StateWords().Text, *c.FinishedAt)
	}
	return steps
}

type commandsPage struct {
	head
	Items []command
	Pager admin.Pager
	Empty *admin.Empty
}

// CancelURL and RetryURL are where the forms of a command post to.
func (p *commandsPage) CancelURL(c command) string {
	return p.Device.URL() + "/commands/" + url.PathEscape(c.UUID) + "/cancel"
}

// RetryURL is where a command is sent again.
func (p *commandsPage) RetryURL(c command) string {
	return p.Device.URL() + "/commands/" + url.PathEscape(c.UUID) + "/retry"
}

func (s *Devices) commands(w http.ResponseWriter, r *http.Request) error {
	return s.writeCommands(w, r, http.StatusOK, "")
}

func (s *Devices) writeCommands(w http.ResponseWriter, r *http.Request, status int, problem string) error {
	h, err := s.headOf(r, "commands")
	if err != nil {
		return err
	}
	page := &commandsPage{head: h}
	page.Problem = problem
	next, err := s.part(r, "/commands", 25, &page.Items)
	if err != nil {
		return err
	}
	once(page.Items, nil)
	page.Pager = admin.NewPager(r, next)
	if len(page.Items) == 0 {
		page.Empty = &admin.Empty{Heading: "Nothing was asked of it yet", Text: "A command waits here until the device is woken by a push and comes for it, usually within seconds."}
		if s.desk.May(r.Context(), "POST /api/v1/commands") {
			page.Empty.Actions = []view.Link{{Label: "Queue a command", URL: newCommand(h.Device.ID, "")}}
		}
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "commands.html", page)
}

// part reads a page of a list that belongs to the device of r.
func (s *Devices) part(r *http.Request, path string, limit int, items any) (next string, err error) {
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	if cursor := r.URL.Query().Get("cursor"); cursor != "" && r.Method == http.MethodGet {
		query.Set("cursor", cursor)
	}
	var list struct {
		Items      json.RawMessage `json:"items"`
		NextCursor string          `json:"next_cursor"`
	}
	if err := s.desk.Get(r.Context(), deviceAPI(r.PathValue("id"))+path, query, &list); err != nil {
		return "", err
	}
	if err := json.Unmarshal(list.Items, items); err != nil {
		return "", fmt.Errorf("devices: %s: %w", path, err)
	}
	return list.NextCursor, nil
}

func (s *Devices) cancel(w http.ResponseWriter, r *http.Request) error {
	id, uuid := r.PathValue("id"), r.PathValue("uuid")
	err := s.desk.Send(r.Context(), http.MethodDelete, deviceAPI(id)+"/commands/"+url.PathEscape(uuid), nil, nil)
	return s.commandDone(w, r, err, "cancelled")
}

// commandDone goes back to the list of commands, or says there what was refused.
func (s *Devices) commandDone(w http.ResponseWriter, r *http.Request, err error, done string) error {
	if err == nil {
		return admin.Redirect(w, r, device{ID: r.PathValue("id")}.URL()+"/commands", done)
	}
	why, err := refusal(err)
	if err != nil {
		return err
	}
	return s.writeCommands(w, r, http.StatusConflict, why)
}

// retry sends a command again. One that can't be undone is asked about first, and the
// device's name has to be typed.
func (s *Devices) retry(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	id, uuid := r.PathValue("id"), r.PathValue("uuid")
	body := map[string]any{"device_ids": []string{id}}
	confirmed := form.Values.Has("typed")
	var d device
	if confirmed {
		if err := s.desk.Get(r.Context(), deviceAPI(id), nil, &d); err != nil {
			return err
		}
		if !form.Typed(d.Name()) {
			return s.confirmRetry(w, r, d, form)
		}
		body["confirm"] = true
	}
	err = s.desk.Send(r.Context(), http.MethodPost, "/api/v1/commands/"+url.PathEscape(uuid)+"/retry", body, nil)
	var p *admin.Problem
	if errors.As(err, &p) && p.Code == "confirmation_required" {
		if err := s.desk.Get(r.Context(), deviceAPI(id), nil, &d); err != nil {
			return err
		}
		return s.confirmRetry(w, r, d, nil)
	}
	return s.commandDone(w, r, err, "retried")
}

func (s *Devices) confirmRetry(w http.ResponseWriter, r *http.Request, d device, form *admin.Form) error {
	return s.desk.Confirm(w, r, &admin.Confirm{
		Page:    admin.Page{Section: section, Crumbs: []view.Link{{Label: "Devices", URL: section}, {Label: d.Name(), URL: d.URL()}}},
		Heading: "Send it again to " + d.Name(), Text: []string{"What this command does can’t be undone."}, Facts: s.who(d),
		Word: d.Name(), What: "the device’s name", Button: "Send it again", Danger: true, Action: r.URL.Path, Back: d.URL() + "/commands", Form: form,
	})
}
