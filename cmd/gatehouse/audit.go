package main

import (
	"context"

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
