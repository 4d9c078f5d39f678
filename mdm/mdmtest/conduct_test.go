package mdmtest

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// said is what the server was told after each Idle, one session a word: the statuses that
// came, by their first letters (i Idle, a Acknowledged, e Error, n NotNow), "-" for a
// session that the device missed.
func (s *server) said(t *testing.T, d *Device, sessions int) string {
	t.Helper()
	var words []string
	for range sessions {
		s.mu.Lock()
		before := len(s.results)
		s.mu.Unlock()
		if _, err := d.Poll(t.Context()); err != nil && d.State() == Enrolled {
			t.Fatal(err)
		}
		s.mu.Lock()
		word := ""
		for _, r := range s.results[before:] {
			word += strings.ToLower(r["Status"].(string)[:1])
		}
		s.mu.Unlock()
		if word == "" {
			word = "-"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

func TestConduct(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		model   Model
		conduct Conduct
		ask     []string
		want    string // see said
		breaks  int64
	}{
		"none": {IPhone, Conduct{}, []string{"SecurityInfo", "ProfileList"}, "iaa i i", 0},
		"NotNow where it may": {IPhone, Conduct{NotNow: 2}, []string{"SecurityInfo", "DeviceInformation"},
			"ina in ia", 0},
		"a Mac's NotNow":        {Mac, Conduct{NotNow: 1}, []string{"DeviceInformation", "RestartDevice"}, "ina ia i", 0},
		"an error":              {IPhone, Conduct{Fails: []string{"SecurityInfo"}}, []string{"SecurityInfo", "ProfileList", "SecurityInfo"}, "ieae i i", 0},
		"an error once":         {IPhone, Conduct{Fails: []string{"SecurityInfo"}, FailsFor: 1}, []string{"SecurityInfo", "SecurityInfo"}, "iea i i", 0},
		"a command unanswered":  {IPhone, Conduct{Drops: 2}, []string{"SecurityInfo", "ProfileList"}, "ia ia i", 1},
		"and a while away":      {IPhone, Conduct{Drops: 2, Away: 2}, []string{"SecurityInfo", "ProfileList"}, "ia - - ia i", 1},
		"a result lost":         {IPhone, Conduct{Loses: 2}, []string{"SecurityInfo", "ProfileList"}, "ia a i", 1},
		"an answer lost":        {IPhone, Conduct{Deaf: 2}, []string{"SecurityInfo", "ProfileList", "CertificateList"}, "iaa aa i", 1},
		"a result twice":        {IPhone, Conduct{Repeats: 1}, []string{"SecurityInfo", "ProfileList"}, "iaaaa i i", 0},
		"thinking":              {IPhone, Conduct{Thinks: 1}, []string{"SecurityInfo", "ProfileList"}, "i - a - a i", 2},
		"gone after two":        {IPhone, Conduct{Leaves: 2}, []string{"SecurityInfo", "ProfileList", "CertificateList"}, "iaa - -", 0},
		"nothing of an erasure": {IPhone, Conduct{Loses: 1, Deaf: 1, Repeats: 1}, []string{"EraseDevice"}, "ia - -", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			d := s.enrolled(Options{Model: tt.model, Conduct: tt.conduct, Sign: SignTLS})
			for i, requestType := range tt.ask {
				s.queue(fmt.Sprint(i), requestType, Dict{"Queries": []string{"DeviceName"}})
			}
			if got := s.said(t, d, 1+strings.Count(tt.want, " ")); got != tt.want {
				t.Errorf("the server was told %q, want %q", got, tt.want)
			}
			if got := d.Counters().Breaks; got != tt.breaks {
				t.Errorf("%d sessions broke, want %d", got, tt.breaks)
			}
			if len(s.commands) > 0 && tt.conduct.Leaves == 0 {
				t.Errorf("left in the queue: %v", s.commands)
			}
		})
	}
}

func TestAStepByHandIsAnsweredAtOnce(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := s.enrolled(Options{})
	s.queue("1", "SecurityInfo", nil)
	cmd, err := d.Idle(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Channel().Answer(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, s.result("1"), StatusAcknowledged)
}

func TestADeviceThatIsAwayComesBackByItself(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := s.enrolled(Options{Conduct: Conduct{Drops: 1, Away: 1}})
	s.queue("1", "SecurityInfo", nil)
	for i, want := range []bool{true, false, true} { // breaks off, stays away, breaks off again
		if _, err := d.Poll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := d.Channel().WillPoll(); got != want {
			t.Errorf("after session %d, WillPoll = %t, want %t", i, got, want)
		}
	}
}

func TestTheSameSeedDealsTheSameKinds(t *testing.T) {
	t.Parallel()
	a, again, b := MixedKinds("a"), MixedKinds("a"), MixedKinds("b")
	models, troubled, differ := map[Model]int{}, 0, false
	for i := range 500 {
		k := a(i)
		if fmt.Sprint(k) != fmt.Sprint(again(i)) {
			t.Fatalf("device %d is %v and %v", i, k, again(i))
		}
		differ = differ || fmt.Sprint(k) != fmt.Sprint(b(i))
		models[k.Model]++
		if fmt.Sprint(k.Conduct) != fmt.Sprint(Conduct{}) {
			troubled++
		}
	}
	if !differ || len(models) != 5 || troubled < 150 || troubled > 350 {
		t.Errorf("kinds: %v, %d with a conduct; another seed differs: %t", models, troubled, differ)
	}
}

// switched is a way to the server that can be cut, as when the server is killed: what runs
// is lost, and nobody answers until it is there again.
type switched struct {
	http.RoundTripper

	mu      sync.Mutex
	gone    bool
	passing int // requests until it is gone; negative: any number
}

func (s *switched) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	if s.passing == 0 {
		s.gone = true
	}
	s.passing--
	gone := s.gone
	s.mu.Unlock()
	if gone {
		return nil, fmt.Errorf("connection refused")
	}
	return s.RoundTripper.RoundTrip(r)
}

// killAfter lets n more requests through; there is a server again when n is negative.
func (s *switched) killAfter(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone, s.passing = false, n
}

// book is a server's queue for many devices: each gets the same commands in their order,
// one answered for good before the next.
type book struct {
	mu       sync.Mutex
	commands []Dict
	answered map[string]map[string]string // status by device and command
	later    map[string]map[string]bool
	twice    int
}

func (b *book) hook(msg Dict) Dict {
	b.mu.Lock()
	defer b.mu.Unlock()
	if msg["UserID"] != nil {
		return nil
	}
	udid := msg["UDID"].(string)
	if b.answered[udid] == nil {
		b.answered[udid], b.later[udid] = map[string]string{}, map[string]bool{}
	}
	switch uuid, _ := msg["CommandUUID"].(string); msg["Status"] {
	case StatusIdle:
		clear(b.later[udid])
	case StatusNotNow:
		b.later[udid][uuid] = true
	default:
		if b.answered[udid][uuid] != "" {
			b.twice++
		}
		b.answered[udid][uuid] = msg["Status"].(string)
	}
	for _, c := range b.commands {
		uuid := c["CommandUUID"].(string)
		if b.answered[udid][uuid] == "" && !b.later[udid][uuid] {
			return c
		}
	}
	return nil
}

func TestAFleetGoesStepByStepThroughAServersDeath(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	way := &switched{RoundTripper: s.http.Client().Transport, passing: -1}
	f, err := NewFleet(FleetOptions{
		N: 24, Seed: "story", Kind: MixedKinds("story"), ProfileURL: s.http.URL + "/profile", Transport: way,
		Concurrency: 4, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	way.killAfter(30) // in the midst of the enrollments
	if err := f.Enroll(t.Context()); err == nil || !strings.Contains(err.Error(), "of 24 devices are not enrolled") {
		t.Fatalf("Enroll without a server = %v", err)
	}
	way.killAfter(-1)
	if err := f.Enroll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := f.Stats(); st.Enrolled != 24 || st.Failed != 0 {
		t.Fatalf("after Enroll: %+v", st)
	}

	b := &book{answered: map[string]map[string]string{}, later: map[string]map[string]bool{}}
	for _, c := range []Dict{
		{"RequestType": "DeviceInformation", "Queries": []string{"DeviceName", "OSVersion"}},
		{"RequestType": "InstallProfile", "Payload": s.signed(s.configuration(s.rootPayload()))},
		{"RequestType": "ProfileList"},
	} {
		b.commands = append(b.commands, Dict{"CommandUUID": c["RequestType"], "Command": c})
	}
	s.mu.Lock()
	s.hook = b.hook
	s.mu.Unlock()
	way.killAfter(40) // in the midst of the sessions
	away := 0
	for step := 0; ; step++ {
		if step == 3 {
			way.killAfter(-1)
		}
		p := f.Step(t.Context())
		if len(p.Wrong) > 0 {
			t.Fatalf("step %d: %v", step, p.Wrong)
		}
		away += p.Away
		if step > 3 && p.Waiting == 0 && p.Answered == 0 {
			break
		}
		if step == 40 {
			t.Fatalf("no end: %+v, %+v", p, f.Stats())
		}
	}
	failed := 0
	for _, d := range f.Devices() {
		for _, c := range b.commands {
			uuid := c["CommandUUID"].(string)
			switch status := b.answered[d.Options().UDID][uuid]; {
			case status == StatusError && slices.Contains(d.Options().Conduct.Fails, uuid):
				failed++
			case status != StatusAcknowledged:
				t.Errorf("%s answered %s with %q", d.Options().Name, uuid, status)
			}
		}
	}
	st := f.Stats()
	if away == 0 || st.NotNow == 0 || st.Breaks == 0 || b.twice == 0 {
		t.Errorf("the story lacks its troubles: %d sessions without a server, %d repeated, %+v", away, b.twice, st)
	}
	if want := int64(24 - failed); failed == 0 || st.Profiles != want || st.Installs != want || st.Errors < int64(failed) || st.Commands < 3*24 {
		t.Errorf("%d installations failed, %+v", failed, st)
	}
}

func TestAFleetSleepsUntilItIsWoken(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	f, err := NewFleet(FleetOptions{
		N: 3, ProfileURL: s.http.URL + "/profile", RootCAs: s.roots(), Log: slog.New(slog.DiscardHandler),
		Kind: func(i int) Kind { return Kind{Conduct: Conduct{NotNow: i}} },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	if err := f.Enroll(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.hook = func(msg Dict) Dict {
		if msg["Status"] == StatusIdle {
			return Dict{"CommandUUID": "1", "Command": Dict{"RequestType": "SecurityInfo"}}
		}
		return nil
	}
	s.mu.Unlock()
	if p := f.StepWoken(t.Context()); p.Sessions != 0 {
		t.Errorf("asleep, there were %d sessions", p.Sessions)
	}
	for _, d := range f.Devices()[1:] {
		if !f.Wake(d.Channel().Push()) {
			t.Error("Wake does not know a token")
		}
	}
	for i, want := range []Progress{{Sessions: 2, Answered: 2, Waiting: 2}, {Sessions: 2, Answered: 2, Waiting: 1}, {Sessions: 1, Answered: 1}, {}} {
		if p := f.StepWoken(t.Context()); p.Sessions != want.Sessions || p.Answered != want.Answered || p.Waiting != want.Waiting {
			t.Errorf("step %d: %+v, want %+v", i, p, want)
		}
	}
}

func TestAPatientDeviceGoesOnWithItsEnrollment(t *testing.T) {
	t.Parallel()
	for step, refuse := range map[string]int{"Authenticate": http.StatusServiceUnavailable, "TokenUpdate": http.StatusBadGateway} {
		for _, patient := range []bool{true, false} {
			s := newServer(t)
			d := s.device(Options{Model: Mac, Patient: patient})
			s.status = func(kind string) (int, string, string) {
				if kind == step {
					return refuse, "text/plain", "later"
				}
				return 0, "", ""
			}
			if err := d.Enroll(t.Context(), s.http.URL+"/profile"); err == nil {
				t.Fatal("enrolled without the server")
			}
			s.mu.Lock()
			s.status = nil
			s.mu.Unlock()
			s.takeEvents()
			err := d.Resume(t.Context())
			if !patient {
				if err == nil {
					t.Errorf("%s: Resume of a device that gave up went on", step)
				}
				continue
			}
			if err != nil || d.State() != Enrolled {
				t.Fatalf("%s: Resume = %v, %v", step, err, d.State())
			}
			want := []string{"Authenticate by identity 1", "TokenUpdate by identity 1", "user TokenUpdate by identity 1"}
			if step == "TokenUpdate" {
				want = want[1:]
			}
			wantEvents(t, s.takeEvents(), want...)
		}
	}
}

func TestWhatMayBeOtherwiseNextTime(t *testing.T) {
	t.Parallel()
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100") // and then says no more
	}))
	t.Cleanup(broken.Close)
	status := func(code int) error { return &HTTPError{Reply{Status: code}} }
	request := func(url string) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = roundTrip(clientOver(http.DefaultTransport), req)
		return err
	}
	for name, tt := range map[string]struct {
		err  error
		want bool
	}{
		"a server that fails":       {status(500), true},
		"a proxy without a server":  {fmt.Errorf("Idle: %w", status(502)), true},
		"a server that is too busy": {status(429), true},
		"a refusal":                 {status(403), false},
		"a refused connection":      {request("http://127.0.0.1:1"), true},
		"a connection that breaks":  {request(broken.URL), true},
		"a broken protocol":         {fmt.Errorf("the server sends a command again"), false},
	} {
		if got := noAnswer(tt.err); got != tt.want {
			t.Errorf("%s (%v): %t, want %t", name, tt.err, got, tt.want)
		}
	}
}
