package apiv1_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

const webhooksPath = "/api/v1/webhooks"

type aWebhook struct {
	ID             string
	Name           string
	URL            string
	Format         string
	SecretSet      bool    `json:"secret_set"`
	OldSecretUntil *string `json:"old_secret_until"`
	Events         []string
	HeaderNames    []string `json:"header_names"`
	Enabled        bool
	State          string
	DisabledReason *string `json:"disabled_reason"`
	Queue          struct{ Pending, Dead int }
}

type aDelivery struct {
	ID       string
	Topic    string
	State    string
	DeviceID *string `json:"device_id"`
	Attempts []struct {
		Status *int
		Step   *string
		Error  string
	}
}

func (h *house) webhook(t testing.TB, body map[string]any) (w aWebhook) {
	t.Helper()
	h.do(t, exchange{method: "POST", path: webhooksPath, body: body}).want(t, http.StatusCreated, &w)
	return w
}

func TestAWebhookIsKeptWithoutShowingItsSecrets(t *testing.T) {
	h := newHouse(t)
	made := h.do(t, exchange{method: "POST", path: webhooksPath, body: map[string]any{
		"name": "engine", "url": "https://17.253.144.10/hook", "secret": "sentinel-secret", "format": "nanomdm", "events": []string{"mdm."},
		"headers": map[string]string{"Authorization": "Bearer sentinel-header"}, "allow_private": false,
	}})
	var w aWebhook
	made.want(t, http.StatusCreated, &w)
	path := webhooksPath + "/" + w.ID
	if !w.SecretSet || !w.Enabled || w.State != "ok" || w.Format != "nanomdm" || made.response.Get("Location") != path || w.HeaderNames[0] != "Authorization" {
		t.Errorf("made %s", made.answer)
	}
	all := h.do(t, exchange{method: "GET", path: webhooksPath})
	one := h.do(t, exchange{method: "GET", path: path})
	changed := h.do(t, exchange{method: "PATCH", path: path, body: map[string]any{"secret": "sentinel-second", "name": "other"}})
	changed.want(t, http.StatusOK, &w)
	if w.OldSecretUntil == nil || w.Name != "other" || w.URL != "https://17.253.144.10/hook" {
		t.Errorf("changed %s", changed.answer)
	}
	log := h.do(t, exchange{method: "GET", path: "/api/v1/audit"})
	for _, x := range []exchange{made, all, one, changed, log} {
		if strings.Contains(string(x.answer), "sentinel") {
			t.Errorf("%s %s shows a secret: %s", x.method, x.path, x.answer)
		}
	}
	h.do(t, exchange{method: "DELETE", path: path}).want(t, http.StatusNoContent, nil)
	h.do(t, exchange{method: "GET", path: path}).wantProblem(t, http.StatusNotFound, "not_found")
	h.do(t, exchange{method: "DELETE", path: path}).wantProblem(t, http.StatusNotFound, "not_found")
	h.do(t, exchange{method: "POST", path: path + "/test"}).wantProblem(t, http.StatusNotFound, "not_found")
}

func TestWrongWebhooksNameTheField(t *testing.T) {
	h := newHouse(t)
	with := func(field string, value any) map[string]any {
		body := map[string]any{"name": "x", "url": "https://17.253.144.10/"}
		body[field] = value
		return body
	}
	for field, body := range map[string]map[string]any{
		"name":      with("name", ""),
		"url":       with("url", "https://127.0.0.1/"),
		"events[0]": with("events", []string{"device."}),
		"secret":    with("secret", "two words"),
	} {
		h.do(t, exchange{method: "POST", path: webhooksPath, body: body}).wantField(t, field)
	}
	h.do(t, exchange{method: "POST", path: webhooksPath, body: with("format", "slack"), wild: true}).wantField(t, "format")
	h.do(t, exchange{method: "POST", path: webhooksPath, body: with("allow_privat", true), wild: true}).wantField(t, "allow_privat")
	h.do(t, exchange{method: "POST", path: webhooksPath, body: with("headers", []string{}), wild: true}).wantField(t, "headers")
	w := h.webhook(t, with("format", "cloudevents"))
	h.do(t, exchange{method: "PATCH", path: webhooksPath + "/" + w.ID, body: map[string]any{"format": "nanomdm"}}).wantField(t, "format")
	path := webhooksPath + "/" + w.ID
	h.do(t, exchange{method: "GET", path: path + "/deliveries?state=lost", wild: true}).wantField(t, "state")
	h.do(t, exchange{method: "POST", path: path + "/redeliver", wild: true}).wantField(t, "state")
}

func TestDeliveriesOfAWebhook(t *testing.T) {
	h := newHouse(t)
	var status atomic.Int32
	status.Store(http.StatusGone)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(int(status.Load()))
		_, _ = w.Write([]byte("hello"))
	}))
	defer srv.Close()
	w := h.webhook(t, map[string]any{"name": "x", "url": srv.URL, "allow_private": true})
	path := webhooksPath + "/" + w.ID

	var tested struct {
		OK     bool
		Status int
		Step   string
		Answer string
	}
	h.do(t, exchange{method: "POST", path: path + "/test"}).want(t, http.StatusOK, &tested)
	if tested.OK || tested.Status != http.StatusGone || tested.Step != "status" || tested.Answer != "hello" {
		t.Errorf("test: %+v", tested)
	}

	err := h.db.Update(t.Context(), func(tx storage.Tx) error {
		return h.webhooks.Heard(tx, mdm.Message{
			Topic: "mdm.CheckOut", At: h.now(), Device: mdm.Device{ID: "d1", Type: mdm.TypeDevice, AppleID: mdm.AppleID{UDID: "UDID-d1"}},
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Items []aDelivery }
	h.do(t, exchange{method: "GET", path: path + "/deliveries?state=pending"}).want(t, http.StatusOK, &list)
	if len(list.Items) != 1 || list.Items[0].Topic != "mdm.CheckOut" || *list.Items[0].DeviceID != "d1" {
		t.Fatalf("pending: %+v", list)
	}
	delivery := path + "/deliveries/" + list.Items[0].ID
	h.do(t, exchange{method: "POST", path: delivery + "/redeliver"}).wantProblem(t, http.StatusConflict, "delivery_pending")

	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- h.webhooks.Run(ctx) }()
	defer func() {
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	changed, stop := h.db.Watch("webhook.targets")
	defer stop()
	for w.Enabled {
		h.do(t, exchange{method: "GET", path: path}).want(t, http.StatusOK, &w)
		if w.Enabled {
			<-changed
		}
	}
	if w.State != "disabled" || *w.DisabledReason != "gone" || w.Queue.Pending != 1 {
		t.Errorf("it answered 410: %+v", w)
	}
	var d aDelivery
	h.do(t, exchange{method: "GET", path: delivery}).want(t, http.StatusOK, &d)
	if d.State != "pending" || len(d.Attempts) != 1 || *d.Attempts[0].Status != http.StatusGone {
		t.Errorf("delivery %+v", d)
	}
	status.Store(http.StatusOK)
	h.do(t, exchange{method: "POST", path: path + "/enable"}).want(t, http.StatusOK, &w)
	for d.State == "pending" {
		h.do(t, exchange{method: "GET", path: delivery}).want(t, http.StatusOK, &d)
	}
	if d.State != "delivered" {
		t.Errorf("delivery %+v", d)
	}
	h.do(t, exchange{method: "POST", path: delivery + "/redeliver"}).wantProblem(t, http.StatusConflict, "delivery_gone")
	var count struct{ Count int }
	h.do(t, exchange{method: "POST", path: path + "/redeliver?state=dead"}).want(t, http.StatusAccepted, &count)
	if count.Count != 0 {
		t.Errorf("%d were given up", count.Count)
	}
	h.do(t, exchange{method: "GET", path: path + "/deliveries/none"}).wantProblem(t, http.StatusNotFound, "not_found")
}
