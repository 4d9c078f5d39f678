package apiv1_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestTheLogOfTheServer(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	var out bytes.Buffer
	log := slog.New(h.tail.Handler(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	log.Info("certificate issued", "device", "d1", "peer", "192.0.2.1")
	log.Warn("the push service refuses", "topic", "com.apple.mgmt.External.1", "err", "403 Forbidden")
	log.Debug("request", "route", "GET /livez")
	log.Info("enrolled", "device", "d2")

	type lines struct {
		Items []struct {
			Seq        uint64
			Level      string
			Message    string
			Attributes []struct{ Key, Value string }
		}
		NextCursor string `json:"next_cursor"`
	}
	for query, want := range map[string]string{
		"":                             "enrolled, request, the push service refuses, certificate issued",
		"?level=debug":                 "enrolled, request, the push service refuses, certificate issued",
		"?level=info":                  "enrolled, the push service refuses, certificate issued",
		"?level=warn":                  "the push service refuses",
		"?level=error":                 "",
		"?q=D1":                        "certificate issued",
		"?q=forbidden&level=warn":      "the push service refuses",
		"?q=%22%3E%3Cscript%3E":        "",
		"?limit=2":                     "enrolled, request",
		"?limit=2&cursor=3":            "the push service refuses, certificate issued",
		"?limit=2&cursor=3&level=info": "the push service refuses, certificate issued",
		"?cursor=1":                    "",
	} {
		var got lines
		h.do(t, exchange{method: "GET", path: "/api/v1/log" + query}).want(t, 200, &got)
		var messages []string
		for _, l := range got.Items {
			messages = append(messages, l.Message)
		}
		if text := strings.Join(messages, ", "); text != want {
			t.Errorf("%s: %s, want %s", query, text, want)
		}
		if more := query == "?limit=2"; (got.NextCursor != "") != more {
			t.Errorf("%s: the next page is %q", query, got.NextCursor)
		}
	}
	var got lines
	h.do(t, exchange{method: "GET", path: "/api/v1/log?level=warn"}).want(t, 200, &got)
	if l := got.Items[0]; l.Level != "warn" || l.Seq != 2 || len(l.Attributes) != 2 || l.Attributes[1].Key != "err" || l.Attributes[1].Value != "403 Forbidden" {
		t.Errorf("%+v", l)
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/log?level=loud", wild: true}).wantField(t, "level")
	h.do(t, exchange{method: "GET", path: "/api/v1/log?lines=3", wild: true}).wantField(t, "lines")
	h.do(t, exchange{method: "GET", path: "/api/v1/log?cursor=first", wild: true}).wantProblem(t, 400, "invalid_cursor")
}
