package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// TestWebhooksOnTheCommandLine has a server hear of a device that enrolls, by the commands of
// docs/webhooks.md.
func TestWebhooksOnTheCommandLine(t *testing.T) {
	storagetest.AnyEngine(t)
	posts := make(chan string, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("X-Hmac-Signature") == "" || r.Header.Get("Authorization") != "Bearer of news" {
			t.Errorf("headers %v", r.Header)
		}
		posts <- string(body)
	}))
	defer srv.Close()

	s := start(t, t.TempDir())
	call := func(want int, args ...string) (stdout, stderr string) {
		t.Helper()
		var out, errs strings.Builder
		args = slices.Concat(args, []string{"--data-dir", s.dir})
		if code := run(t.Context(), args, nil, strings.NewReader("a-secret\n"), &out, &errs); code != want {
			t.Fatalf("%v = %d, want %d\n%s\n%s", args, code, want, &out, &errs)
		}
		return out.String(), errs.String()
	}
	says := func(text, want string) {
		t.Helper()
		if !strings.Contains(text, want) {
			t.Errorf("it says %q, want %q in it", text, want)
		}
	}
	var told []string
	hears := func(what string) {
		t.Helper()
		for !slices.ContainsFunc(told, func(body string) bool { return strings.Contains(body, what) }) {
			select {
			case body := <-posts:
				told = append(told, body)
			case <-time.After(time.Minute):
				t.Fatalf("nobody was told of %s", what)
			}
		}
	}

	_, refused := call(exitUsage, "webhook", "add", srv.URL)
	says(refused, "allow_private")
	header := filepath.Join(t.TempDir(), "authorization")
	if err := os.WriteFile(header, []byte("Bearer of news\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	add := []string{"webhook", "add", srv.URL, "--allow-private", "--secret-file", "-", "--header", "Authorization=" + header}
	made, _ := call(exitDone, append(slices.Clone(add), "--name", "engine")...)
	says(made, "engine is ")
	call(exitDone, append(slices.Clone(add), "--name", "events", "--format", "cloudevents", "-e", "device.", "-e", "certificate.issued")...)
	list, _ := call(exitDone, "webhook", "list")
	says(list, "events")
	if strings.Contains(list, "a-secret") {
		t.Errorf("the list shows the secret: %s", list)
	}
	tested, _ := call(exitDone, "webhook", "test", "engine")
	says(tested, "200 in ")
	hears("gatehouse-webhook-test")
	call(exitNotFound, "webhook", "test", "nobody")

	phone := s.phone(t, mdmtest.Options{})
	if err := phone.Enroll(t.Context(), s.newLink(t)+"/profile"); err != nil {
		t.Fatal(err)
	}
	hears(`"topic":"mdm.TokenUpdate"`)
	hears(`"type":"gatehouse.certificate.issued"`)

	ids, _ := call(exitDone, "webhook", "deliveries", "engine", "-o", "id")
	if len(strings.Fields(ids)) < 2 {
		t.Errorf("the log has %q", ids)
	}
	log, _ := call(exitDone, "webhook", "deliveries", "engine")
	says(log, "mdm.Authenticate")
	call(exitUsage, "webhook", "redeliver", "engine")
	again, _ := call(exitDone, "webhook", "redeliver", "engine", "--dead")
	says(again, "Sent again: 0")
	call(exitDone, "webhook", "enable", "engine")
	call(exitDone, "webhook", "delete", "engine")
	call(exitNotFound, "webhook", "delete", "engine")
}
