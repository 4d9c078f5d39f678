package issuance_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// Devices as they are named: isDeviceID of package issuance tells them from people.
const (
	anas  = mdm.DeviceID("6h6lzdqht3mpxeocagy2tdzgla")
	boris = mdm.DeviceID("6h6lzdqht3mpxeocagy2tdzglb")
	gone  = mdm.DeviceID("6h6lzdqht3mpxeocagy2tdzglc")
)

func token(user string, scopes ...identity.Scope) identity.Principal {
	return identity.Principal{Kind: identity.KindToken, ID: "t-" + user, Name: "test", User: user, Scopes: scopes}
}

// officeHouse has two users with a device each, and one that has left.
func officeHouse(t testing.TB) *house {
	t.Helper()
	h := newHouse(t)
	h.user(t, "ana@example.com", "Ana Bee")
	h.user(t, "bo@example.com", "Bo Cee")
	h.device(t, anas, func(d *mdm.Device) { d.User = "Ana@example.com" })
	h.device(t, boris, func(d *mdm.Device) { d.User = "bo@example.com" })
	h.device(t, gone, func(d *mdm.Device) { d.User, d.State = "ana@example.com", mdm.Unenrolled })
	return h
}

// application is a request as a door passes it on.
func application(t testing.TB, asked x509.CertificateRequest) depot.Application {
	t.Helper()
	req := csr(t, newKey(t), asked)
	a, err := guard.AskedBy(req)
	must(t, err)
	return depot.Application{CSR: req, Asked: a, Door: "csr", Peer: "192.0.2.1"}
}

func uri(t testing.TB, text string) []*url.URL {
	t.Helper()
	u, err := url.Parse(text)
	must(t, err)
	return []*url.URL{u}
}

var (
	oidSAN    = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidUPN    = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3}
	oidEKU    = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidKU     = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidCA     = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidClient = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}
	oidServer = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}
)

func ext(t interface{ Fatal(...any) }, id asn1.ObjectIdentifier, v any) pkix.Extension {
	der, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: id, Value: der}
}

// upn is a subject alternative name extension with a user principal name alone.
func upn(t interface{ Fatal(...any) }, name string) pkix.Extension {
	text, err := asn1.MarshalWithParams(name, "utf8")
	if err != nil {
		t.Fatal(err)
	}
	type otherName struct {
		ID    asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	explicit := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: text}
	other, err := asn1.MarshalWithParams(otherName{oidUPN, explicit}, "tag:0")
	if err != nil {
		t.Fatal(err)
	}
	return ext(t, oidSAN, []asn1.RawValue{{FullBytes: other}})
}

func TestSelfService(t *testing.T) {
	storagetest.AnyEngine(t)
	h := officeHouse(t)
	user := func(change func(*x509.CertificateRequest)) x509.CertificateRequest {
		r := asking("Ana Bee")
		if change != nil {
			change(&r)
		}
		return r
	}
	for name, tt := range map[string]struct {
		asked x509.CertificateRequest
		field string // that is refused; empty: it is granted
		names []string
	}{
		"her full name":           {asked: user(nil), names: []string{"upn:ana@example.com"}},
		"with her principal name": {asked: user(func(r *x509.CertificateRequest) { r.ExtraExtensions = []pkix.Extension{upn(t, "ana@example.com")} }), names: []string{"upn:ana@example.com"}},
		"with her address":        {asked: user(func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"ana@example.com"} }), names: []string{"ana@example.com", "upn:ana@example.com"}},
		"for client authentication": {asked: user(func(r *x509.CertificateRequest) {
			r.ExtraExtensions = []pkix.Extension{ext(t, oidEKU, []asn1.ObjectIdentifier{oidClient})}
		}), names: []string{"upn:ana@example.com"}},
		"her device by its CN":  {asked: asking(string(anas)), names: []string{"mdm-device://" + string(anas)}},
		"her device by its URI": {asked: x509.CertificateRequest{URIs: uri(t, "mdm-device://"+string(anas))}, names: []string{"mdm-device://" + string(anas)}},
		"her device by its URI and serial number": {
			asked: x509.CertificateRequest{Subject: pkix.Name{CommonName: "SN" + string(anas)}, URIs: uri(t, "mdm-device://"+string(anas))}, names: []string{"mdm-device://" + string(anas)},
		},

		"another's name":           {asked: asking("Bo Cee"), field: "subject.cn"},
		"no name":                  {asked: x509.CertificateRequest{}, field: "subject.cn"},
		"an organisation":          {asked: user(func(r *x509.CertificateRequest) { r.Subject.Organization = []string{"Example"} }), field: "subject"},
		"another's principal name": {asked: user(func(r *x509.CertificateRequest) { r.ExtraExtensions = []pkix.Extension{upn(t, "bo@example.com")} }), field: "san.upn"},
		"another's address":        {asked: user(func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"bo@example.com"} }), field: "san.email"},
		"two addresses":            {asked: user(func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"ana@example.com", "ana@example.com"} }), field: "san.email"},
		"a host":                   {asked: user(func(r *x509.CertificateRequest) { r.DNSNames = []string{"www.example.com"} }), field: "san.dns"},
		"an IP address":            {asked: user(func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 1)} }), field: "san.ip"},
		"another URI":              {asked: user(func(r *x509.CertificateRequest) { r.URIs = uri(t, "https://example.com") }), field: "san.uri"},
		"an authority": {asked: user(func(r *x509.CertificateRequest) {
			r.ExtraExtensions = []pkix.Extension{ext(t, oidCA, struct{ CA bool }{true})}
		}), field: "basic_constraints"},
		"a server's usage": {asked: user(func(r *x509.CertificateRequest) {
			r.ExtraExtensions = []pkix.Extension{ext(t, oidEKU, []asn1.ObjectIdentifier{oidClient, oidServer})}
		}), field: "ext_key_usage"},
		"the signing of certificates": {asked: user(func(r *x509.CertificateRequest) {
			r.ExtraExtensions = []pkix.Extension{ext(t, oidKU, asn1.BitString{Bytes: []byte{0x04}, BitLength: 6})}
		}), field: "key_usage"},
		"an extension of unknown meaning": {asked: user(func(r *x509.CertificateRequest) {
			r.ExtraExtensions = []pkix.Extension{ext(t, asn1.ObjectIdentifier{1, 2, 3}, "x")}
		}), field: "extensions"},
		"another's device":                  {asked: asking(string(boris)), field: "subject.cn"},
		"another's device by its URI":       {asked: x509.CertificateRequest{URIs: uri(t, "mdm-device://"+string(boris))}, field: "san.uri"},
		"a device that has left":            {asked: asking(string(gone)), field: "subject.cn"},
		"a device that never was":           {asked: asking(strings.Repeat("a", 26)), field: "subject.cn"},
		"a device under another name":       {asked: x509.CertificateRequest{Subject: pkix.Name{CommonName: "Ana Bee"}, URIs: uri(t, "mdm-device://"+string(anas))}, field: "subject.cn"},
		"a device with an address":          {asked: x509.CertificateRequest{URIs: uri(t, "mdm-device://"+string(anas)), EmailAddresses: []string{"ana@example.com"}}, field: "san.email"},
		"a device and one that is not hers": {asked: x509.CertificateRequest{Subject: pkix.Name{CommonName: string(anas)}, URIs: uri(t, "mdm-device://"+string(boris))}, field: "san.uri"},
	} {
		t.Run(name, func(t *testing.T) {
			h.pass(time.Minute) // of the quota
			cert, err := h.IssueCSR(t.Context(), token("ana@example.com", identity.ScopeCertSelf), application(t, tt.asked))
			var field *depot.FieldError
			if tt.field != "" {
				if !errors.As(err, &field) || field.Field != tt.field {
					t.Fatalf("IssueCSR = %v, want an error of %s", err, tt.field)
				}
				return
			}
			must(t, err)
			if got := depot.AlternativeNames(cert); !slices.Equal(got, tt.names) {
				t.Errorf("names %q, want %q", got, tt.names)
			}
			if !slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || cert.IsCA || cert.KeyUsage != x509.KeyUsageDigitalSignature {
				t.Errorf("usage %v, %b, CA %v", cert.ExtKeyUsage, cert.KeyUsage, cert.IsCA)
			}
			rec := h.record(t, cert)
			if rec.User != "ana@example.com" || (rec.DeviceID == string(anas)) != strings.Contains(tt.names[0], "mdm-device") {
				t.Errorf("record %+v", rec)
			}
		})
	}
	if n := len(h.events(t, "certificate.refused")); n == 0 {
		t.Error("no refusal is in the audit log")
	}
}

func TestWhoMayAsk(t *testing.T) {
	storagetest.AnyEngine(t)
	h := officeHouse(t)
	h.template(t, "radius", func(tmpl *template.Template) {
		tmpl.Subject, tmpl.ExtKeyUsage = subject(t, "/CN=radius.example.com"), []string{"serverAuth"}
		tmpl.SANs = template.SANs{DNSNames: []string{"radius.example.com"}}
	})
	disabled := h.user(t, "eve@example.com", "Eve Dee")
	off := true
	_, err := h.people.UpdateUser(t.Context(), identity.Local(), disabled.ID, identity.UserChange{Disabled: &off})
	must(t, err)
	any := token("", identity.ScopeCertAny)
	templated := application(t, x509.CertificateRequest{Subject: pkix.Name{CommonName: "radius.example.com"}})
	templated.Template = "radius"
	for name, tt := range map[string]struct {
		p    identity.Principal
		a    depot.Application
		want error
	}{
		"anybody's name":            {any, application(t, asking("printer 7")), nil},
		"a template":                {any, templated, nil},
		"a template, by a user":     {token("ana@example.com", identity.ScopeCertSelf), templated, issuance.ErrForbidden},
		"a token that only revokes": {token("", identity.ScopeCertManage), application(t, asking("x")), issuance.ErrForbidden},
		"a token that reads":        {token("", identity.ScopeReadOnly), application(t, asking("x")), issuance.ErrForbidden},
		"a user who is disabled":    {token("eve@example.com", identity.ScopeCertSelf), application(t, asking("Eve Dee")), issuance.ErrForbidden},
		"a user whom nobody knows":  {token("nobody@example.com", identity.ScopeCertSelf), application(t, asking("Nobody")), issuance.ErrForbidden},
		"nothing at all":            {any, application(t, x509.CertificateRequest{}), new(depot.FieldError)},
		"a wildcard":                {any, application(t, x509.CertificateRequest{DNSNames: []string{"*.example.com"}}), new(depot.FieldError)},
		"a server's usage without a template": {any, application(t, func() x509.CertificateRequest {
			r := asking("x")
			r.ExtraExtensions = []pkix.Extension{ext(t, oidEKU, []asn1.ObjectIdentifier{oidServer})}
			return r
		}()), new(depot.FieldError)},
	} {
		t.Run(name, func(t *testing.T) {
			cert, err := h.IssueCSR(t.Context(), tt.p, tt.a)
			var field *depot.FieldError
			switch _, byField := tt.want.(*depot.FieldError); {
			case byField && !errors.As(err, &field), !byField && !errors.Is(err, tt.want):
				t.Fatalf("IssueCSR = %v, want %v", err, tt.want)
			case tt.want == nil && tt.a.Template == "radius" && (!slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) || !slices.Equal(cert.DNSNames, []string{"radius.example.com"})):
				t.Errorf("usage %v, names %v", cert.ExtKeyUsage, cert.DNSNames)
			}
		})
	}
}

func TestCertificatesForAnybodyEndWithWhomTheyName(t *testing.T) {
	storagetest.AnyEngine(t)
	h := officeHouse(t)
	any := token("", identity.ScopeCertAny)
	device, err := h.IssueCSR(t.Context(), any, application(t, x509.CertificateRequest{Subject: pkix.Name{CommonName: "a Mac"}, URIs: uri(t, "mdm-device://"+string(anas))}))
	must(t, err)
	user, err := h.IssueCSR(t.Context(), any, application(t, x509.CertificateRequest{Subject: pkix.Name{CommonName: "Bo"}, EmailAddresses: []string{"bo@example.com"}}))
	must(t, err)
	if rec := h.record(t, device); rec.DeviceID != string(anas) {
		t.Errorf("the device's: %+v", rec)
	}
	h.update(t, func(tx storage.Tx) error {
		return h.depot.RevokeUser(tx, "bo@example.com", "privilegeWithdrawn", h.now())
	})
	if h.revoked(t, user) == "" || h.revoked(t, device) != "" {
		t.Errorf("after the user's end: revoked for %q and %q", h.revoked(t, user), h.revoked(t, device))
	}
}

func TestQuota(t *testing.T) {
	h := officeHouse(t)
	ana := token("ana@example.com", identity.ScopeCertSelf)
	var err error
	n := 0
	for ; n < 100 && err == nil; n++ {
		_, err = h.IssueCSR(t.Context(), ana, application(t, asking("Ana Bee")))
	}
	if !errors.Is(err, depot.ErrQuota) || depot.RetryAfter(err) > time.Minute || n < 10 {
		t.Errorf("request %d: %v, again in %v", n, err, depot.RetryAfter(err))
	}
	if _, err := h.IssueCSR(t.Context(), token("bo@example.com", identity.ScopeCertSelf), application(t, asking("Bo Cee"))); err != nil {
		t.Errorf("another user: %v", err)
	}
	h.pass(time.Minute)
	if _, err := h.IssueCSR(t.Context(), ana, application(t, asking("Ana Bee"))); err != nil {
		t.Errorf("a minute later: %v", err)
	}
}

func TestReissue(t *testing.T) {
	storagetest.AnyEngine(t)
	h := officeHouse(t)
	ana := token("ana@example.com", identity.ScopeCertSelf)
	asked := x509.CertificateRequest{Subject: pkix.Name{CommonName: "Ana Bee"}, ExtraExtensions: []pkix.Extension{upn(t, "ana@example.com")}}
	first := application(t, asked)
	old, err := h.IssueCSR(t.Context(), ana, first)
	must(t, err)
	if again, err := h.IssueCSR(t.Context(), ana, first); err != nil || !again.Equal(old) {
		t.Errorf("the same request again: %v", err)
	}
	renewed, err := h.Reissue(t.Context(), old, application(t, asked))
	must(t, err)
	if string(renewed.RawSubject) != string(old.RawSubject) || !slices.Equal(depot.AlternativeNames(renewed), depot.AlternativeNames(old)) {
		t.Errorf("the new one is for %s, %v", renewed.Subject, depot.AlternativeNames(renewed))
	}
	kept := application(t, asked)
	kept.CSR, kept.Asked = first.CSR, first.Asked // the same key
	if _, err := h.Reissue(t.Context(), old, kept); err != nil {
		t.Errorf("with the same key: %v", err)
	}
	if h.revoked(t, renewed) != "superseded" {
		t.Error("the one before is not superseded")
	}
	for name, tt := range map[string]struct {
		asked  x509.CertificateRequest
		before func()
	}{
		"another name":       {asked: x509.CertificateRequest{Subject: pkix.Name{CommonName: "Bo Cee"}, ExtraExtensions: asked.ExtraExtensions}},
		"another other name": {asked: x509.CertificateRequest{Subject: asked.Subject, ExtraExtensions: []pkix.Extension{upn(t, "bo@example.com")}}},
		"an authority":       {asked: x509.CertificateRequest{Subject: asked.Subject, ExtraExtensions: append([]pkix.Extension{ext(t, oidCA, struct{ CA bool }{true})}, asked.ExtraExtensions...)}},
	} {
		t.Run(name, func(t *testing.T) {
			var field *depot.FieldError
			if _, err := h.Reissue(t.Context(), old, application(t, tt.asked)); !errors.As(err, &field) {
				t.Errorf("Reissue = %v, want a field error", err)
			}
		})
	}
	u, err := h.people.User(t.Context(), userID(t, h, "ana@example.com"))
	must(t, err)
	off := true
	_, err = h.people.UpdateUser(t.Context(), identity.Local(), u.ID, identity.UserChange{Disabled: &off})
	must(t, err)
	if _, err := h.Reissue(t.Context(), old, application(t, asked)); !errors.Is(err, issuance.ErrRenewal) {
		t.Errorf("of a user who is disabled: %v", err)
	}
}

func userID(t *testing.T, h *house, login string) (id string) {
	t.Helper()
	h.view(t, func(tx storage.Tx) error {
		u, err := identity.UserByLogin(tx, login)
		id = u.ID
		return err
	})
	return id
}

// TestNobodyIsIssuedACertificateInTheMomentOfTheirEnd: either the request is refused, or
// what it got is revoked.
func TestNobodyIsIssuedACertificateInTheMomentOfTheirEnd(t *testing.T) {
	t.Run("a user", func(t *testing.T) {
		db := storagetest.Open(t)
		h := houseOn(t, db)
		u := h.user(t, "ana@example.com", "Ana Bee")
		a := application(t, asking("Ana Bee"))
		var cert *x509.Certificate
		var issued, disabled error
		storagetest.Overlap(db,
			func(db storage.DB) {
				cert, issued = houseOn(t, db).IssueCSR(context.Background(), token("ana@example.com", identity.ScopeCertSelf), a)
			},
			func(db storage.DB) {
				off := true
				_, disabled = houseOn(t, db).people.UpdateUser(context.Background(), identity.Local(), u.ID, identity.UserChange{Disabled: &off})
			})
		must(t, disabled)
		if issued == nil && h.revoked(t, cert) == "" {
			t.Error("the certificate outlives its user")
		}
	})
	t.Run("a device", func(t *testing.T) {
		db := storagetest.Open(t)
		h := houseOn(t, db)
		h.user(t, "ana@example.com", "Ana Bee")
		d := h.device(t, anas, func(d *mdm.Device) { d.User = "ana@example.com" })
		a := application(t, asking(string(anas)))
		var cert *x509.Certificate
		var issued, left error
		storagetest.Overlap(db,
			func(db storage.DB) {
				cert, issued = houseOn(t, db).IssueCSR(context.Background(), token("ana@example.com", identity.ScopeCertSelf), a)
			},
			func(db storage.DB) {
				left = db.Update(context.Background(), func(tx storage.Tx) error {
					d.State = mdm.Unenrolled
					return errors.Join(mdm.PutDevice(tx, d), h.depot.RevokeDevice(tx, string(anas), "cessationOfOperation", h.now()))
				})
			})
		must(t, left)
		if issued == nil && h.revoked(t, cert) == "" {
			t.Error("the certificate outlives its device")
		}
	})
}

func TestOneKeyIsNeverTwoUsers(t *testing.T) {
	db := storagetest.Open(t)
	h := houseOn(t, db)
	h.user(t, "ana@example.com", "Ana Bee")
	h.user(t, "bo@example.com", "Bo Cee")
	key := newKey(t)
	ask := func(name, user string, err *error) func(storage.DB) {
		req := csr(t, key, asking(name))
		asked, readErr := guard.AskedBy(req)
		must(t, readErr)
		return func(db storage.DB) {
			_, *err = houseOn(t, db).IssueCSR(context.Background(), token(user, identity.ScopeCertSelf), depot.Application{CSR: req, Asked: asked, Door: "csr"})
		}
	}
	var a, b error
	storagetest.Overlap(db, ask("Ana Bee", "ana@example.com", &a), ask("Bo Cee", "bo@example.com", &b))
	if (a == nil) == (b == nil) || !errors.Is(errors.Join(a, b), issuance.ErrKeyReused) {
		t.Errorf("two requests with one key: %v and %v, want one of them refused", a, b)
	}
}

func TestAKeyIsAsLongAsItsTemplateWants(t *testing.T) {
	storagetest.AnyEngine(t)
	h := officeHouse(t)
	h.template(t, "long", func(tmpl *template.Template) { tmpl.Subject, tmpl.KeySize = subject(t, "/CN=printer"), 4096 })
	short, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	req := csr(t, short, asking("printer"))
	asked, err := guard.AskedBy(req)
	must(t, err)
	var field *depot.FieldError
	_, err = h.IssueCSR(t.Context(), token("", identity.ScopeCertAny), depot.Application{CSR: req, Asked: asked, Template: "long", Door: "csr"})
	if !errors.As(err, &field) || field.Field != "public_key" {
		t.Errorf("a key of 2048 bits where 4096 are wanted: %v", err)
	}
}

func TestReissuesDoNotMultiply(t *testing.T) {
	storagetest.AnyEngine(t)
	h := officeHouse(t)
	asked := x509.CertificateRequest{Subject: pkix.Name{CommonName: "Ana Bee"}, ExtraExtensions: []pkix.Extension{upn(t, "ana@example.com")}}
	first, err := h.IssueCSR(t.Context(), token("ana@example.com", identity.ScopeCertSelf), application(t, asked))
	must(t, err)
	all := []*x509.Certificate{first}
	for range 5 { // each from the one before
		next, err := h.Reissue(t.Context(), all[len(all)-1], application(t, asked))
		must(t, err)
		all = append(all, next)
	}
	for i, cert := range all {
		if good := h.revoked(t, cert) == ""; good != (i >= len(all)-2) {
			t.Errorf("number %d of %d is good: %v", i, len(all), good)
		}
	}
	n := 0
	for ; err == nil && n < 100; n++ {
		_, err = h.Reissue(t.Context(), all[len(all)-1], application(t, asked))
	}
	if !errors.Is(err, depot.ErrQuota) || n > 20 {
		t.Errorf("after %d from one: %v, want ErrQuota", n, err)
	}
}

func TestATemplateThatChangesUnderARequest(t *testing.T) {
	db := storagetest.Open(t)
	h := houseOn(t, db)
	h.device(t, "d1", nil)
	tmpl := h.template(t, "wifi", nil)
	secret := h.send(t, "wifi", "d1").challenge(t)
	r := request(t, secret, asking("x"))
	var cert *x509.Certificate
	var issued, changed error
	storagetest.Overlap(db,
		func(db storage.DB) { cert, issued = houseOn(t, db).IssueSCEP(context.Background(), "wifi", r) },
		func(db storage.DB) {
			tmpl.Subject, tmpl.ExtKeyUsage = subject(t, "/O=Other/CN=$SERIALNUMBER"), []string{"emailProtection"}
			_, _, changed = houseOn(t, db).templates.Replace(context.Background(), "admin", tmpl, nil)
		})
	must(t, changed)
	must(t, issued)
	before := strings.Contains(depot.SubjectOf(cert), "O=Example")
	if usage := cert.ExtKeyUsage[0]; before != (usage == x509.ExtKeyUsageClientAuth) {
		t.Errorf("half of each: %s for %v", depot.SubjectOf(cert), usage)
	}
}

// TestNoRequestGetsMoreThanItsCallerMay is the property that the tables are examples
// of: whatever a request asks for, the certificate says nothing that its caller and
// template don't allow.
func TestNoRequestGetsMoreThanItsCallerMay(t *testing.T) {
	storagetest.AnyEngine(t)
	h := officeHouse(t)
	h.staticTemplate(t, "others")
	h.template(t, "wifi", nil)
	h.device(t, "d1", nil)
	strange := rapid.SampledFrom([]string{
		"", "Ana Bee", "Bo Cee", "ana", "ana@example.com", "bo@example.com", "root", "SNd1", string(anas), string(boris), "mdm-device://" + string(anas),
		"mdm-device://" + string(boris), "*.example.com", "www.example.com", "https://example.com/", "Ana Bee\x00", "Ana\u202eBee", strings.Repeat("x", 65),
	})
	words := rapid.SliceOfN(strange, 0, 3)
	ascii := func(in []string) (out []string) {
		for _, s := range in {
			if strings.IndexFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e }) < 0 {
				out = append(out, s)
			}
		}
		return out
	}
	rapid.Check(t, func(rt *rapid.T) {
		h.pass(time.Minute)
		asked := x509.CertificateRequest{
			Subject:        pkix.Name{CommonName: strange.Draw(rt, "CN"), Organization: words.Draw(rt, "O"), OrganizationalUnit: words.Draw(rt, "OU")},
			EmailAddresses: ascii(words.Draw(rt, "email")),
			DNSNames:       ascii(words.Draw(rt, "dns")),
		}
		for _, text := range ascii(words.Draw(rt, "uri")) {
			if u, err := url.Parse(text); err == nil {
				asked.URIs = append(asked.URIs, u)
			}
		}
		if rapid.Bool().Draw(rt, "with a principal name") {
			asked.EmailAddresses, asked.DNSNames, asked.URIs = nil, nil, nil
			asked.ExtraExtensions = append(asked.ExtraExtensions, upn(rt, strings.ToValidUTF8(strange.Draw(rt, "upn"), "")))
		}
		if rapid.Bool().Draw(rt, "as an authority") {
			asked.ExtraExtensions = append(asked.ExtraExtensions, ext(rt, oidCA, struct{ CA bool }{true}))
		}
		if rapid.Bool().Draw(rt, "with key usage") {
			asked.ExtraExtensions = append(asked.ExtraExtensions, ext(rt, oidKU, asn1.BitString{Bytes: []byte{rapid.Byte().Draw(rt, "usage")}, BitLength: 8}))
		}
		if rapid.Bool().Draw(rt, "with extended usage") {
			asked.ExtraExtensions = append(asked.ExtraExtensions, ext(rt, oidEKU, []asn1.ObjectIdentifier{
				rapid.SampledFrom([]asn1.ObjectIdentifier{oidClient, oidServer, {2, 5, 29, 37, 0}, {1, 3, 6, 1, 5, 5, 7, 3, 9}}).Draw(rt, "eku"),
			}))
		}
		req := csr(t, newKey(t), asked)
		names, err := guard.AskedBy(req)
		if err != nil {
			return // the doors refuse it
		}
		modest := func(door string, cert *x509.Certificate) {
			if cert.IsCA || cert.KeyUsage&^(x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment) != 0 ||
				!slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || len(cert.UnknownExtKeyUsage) != 0 ||
				cert.NotAfter.After(h.now().Add(366*day)) {
				rt.Fatalf("%s: CA %v, usage %b, %v, %v, until %v", door, cert.IsCA, cert.KeyUsage, cert.ExtKeyUsage, cert.UnknownExtKeyUsage, cert.NotAfter)
			}
		}
		app := depot.Application{CSR: req, Asked: names, Door: "csr"}
		if cert, err := h.IssueCSR(context.Background(), token("ana@example.com", identity.ScopeCertSelf), app); err == nil {
			modest("self-service", cert)
			for _, name := range append(depot.AlternativeNames(cert), depot.SubjectOf(cert)) {
				switch name {
				case "ana@example.com", "upn:ana@example.com", "mdm-device://" + string(anas), "CN=Ana Bee", "CN=" + string(anas):
				default:
					rt.Fatalf("self-service issued %q", name)
				}
			}
		}
		r := request(t, static, asked)
		r.Peer = "192.0.2.7"
		if cert, err := h.IssueSCEP(context.Background(), "others", r); err == nil {
			modest("a static challenge", cert)
			if len(cert.DNSNames)+len(cert.URIs) != 0 || !strings.HasSuffix(depot.SubjectOf(cert), ",O=Example") || strings.Count(depot.SubjectOf(cert), "=") != 2 {
				rt.Fatalf("a static challenge issued %s, %v", depot.SubjectOf(cert), depot.AlternativeNames(cert))
			}
		}
		cmd := h.send(t, "wifi", "d1")
		r.Challenge = cmd.challenge(t)
		r = request(t, r.Challenge, asked)
		cert, err := h.IssueSCEP(context.Background(), "wifi", r)
		if err != nil {
			rt.Fatalf("a device's own challenge: %v", err)
		}
		modest("a one-time challenge", cert)
		if depot.SubjectOf(cert) != "CN=SNd1,O=Example" || len(depot.AlternativeNames(cert)) != 0 {
			rt.Fatalf("a one-time challenge issued %s, %v", depot.SubjectOf(cert), depot.AlternativeNames(cert))
		}
		h.answer(t, "d1", cmd.uuid, mdm.Acknowledged)
	})
}
