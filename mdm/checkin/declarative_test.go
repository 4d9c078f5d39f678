package checkin_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gatehouse "github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/checkin"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// declares is a declarative server that answers by path, and keeps what it was asked.
type declares struct {
	url string

	mu      sync.Mutex
	answers map[string]string // by path below /ddm/; what is not there is a 404
	asked   []string          // "METHOD path as ID (TYPE) in PARENT" and a body
}

func newDeclares(t testing.TB, answers map[string]string) *declares {
	d := &declares{answers: answers}
	srv := httptest.NewServer(d)
	t.Cleanup(srv.Close)
	d.url = srv.URL + "/ddm"
	return d
}

func (d *declares) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	head := r.Header
	d.mu.Lock()
	defer d.mu.Unlock()
	asked := fmt.Sprintf("%s %s as %s (%s) in %s", r.Method, r.URL.EscapedPath(), head.Get("X-Enrollment-ID"), head.Get("X-Enrollment-Type"), head.Get("X-Enrollment-ParentID"))
	if len(body) > 0 {
		asked += " " + head.Get("Content-Type") + " " + string(body)
	}
	if r.URL.RawQuery != "" || head.Get("Mdm-Signature") != "" || head.Get("Authorization") != "" {
		asked += " with more than it should"
	}
	d.asked = append(d.asked, asked)
	answer, ok := d.answers[strings.TrimPrefix(r.URL.Path, "/ddm/")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	_, _ = io.WriteString(w, answer)
}

// since returns what was asked since it was last called.
func (d *declares) since() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	asked := d.asked
	d.asked = nil
	return asked
}

// forwarding has the house ask the server at to.
func (h *house) forwarding(t testing.TB, to string) *checkin.Forwarder {
	t.Helper()
	u, err := url.Parse(to)
	must(t, err)
	f, err := checkin.NewForwarder(u, slog.New(slog.DiscardHandler))
	must(t, err)
	h.door, err = checkin.New(checkin.Config{Enroll: h.enroll, Declarative: f, Log: slog.New(slog.NewTextHandler(h.log, nil))})
	must(t, err)
	return f
}

func TestDeclarationsComeFromAnotherServer(t *testing.T) {
	h := newHouseOn(t, storagetest.Open(t), listening(&ear{kinds: []string{"mdm.DeclarativeManagement"}}))
	other := newDeclares(t, map[string]string{
		"tokens":                                 `{"SyncTokens":{"DeclarationsToken":"T1","Timestamp":"2026-01-31T12:00:00Z"}}`,
		"declaration-items":                      `{"Declarations":{"Activations":[{"Identifier":"com.example.act","ServerToken":"A1"}],"Assets":[],"Configurations":[{"Identifier":"com.example.test 1","ServerToken":"C1"},{"Identifier":"com.example.gone","ServerToken":"C1"}],"Management":[]},"DeclarationsToken":"T1"}`,
		"declaration/activation/com.example.act": `{"Type":"com.apple.activation.simple","Identifier":"com.example.act","ServerToken":"A1","Payload":{"StandardConfigurations":["com.example.test 1"]}}`,
		"declaration/configuration/com.example.test 1": `{"Type":"com.apple.configuration.management.test","Identifier":"com.example.test 1","ServerToken":"C1","Payload":{"Echo":"hello"}}`,
		"status": ``,
	})
	h.forwarding(t, other.url)
	byod := mdmtest.Options{UserEnrollment: true}
	for name, tt := range map[string]struct {
		options mdmtest.Options
		user    bool
		kind    string
	}{
		"an iPhone":              {mdmtest.Options{}, false, "Device"},
		"a Mac's user":           {mdmtest.Options{Model: mdmtest.Mac}, true, "User"},
		"a person's iPhone":      {byod, false, "User Enrollment (Device)"},
		"the user of a BYOD Mac": {mdmtest.Options{Model: mdmtest.Mac, UserEnrollment: true}, true, "User Enrollment"},
	} {
		t.Run(name, func(t *testing.T) {
			d := h.enrolled(t, tt.options)
			c := d.Channel()
			id, parent := h.record(t, d.IDs()).AppleID, ""
			who := id.UDID + id.EnrollmentID
			if tt.user {
				c = d.User()
				parent, who = who, who+":"+appleID(c.IDs()).UserID
			}
			h.queue(t, c.IDs(), "DeclarativeManagement", "DDM-"+who)
			_, err := c.Poll(t.Context())
			must(t, err)
			must(t, c.Declared())
			h.wantState(t, "DDM-"+who, gatehouse.Acknowledged)
			asked := other.since()
			if len(asked) != 6 {
				t.Fatalf("asked was\n%s\nwant tokens, items, three declarations and a report", strings.Join(asked, "\n"))
			}
			for i, want := range []string{"GET /ddm/tokens", "GET /ddm/declaration-items", "GET /ddm/declaration/activation/com.example.act", "GET /ddm/declaration/configuration/com.example.test%201", "GET /ddm/declaration/configuration/com.example.gone"} {
				if want += fmt.Sprintf(" as %s (%s) in %s", who, tt.kind, parent); asked[i] != want {
					t.Errorf("asked was %q, want %q", asked[i], want)
				}
			}
			if want := "PUT /ddm/status as " + who; !strings.HasPrefix(asked[5], want) || !strings.Contains(asked[5], ` application/json {"Errors":[],"StatusItems":{"management":{"declarations"`) {
				t.Errorf("the report is %q", asked[5])
			}
			var have []string
			for _, d := range c.Declarations() {
				have = append(have, fmt.Sprintf("%s %s %t", d.Kind, d.Identifier, d.Active))
			}
			if want := []string{"activation com.example.act true", "configuration com.example.test 1 true"}; !slices.Equal(have, want) {
				t.Errorf("the device has %q, want %q", have, want)
			}
			must(t, c.Synchronize(t.Context()))
			if asked := other.since(); len(asked) != 1 {
				t.Errorf("with the same token is asked\n%s", strings.Join(asked, "\n"))
			}
			if told := h.heard(t); len(told) != 7 || told[0].Device.AppleID != appleID(c.IDs()) || !strings.Contains(string(told[5].Raw), "<key>Data</key>") {
				t.Errorf("heard is %s", topicsOf(told))
			}
		})
	}
}

func TestWhatADeviceLearnsOfADeclarativeServerInTrouble(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouseOn(t, storagetest.Open(t), listening(&ear{kinds: everything}))
	d := h.enrolled(t, mdmtest.Options{})
	h.heard(t)
	var elsewhere int
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere++ }))
	t.Cleanup(other.Close)
	answering := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "the text of it", status) }
	}
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		want   int
		heard  bool
	}{
		"all is well, and there is nothing to say": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, http.StatusOK, true},
		"it has no such declaration":               {answering(http.StatusNotFound), http.StatusNotFound, false},
		"the report is wrong":                      {answering(http.StatusBadRequest), http.StatusBadRequest, false},
		"it wants another password of us":          {answering(http.StatusUnauthorized), http.StatusServiceUnavailable, false},
		"it fails":                                 {answering(http.StatusInternalServerError), http.StatusServiceUnavailable, false},
		"it leads elsewhere":                       {http.RedirectHandler(other.URL, http.StatusTemporaryRedirect).ServeHTTP, http.StatusServiceUnavailable, false},
		"it breaks off":                            {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, http.StatusServiceUnavailable, false},
		"it never ends": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(w, io.LimitReader(zeros{}, 16<<20))
		}, http.StatusServiceUnavailable, false},
		"it says nothing": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, http.StatusServiceUnavailable, false},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(tt.answer)
			t.Cleanup(srv.Close)
			f := h.forwarding(t, srv.URL)
			if name == "it says nothing" {
				f.Within(100 * time.Millisecond)
			}
			status, body := h.send(t, saying(t, d, "DeclarativeManagement", mdmtest.Dict{"Endpoint": "declaration/configuration/x"}))
			if status != tt.want || strings.Contains(body, "the text of it") {
				t.Errorf("the device gets %d %q, want %d", status, body, tt.want)
			}
			if got := len(h.heard(t)) == 1; got != (tt.want < 500) {
				t.Errorf("it is heard: %t", got)
			}
		})
	}
	t.Run("it is not there", func(t *testing.T) {
		h.forwarding(t, "http://127.0.0.1:1/")
		h.wantStatus(t, "the check-in", saying(t, d, "DeclarativeManagement", mdmtest.Dict{"Endpoint": "tokens"}), http.StatusServiceUnavailable)
	})
	if elsewhere > 0 {
		t.Error("a redirection is followed")
	}
}

func TestADeviceLeadsNowhereElse(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	other := newDeclares(t, nil)
	h.forwarding(t, other.url)
	d := h.enrolled(t, mdmtest.Options{})
	for endpoint, want := range map[string]string{ // empty: it is not asked
		"tokens": "/ddm/tokens",
		"declaration/configuration/com.example.a":    "/ddm/declaration/configuration/com.example.a",
		"declaration/configuration/50% off?yes#1":    "/ddm/declaration/configuration/50%25%20off%3Fyes%231",
		"declaration/configuration/com.example.a%20": "/ddm/declaration/configuration/com.example.a%20",
		"declaration/configuration/Ä":                "/ddm/declaration/configuration/%C3%84",
		"some:thing":                                 "/ddm/some%3Athing",
		"":                                           "",
		"/v1/declarations":                           "",
		"//evil.example/tokens":                      "",
		"http://evil.example/tokens":                 "",
		"../v1/declarations":                         "",
		"declaration/../../v1":                       "",
		"declaration/%2e%2e/%2E%2e/v1":               "",
		"declaration/..%2f..%2fv1":                   "",
		"declaration\\..\\v1":                        "",
		"tokens/":                                    "",
		"tokens\r\nX-Enrollment-ID: other":           "",
		strings.Repeat("a", 1025):                    "",
	} {
		status, _ := h.send(t, saying(t, d, "DeclarativeManagement", mdmtest.Dict{"Endpoint": endpoint}))
		asked := strings.Join(other.since(), "\n")
		switch {
		case want == "" && (asked != "" || status != http.StatusBadRequest):
			t.Errorf("%.60q: %d, asked was %q, want nothing", endpoint, status, asked)
		case want != "" && (!strings.HasPrefix(asked, "GET "+want+" as ") || status != http.StatusNotFound):
			t.Errorf("%q: %d, asked was %q, want %s", endpoint, status, asked, want)
		}
	}
	t.Run("nor does who is not let in", func(t *testing.T) {
		stranger := h.enrolled(t, mdmtest.Options{})
		theirs := saying(t, stranger, "DeclarativeManagement", mdmtest.Dict{"Endpoint": "tokens", "UDID": d.IDs()["UDID"]})
		h.wantStatus(t, "under another's name", theirs, http.StatusForbidden)
		_, err := h.enroll.Block(t.Context(), h.record(t, d.IDs()).ID)
		must(t, err)
		h.wantStatus(t, "of a blocked device", saying(t, d, "DeclarativeManagement", mdmtest.Dict{"Endpoint": "tokens"}), http.StatusForbidden)
		if asked := other.since(); len(asked) > 0 {
			t.Errorf("asked was %q", asked)
		}
	})
}

func TestASlowDeclarativeServerCostsOtherMessagesNothing(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	d := h.enrolled(t, mdmtest.Options{})
	const inFlight, large = 32, 10 // more large ones than may be read at once
	reached, goOn := make(chan bool, 2*inFlight), make(chan bool)
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		reached <- true
		<-goOn
	}))
	t.Cleanup(slow.Close)
	h.forwarding(t, slow.URL)
	big := saying(t, d, "DeclarativeManagement", mdmtest.Dict{"Endpoint": "status", "Data": make([]byte, 100<<10)})
	small := saying(t, d, "DeclarativeManagement", mdmtest.Dict{"Endpoint": "tokens"})
	var wg sync.WaitGroup
	for i := range inFlight {
		p := small
		if i < large {
			p = big
		}
		wg.Go(func() {
			if status, _ := h.send(t, p); status != http.StatusOK {
				t.Errorf("a report that waited gets %d", status)
			}
		})
	}
	for range inFlight {
		<-reached
	}
	h.wantStatus(t, "one report more", big, http.StatusServiceUnavailable)
	h.queue(t, d.IDs(), "ProfileList", "C1")
	if got := idle(t, d.Channel()); got != "C1" {
		t.Errorf("meanwhile a poll brings %q", got)
	}
	answer := reporting(t, d, mdmtest.Result{Status: mdmtest.StatusAcknowledged, CommandUUID: "C1", Keys: mdmtest.Dict{"Filler": make([]byte, 100<<10)}})
	h.wantStatus(t, "meanwhile a large answer", answer, http.StatusOK)
	close(goOn)
	wg.Wait()
}

func TestURLsThatNothingIsForwardedTo(t *testing.T) {
	storagetest.AnyEngine(t)
	for text, good := range map[string]bool{
		"http://127.0.0.1:9002": true, "https://user:secret@ddm.example.com/v2/": true,
		"ftp://ddm.example.com/": false, "ddm.example.com": false, "http:///tokens": false, "https://ddm.example.com/?a=b": false, "https://ddm.example.com/#a": false,
	} {
		u, err := url.Parse(text)
		must(t, err)
		if err := checkin.CheckForwardURL(u); (err == nil) != good {
			t.Errorf("%s: %v", text, err)
		}
	}
}
