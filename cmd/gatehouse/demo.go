package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
)

// demo runs simulated devices against this very server. They come in through the
// listener like any other device; only the way to it is shorter: no DNS, and their
// push service is in this process.
type demo struct {
	n       int
	enroll  *enroll.Service
	people  *identity.Service
	devices *mdm.Service
	pusher  *demoPusher
	address net.Addr // of the listener
	url     *url.URL
	roots   *x509.CertPool
	seed    string // the same devices come back after a restart
	log     *slog.Logger
	now     func() time.Time
}

// Run enrols the devices and lets them live until ctx ends.
func (d *demo) Run(ctx context.Context) error {
	link, err := d.link(ctx)
	if err != nil {
		return err
	}
	if err := d.release(ctx); err != nil {
		return err
	}
	users, err := d.users(ctx)
	if err != nil {
		return err
	}
	fleet, err := mdmtest.NewFleet(mdmtest.FleetOptions{
		N: d.n, Demo: true, Seed: d.seed,
		ProfileURL: d.url.JoinPath("enroll", "l", link.Code, "profile").String(),
		Account:    func(i int, _ mdmtest.Model) *mdmtest.Account { return d.account(users, i) },
		Transport:  d.transport(),
		PlainHTTP:  d.url.Scheme == "http",
		Log:        d.log, Now: d.now,
	})
	if err != nil {
		return err
	}
	d.pusher.fleet.Store(fleet)
	done := make(chan error, 1)
	go func() { done <- fleet.Run(ctx) }()

	asked := map[mdm.DeviceID]time.Time{}
	for {
		select {
		case err := <-done:
			return err
		case <-time.After(time.Second):
		}
		if err := d.ask(ctx, fleet, asked); err != nil && ctx.Err() == nil {
			d.log.WarnContext(ctx, "demo devices not asked", "err", err)
		}
	}
}

// link returns the enrollment link of the demo: the one of an earlier start, if it
// still is good for all devices.
func (d *demo) link(ctx context.Context) (enroll.Link, error) {
	for cursor := ""; ; {
		page, next, err := d.enroll.Links(ctx, cursor, 100)
		if err != nil {
			return enroll.Link{}, err
		}
		for _, l := range page {
			if l.Demo && l.Usable(d.now()) == nil && l.UsesLeft >= 2*d.n {
				return l, nil
			}
		}
		if next == "" {
			break
		}
		cursor = next
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
func (d *demo) users(ctx context.Context) (map[enroll.AccountMode]string, error) {
	ids := map[enroll.AccountMode]string{}
	for i := range d.n {
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
		Reach:      func(string) string { return strings.TrimSuffix(d.url.String(), "/") },
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
	for cursor := ""; ; {
		page, next, err := d.devices.Devices(ctx, cursor, 200)
		if err != nil {
			return err
		}
		for _, o := range page {
			if !o.Demo || o.Type == mdm.TypeUserChannel || o.State != mdm.Enrolled && o.State != mdm.Pending {
				continue
			}
			if _, err := d.enroll.Unenroll(ctx, o.ID); err != nil {
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
func (d *demo) ask(ctx context.Context, fleet *mdmtest.Fleet, asked map[mdm.DeviceID]time.Time) error {
	back := make(map[string]bool, d.n) // tokens of devices that are here
	if len(asked) < d.n {
		for _, device := range fleet.Devices() {
			token, _ := device.Channel().Push()
			back[string(token)] = true
		}
	}
	for cursor := ""; len(asked) < d.n; {
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
		return dialer.DialContext(ctx, d.address.Network(), loopback(d.address))
	}
	t := &http.Transport{
		DialContext:         dial,
		TLSClientConfig:     &tls.Config{RootCAs: d.roots, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: 15 * time.Second,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     time.Minute,
	}
	if d.roots == nil {
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
