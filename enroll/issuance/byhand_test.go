package issuance_test

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// handTemplates are what certificates are made of by hand in these tests.
func (h *house) handTemplates(t testing.TB) {
	t.Helper()
	h.template(t, "mail", func(tmpl *template.Template) {
		tmpl.Subject = subject(t, "/O=Example/CN=$FULLNAME")
		tmpl.SANs = template.SANs{RFC822Names: []string{"$EMAIL"}, NTPrincipalName: "$UPN"}
		tmpl.ExtKeyUsage = []string{"emailProtection"}
	})
	h.template(t, "device", func(tmpl *template.Template) {
		tmpl.SANs = template.SANs{URIs: []string{"mdm-device://$DEVICE_ID"}}
		tmpl.KeySize = 4096
	})
	h.template(t, "theirs", func(tmpl *template.Template) {
		tmpl.Issuer, tmpl.Upstream = template.External, template.Upstream{URL: "https://ca.example.com/scep", ChallengeType: template.UpstreamNone}
	})
}

func TestCertificatesAreMadeByHand(t *testing.T) {
	storagetest.AnyEngine(t)
	h := officeHouse(t)
	h.handTemplates(t)
	request := application(t, x509.CertificateRequest{Subject: asking("Mallory").Subject, DNSNames: []string{"evil.example.com"}})
	wanted := application(t, x509.CertificateRequest{
		RawSubject: must1(subject(t, "/O=Example/CN=Dee Eff").DER()), EmailAddresses: []string{"dee@example.com"},
	})
	for name, tt := range map[string]struct {
		order        issuance.Order
		subject      string
		sans         string
		device, user string
		bits         int // of the key that was made
	}{
		"for a device": {
			issuance.Order{Template: "device", DeviceID: anas}, "CN=SN" + string(anas) + ",O=Example", "mdm-device://" + string(anas), string(anas), "Ana@example.com", 4096,
		},
		"for a user": {
			issuance.Order{Template: "mail", User: "ANA@example.com"}, "CN=Ana Bee,O=Example", "ana@example.com upn:ana@example.com", "", "ana@example.com", 2048,
		},
		"by names": {
			issuance.Order{Template: "mail", Subject: subject(t, "/O=Example/CN=Dee $Eff"), SANs: template.SANs{RFC822Names: []string{"dee@example.com"}}},
			"CN=Dee $Eff,O=Example", "dee@example.com", "", "", 2048,
		},
		"by names that are a user's": {
			issuance.Order{Template: "mail", Subject: subject(t, "/O=Example/CN=Bo"), SANs: template.SANs{NTPrincipalName: "bo@example.com"}},
			"CN=Bo,O=Example", "upn:bo@example.com", "", "bo@example.com", 2048,
		},
		"for a device with a key of its own, whatever the request says": {
			issuance.Order{Template: "device", DeviceID: anas, CSR: &request}, "CN=SN" + string(anas) + ",O=Example", "mdm-device://" + string(anas), string(anas), "Ana@example.com", 0,
		},
		"by the names of a request": {
			issuance.Order{Template: "mail", CSR: &wanted}, "CN=Dee Eff,O=Example", "dee@example.com", "", "", 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := h.IssueByHand(context.Background(), token("", identity.ScopeCertAny), tt.order)
			must(t, err)
			rec := h.record(t, got.Certificate)
			if rec.Subject != tt.subject || strings.Join(rec.SANs, " ") != tt.sans {
				t.Errorf("it says %s and %v, want %s and %s", rec.Subject, rec.SANs, tt.subject, tt.sans)
			}
			if rec.DeviceID != tt.device || rec.User != tt.user || rec.Template != tt.order.Template || rec.Door != "manual" || rec.Requester != "token:test" {
				t.Errorf("its record is %+v, want it of device %q and user %q", rec, tt.device, tt.user)
			}
			if got.Certificate.IsCA {
				t.Error("it is an authority")
			}
			if len(got.Chain) != 2 || got.Certificate.CheckSignatureFrom(got.Chain[0]) != nil || !got.Chain[1].Equal(h.depot.Root().Certificate()) {
				t.Errorf("its chain has %d certificates, want the issuer and the root", len(got.Chain))
			}
			switch public, _ := got.Certificate.PublicKey.(*rsa.PublicKey); {
			case tt.bits == 0 && got.Key != nil:
				t.Error("a key was made beside the one in the request")
			case tt.bits != 0 && (got.Key == nil || got.Key.N.BitLen() != tt.bits || !got.Key.PublicKey.Equal(public)):
				t.Errorf("the key is %v, want that of the certificate, of %d bits", got.Key != nil, tt.bits)
			}
		})
	}
}

func must1[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestWhatIsNotMadeByHand(t *testing.T) {
	storagetest.AnyEngine(t)
	h := officeHouse(t)
	h.handTemplates(t)
	_, err := h.people.UpdateUser(context.Background(), identity.Local(), userID(t, h, "bo@example.com"), identity.UserChange{Disabled: new(true)})
	must(t, err)
	server := application(t, x509.CertificateRequest{Subject: asking("x").Subject, DNSNames: []string{"www.example.com"}})
	any := token("", identity.ScopeCertAny)
	for name, tt := range map[string]struct {
		by    identity.Principal
		order issuance.Order
		field string
		is    error
	}{
		"for whoever may have their own only": {token("ana@example.com", identity.ScopeCertSelf), issuance.Order{Template: "mail", User: "ana@example.com"}, "", issuance.ErrForbidden},
		"for a helpdesk":                      {token("", identity.ScopeHelpdesk), issuance.Order{Template: "mail", User: "ana@example.com"}, "", issuance.ErrForbidden},
		"for whoever manages certificates":    {token("", identity.ScopeCertManage), issuance.Order{Template: "mail", User: "ana@example.com"}, "", issuance.ErrForbidden},
		"of no template":                      {any, issuance.Order{Template: "none", User: "ana@example.com"}, "", storage.ErrNotFound},
		"of another authority's template":     {any, issuance.Order{Template: "theirs", DeviceID: anas}, "", issuance.ErrExternal},
		"for no device":                       {any, issuance.Order{Template: "device", DeviceID: "nobody"}, "device_id", nil},
		"for a device that has left":          {any, issuance.Order{Template: "device", DeviceID: gone}, "device_id", nil},
		"for nobody":                          {any, issuance.Order{Template: "mail", User: "zed@example.com"}, "user", nil},
		"for a user who is disabled":          {any, issuance.Order{Template: "mail", User: "bo@example.com"}, "user", nil},
		"for a user by a device's template":   {any, issuance.Order{Template: "device", User: "ana@example.com"}, "subject.CN", nil},
		"for both":                            {any, issuance.Order{Template: "mail", User: "ana@example.com", DeviceID: anas}, "user", nil},
		"for a device with other names":       {any, issuance.Order{Template: "device", DeviceID: anas, Subject: subject(t, "/O=Example/CN=x")}, "subject", nil},
		"without any names":                   {any, issuance.Order{Template: "mail"}, "subject", nil},
		"with another organisation":           {any, issuance.Order{Template: "mail", Subject: subject(t, "/O=Other/CN=x")}, "subject.O", nil},
		"with a name that the template lacks": {any, issuance.Order{Template: "mail", Subject: subject(t, "/O=Example/CN=x"), SANs: template.SANs{DNSNames: []string{"www.example.com"}}}, "sans.dNSName[0]", nil},
		"with a device that is none":          {any, issuance.Order{Template: "device", Subject: subject(t, "/O=Example/CN=x"), SANs: template.SANs{URIs: []string{"mdm-device://nobody"}}}, "san.uri", nil},
		"with a user who is disabled":         {any, issuance.Order{Template: "mail", Subject: subject(t, "/O=Example/CN=x"), SANs: template.SANs{NTPrincipalName: "bo@example.com"}}, "san", nil},
		"with a request for more":             {any, issuance.Order{Template: "mail", CSR: &server}, "subject", nil},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(h.events(t, "certificate.refused"))
			_, err := h.IssueByHand(context.Background(), tt.by, tt.order)
			var ofTemplate *template.FieldError
			var ofDoor *depot.FieldError
			switch {
			case err == nil:
				t.Fatal("it was made")
			case tt.is != nil && !errors.Is(err, tt.is):
				t.Errorf("%v, want %v", err, tt.is)
			case tt.is != nil:
			case errors.As(err, &ofTemplate) && ofTemplate.Field == tt.field:
			case errors.As(err, &ofDoor) && ofDoor.Field == tt.field:
			default:
				t.Errorf("%v, want an error about %s", err, tt.field)
			}
			if after := h.events(t, "certificate.refused"); len(after) != before+1 || after[0].Reason == "" || after[0].Actor != tt.by.String() {
				t.Errorf("the audit log has %v, want one refusal more", after)
			}
		})
	}
	for _, name := range []string{"mail", "device"} {
		if n := h.count(t, name); n != 0 {
			t.Errorf("there are %d certificates of %s", n, name)
		}
	}
}

func TestAKeyIsCertifiedByHandOnce(t *testing.T) {
	storagetest.AnyEngine(t)
	h := officeHouse(t)
	h.handTemplates(t)
	request := application(t, asking("x"))
	order := issuance.Order{Template: "mail", User: "ana@example.com", CSR: &request}
	by := token("", identity.ScopeAdmin)
	_, err := h.IssueByHand(context.Background(), by, order)
	must(t, err)
	if _, err := h.IssueByHand(context.Background(), by, order); !errors.Is(err, issuance.ErrKeyReused) {
		t.Errorf("for the same key again: %v, want %v", err, issuance.ErrKeyReused)
	}
}

func TestATemplateInUseIsNotDeletedByMistake(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.device(t, "d1", nil)
	h.device(t, "d2", nil)
	h.template(t, "wifi", nil)
	h.template(t, "wifi2", nil)
	cert := h.install(t, "wifi", "d1")
	h.send(t, "wifi", "d2")
	h.send(t, "wifi2", "d2")
	ctx := context.Background()
	if err := h.DeleteTemplate(ctx, "user:admin", "none", true); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("none: %v, want %v", err, storage.ErrNotFound)
	}
	if err := h.DeleteTemplate(ctx, "user:admin", "wifi", false); !errors.Is(err, issuance.ErrInUse) {
		t.Errorf("in use: %v, want %v", err, issuance.ErrInUse)
	}
	h.view(t, func(tx storage.Tx) error {
		_, err := h.templates.Get(tx, "wifi")
		return err
	})
	must(t, h.DeleteTemplate(ctx, "user:admin", "wifi", true))
	for _, id := range []mdm.DeviceID{"d1", "d2"} {
		if a := h.assignment(t, "wifi", id); a.State != issuance.Ended || !a.DueAt.IsZero() || a.Reason != "the template was deleted" {
			t.Errorf("of %s is left %+v, want it ended", id, a)
		}
	}
	if a := h.assignment(t, "wifi2", "d2"); a.State != issuance.Pending {
		t.Errorf("another template's assignment is %s", a.State)
	}
	if reason := h.revoked(t, cert); reason != "" {
		t.Errorf("the certificate is revoked: %s", reason)
	}
	// What has ended is not in use.
	h.template(t, "wifi", nil)
	must(t, h.DeleteTemplate(ctx, "user:admin", "wifi", false))
}

func TestAssignmentsAreFound(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	for _, id := range []mdm.DeviceID{"d1", "d2", "d3"} {
		h.device(t, id, nil)
	}
	h.template(t, "vpn", nil)
	h.template(t, "wifi", nil)
	h.install(t, "wifi", "d1")
	for range 3 {
		cmd := h.send(t, "wifi", "d2")
		h.answer(t, "d2", cmd.uuid, mdm.Failed)
	}
	h.send(t, "vpn", "d1")
	h.send(t, "vpn", "d3")
	yes, no := true, false
	for name, tt := range map[string]struct {
		filter issuance.Filter
		want   string
	}{
		"all":                    {issuance.Filter{}, "vpn/d1 vpn/d3 wifi/d1 wifi/d2"},
		"a device's":             {issuance.Filter{DeviceID: "d1"}, "vpn/d1 wifi/d1"},
		"a template's":           {issuance.Filter{Template: "wifi"}, "wifi/d1 wifi/d2"},
		"both":                   {issuance.Filter{Template: "wifi", DeviceID: "d1"}, "wifi/d1"},
		"in a state":             {issuance.Filter{State: issuance.Pending}, "vpn/d1 vpn/d3"},
		"that a person must see": {issuance.Filter{Stuck: &yes}, "wifi/d2"},
		"that nobody must see":   {issuance.Filter{Stuck: &no, Template: "wifi"}, "wifi/d1"},
		"none":                   {issuance.Filter{Template: "wi"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, limit := range []int{1, 2, 100} {
				var got []string
				for cursor := ""; ; {
					var page []issuance.Assignment
					var next string
					h.view(t, func(tx storage.Tx) (err error) {
						page, next, err = h.Search(tx, tt.filter, cursor, limit)
						return err
					})
					for _, a := range page {
						got = append(got, a.Template+"/"+string(a.DeviceID))
					}
					if cursor = next; cursor == "" {
						break
					}
				}
				if strings.Join(got, " ") != tt.want {
					t.Errorf("in pages of %d: %v, want %s", limit, got, tt.want)
				}
			}
		})
	}
	h.view(t, func(tx storage.Tx) error {
		if _, _, err := h.Search(tx, issuance.Filter{}, "?", 1); !errors.Is(err, storage.ErrBadCursor) {
			t.Errorf("with a cursor of nobody's: %v, want %v", err, storage.ErrBadCursor)
		}
		n, err := h.Count(tx)
		if n.Stuck != 1 || n.ByState[issuance.Pending] != 2 || n.ByState[issuance.Installed] != 1 || n.ByState[issuance.Failing] != 1 {
			t.Errorf("counted are %+v", n)
		}
		return err
	})
}
