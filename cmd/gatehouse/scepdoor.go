package main

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/scep"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/portal"
)

// Addresses under which other SCEP servers are known, for clients that have one of
// them built in: Cisco's and OpenCA's, and those of NDES.
var scepAliases = []string{"/cgi-bin/pkiclient.exe", "/certsrv/mscep/mscep.dll", "/certsrv/mscep/mscep.dll/pkiclient.exe"}

// scepDoor answers SCEP: identities at /scep, a template's certificates at /scep/NAME,
// and those of any template at the aliases, where the challenge tells which. At /scep,
// too, whoever encrypts to the issuer of payload certificates gets one of those.
//
// A message may be encrypted to any generation of an authority but those that are
// retired; the active one issues, whichever it was.
//
// A device whose certificate another server issues asks at /scep/NAME/k/TOKEN.
type scepDoor struct {
	db         storage.DB
	depot      *depot.Depot
	templates  *template.Service
	enrollment *enroll.Service
	issuance   *issuance.Service
	log        *slog.Logger
	now        func() time.Time
}

func (d *scepDoor) mount(mux *webui.Mux, people *portal.Portal, fail webui.FailFunc) {
	r := mux.Group(webui.Group{BodyLimit: 128 << 10, Timeout: 30 * time.Second, Fail: fail})
	handle := func(path string, h webui.HandlerFunc) {
		r.Handle(http.MethodPost+" "+path, h)
		r.Handle(http.MethodGet+" "+path, people.ForDevices(h))
	}
	handle(enroll.PathSCEP, d.identities)
	handle(enroll.PathOTASCEP, d.delivery)
	handle(issuance.PathSCEP+"{name}", d.template)
	handle(issuance.PathSCEP+"{name}"+issuance.PathToken+"{token}", d.template)
	for _, path := range scepAliases {
		handle(path, d.anyTemplate)
	}
}

// inFlight is for how long an authority that is retiring is still announced by a name that
// several had: as long as a profile with its fingerprint may be on its way to a device.
const inFlight = 7 * 24 * time.Hour

// authorities returns those that may be spoken to in the place of active, the one to
// announce first: the one that the profile of name with this message= was made for, or
// else active itself. A device refuses one with another fingerprint than its profile has.
func (d *scepDoor) authorities(active *depot.Authority, name, message string) []*depot.Authority {
	list := d.depot.InUse(active.Name())
	i := slices.IndexFunc(list, func(a *depot.Authority) bool {
		named := a.Generation() > 1 || a.State() == depot.StateRetiring && d.now().Sub(a.Since()) < inFlight
		return named && message == enroll.SCEPName(name, a)
	})
	if i > 0 {
		list[0], list[i] = list[i], list[0]
	}
	return list
}

// identities is /scep.
func (d *scepDoor) identities(w http.ResponseWriter, r *http.Request) error {
	message := r.URL.Query().Get("message")
	identities := d.authorities(d.depot.Identity(), enroll.AuthorityName, message)
	payloads := d.depot.InUse(d.depot.Payload().Name())
	known, err := d.exists(r.Context(), message)
	if err != nil {
		return err
	}
	if known { // the client's Name chooses the issuer
		return d.serve(w, r, slices.Concat(payloads, identities), d.issues(""))
	}
	return d.serve(w, r, slices.Concat(identities, payloads), d.issues(""))
}

// delivery is where a device gets the certificate by which it signs what it states of itself.
func (d *scepDoor) delivery(w http.ResponseWriter, r *http.Request) error {
	authorities := d.authorities(d.depot.Payload(), enroll.OTAName, r.URL.Query().Get("message"))
	return d.serve(w, r, authorities, d.enrollment.IssueDelivery)
}

// template is /scep/NAME, with a token or without. Whoever has none that is good learns so
// from the answer to the request: the authority is no secret.
func (d *scepDoor) template(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	known, err := d.exists(r.Context(), name)
	if err != nil {
		return err
	}
	if !known {
		return &webui.Problem{Status: http.StatusNotFound, Code: "not_found", Title: "No certificate template has this name"}
	}
	authorities := d.authorities(d.depot.Payload(), name, r.URL.Query().Get("message"))
	if token := r.PathValue("token"); token != "" {
		return d.serve(w, r, authorities, func(ctx context.Context, req depot.Request) (*x509.Certificate, error) {
			return d.issuance.IssueProxied(ctx, name, token, req)
		})
	}
	return d.serve(w, r, authorities, d.issues(name))
}

// issues is who decides on requests for the template with a name, or any without one.
func (d *scepDoor) issues(name string) func(context.Context, depot.Request) (*x509.Certificate, error) {
	return func(ctx context.Context, req depot.Request) (*x509.Certificate, error) {
		return d.issuance.IssueSCEP(ctx, name, req)
	}
}

// anyTemplate is an alias.
func (d *scepDoor) anyTemplate(w http.ResponseWriter, r *http.Request) error {
	return d.serve(w, r, d.depot.InUse(d.depot.Payload().Name()), d.issues(""))
}

func (d *scepDoor) serve(w http.ResponseWriter, r *http.Request, authorities []*depot.Authority, issue func(context.Context, depot.Request) (*x509.Certificate, error)) error {
	s, err := scep.New(scep.Config{
		Authorities: authorities,
		Retired: slices.DeleteFunc(d.depot.Generations(d.depot.Payload().Name()), func(a *depot.Authority) bool {
			return slices.Contains(authorities, a)
		}),
		Issuer: scep.IssuerFunc(func(ctx context.Context, a *depot.Authority, req depot.Request) (*x509.Certificate, error) {
			if a.Name() == d.depot.Identity().Name() { // of whatever generation
				return d.enrollment.IssueIdentity(ctx, req)
			}
			return issue(ctx, req)
		}),
		Peer: func(r *http.Request) string { return peerName(r.Context()) },
		Log:  d.log,
	})
	if err != nil {
		return err
	}
	s.ServeHTTP(w, r)
	return nil
}

// exists says whether there is a template of a name. The one that our enrollment
// profiles give the identity CA is none.
func (d *scepDoor) exists(ctx context.Context, name string) (known bool, err error) {
	if name == "" || name == enroll.AuthorityName {
		return false, nil
	}
	err = d.db.View(ctx, func(tx storage.Tx) error {
		_, err := d.templates.Get(tx, name)
		if known = err == nil; errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		return err
	})
	return known, err
}
