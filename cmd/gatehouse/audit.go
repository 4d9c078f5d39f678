package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"maps"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// peopleAudit writes what happens to users and tokens into the audit log.
type peopleAudit struct{ events *event.Recorder }

var _ identity.Audit = peopleAudit{}

// Record implements [identity.Audit].
func (peopleAudit) Record(tx storage.Tx, f identity.Fact) error {
	return event.Record(tx, peopleEvent(f))
}

// Refused implements [identity.Audit].
func (a peopleAudit) Refused(ctx context.Context, f identity.Fact) {
	a.events.Refused(ctx, peopleEvent(f))
}

func peopleEvent(f identity.Fact) event.Event {
	return event.Event{
		At: f.At, Actor: f.Actor, Action: f.Action, Reason: f.Reason, User: f.User, Peer: f.Peer, Details: f.Details,
	}
}

// auditTemplate writes what happens to certificate templates into the audit log.
func auditTemplate(tx storage.Tx, c template.Change) error {
	return event.Record(tx, event.Event{At: c.At, Actor: c.By, Action: "template." + c.Action, Template: c.Template.Name})
}

// auditPush writes what happens to push certificates and requests for them into the audit log.
func auditPush(ctx context.Context, tx storage.Tx, c apns.Change) error {
	e := event.Event{At: c.At, Actor: "gatehouse", Action: c.Action, Reason: c.Reason, Details: maps.Clone(c.Details)}
	if p, ok := identity.PrincipalFrom(ctx); ok {
		e.Actor, e.Peer = p.String(), p.Peer
	}
	if e.Details == nil {
		e.Details = make(map[string]string)
	}
	for key, value := range map[string]string{"topic": c.Topic, "apple_account": c.AppleAccount} {
		if value != "" {
			e.Details[key] = value
		}
	}
	return event.Record(tx, e)
}

// ownAuthority names the certificates of this server's own authorities, for who takes one of
// them for another certificate.
func ownAuthority(d *depot.Depot) func(*x509.Certificate) string {
	return func(c *x509.Certificate) string {
		for _, a := range d.Authorities() {
			if a.Certificate().Equal(c) {
				return fmt.Sprintf("the certificate of this server’s own %s authority (%s), by which it issues certificates (SCEP)", a.Name(), c.Subject.CommonName)
			}
		}
		return ""
	}
}
