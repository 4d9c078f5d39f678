package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
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
		Changes: event.Changes(f.Before, f.After, f.Secret...),
	}
}

// auditTemplate writes what happens to certificate templates into the audit log.
func auditTemplate(tx storage.Tx, c template.Change) error {
	e := event.Event{At: c.At, Actor: c.By, Action: "template." + c.Action, Template: c.Template.Name}
	switch c.Action {
	case "created":
		e.Changes = event.Changes(nil, auditedTemplate(c.Template))
	case "changed":
		e.Changes = event.Changes(auditedTemplate(c.Before), auditedTemplate(c.Template))
	case "deleted":
		e.Changes = event.Changes(auditedTemplate(c.Template), nil)
	}
	return event.Record(tx, e)
}

// auditedTemplate is t as the API spells it, as far as somebody can change it. Secrets are
// among it, by the names that are never told.
func auditedTemplate(t template.Template) map[string]any {
	roots := make([]string, len(t.Roots))
	for i, der := range t.Roots {
		sum := sha256.Sum256(der)
		roots[i] = hex.EncodeToString(sum[:])
	}
	note := "" // the last: those before it stay as they are
	if n := len(t.Notes); n > 0 {
		note = t.Notes[n-1].Text
	}
	return map[string]any{
		"notes": note, "subject": t.Subject, "sans": t.SANs, "key_type": t.KeyType, "key_size": t.KeySize, "key_usage": t.KeyUsage, "ext_key_usage": t.ExtKeyUsage,
		"validity": t.Validity, "renew_before": t.RenewBefore, "retries": t.Retries, "retry_delay": t.RetryDelay.String(),
		"key_extractable": t.KeyExtractable, "allow_all_apps_access": t.AllowAllAppsAccess, "include_root": t.IncludeRoot, "roots": roots,
		"challenge_type": t.ChallengeType, "challenge": string(t.Challenge), "issuer": t.Issuer,
		"upstream": map[string]any{
			"url": t.Upstream.URL, "name": t.Upstream.Name, "fingerprint": hex.EncodeToString(t.Upstream.Fingerprint), "allow_private": t.Upstream.AllowPrivate,
			"challenge_type": t.Upstream.ChallengeType, "challenge": string(t.Upstream.Challenge), "challenge_url": t.Upstream.ChallengeURL,
			"username": t.Upstream.Username, "password": string(t.Upstream.Password),
		},
	}
}

// auditPush writes what happens to push certificates and requests for them into the audit log.
func auditPush(ctx context.Context, tx storage.Tx, c apns.Change) error {
	e := event.Event{At: c.At, Actor: "server", Action: c.Action, Reason: c.Reason, Details: maps.Clone(c.Details), Changes: event.Changes(c.Before, c.After)}
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
