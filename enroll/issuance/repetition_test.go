package issuance_test

import (
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// TestTheSameRequestRenews is about clients that keep their key and their request, as
// micromdm's scepclient and strongSwan's pki do: the certificate that signs it makes it
// another one each time.
func TestTheSameRequestRenews(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, challenge := range map[string]string{"with the static challenge": static, "without a challenge": ""} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.template(t, "others", func(tmpl *template.Template) {
				tmpl.Subject = subject(t, "/O=Example/CN=$USERNAME")
				tmpl.SANs = template.SANs{RFC822Names: []string{"$USERNAME@example.com"}}
				tmpl.ChallengeType, tmpl.Challenge = template.Static, static
				tmpl.Validity, tmpl.RenewBefore = "2h", "99%"
			})
			r := request(t, static, ana())
			old, err := h.IssueSCEP(t.Context(), "others", r)
			must(t, err)
			r.Challenge = challenge
			for range 2 { // the second time, by what was got without one
				h.pass(time.Hour)
				r.Signer = old
				cert, err := h.IssueSCEP(t.Context(), "others", r)
				must(t, err)
				if cert.Equal(old) {
					t.Fatal("the client is answered with the certificate that it renews")
				}
				again, err := h.IssueSCEP(t.Context(), "others", r)
				if err != nil || !again.Equal(cert) {
					t.Fatalf("the same request, signed by the same: %v, another certificate: %t", err, !again.Equal(cert))
				}
				old = cert
			}
		})
	}
}
