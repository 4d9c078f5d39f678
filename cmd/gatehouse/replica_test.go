package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/postgrestest"
)

// replicaURL is the one name of all replicas.
const replicaURL = "http://mdm.example.com"

// replicas are servers on one PostgreSQL database, each a process with a data directory
// of its own.
type replicas []*serverProcess

// newReplicas returns n replicas that are not started yet. They share all that servers
// on one database must share: the file with the key of secrets, and args.
func newReplicas(t testing.TB, dsn string, n int, args ...string) replicas {
	t.Helper()
	args = append([]string{"--server-url", replicaURL, "--secrets-key-file", filepath.Join(t.TempDir(), "secrets.key")}, args...)
	rs := make(replicas, n)
	for i := range rs {
		dir := t.TempDir()
		storesOfDirs.Store(dir, dsn)
		rs[i] = newProcess(t, dir, args...)
	}
	return rs
}

// startReplicas starts n replicas, all at once.
func startReplicas(t testing.TB, dsn string, n int, args ...string) replicas {
	t.Helper()
	rs := newReplicas(t, dsn, n, args...)
	rs.start(t)
	return rs
}

// start starts all at once, and waits until they are ready.
func (rs replicas) start(t testing.TB) {
	t.Helper()
	ready := make([]func() bool, len(rs))
	for i, s := range rs {
		ready[i] = s.launch(t)
	}
	for i, s := range rs {
		if !ready[i]() {
			t.Fatalf("replica %d did not start:\n%s", i, s.out)
		}
	}
}

// turns is the way from one client to the replicas, as a load balancer makes it: each
// request goes to another one than the last. Where it finds no answer, or one that is cut
// off, or 503, it goes to the next.
type turns struct {
	to    replicas
	tries int      // of one request; then the client gets what there is
	lossy bool     // some answers get lost on the way, so that the request is sent again
	seen  *answers // may be nil
	next  atomic.Int64
}

// answers are the statuses of all answers, by path: also of those that got lost.
type answers struct {
	mu    sync.Mutex
	count map[string]map[int]int
}

func (a *answers) add(path string, status int) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.count == nil {
		a.count = map[string]map[int]int{}
	}
	if a.count[path] == nil {
		a.count[path] = map[int]int{}
	}
	a.count[path][status]++
}

// surely is how often a request is sent that some replica is there to answer: it may find
// one that is down, then another that was killed just as the first had come back.
const surely = 8

func (rs replicas) turns(tries int, seen *answers) *turns {
	ts := &turns{to: rs, tries: tries, seen: seen}
	ts.next.Store(rand.Int64N(int64(len(rs))))
	return ts
}

// only is the way to one replica.
func (rs replicas) only(i int) *turns { return rs[i:i+1].turns(1, nil) }

func (ts *turns) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	var body []byte
	if r.Body != nil {
		body, err = io.ReadAll(r.Body)
		if err = errors.Join(err, r.Body.Close()); err != nil {
			return nil, err
		}
	}
	for try := range ts.tries {
		s := ts.to[int(ts.next.Add(1))%len(ts.to)]
		again := r.Clone(r.Context())
		again.Host, again.URL.Host = r.URL.Host, s.addr
		again.Body, again.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		if resp, err = answered(s.http.Transport, again); err != nil {
			if r.Context().Err() != nil {
				return nil, err
			}
			continue
		}
		ts.seen.add(r.URL.Path, resp.StatusCode)
		if ts.lossy && try < ts.tries/2 && rand.IntN(8) == 0 {
			continue
		}
		if resp.StatusCode != http.StatusServiceUnavailable {
			break
		}
	}
	return resp, err
}

// answered sends r and waits for the whole answer.
func answered(over http.RoundTripper, r *http.Request) (*http.Response, error) {
	resp, err := over.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// client is the API's client by the given way.
func (rs replicas) client(by *turns) *serverProcess {
	return &serverProcess{url: replicaURL, http: &http.Client{Transport: by, Timeout: time.Minute}}
}

// device makes a device that goes by the given way.
func (rs replicas) device(t testing.TB, by *turns, handler mdmtest.Handler) *mdmtest.Device {
	t.Helper()
	pool, err := keyPool()
	if err != nil {
		t.Fatal(err)
	}
	d, err := mdmtest.NewDevice(mdmtest.Options{Keys: pool, PlainHTTP: true, Transport: by, Handler: handler})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// phone is one device, and what it knows itself.
type phone struct {
	*mdmtest.Device

	mu     sync.Mutex
	notNow map[string]int // by command
	acked  map[string]int
}

// handle answers a third of the commands NotNow at first.
func (p *phone) handle(_ context.Context, _ *mdmtest.Channel, cmd *mdmtest.Command, own func() mdmtest.Result) mdmtest.Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	if crc32.ChecksumIEEE([]byte(cmd.UUID))%3 == 0 && p.notNow[cmd.UUID] == 0 {
		p.notNow[cmd.UUID]++
		return mdmtest.Result{Status: mdmtest.StatusNotNow}
	}
	p.acked[cmd.UUID]++
	return own()
}

// load is what clients do to replicas, and the book of what they were told by them.
type load struct {
	rs    replicas
	seen  *answers
	tries int    // see turns; when they are enough, answers get lost, too
	link  string // URL of the profile
	fail  func(error)

	mu       sync.Mutex
	phones   []*phone            // that were told that they are enrolled
	queued   map[string][]string // command UUID → UDIDs that it was accepted for
	told     int                 // promises so far
	awaited  int                 // the number of them at which reached is closed
	reached  chan struct{}
	stop     chan struct{}
	stopping sync.WaitGroup
}

// startLoad puts a load on the replicas until halt. fail is given each error of a client:
// its request was sent as often as tries says.
func startLoad(t *testing.T, rs replicas, tries int, fail func(error)) *load {
	t.Helper()
	l := &load{
		rs: rs, seen: &answers{}, tries: tries, fail: fail,
		link: rs.client(rs.turns(tries, nil)).link(t, 10_000), queued: map[string][]string{}, stop: make(chan struct{}),
	}
	for _, work := range []func() error{
		l.enroller(t), l.operator(), l.operator(), l.poll, l.poll, l.poll,
	} {
		l.stopping.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				default:
				}
				if err := work(); err != nil {
					fail(err)
				}
			}
		})
	}
	return l
}

// way is that of one client.
func (l *load) way() *turns {
	way := l.rs.turns(l.tries, l.seen)
	way.lossy = l.tries == surely
	return way
}

func (l *load) halt() {
	close(l.stop)
	l.stopping.Wait()
}

func (l *load) promise(note func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	note()
	if l.told++; l.told == l.awaited {
		close(l.reached)
	}
}

// goesOn waits until clients were told n more things.
func (l *load) goesOn(t *testing.T, n int) {
	t.Helper()
	l.mu.Lock()
	l.awaited, l.reached = l.told+n, make(chan struct{})
	reached := l.reached
	l.mu.Unlock()
	select {
	case <-reached:
	case <-time.After(time.Minute):
		t.Fatal("the load does not go on")
	}
}

// some returns up to n of the enrolled phones.
func (l *load) some(n int) []*phone {
	l.mu.Lock()
	defer l.mu.Unlock()
	var some []*phone
	for _, i := range rand.Perm(len(l.phones)) {
		if len(some) < n {
			some = append(some, l.phones[i])
		}
	}
	return some
}

func (l *load) enroller(t *testing.T) func() error {
	return func() error {
		p := &phone{notNow: map[string]int{}, acked: map[string]int{}}
		p.Device = l.rs.device(t, l.way(), p.handle)
		if err := p.Enroll(context.Background(), l.link); err != nil {
			return fmt.Errorf("enroll: %w", err)
		}
		l.promise(func() { l.phones = append(l.phones, p) })
		return nil
	}
}

func (l *load) operator() func() error {
	way := l.way()
	way.seen = nil // of devices only
	client := l.rs.client(way)
	return func() error {
		phones := l.some(1 + rand.IntN(3))
		ids, err := client.idsByUDID() // later: so all of them are in it
		if err != nil || len(phones) == 0 {
			return err
		}
		var udids, targets []string
		for _, p := range phones {
			udids = append(udids, p.Options().UDID)
			targets = append(targets, ids[p.Options().UDID])
		}
		if slices.Contains(targets, "") {
			return fmt.Errorf("of the enrolled devices %v some are not in the list", udids)
		}
		uuid := mdm.NewUUID()
		if err := client.enqueue(uuid, targets); err != nil {
			return err
		}
		l.promise(func() { l.queued[uuid] = udids })
		return nil
	}
}

func (l *load) poll() error {
	for _, p := range l.some(1) {
		n, err := p.Poll(context.Background())
		if err != nil {
			return fmt.Errorf("poll: %w", err)
		}
		if n > 0 {
			l.promise(func() {})
		}
	}
	return nil
}

// listOf reads a whole list of the API.
func listOf[T any](t *testing.T, s *serverProcess, path string) (all []T) {
	t.Helper()
	for cursor := ""; ; {
		var page struct {
			Items      []T    `json:"items"`
			NextCursor string `json:"next_cursor"`
		}
		s.api(t, "GET", path+"?limit=100&cursor="+cursor, nil, &page)
		all = append(all, page.Items...)
		if cursor = page.NextCursor; cursor == "" {
			return all
		}
	}
}

type listedCommand struct {
	UUID    string `json:"command_uuid"`
	State   string `json:"state"`
	NotNows int    `json:"not_now_count"`
}

// settle has every device finish what waits for it, then compares what clients were told
// with what the server says.
func (l *load) settle(t *testing.T) {
	t.Helper()
	inParallel(t, 4, len(l.phones), func(i int) error {
		for {
			if n, err := l.phones[i].Poll(context.Background()); n == 0 || err != nil {
				return err
			}
		}
	})
	client := l.rs.client(l.rs.turns(surely, nil))
	type deviceItem struct{ ID, UDID, State string }
	devices := map[string]deviceItem{}
	for _, d := range listOf[deviceItem](t, client, "/devices") {
		if _, twice := devices[d.UDID]; twice {
			t.Errorf("device %s is there twice", d.UDID)
		}
		devices[d.UDID] = d
	}
	wanted := map[string]map[string]bool{} // by UDID: commands that were accepted for it
	for uuid, udids := range l.queued {
		for _, udid := range udids {
			if wanted[udid] == nil {
				wanted[udid] = map[string]bool{}
			}
			wanted[udid][uuid] = true
		}
	}
	acked := 0
	for _, p := range l.phones {
		d := devices[p.Options().UDID]
		if d.State != "enrolled" {
			t.Errorf("device %s, which was told that it is enrolled, is %q", p.Options().UDID, d.State)
			continue
		}
		for uuid, n := range p.acked {
			acked++
			if n != 1 {
				t.Errorf("command %s was given to device %s again after its answer: it answered %d times", uuid, d.ID, n)
			}
		}
		listed := map[string]bool{}
		for _, c := range listOf[listedCommand](t, client, "/devices/"+d.ID+"/commands") {
			if listed[c.UUID] {
				t.Errorf("command %s is in the history of device %s twice", c.UUID, d.ID)
			}
			listed[c.UUID] = true
			if c.State != "acknowledged" || p.acked[c.UUID] != 1 || c.NotNows != p.notNow[c.UUID] {
				t.Errorf("command %s of device %s is %s after %d NotNow; the device acknowledged it %d times after %d",
					c.UUID, d.ID, c.State, c.NotNows, p.acked[c.UUID], p.notNow[c.UUID])
			}
		}
		for uuid := range wanted[d.UDID] {
			if !listed[uuid] {
				t.Errorf("command %s, which was accepted for device %s, is not in its list", uuid, d.ID)
			}
		}
	}
	t.Logf("%d devices, %d commands, %d acknowledgements", len(l.phones), len(l.queued), acked)
	if len(l.phones) == 0 || len(l.queued) == 0 || acked == 0 {
		t.Error("the load did not reach all that it is for")
	}
}

type linkItem struct {
	ID         string `json:"id"`
	ProfileURL string `json:"profile_url"`
	Uses       int    `json:"uses"`
	UsesLeft   int    `json:"uses_left"`
}

type attemptItem struct {
	LinkID   string `json:"link_id"`
	Stage    string `json:"stage"`
	DeviceID string `json:"device_id"`
	Code     string `json:"error_code"`
}

// TestDevicesThatAlternateBetweenReplicasNoticeNoKill lets every client go to another
// replica with each request, while one after the other is killed, or told to end as in an
// update, and started again.
func TestDevicesThatAlternateBetweenReplicasNoticeNoKill(t *testing.T) {
	storagetest.AnyEngine(t)
	if testing.Short() {
		t.Skip("kills servers many times")
	}
	t.Parallel()
	const kills = 8
	rs := startReplicas(t, postgrestest.DSN(t), 2)
	l := startLoad(t, rs, surely, func(err error) { t.Error(err) })
	halt := sync.OnceFunc(l.halt)
	defer halt()
	l.goesOn(t, 20)
	for i := range kills {
		dying := rs[i%len(rs)]
		if i/len(rs)%2 == 0 {
			dying.kill(t)
		} else {
			dying.quit(t)
		}
		l.goesOn(t, 10) // while one is down
		dying.start(t)
		l.goesOn(t, 5+rand.IntN(30))
	}
	halt()
	l.settle(t)

	// Nobody failed in between, so everybody who got a certificate is enrolled.
	client := rs.client(rs.turns(surely, nil))
	enrolled := map[string]bool{}
	for _, a := range listOf[attemptItem](t, client, "/enrollment-attempts") {
		switch a.Stage {
		case "enrolled":
			if enrolled[a.DeviceID] {
				t.Errorf("device %s has two attempts", a.DeviceID)
			}
			enrolled[a.DeviceID] = true
		case "profile_downloaded": // of a device that did not hear of it
		default:
			t.Errorf("an attempt ended as %+v", a)
		}
	}
	link := listOf[linkItem](t, client, "/enrollment-links")[0]
	if used := link.Uses - link.UsesLeft; len(enrolled) != len(l.phones) || used != len(l.phones) {
		t.Errorf("%d devices were told that they are enrolled; the server knows %d attempts and %d uses of the link", len(l.phones), len(enrolled), used)
	}
	for path, statuses := range l.seen.count {
		for status := range statuses {
			if status != http.StatusOK {
				t.Errorf("%s answered %d", path, status)
			}
		}
	}
}

// TestALinkLetsInAsManyAsItHasUses has more devices ask for certificates than there are
// uses, all at once and at both replicas.
func TestALinkLetsInAsManyAsItHasUses(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	ctx := context.Background()
	rs := startReplicas(t, postgrestest.DSN(t), 2)
	client := rs.client(rs.turns(1, nil))
	for _, uses := range []int{1, 3, 5} {
		const more = 6
		var link linkItem
		client.api(t, "POST", "/enrollment-links", map[string]any{"name": "few", "login": "none", "uses": uses}, &link)
		devices := make([]*mdmtest.Device, uses+more)
		for i := range devices {
			devices[i] = rs.device(t, rs.turns(1, nil), nil)
			profile, err := devices[i].Download(ctx, link.ProfileURL)
			if err == nil {
				err = devices[i].Install(profile)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		var in atomic.Int32
		var together sync.WaitGroup
		for _, d := range devices {
			together.Go(func() {
				err := d.RequestIdentity(ctx)
				if err == nil {
					in.Add(1)
					err = errors.Join(d.Authenticate(ctx), d.TokenUpdate(ctx))
				} else if refused := (*mdmtest.SCEPFailure)(nil); errors.As(err, &refused) {
					err = nil
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		together.Wait()
		stages := map[string]int{}
		for _, a := range listOf[attemptItem](t, client, "/enrollment-attempts") {
			if a.LinkID == link.ID {
				stages[strings.TrimSpace(a.Stage+" "+a.Code)]++
			}
		}
		client.api(t, "GET", "/enrollment-links/"+link.ID, nil, &link)
		if int(in.Load()) != uses || link.UsesLeft != 0 || stages["enrolled"] != uses || stages["failed link_used_up"] != more {
			t.Errorf("a link with %d uses let in %d of %d devices and has %d left; their attempts: %v", uses, in.Load(), len(devices), link.UsesLeft, stages)
		}
	}
}
