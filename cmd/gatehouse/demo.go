package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
)

// demo runs simulated devices against this very server. They come in through the
// listener like any other device; only the way to it is shorter: no DNS, and a
// push is a call.
type demo struct {
	n       int
	enroll  *enroll.Service
	devices *mdm.Service
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
	fleet, err := mdmtest.NewFleet(mdmtest.FleetOptions{
		N: d.n, Demo: true, Seed: d.seed,
		ProfileURL: d.url.JoinPath("enroll", "l", link.Code, "profile").String(),
		Transport:  d.transport(),
		PlainHTTP:  d.url.Scheme == "http",
		Log:        d.log, Now: d.now,
	})
	if err != nil {
		return err
	}
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
// time, and wakes it.
func (d *demo) ask(ctx context.Context, fleet *mdmtest.Fleet, asked map[mdm.DeviceID]time.Time) error {
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
			if !fleet.Wake(o.Push.Token, o.Push.Magic) {
				continue
			}
			if err := d.askInformation(ctx, o.ID); err != nil {
				return err
			}
			asked[o.ID] = o.EnrolledAt
			fleet.Wake(o.Push.Token, o.Push.Magic)
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
