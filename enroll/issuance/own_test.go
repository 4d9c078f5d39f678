package issuance_test

import (
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// signedIn is a user as one who acts.
func signedIn(t *testing.T, h *house, login string) identity.Principal {
	t.Helper()
	u, err := h.people.User(t.Context(), userID(t, h, login))
	must(t, err)
	return u.Principal()
}

func TestPeopleGetCertificatesOfTheirOwn(t *testing.T) {
	storagetest.AnyEngine(t)
	h := officeHouse(t)
	ana := signedIn(t, h, "ana@example.com")
	role := identity.RoleOwner
	_, err := h.people.UpdateUser(t.Context(), identity.Local(), ana.ID, identity.UserChange{Role: &role})
	must(t, err)
	ana = signedIn(t, h, "ana@example.com") // an owner gets no more than others here
	request := application(t, asking("Ana Bee"))
	request.Template = "none of theirs"
	for name, tt := range map[string]struct {
		order         issuance.OwnOrder
		subject, sans string
		device        string
		door          string
	}{
		"for themself":               {issuance.OwnOrder{}, "CN=Ana Bee", "ana@example.com upn:ana@example.com", "", "manual"},
		"for their device":           {issuance.OwnOrder{DeviceID: anas}, "CN=" + string(anas), "mdm-device://" + string(anas), string(anas), "manual"},
		"for a key of their own":     {issuance.OwnOrder{CSR: &request}, "CN=Ana Bee", "upn:ana@example.com", "", "csr"},
		"for themself, another time": {issuance.OwnOrder{}, "CN=Ana Bee", "ana@example.com upn:ana@example.com", "", "manual"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := h.IssueOwn(t.Context(), ana, tt.order)
			must(t, err)
			rec := h.record(t, d.Certificate)
			if rec.Subject != tt.subject || strings.Join(rec.SANs, " ") != tt.sans {
				t.Errorf("it says %s and %v, want %s and %s", rec.Subject, rec.SANs, tt.subject, tt.sans)
			}
			if rec.DeviceID != tt.device || rec.User != "ana@example.com" || rec.Template != issuance.SelfService || rec.Door != tt.door || rec.Requester != "user:ana@example.com" {
				t.Errorf("its record is %+v", rec)
			}
			if d.Certificate.IsCA || len(d.Certificate.ExtKeyUsage) != 1 || d.Certificate.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth {
				t.Errorf("it is for %v, authority %v", d.Certificate.ExtKeyUsage, d.Certificate.IsCA)
			}
			if len(d.Chain) != 2 || !d.Chain[1].Equal(h.depot.Root().Certificate()) {
				t.Errorf("its chain has %d certificates, want the issuer and the root", len(d.Chain))
			}
			if made := d.Key != nil; made == (tt.order.CSR != nil) {
				t.Errorf("a key was made: %v", made)
			}
			if d.Key != nil && (!d.Key.PublicKey.Equal(d.Certificate.PublicKey) || d.Certificate.PublicKey.(*rsa.PublicKey).N.BitLen() < 2048 ||
				d.Certificate.KeyUsage&x509.KeyUsageKeyEncipherment == 0) {
				t.Errorf("the key is not the certificate's, of 2048 bits, for digital signatures and key encipherment")
			}
		})
	}
}

func TestWhatPeopleDoNotGet(t *testing.T) {
	storagetest.AnyEngine(t)
	h := officeHouse(t)
	ana := signedIn(t, h, "ana@example.com")
	nameless := h.user(t, "zoe@example.com", "")
	eve := h.user(t, "eve@example.com", "Eve Dee")
	evePrincipal := eve.Principal()
	_, err := h.people.UpdateUser(t.Context(), identity.Local(), eve.ID, identity.UserChange{Disabled: new(true)})
	must(t, err)
	impostor := ana
	impostor.ID = nameless.ID
	others := application(t, asking("Bo Cee"))
	server := application(t, x509.CertificateRequest{Subject: asking("Ana Bee").Subject, DNSNames: []string{"www.example.com"}})
	for name, tt := range map[string]struct {
		by    identity.Principal
		order issuance.OwnOrder
		field string
		is    error
	}{
		"another's device":                {ana, issuance.OwnOrder{DeviceID: boris}, "subject.cn", nil},
		"a device that has left":          {ana, issuance.OwnOrder{DeviceID: gone}, "subject.cn", nil},
		"a device that there is not":      {ana, issuance.OwnOrder{DeviceID: mdm.DeviceID(strings.Repeat("x", 500))}, "subject.cn", nil},
		"another's name":                  {ana, issuance.OwnOrder{CSR: &others}, "subject.cn", nil},
		"a host":                          {ana, issuance.OwnOrder{CSR: &server}, "san.dns", nil},
		"a name of who has none":          {nameless.Principal(), issuance.OwnOrder{}, "subject.cn", nil},
		"anything once they are disabled": {evePrincipal, issuance.OwnOrder{}, "", issuance.ErrForbidden},
		"what is another's of that name":  {impostor, issuance.OwnOrder{}, "", issuance.ErrForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(h.events(t, "certificate.refused"))
			_, err := h.IssueOwn(t.Context(), tt.by, tt.order)
			var bad *depot.FieldError
			if tt.is != nil && !errors.Is(err, tt.is) || tt.field != "" && (!errors.As(err, &bad) || bad.Field != tt.field) {
				t.Errorf("IssueOwn(%+v) = %v, want %s %v", tt.order, err, tt.field, tt.is)
			}
			if got := len(h.events(t, "certificate.refused")); got != before+1 {
				t.Errorf("%d refusals in the audit log, want one", got-before)
			}
		})
	}
}

func TestPeopleHaveAQuota(t *testing.T) {
	storagetest.AnyEngine(t)
	h := officeHouse(t)
	ana := signedIn(t, h, "ana@example.com")
	a := application(t, asking("Bo Cee"))
	for range 30 { // what is refused counts, too
		_, _ = h.IssueOwn(t.Context(), ana, issuance.OwnOrder{CSR: &a})
	}
	for _, o := range []issuance.OwnOrder{{CSR: &a}, {}, {DeviceID: anas}} {
		if _, err := h.IssueOwn(t.Context(), ana, o); !errors.Is(err, depot.ErrQuota) {
			t.Errorf("the 31st in a minute: %v, want %v", err, depot.ErrQuota)
		}
	}
}
