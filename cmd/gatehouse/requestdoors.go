package main

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/csr"
	"github.com/gatehouse-mdm/gatehouse/depot/est"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// requestDoors are those for who signs in with a token, a password or a certificate:
// uploaded requests, and EST.
type requestDoors struct {
	depot       *depot.Depot
	people      *identity.Service
	issuance    *issuance.Service
	events      *event.Recorder
	hasTemplate func(ctx context.Context, name string) (bool, error)
	log         *slog.Logger
}

func (d *requestDoors) mount(mux *webui.Mux, fail webui.FailFunc) error {
	uploads, err := csr.New(csr.Config{
		Issuer: d.issuance, Identity: d.people, Audit: d.events, Depot: d.depot, Log: d.log,
		Peer: peerName, RequestID: webui.RequestID, Fail: fail,
	})
	if err != nil {
		return err
	}
	transport, err := est.New(est.Config{
		Issuer: d.issuance, Identity: d.people, Audit: d.events, Depot: d.depot, Log: d.log,
		HasTemplate: d.hasTemplate, ClientCertificate: webui.ClientCertificate, Peer: peerName,
	})
	if err != nil {
		return err
	}
	// Their own limits are lower, and their own words fit better.
	r := mux.Group(webui.Group{BodyLimit: 1 << 20, Timeout: 30 * time.Second, Fail: fail})
	r.Handle(http.MethodPost+" "+csr.Path, webui.Plain(uploads))
	r.Handle(est.Path, webui.Plain(transport))
	return nil
}

// peerName is the network address that the request of ctx came from, empty if it has none.
func peerName(ctx context.Context) string {
	if addr := webui.Peer(ctx); addr.IsValid() {
		return addr.String()
	}
	return ""
}
