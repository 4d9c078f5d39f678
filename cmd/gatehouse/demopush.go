package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/apns/standin"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// demoTopic is that of the demo's push certificate, which is nobody's profile's.
const demoTopic = "com.apple.mgmt.External.demo"

// demoPusher wakes the demo's devices as Apple wakes others: over a connection to a push
// service, which runs in this process. Its certificate is not among the operator's.
type demoPusher struct {
	service *standin.Server
	client  *apns.Client
	fleet   atomic.Pointer[mdmtest.Fleet] // nil until there are devices
}

func newDemoPusher(db storage.DB, log *slog.Logger, now func() time.Time) (*demoPusher, error) {
	p := &demoPusher{}
	service, err := standin.New(standin.Options{OnPush: func(push standin.Push) standin.Answer {
		return deliver(p.fleet.Load(), push)
	}})
	if err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	certificate, err := newDemoCertificate(service)
	if err == nil {
		p.service = service
		p.client, err = apns.NewClient(apns.ClientConfig{
			DB: db, Certificates: certificate, URL: service.URL(), Roots: service.Roots(), Log: log, Now: now,
		})
	}
	if err != nil {
		service.Close()
		return nil, fmt.Errorf("demo: %w", err)
	}
	return p, nil
}

// Push implements [wake.Pusher]. What the devices' profiles name does not matter.
func (p *demoPusher) Push(ctx context.Context, _ string, pushes []apns.Push, done func(i int, r apns.Result)) {
	p.client.Push(ctx, demoTopic, pushes, done)
}

// close ends the push service; pushes after it are to be tried again.
func (p *demoPusher) close() {
	_ = p.client.Close() // it ends a connection within this process
	p.service.Close()
}

// deliver takes a push to the device of a fleet, and answers as Apple would.
func deliver(fleet *mdmtest.Fleet, push standin.Push) standin.Answer {
	switch {
	case fleet == nil: // it is about to be made
		return standin.Answer{Status: http.StatusServiceUnavailable, Reason: "ServiceUnavailable"}
	case !fleet.Wake(push.Token, push.Magic):
		return standin.Answer{Status: http.StatusGone, Reason: "Unregistered", Timestamp: time.Now()}
	}
	return standin.Answer{}
}

// demoCertificate is the one push certificate of the demo. It implements
// [apns.PushCertificates].
type demoCertificate struct {
	pair   tls.Certificate
	record apns.Certificate
}

func newDemoCertificate(service *standin.Server) (*demoCertificate, error) {
	chain, key, err := service.Issue(standin.Identity{Topic: demoTopic})
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, err
	}
	return &demoCertificate{pair, apns.Certificate{Topic: demoTopic, NotAfter: leaf.NotAfter}}, nil
}

func (c *demoCertificate) Get(_ storage.Tx, topic string) (apns.Certificate, error) {
	if topic != demoTopic {
		return apns.Certificate{}, storage.ErrNotFound
	}
	return c.record, nil
}

func (c *demoCertificate) TLS(tx storage.Tx, topic string) (tls.Certificate, apns.Certificate, error) {
	record, err := c.Get(tx, topic)
	return c.pair, record, err
}
