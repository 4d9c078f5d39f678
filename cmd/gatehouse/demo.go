package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/mdm/wake"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// demo runs simulated devices against this very server: as many as --demo says, or as an
// owner asks for while it runs. They come in through the listener like any other device;
// only the way to it is shorter: no DNS, and their push service is in this process.
type demo struct {
	db      storage.DB
	enroll  *enroll.Service
	people  *identity.Service
	devices *mdm.Service
	real    wake.Pusher // for while there are no simulated devices
	started int         // --demo
	refusal string      // why none can be added here, empty if they can
	seed    string      // the same devices come back after a restart
	log     *slog.Logger
	now     func() time.Time
	way     demoWay // set before Run

	deciding sync.Mutex    // one decision at a time
	wanted   atomic.Int64  // devices
	changed  chan struct{} // holds one word that wanted is another

	pusher atomic.Pointer[demoPusher] // nil while there are no devices
}

// demoWay is how the demo's devices reach the server.
type demoWay struct {
	address net.Addr // of the listener
	url     *url.URL
	roots   func() *x509.CertPool // what they trust; nil without TLS
}

// decidedDemo is what an owner decided while a server ran, so that it holds after a restart,
// too. Without devices it stands until those that there were are gone.
type decidedDemo struct {
	Devices int `json:"devices"`
}

const demoKey = "demo"

var decidedDemos = storage.NewCollection("demo", 1, func(decidedDemo) string { return demoKey })

// Some limits and words of the demo.
const (
	maxDemo       = 10_000 // devices of --demo
	demoOnACME    = "With --tls-mode acme there are no simulated devices: they would not trust the certificate when it changes. Look around on a server with --tls-mode own-ca, which needs no public name."
	demoOnReplica = "Several servers share this database. Start one of them with --demo 5."
)

// newDemo returns the demo of a server, which has yet to be told its services and its way.
func newDemo(ctx context.Context, cfg config, s *state, log *slog.Logger, now func() time.Time) (*demo, error) {
	d := &demo{
		db: s.db, started: cfg.demo, seed: webui.Fingerprint(s.depot.Root().Certificate()), log: log, now: now,
		changed: make(chan struct{}, 1),
	}
	switch {
	case cfg.tls == tlsACME:
		d.refusal = demoOnACME
	case cfg.store.shared():
		d.refusal = demoOnReplica
	}
	n := cfg.demo
	if n == 0 && d.refusal == "" {
		decided, _, err := d.decided(ctx)
		if err != nil {
			return nil, err
		}
		n = decided.Devices
	}
	d.wanted.Store(int64(n))
	return d, nil
}

// decided returns what an owner decided, and whether any did.
func (d *demo) decided(ctx context.Context) (decided decidedDemo, ok bool, err error) {
	err = d.db.View(ctx, func(tx storage.Tx) error {
		decided, err = decidedDemos.Get(tx, demoKey)
		ok = err == nil
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		return err
	})
	if err != nil {
		return decidedDemo{}, false, fmt.Errorf("demo: %w", err)
	}
	return decided, ok, nil
}

// Devices implements [apiv1.Demo].
func (d *demo) Devices() int { return int(d.wanted.Load()) }

// Refusal implements [apiv1.Demo].
func (d *demo) Refusal() string { return d.refusal }

// On says whether there are simulated devices, or shall be.
func (d *demo) On() bool { return d.wanted.Load() > 0 }

// Add implements [apiv1.Demo].
func (d *demo) Add(ctx context.Context, n int) error {
	return d.decide(ctx, n, event.Event{Action: "demo.added", Details: map[string]string{"devices": strconv.Itoa(n)}})
}

// Remove implements [apiv1.Demo].
func (d *demo) Remove(ctx context.Context) error {
	return d.decide(ctx, 0, event.Event{Action: "demo.removed", Details: map[string]string{"devices": strconv.Itoa(d.Devices())}})
}

// decide notes that there shall be n devices, and tells e of it.
func (d *demo) decide(ctx context.Context, n int, e event.Event) error {
	d.deciding.Lock()
	defer d.deciding.Unlock()
	e.At, e.Actor = d.now().UTC(), "server"
	if p, ok := identity.PrincipalFrom(ctx); ok {
		e.Actor, e.Peer = p.String(), p.Peer
	}
	err := d.db.Update(ctx, func(tx storage.Tx) error {
		if err := decidedDemos.Put(tx, decidedDemo{n}); err != nil {
			return err
		}
		return event.Record(tx, e)
	})
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	d.wanted.Store(int64(n))
	select {
	case d.changed <- struct{}{}:
	default:
	}
	return nil
}

// Run lets as many devices live as are wanted, until ctx ends.
func (d *demo) Run(ctx context.Context) error {
	for {
		n := d.Devices()
		if n == 0 {
			if err := d.clear(ctx); err != nil && ctx.Err() == nil {
				d.log.WarnContext(ctx, "simulated devices not removed", "err", err)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-d.changed:
			}
			continue
		}
		living, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- d.live(living, n) }()
		select {
		case <-d.changed:
			stop()
			<-ended
		case err := <-ended:
			stop()
			if ctx.Err() != nil {
				return nil
			}
			if d.started > 0 {
				return err
			}
			// Those that somebody wanted to look at are no reason to end a server.
			d.log.WarnContext(ctx, "simulated devices ended", "err", err)
			d.wanted.CompareAndSwap(int64(n), 0)
		}
	}
}

// live enrols n devices and lets them live until ctx ends.
func (d *demo) live(ctx context.Context, n int) error {
	pusher, err := newDemoPusher(d.db, d.log, d.now)
	if err != nil {
		return err
	}
	defer pusher.close()
	d.pusher.Store(pusher)
	defer d.pusher.Store(nil)
	link, err := d.link(ctx, n)
	if err != nil {
		return err
	}
	if err := d.release(ctx); err != nil {
		return err
	}
	users, err := d.users(ctx, n)
	if err != nil {
		return err
	}
	fleet, err := mdmtest.NewFleet(mdmtest.FleetOptions{
		N: n, Demo: true, Seed: d.seed,
		ProfileURL: d.way.url.JoinPath("enroll", "l", link.Code, "profile").String(),
		Account:    func(i int, _ mdmtest.Model) *mdmtest.Account { return d.account(users, i) },
		Transport:  d.transport(),
		PlainHTTP:  d.way.url.Scheme == "http",
		Log:        d.log, Now: d.now,
	})
	if err != nil {
		return err
	}
	pusher.fleet.Store(fleet)
	done := make(chan error, 1)
	go func() { done <- fleet.Run(ctx) }()

	asked := map[mdm.DeviceID]time.Time{}
	for {
		select {
		case err := <-done:
			return err
		case <-time.After(time.Second):
		}
		if err := d.ask(ctx, fleet, n, asked); err != nil && ctx.Err() == nil {
			d.log.WarnContext(ctx, "demo devices not asked", "err", err)
		}
	}
}

// clear ends what is left of the devices that somebody removed: their enrollments, their
// records, and the links that they came by.
func (d *demo) clear(ctx context.Context) error {
	if _, ok, err := d.decided(ctx); err != nil || !ok || d.On() {
		return err
	}
	for link, err := range d.links(ctx) { // first, so that none comes again
		if err == nil {
			err = d.enroll.RevokeLink(ctx, link.ID)
		}
		if err != nil {
			return err
		}
	}
	if err := d.release(ctx); err != nil {
		return err
	}
	if err := d.forget(ctx); err != nil {
		return err
	}
	d.deciding.Lock()
	defer d.deciding.Unlock()
	if d.On() { // again, in the meantime
		return nil
	}
	return d.db.Update(ctx, func(tx storage.Tx) error { return decidedDemos.Delete(tx, demoKey) })
}

// Push implements [wake.Pusher].
func (d *demo) Push(ctx context.Context, topic string, pushes []apns.Push, done func(i int, r apns.Result)) {
	if p := d.pusher.Load(); p != nil {
		p.Push(ctx, topic, pushes, done)
		return
	}
	d.real.Push(ctx, topic, pushes, done)
}

// links are those of the demo by which devices may enrol now.
func (d *demo) links(ctx context.Context) iter.Seq2[enroll.Link, error] {
	return func(yield func(enroll.Link, error) bool) {
		for cursor := ""; ; {
			page, next, err := d.enroll.Links(ctx, cursor, 100)
			if err != nil {
				yield(enroll.Link{}, err)
				return
			}
			for _, l := range page {
				if l.Demo && l.Usable(d.now()) == nil && !yield(l, nil) {
					return
				}
			}
			if next == "" {
				return
			}
			cursor = next
		}
	}
}

// link returns the enrollment link of the demo: the one of an earlier start, if it
// still is good for n devices.
func (d *demo) link(ctx context.Context, n int) (enroll.Link, error) {
	for l, err := range d.links(ctx) {
		if err != nil || l.UsesLeft >= 2*n {
			return l, err
		}
	}
	return d.enroll.CreateLink(ctx, enroll.NewLink{
		Name: "Demo", Login: enroll.LoginNone, Ownership: mdm.Institutional, Demo: true,
		Uses: enroll.MaxLinkUses, ExpiresIn: enroll.MaxLinkLife, CreatedBy: "demo",
	})
}

// demoPeople are whom the demo plays, by how their devices enrol. They have no password: what
// they would do on the pages of a sign-in, this process does.
var demoPeople = map[enroll.AccountMode]identity.NewUser{
	enroll.ModeBYOD: {Email: "dana@" + enroll.DemoDomain(enroll.ModeBYOD), FullName: "Dana Demo"},
	enroll.ModeADDE: {Email: "kim@" + enroll.DemoDomain(enroll.ModeADDE), FullName: "Kim Demo"},
}

func playedByDemo(u identity.User) bool {
	for _, person := range demoPeople {
		if u.Email == person.Email {
			return true
		}
	}
	return false
}

// demoMode says how the i-th device enrols, counted from 0: a few of them by account, and
// those by the link for which it is empty.
func demoMode(i int) enroll.AccountMode {
	switch {
	case i%4 == 3:
		return enroll.ModeBYOD
	case i%7 == 6:
		return enroll.ModeADDE
	}
	return ""
}

// users returns the IDs of those whom the demo plays, as far as there are devices for them.
func (d *demo) users(ctx context.Context, n int) (map[enroll.AccountMode]string, error) {
	ids := map[enroll.AccountMode]string{}
	for i := range n {
		mode := demoMode(i)
		if mode == "" || ids[mode] != "" {
			continue
		}
		person := demoPeople[mode]
		person.ManagedAppleAccount = person.Email
		u, err := d.people.CreateUser(ctx, identity.Local(), person)
		if errors.Is(err, identity.ErrTaken) { // by an earlier start, or another replica
			u, err = d.user(ctx, person.Email)
		}
		if err != nil {
			return nil, fmt.Errorf("user of the demo: %w", err)
		}
		ids[mode] = u.ID
	}
	return ids, nil
}

// user finds a user by the e-mail address.
func (d *demo) user(ctx context.Context, email string) (identity.User, error) {
	for cursor := ""; ; {
		page, next, err := d.people.Users(ctx, cursor, 200)
		if err != nil {
			return identity.User{}, err
		}
		for _, u := range page {
			if u.Email == email {
				return u, nil
			}
		}
		if next == "" {
			return identity.User{}, fmt.Errorf("%s is somebody's name already", email)
		}
		cursor = next
	}
}

// account is how the i-th device enrols, nil for those that do by the link.
func (d *demo) account(users map[enroll.AccountMode]string, i int) *mdmtest.Account {
	mode := demoMode(i)
	if mode == "" {
		return nil
	}
	return &mdmtest.Account{
		Identifier: demoPeople[mode].Email,
		Reach:      func(string) string { return strings.TrimSuffix(d.way.url.String(), "/") },
		Person: mdmtest.PersonFunc(func(ctx context.Context, s mdmtest.WebSession) (mdmtest.Redirect, error) {
			return d.signIn(ctx, s, users[mode])
		}),
	}
}

// signIn does what a person does in the web session of a device.
func (d *demo) signIn(ctx context.Context, s mdmtest.WebSession, userID string) (mdmtest.Redirect, error) {
	u, err := d.people.User(ctx, userID)
	if err != nil {
		return mdmtest.Redirect{}, err
	}
	address, err := url.Parse(s.URL)
	if err != nil {
		return mdmtest.Redirect{}, err
	}
	var authorization *enroll.AuthorizationRequest
	if query := address.Query(); query.Has("response_type") {
		asked, err := enroll.ParseAuthorizationRequest(query)
		if err != nil {
			return mdmtest.Redirect{}, err
		}
		authorization = &asked
	}
	back, err := d.enroll.FinishAccountSignIn(ctx, path.Base(address.Path), u, authorization)
	if err != nil {
		return mdmtest.Redirect{}, err
	}
	return mdmtest.Redirect{Status: http.StatusPermanentRedirect, Location: back.Location}, nil
}

// release unenrolls the devices of an earlier start. Their keys ended with that
// process, and a device that is enrolled can't be claimed with another.
func (d *demo) release(ctx context.Context) error {
	return d.each(ctx, func(o mdm.Overview) error {
		if o.State != mdm.Enrolled && o.State != mdm.Pending {
			return nil
		}
		_, err := d.enroll.Unenroll(ctx, o.ID)
		return err
	})
}

// forget deletes the records of devices that were released. What somebody has blocked stays.
func (d *demo) forget(ctx context.Context) error {
	return d.each(ctx, func(o mdm.Overview) error {
		err := d.enroll.Delete(ctx, o.ID)
		if errors.Is(err, mdm.ErrEnrolled) { // a message of it was on its way
			if _, err = d.enroll.Unenroll(ctx, o.ID); err == nil {
				err = d.enroll.Delete(ctx, o.ID)
			}
		}
		switch {
		case errors.Is(err, storage.ErrNotFound): // somebody else has
		case errors.Is(err, mdm.ErrBlocked), errors.Is(err, enroll.ErrUserBlocked):
		default:
			return err
		}
		return nil
	})
}

// each calls fn for every simulated device there is a record of.
func (d *demo) each(ctx context.Context, fn func(mdm.Overview) error) error {
	for cursor := ""; ; {
		page, next, err := d.devices.Devices(ctx, cursor, 200)
		if err != nil {
			return err
		}
		for _, o := range page {
			if !o.Demo || o.Type == mdm.TypeUserChannel {
				continue
			}
			if err := fn(o); err != nil {
				return err
			}
		}
		if next == "" {
			return nil
		}
		cursor = next
	}
}

// ask queues a DeviceInformation for each demo device that enrolled since the last
// time.
func (d *demo) ask(ctx context.Context, fleet *mdmtest.Fleet, n int, asked map[mdm.DeviceID]time.Time) error {
	back := make(map[string]bool, n) // tokens of devices that are here
	if len(asked) < n {
		for _, device := range fleet.Devices() {
			token, _ := device.Channel().Push()
			back[string(token)] = true
		}
	}
	for cursor := ""; len(asked) < n; {
		page, next, err := d.devices.Devices(ctx, cursor, 200)
		if err != nil {
			return err
		}
		for _, o := range page {
			if !o.Demo || !o.Live() || o.Push == nil || o.Type == mdm.TypeUserChannel || asked[o.ID].Equal(o.EnrolledAt) {
				continue
			}
			// A device of an earlier start is asked only once it has come back.
			if !back[string(o.Push.Token)] {
				continue
			}
			if err := d.askInformation(ctx, o.ID); err != nil {
				return err
			}
			asked[o.ID] = o.EnrolledAt
		}
		if next == "" {
			return nil
		}
		cursor = next
	}
	return nil
}

func (d *demo) askInformation(ctx context.Context, id mdm.DeviceID) error {
	const requestType = "DeviceInformation"
	uuid := mdm.NewUUID()
	plist, err := command.Build(requestType, map[string]any{}, uuid)
	if err != nil {
		return err
	}
	_, rejected, err := d.devices.Enqueue(ctx, mdm.NewCommand{
		UUID: uuid, RequestType: requestType, Plist: plist, CreatedBy: "demo", Targets: []mdm.DeviceID{id},
	})
	if err == nil && len(rejected) > 0 {
		err = fmt.Errorf("%s refused: %s", requestType, rejected[0].Reason)
	}
	return err
}

// transport reaches the listener under whatever name the server goes by.
func (d *demo) transport() *http.Transport {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, d.way.address.Network(), loopback(d.way.address))
	}
	var roots *x509.CertPool
	if d.way.roots != nil {
		roots = d.way.roots()
	}
	t := &http.Transport{
		DialContext:         dial,
		TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: 15 * time.Second,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     time.Minute,
	}
	if roots == nil {
		// A proxy in front does TLS, and the demo comes from behind it.
		t.DialTLSContext = dial
		t.ForceAttemptHTTP2 = false
	}
	return t
}

// loopback is the address by which this machine reaches its own listener.
func loopback(addr net.Addr) string {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}
