package apiv1

import (
	"errors"
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/webhook"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// webhookRequest is what may be said of a webhook, made or changed: what is nil, or not there,
// stays.
type webhookRequest struct {
	Name         *string            `json:"name"`
	URL          *string            `json:"url"`
	Format       *webhook.Format    `json:"format"`
	Secret       *string            `json:"secret"`
	Events       *[]string          `json:"events"`
	DeviceIDs    *[]string          `json:"device_ids"`
	RawPayloads  *bool              `json:"raw_payloads"`
	AllowPrivate *bool              `json:"allow_private"`
	Enabled      *bool              `json:"enabled"`
	Headers      *map[string]string `json:"headers"`
}

func (in webhookRequest) change() webhook.Change {
	return webhook.Change{
		Name: in.Name, URL: in.URL, Format: in.Format, Secret: (*seal.Secret)(in.Secret), Events: in.Events, DeviceIDs: in.DeviceIDs,
		RawPayloads: in.RawPayloads, AllowPrivate: in.AllowPrivate, Enabled: in.Enabled, Headers: in.Headers,
	}
}

type webhookJSON struct {
	ID             string         `json:"id"`
	Name           string         `json:"name"`
	URL            string         `json:"url"`
	Format         webhook.Format `json:"format"`
	SecretSet      bool           `json:"secret_set"`
	OldSecretUntil *time.Time     `json:"old_secret_until"` // null: there is one signature only, or none
	Events         []string       `json:"events"`
	DeviceIDs      []string       `json:"device_ids"`
	RawPayloads    bool           `json:"raw_payloads"`
	AllowPrivate   bool           `json:"allow_private"`
	HeaderNames    []string       `json:"header_names"`
	Enabled        bool           `json:"enabled"`
	DisabledReason *string        `json:"disabled_reason"` // null: nobody but an administrator switched it off
	CreatedAt      time.Time      `json:"created_at"`
	UpdatedAt      time.Time      `json:"updated_at"`
	State          string         `json:"state"`
	Queue          queueJSON      `json:"queue"`
	Health         webhookHealth  `json:"health"`
}

// queueJSON is what waits for a webhook.
type queueJSON struct {
	Pending   int        `json:"pending"`
	OldestAt  *time.Time `json:"oldest_at"`
	Dead      int        `json:"dead"`
	Dropped   int        `json:"dropped"`
	DroppedAt *time.Time `json:"dropped_at"`
}

type webhookHealth struct {
	Failures        int        `json:"failures"` // in a row
	FailingSince    *time.Time `json:"failing_since"`
	PausedUntil     *time.Time `json:"paused_until"`
	LastError       string     `json:"last_error"`
	LastErrorAt     *time.Time `json:"last_error_at"`
	LastDeliveredAt *time.Time `json:"last_delivered_at"`
}

// How far deliveries of a webhook are counted, in a list and for one.
const (
	countInList = 1000
	countForOne = 200_000
)

func (a *API) webhookJSON(r *http.Request, t webhook.Target, count int) (webhookJSON, error) {
	s, err := a.webhooks.Standing(r.Context(), t.ID, count)
	if err != nil {
		return webhookJSON{}, err
	}
	out := webhookJSON{
		ID: t.ID, Name: t.Name, URL: t.URL, Format: t.Format, SecretSet: t.SecretSet(), Events: orEmpty(t.Events), DeviceIDs: []string{},
		RawPayloads: t.RawPayloads, AllowPrivate: t.AllowPrivate, HeaderNames: orEmpty(t.Names), Enabled: t.Enabled,
		CreatedAt: t.CreatedAt.UTC(), UpdatedAt: t.UpdatedAt.UTC(), State: "ok",
		Queue: queueJSON{s.Waiting, timestamp(s.Oldest), s.GivenUp, s.Dropped, timestamp(s.DroppedAt)},
		Health: webhookHealth{
			s.Failures, timestamp(s.FailingSince), timestamp(s.PausedUntil), s.LastError, timestamp(s.LastErrorAt), timestamp(s.LastTakenAt),
		},
	}
	if len(t.Replaced) > 0 && a.now().Before(t.Until) {
		out.OldSecretUntil = timestamp(t.Until)
	}
	for _, id := range t.DeviceIDs {
		out.DeviceIDs = append(out.DeviceIDs, string(id))
	}
	if t.DisabledWhy != "" {
		out.DisabledReason = &t.DisabledWhy
	}
	switch {
	case !t.Enabled:
		out.State = "disabled"
	case s.Failures > 0:
		out.State = "failing"
	}
	return out, nil
}

// webhookProblem is err with a problem of its own, where it stands for one.
func webhookProblem(err error) error {
	var field *webhook.FieldError
	conflict := func(code, title, detail string) error {
		return &problem{Problem: webui.Problem{Status: http.StatusConflict, Code: code, Title: title, Detail: detail}}
	}
	switch {
	case errors.As(err, &field):
		return invalid(field.Field, field.Reason)
	case errors.Is(err, webhook.ErrTooMany):
		return conflict("too_many_webhooks", "There are too many webhooks", "Delete one that nobody needs any more.")
	case errors.Is(err, webhook.ErrGone):
		return conflict("delivery_gone", "What was delivered is not kept any more", "Of what a target took, only events can be sent again: messages of devices are forgotten then.")
	case errors.Is(err, webhook.ErrWaiting):
		return conflict("delivery_pending", "The delivery waits to be sent", "It is sent as soon as the target takes it.")
	}
	return err
}

func (a *API) writeWebhook(w http.ResponseWriter, r *http.Request, status int, t webhook.Target) error {
	out, err := a.webhookJSON(r, t, countForOne)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, status, out)
}

func (a *API) createWebhook(w http.ResponseWriter, r *http.Request) error {
	var in webhookRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	t, err := a.webhooks.Create(r.Context(), principal(r).String(), in.change())
	if err != nil {
		return webhookProblem(err)
	}
	w.Header().Set("Location", "/api/v1/webhooks/"+t.ID)
	return a.writeWebhook(w, r, http.StatusCreated, t)
}

// listWebhooks answers with all of them: there are few.
func (a *API) listWebhooks(w http.ResponseWriter, r *http.Request) error {
	all, err := a.webhooks.Targets(r.Context())
	if err != nil {
		return err
	}
	out := page[webhookJSON]{Items: make([]webhookJSON, len(all))}
	for i, t := range all {
		if out.Items[i], err = a.webhookJSON(r, t, countInList); err != nil {
			return err
		}
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}

func (a *API) getWebhook(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	t, err := a.webhooks.Target(r.Context(), id)
	if err != nil {
		return err
	}
	return a.writeWebhook(w, r, http.StatusOK, t)
}

func (a *API) updateWebhook(w http.ResponseWriter, r *http.Request) error {
	var in webhookRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	return a.changeWebhook(w, r, in.change())
}

// enableWebhook switches a webhook on, and has it tried at once.
func (a *API) enableWebhook(w http.ResponseWriter, r *http.Request) error {
	on := true
	return a.changeWebhook(w, r, webhook.Change{Enabled: &on})
}

func (a *API) changeWebhook(w http.ResponseWriter, r *http.Request, c webhook.Change) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	t, err := a.webhooks.Update(r.Context(), principal(r).String(), id, c)
	if err != nil {
		return webhookProblem(err)
	}
	return a.writeWebhook(w, r, http.StatusOK, t)
}

func (a *API) deleteWebhook(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	if err := a.webhooks.Delete(r.Context(), principal(r).String(), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// webhookTryJSON is one request to a target, and what came of it.
type webhookTryJSON struct {
	At         time.Time     `json:"at"`
	DurationMS int64         `json:"duration_ms"`
	Status     *int          `json:"status"` // null: there was no answer
	Step       *webhook.Step `json:"step"`   // where it failed; null: it did not
	Error      string        `json:"error"`
}

func webhookTry(at webhook.Attempt) webhookTryJSON {
	out := webhookTryJSON{At: at.At.UTC(), DurationMS: at.Duration.Milliseconds(), Error: at.Error}
	if at.Status != 0 {
		out.Status = &at.Status
	}
	if at.Step != "" {
		out.Step = &at.Step
	}
	return out
}

type testedJSON struct {
	OK bool `json:"ok"`
	webhookTryJSON
	Answer string `json:"answer"`
}

func (a *API) testWebhook(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	got, err := a.webhooks.Test(r.Context(), id)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, testedJSON{got.OK, webhookTry(got.Attempt), got.Answer})
}

type webhookDeliveryJSON struct {
	ID            string           `json:"id"`
	Topic         string           `json:"topic"`
	EventID       string           `json:"event_id"`
	DeviceID      *string          `json:"device_id"`
	State         webhook.State    `json:"state"`
	CreatedAt     time.Time        `json:"created_at"`
	NextAttemptAt *time.Time       `json:"next_attempt_at"`
	FinishedAt    *time.Time       `json:"finished_at"`
	AttemptsMade  int              `json:"attempts_made"`
	Attempts      []webhookTryJSON `json:"attempts"` // the last ones
	Answer        string           `json:"answer"`   // the beginning of the last refusal
}

func (a *API) webhookDelivery(d webhook.Delivery) webhookDeliveryJSON {
	out := webhookDeliveryJSON{
		ID: d.ID, Topic: d.Topic, EventID: d.EventID, State: d.State, CreatedAt: d.CreatedAt.UTC(), FinishedAt: timestamp(d.FinishedAt),
		AttemptsMade: d.Made, Attempts: []webhookTryJSON{}, Answer: a.webhooks.AnswerOf(d),
	}
	if d.DeviceID != "" {
		out.DeviceID = &d.DeviceID
	}
	if d.State == webhook.Pending {
		out.NextAttemptAt = timestamp(d.Due)
	}
	for _, at := range d.Attempts {
		out.Attempts = append(out.Attempts, webhookTry(at))
	}
	return out
}

func (a *API) listDeliveries(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	query := r.URL.Query()
	if err := onlyParameters(query, "limit", "cursor", "state"); err != nil {
		return err
	}
	state := webhook.State(query.Get("state"))
	switch state {
	case "", webhook.Pending, webhook.Delivered, webhook.Dead:
	default:
		return invalid("state", "must be pending, delivered or dead")
	}
	all, next, err := a.webhooks.Deliveries(r.Context(), id, state, cursor, limit)
	if err != nil {
		return err
	}
	out := page[webhookDeliveryJSON]{Items: make([]webhookDeliveryJSON, len(all)), NextCursor: next}
	for i, d := range all {
		out.Items[i] = a.webhookDelivery(d)
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}

func (a *API) getDelivery(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	delivery, err := pathID(r, "delivery")
	if err != nil {
		return err
	}
	d, err := a.webhooks.Delivery(r.Context(), id, delivery)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, a.webhookDelivery(d))
}

func (a *API) redeliver(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	delivery, err := pathID(r, "delivery")
	if err != nil {
		return err
	}
	d, err := a.webhooks.Redeliver(r.Context(), principal(r).String(), id, delivery)
	if err != nil {
		return webhookProblem(err)
	}
	return webui.WriteJSON(w, http.StatusAccepted, a.webhookDelivery(d))
}

type redeliveredJSON struct {
	Count int `json:"count"`
}

func (a *API) redeliverAll(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	if err := onlyParameters(r.URL.Query(), "state"); err != nil {
		return err
	}
	if r.URL.Query().Get("state") != string(webhook.Dead) {
		return invalid("state", "must be dead: others are not sent again all at once")
	}
	n, err := a.webhooks.RedeliverDead(r.Context(), principal(r).String(), id)
	if err != nil {
		return webhookProblem(err)
	}
	return webui.WriteJSON(w, http.StatusAccepted, redeliveredJSON{n})
}
