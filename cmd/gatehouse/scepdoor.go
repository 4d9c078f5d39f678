package main

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
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
// A device whose certificate another server issues asks at /scep/NAME/k/TOKEN.
type scepDoor struct {
	db         storage.DB
	depot      *depot.Depot
	templates  *template.Service
	enrollment *enroll.Service
	issuance   *issuance.Service
	log        *slog.Logger
}

func (d *scepDoor) mount(mux *webui.Mux, people *portal.Portal, fail webui.FailFunc) {
	r := mux.Group(webui.Group{BodyLimit: 128 << 10, Timeout: 30 * time.Second, Fail: fail})
	handle := func(path string, h webui.HandlerFunc) {
		r.Handle(http.MethodPost+" "+path, h)
		r.Handle(http.MethodGet+" "+path, people.ForDevices(h))
	}
	handle(enroll.PathSCEP, d.identities)
	handle(issuance.PathSCEP+"{name}", d.template)
	handle(issuance.PathSCEP+"{name}"+issuance.PathToken+"{token}", d.template)
	for _, path := range scepAliases {
		handle(path, d.anyTemplate)
	}
}

// identities is /scep.
func (d *scepDoor) identities(w http.ResponseWriter, r *http.Request) error {
	authorities := []*depot.Authority{d.depot.Identity(), d.depot.Payload()}
	known, err := d.exists(r.Context(), r.URL.Query().Get("message"))
	if err != nil {
		return err
	}
	if known { // the client's Name chooses the issuer
		authorities[0], authorities[1] = authorities[1], authorities[0]
	}
	return d.serve(w, r, authorities, d.issues(""))
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
	if token := r.PathValue("token"); token != "" {
		return d.serve(w, r, []*depot.Authority{d.depot.Payload()}, func(ctx context.Context, req depot.Request) (*x509.Certificate, error) {
			return d.issuance.IssueProxied(ctx, name, token, req)
		})
	}
	return d.serve(w, r, []*depot.Authority{d.depot.Payload()}, d.issues(name))
}

// issues is who decides on requests for the template with a name, or any without one.
func (d *scepDoor) issues(name string) func(context.Context, depot.Request) (*x509.Certificate, error) {
	return func(ctx context.Context, req depot.Request) (*x509.Certificate, error) {
		return d.issuance.IssueSCEP(ctx, name, req)
	}
}

// anyTemplate is an alias.
func (d *scepDoor) anyTemplate(w http.ResponseWriter, r *http.Request) error {
	return d.serve(w, r, []*depot.Authority{d.depot.Payload()}, d.issues(""))
}

func (d *scepDoor) serve(w http.ResponseWriter, r *http.Request, authorities []*depot.Authority, issue func(context.Context, depot.Request) (*x509.Certificate, error)) error {
	s, err := scep.New(scep.Config{
		Authorities: authorities,
		Issuer: scep.IssuerFunc(func(ctx context.Context, a *depot.Authority, req depot.Request) (*x509.Certificate, error) {
			if a == d.depot.Identity() {
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
