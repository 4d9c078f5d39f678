package apiv1_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
)

func TestALinkWithAllThatItCanHave(t *testing.T) {
	h := newHouse(t)
	var l struct {
		ID, Ownership, State string
		ShortCode            string   `json:"short_code"`
		QRURL                string   `json:"qr_url"`
		SerialNumbers        []string `json:"serial_numbers"`
		Unlimited            bool
		Uses                 int
		UsesLeft             int       `json:"uses_left"`
		ExpiresAt            time.Time `json:"expires_at"`
		Name                 string
	}
	path := "/api/v1/enrollment-links"
	h.do(t, exchange{method: "POST", path: path, body: map[string]any{
		"ownership": "ask", "unlimited": true, "serial_numbers": []string{"c02xg0fdh7jy"}, "user": "ana@example.com", "name": "<Berlin>",
	}}).want(t, 201, &l)
	if l.Ownership != "ask" || !l.Unlimited || l.Uses != 0 || len(l.ShortCode) != 9 || l.ShortCode[4] != '-' || l.SerialNumbers[0] != "C02XG0FDH7JY" || l.State != "active" {
		t.Errorf("the link is %+v", l)
	}
	picture := h.do(t, exchange{method: "GET", path: path + "/" + l.ID + "/qr.svg"})
	if picture.status != 200 || !bytes.HasPrefix(picture.answer, []byte("<svg ")) || !bytes.Contains(picture.answer, []byte("&lt;Berlin&gt;")) ||
		picture.response.Get("Content-Type") != "image/svg+xml" || !strings.HasSuffix(l.QRURL, path+"/"+l.ID+"/qr.svg") {
		t.Errorf("the picture is %d %.60s", picture.status, picture.answer)
	}
	h.do(t, exchange{method: "GET", path: path + "/none/qr.svg"}).wantProblem(t, 404, "not_found")

	for field, body := range map[string]string{
		"ownership":         `{"ownership":"mine"}`,
		"uses":              `{"unlimited":true,"uses":3}`,
		"serial_numbers[1]": `{"serial_numbers":["C02XG0FDH7JY","?"]}`,
	} {
		h.do(t, exchange{method: "POST", path: path, body: body, wild: true}).wantField(t, field)
	}

	h.do(t, exchange{method: "PATCH", path: path + "/" + l.ID, body: map[string]any{"name": "Hamburg", "expires_in": "1h"}}).want(t, 200, &l)
	if l.Name != "Hamburg" || !l.ExpiresAt.Equal(h.now().Add(time.Hour)) {
		t.Errorf("the link is %+v", l)
	}
	for field, body := range map[string]string{
		"uses":       `{"uses":3}`,
		"expires_in": `{"expires_in":"-1h"}`,
		"expires_at": `{"expires_at":"tomorrow"}`,
		"ownership":  `{"ownership":"personal"}`,
	} {
		h.do(t, exchange{method: "PATCH", path: path + "/" + l.ID, body: body, wild: true}).wantField(t, field)
	}
	h.do(t, exchange{method: "PATCH", path: path + "/" + l.ID, body: `{}`, token: h.token(t, identity.ScopeReadOnly)}).wantProblem(t, 403, "forbidden")

	h.do(t, exchange{method: "POST", path: path, body: map[string]any{"user": "bea@example.com"}}).want(t, 201, nil)
	h.do(t, exchange{method: "DELETE", path: path + "/" + l.ID}).want(t, 204, nil)
	h.do(t, exchange{method: "PATCH", path: path + "/" + l.ID, body: `{"name":"x"}`}).wantProblem(t, 409, "link_revoked")
	for query, want := range map[string]int{
		"": 2, "?user=ANA@example.com": 1, "?state=revoked": 1, "?state=active": 1, "?state=active&user=ana@example.com": 0,
	} {
		var found struct{ Items []struct{ ID string } }
		h.do(t, exchange{method: "GET", path: path + query}).want(t, 200, &found)
		if len(found.Items) != want {
			t.Errorf("%s finds %d links, want %d", query, len(found.Items), want)
		}
	}
	h.do(t, exchange{method: "GET", path: path + "?state=open", wild: true}).wantField(t, "state")
}
