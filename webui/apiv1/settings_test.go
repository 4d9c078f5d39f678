package apiv1_test

import (
	"bytes"
	"encoding/json"
	"image"
	"image/png"
	"reflect"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/mail/mailtest"
)

const settingsPath = "/api/v1/settings"

func (h *house) settings(t *testing.T) (all map[string]any) {
	t.Helper()
	h.do(t, exchange{method: "GET", path: settingsPath}).want(t, 200, &all)
	return all
}

func TestSettingsChangeInPart(t *testing.T) {
	h := newHouse(t)
	before := h.settings(t)
	if before["mail"] != nil || before["portal"] != true {
		t.Errorf("a new server has %v", before)
	}
	var after struct {
		Organisation struct {
			Name         string
			SupportEmail string `json:"support_email"`
		}
		Institutional, Personal struct {
			Enabled bool
			Rights  struct {
				Preset       string
				Custom, Bits int
				List         []struct {
					Bit   int
					Right string
				}
			}
		}
		AccountDomains []string `json:"account_domains"`
		Portal         bool
	}
	patch := func(body string) exchange {
		t.Helper()
		return h.do(t, exchange{method: "PATCH", path: settingsPath, body: body})
	}
	patch(`{"organisation":{"name":"Example"},"personal":{"rights":{"preset":"custom","custom":7}},"account_domains":["Example.com"],"portal":false}`).want(t, 200, &after)
	patch(`{"organisation":{"support_email":"it@example.com"}}`).want(t, 200, &after)
	if after.Organisation.Name != "Example" || after.Organisation.SupportEmail != "it@example.com" || after.Portal || after.AccountDomains[0] != "example.com" || !after.Personal.Enabled {
		t.Errorf("the settings are %+v", after)
	}
	if r := after.Personal.Rights; r.Bits != 7 || r.Custom != 7 || len(r.List) != 3 || r.List[2].Bit != 4 || r.List[2].Right == "" {
		t.Errorf("the rights are %+v", r)
	}
	if r := after.Institutional.Rights; r.Bits != 8191 || len(r.List) != 13 {
		t.Errorf("all rights are %+v", r)
	}
	patch(`{"personal":{"rights":{"preset":"reduced"}}}`).want(t, 200, &after)
	if r := after.Personal.Rights; r.Custom != 0 || r.Preset != "reduced" || r.Bits&8 != 0 {
		t.Errorf("the rights are %+v", r)
	}

	// What was read may be sent back.
	whole := h.settings(t)
	body, err := json.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	var again map[string]any
	patch(string(body)).want(t, 200, &again)
	if !reflect.DeepEqual(again, whole) {
		t.Errorf("sent back, the settings are %v, want %v", again, whole)
	}
}

func TestSettingsThatCanNotBeChangeNothing(t *testing.T) {
	h := newHouse(t)
	before := h.settings(t)
	for field, body := range map[string]string{
		"theme":                       `{"theme":"dark"}`,
		"organisation.logo":           `{"organisation":{"logo":"x"}}`,
		"organisation.support_email":  `{"organisation":{"name":"X","support_email":"?"}}`,
		"organisation":                `{"organisation":[]}`,
		"organisation.name":           `{"organisation":{"name":7}}`,
		"personal.rights.custom":      `{"personal":{"rights":{"preset":"custom","custom":8}}}`,
		"institutional.rights.preset": `{"institutional":{"rights":{"preset":"all"}}}`,
		"personal.enabled":            `{"personal":{"enabled":false},"institutional":{"enabled":false}}`,
		"device_signature":            `{"device_signature":"maybe"}`,
		"mail.encryption":             `{"portal":false,"mail":{"host":"smtp.example.com","from":"it@example.com"}}`,
		"mail.port":                   `{"mail":{"port":0}}`,
		"mail.timeout":                `{"mail":{"timeout":"soon"}}`,
		"mail.password":               `{"mail":{"host":"smtp.example.com","encryption":"tls","username":"it","from":"it@example.com"}}`,
	} {
		h.do(t, exchange{method: "PATCH", path: settingsPath, body: body, wild: true}).wantField(t, field)
	}
	if after := h.settings(t); !reflect.DeepEqual(after, before) {
		t.Errorf("the settings are %v, want %v", after, before)
	}
	h.do(t, exchange{method: "PATCH", path: settingsPath, body: `{}`, token: h.token(t, identity.ScopeHelpdesk)}).wantProblem(t, 403, "forbidden")
}

func TestTheMailServerIsSetAndTried(t *testing.T) {
	h := newHouse(t)
	server := mailtest.New(t, mailtest.Config{})
	test := exchange{method: "POST", path: settingsPath + "/mail/test", body: `{"to":"it@example.com"}`}
	h.do(t, test).wantProblem(t, 409, "mail_not_configured")

	var after struct {
		Mail *struct {
			Host, Username, Password, Timeout string
			Port                              int
			HasPassword                       bool `json:"has_password"`
			PerMinute                         int  `json:"per_minute"`
		}
	}
	set := h.do(t, exchange{method: "PATCH", path: settingsPath, body: `{"mail":{"host":"smtp.example.com","encryption":"starttls","username":"it","password":"Tr0ub4dor","from":"IT <it@example.com>"}}`})
	set.want(t, 200, &after)
	if m := after.Mail; m == nil || m.Port != 587 || !m.HasPassword || m.PerMinute != 60 || m.Timeout != "30s" || bytes.Contains(set.answer, []byte("Tr0ub4dor")) {
		t.Errorf("the mail settings are %s", set.answer)
	}
	h.do(t, exchange{method: "PATCH", path: settingsPath, body: `{"mail":{"host":"smtp.evil.example"}}`}).wantField(t, "mail.password")
	h.do(t, exchange{method: "PATCH", path: settingsPath, body: map[string]any{"mail": map[string]any{
		"host": server.Host, "port": server.Port, "encryption": "none", "username": "",
	}}}).want(t, 200, &after)
	if m := after.Mail; m.Port != server.Port || m.HasPassword || m.Username != "" {
		t.Errorf("the mail settings are %+v", m)
	}

	var got struct {
		Delivered bool
		Steps     []struct {
			Step, Detail string
			OK           bool
		}
	}
	h.do(t, test).want(t, 200, &got)
	if !got.Delivered || len(got.Steps) != 6 || !got.Steps[5].OK {
		t.Errorf("the test says %+v", got)
	}
	if m := server.Wait(1)[0]; m.To != "it@example.com" || m.From != "it@example.com" {
		t.Errorf("the mail is %+v", m)
	}
	server.Change(func(c *mailtest.Config) {
		c.Reply = func(verb, _ string) string {
			if verb == "RCPT" {
				return "550 5.1.1 no such person"
			}
			return ""
		}
	})
	h.do(t, test).want(t, 200, &got)
	if last := got.Steps[len(got.Steps)-1]; got.Delivered || last.OK || last.Step != "recipient" || !strings.Contains(last.Detail, "no such person") {
		t.Errorf("the test says %+v", got)
	}
	h.do(t, exchange{method: "POST", path: test.path, body: `{"to":"a@example.com\r\nb"}`}).wantField(t, "to")

	h.do(t, exchange{method: "PATCH", path: settingsPath, body: `{"mail":null}`}).want(t, 200, nil)
	h.do(t, test).wantProblem(t, 409, "mail_not_configured")
}

func TestTheLogoIsSetAndTakenAway(t *testing.T) {
	h := newHouse(t)
	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewGray(image.Rect(0, 0, 40, 20))); err != nil {
		t.Fatal(err)
	}
	var l struct {
		URL, SHA256   string
		Width, Height int
	}
	path := settingsPath + "/logo"
	h.do(t, exchange{method: "PUT", path: path, body: picture.Bytes()}).want(t, 200, &l)
	if l.Width != 40 || l.Height != 20 || l.URL != "https://mdm.example.com/logo/"+l.SHA256 {
		t.Errorf("the logo is %+v", l)
	}
	if o := h.settings(t)["organisation"].(map[string]any); o["logo_url"] != l.URL {
		t.Errorf("the organisation is %v", o)
	}
	for name, body := range map[string][]byte{
		"SVG": []byte("<svg xmlns='http://www.w3.org/2000/svg'/>"), "too many bytes": append(picture.Bytes(), make([]byte, 300<<10)...),
	} {
		p := h.do(t, exchange{method: "PUT", path: path, body: body}).wantProblem(t, 400, "invalid_logo")
		if p.Detail == "" {
			t.Errorf("%s: the problem says nothing", name)
		}
	}
	h.do(t, exchange{method: "DELETE", path: path}).want(t, 204, nil)
	if o := h.settings(t)["organisation"].(map[string]any); o["logo_url"] != "" {
		t.Errorf("the organisation is %v", o)
	}
}
