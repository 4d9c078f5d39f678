package apiv1_test

import (
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

const startersPath = "/api/v1/starter-templates"

type starter struct {
	Name   string
	Params []struct {
		Name, Type, Form string
		Required         bool
		Default          any
		Values           []string
	}
}

// TestEachStarterIsOfUse answers the questions of each starter as a form would.
func TestEachStarterIsOfUse(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.template(t, nil)
	root := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.depot.Root().Certificate().Raw}))
	texts := map[string]string{
		"": "secret-enough", "variables": "$EMAIL", "url": "https://help.example.com/", "host": "mail.example.com", "bundle_id": "com.example.app",
		"certificates": root, "certificate_template": "wifi",
	}
	var list struct{ Items []starter }
	h.do(t, exchange{method: "GET", path: startersPath}).want(t, 200, &list)
	if len(list.Items) != len(profile.Starters()) {
		t.Fatalf("listed are %d, want %d", len(list.Items), len(profile.Starters()))
	}
	for _, s := range list.Items {
		t.Run(s.Name, func(t *testing.T) {
			params := map[string]any{}
			for _, p := range s.Params {
				if p.Required && p.Default == nil {
					params[p.Name] = texts[p.Form]
					if p.Type == "array" {
						params[p.Name] = []string{texts[p.Form]}
					}
					if len(p.Values) > 0 {
						params[p.Name] = p.Values[0]
					}
				}
			}
			body := map[string]any{"identifier": "com.example." + s.Name, "name": "Ours", "params": params}
			shown := h.do(t, exchange{method: "POST", path: startersPath + "/" + s.Name + "?preview=true", body: body})
			shown.want(t, 200, nil)
			p, err := profile.Parse(shown.answer)
			if err != nil || p.Identifier != "com.example."+s.Name || p.DisplayName != "Ours" {
				t.Errorf("preview is %s, %v", shown.answer, err)
			}
			var a addedProfile
			h.do(t, exchange{method: "POST", path: startersPath + "/" + s.Name, body: body}).want(t, 201, &a)
			for _, f := range a.Findings {
				if f.Severity == "error" {
					t.Errorf("it has the error %+v", f)
				}
			}
			h.do(t, exchange{method: "POST", path: startersPath + "/" + s.Name, body: body}).want(t, 200, &a)
			if a.New || a.Version != 1 {
				t.Errorf("the same answers made %+v", a)
			}
		})
	}
}

func TestAWiFiWithCertificatesComesFromAStarter(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.ana(t)
	h.phone(t, "d1")
	root := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.depot.Root().Certificate().Raw}))
	body := func(change map[string]any) map[string]any {
		params := map[string]any{"ssid": "Staff", "certificate_template": "wifi", "trusted_certificates": root, "server_names": []string{"radius.example.com"}}
		for k, v := range change {
			params[k] = v
		}
		return map[string]any{"identifier": "com.example.wifi", "params": params}
	}
	const path = startersPath + "/wifi-certificate"
	h.do(t, exchange{method: "POST", path: path, body: body(nil)}).wantField(t, "params.certificate_template") // it is not made yet
	h.template(t, nil)
	for field, change := range map[string]map[string]any{
		"params.ssid":                 {"ssid": 7},
		"params.sid":                  {"sid": "Staff"},
		"params.security":             {"security": "WEP"},
		"params.trusted_certificates": {"trusted_certificates": "hello"},
	} {
		h.do(t, exchange{method: "POST", path: path, body: body(change)}).wantField(t, field)
	}
	h.do(t, exchange{method: "POST", path: path, body: map[string]any{"identifier": "no identifier", "params": map[string]any{}}}).wantField(t, "identifier")
	h.do(t, exchange{method: "POST", path: startersPath + "/nothing", body: body(nil)}).wantProblem(t, 404, "not_found")

	var a addedProfile
	h.do(t, exchange{method: "POST", path: path, body: body(nil)}).want(t, 201, &a)
	var sent sending
	h.do(t, exchange{method: "POST", path: profilesPath + "/" + a.ID + "/send", body: map[string]any{"device_ids": []string{"d1"}}}).want(t, 202, &sent)
	_, _, payloads := h.installProfile(t, "d1")
	content, _ := payloads["com.apple.security.scep"]["PayloadContent"].(map[string]any)
	if url, _ := content["URL"].(string); !strings.HasSuffix(url, "/scep/wifi") || content["CertificateTemplate"] != nil {
		t.Errorf("the device asks by %v", content)
	}
	challenge, _ := content["Challenge"].(string)
	if cert := h.scep(t, "wifi", challenge); !strings.Contains(cert.Subject.String(), "ana@example.com") {
		t.Errorf("the certificate is of %s, want Ana's", cert.Subject)
	}
	if eap, _ := payloads["com.apple.wifi.managed"]["EAPClientConfiguration"].(map[string]any); payloads["com.apple.wifi.managed"]["PayloadCertificateUUID"] != payloads["com.apple.security.scep"]["PayloadUUID"] || eap == nil {
		t.Errorf("the Wi-Fi is %v, want it by the certificate of %v", payloads["com.apple.wifi.managed"], payloads["com.apple.security.scep"])
	}

	// By a command of one's own nothing would be filled in.
	got := h.do(t, exchange{method: "GET", path: profilesPath + "/" + a.ID + "/versions/1/download"})
	p := h.do(t, exchange{method: "POST", path: "/api/v1/commands", body: map[string]any{"request_type": "InstallProfile", "params": map[string]any{"Payload": got.answer}, "device_ids": []string{"d1"}}}).wantProblem(t, 422, "command_rejected")
	if len(p.Rejected) != 1 || p.Rejected[0].Code != profile.CodeCertificate {
		t.Errorf("as a command: %+v", p)
	}
}

func TestPayloadTypesAreDescribed(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	type key struct {
		Name, Type string
		Secret     bool
	}
	var list struct {
		Items []struct {
			PayloadType string `json:"payload_type"`
			Title       string
		}
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/payload-types"}).want(t, 200, &list)
	if n := len(profile.DescribePayloads()); len(list.Items) != n || n < 100 {
		t.Errorf("listed are %d, want %d", len(list.Items), n)
	}
	var one struct {
		PayloadType string `json:"payload_type"`
		Uses        []struct {
			Title string
			Keys  []key
		}
	}
	for _, item := range list.Items {
		if item.Title == "" {
			t.Errorf("%+v lacks a title", item)
		}
		h.do(t, exchange{method: "GET", path: "/api/v1/payload-types/" + item.PayloadType}).want(t, 200, &one)
		if one.PayloadType != item.PayloadType || len(one.Uses) == 0 {
			t.Errorf("%s is %+v", item.PayloadType, one)
		}
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/payload-types/com.apple.wifi.managed"}).want(t, 200, &one)
	if i := slices.IndexFunc(one.Uses[0].Keys, func(k key) bool { return k.Name == "Password" }); i < 0 || !one.Uses[0].Keys[i].Secret {
		t.Errorf("Wi-Fi's password is no secret: %+v", one.Uses[0].Keys)
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/payload-types/com.apple.MCX"}).want(t, 200, &one)
	if len(one.Uses) < 2 {
		t.Errorf("com.apple.MCX has %d uses", len(one.Uses))
	}
	for _, no := range []string{"com.example.nothing", "com.apple.mdm"} {
		h.do(t, exchange{method: "GET", path: "/api/v1/payload-types/" + no}).wantProblem(t, 404, "not_found")
	}

	var variables struct {
		Items []struct {
			Name, Meaning string
			Aliases       []string
		}
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/profile-variables"}).want(t, 200, &variables)
	if i := slices.IndexFunc(variables.Items, func(v struct {
		Name, Meaning string
		Aliases       []string
	}) bool {
		return v.Name == "DEVICE_ID"
	}); i < 0 || !slices.Contains(variables.Items[i].Aliases, "JSSID") || variables.Items[i].Meaning == "" {
		t.Errorf("variables are %+v", variables.Items)
	}
}

// TestNobodyReadsTheSecretsOfAProfile has a secret in each place where profiles have one, and
// looks for them in all that is said to those who may not download it.
func TestNobodyReadsTheSecretsOfAProfile(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.phone(t, "d1", userEnrolled)
	secrets := []string{"SENTINEL-1", "SENTINEL$TWO", "U0VOVElORUwtMw==", "SENTINEL-4", "{{SENTINEL_5}}"}
	file := mobileconfig("com.example.secret",
		`<key>PayloadType</key><string>com.apple.wifi.managed</string><key>SSID_STR</key><string>Staff</string><key>EncryptionType</key><string>WPA2</string><key>Password</key><string>SENTINEL-1</string>`,
		`<key>PayloadType</key><string>com.apple.mail.managed</string><key>IncomingPassword</key><string>SENTINEL$TWO</string><key>OutgoingPassword</key><integer>7</integer>`,
		`<key>PayloadType</key><string>com.apple.security.pkcs12</string><key>PayloadContent</key><data>U0VOVElORUwtMw==</data><key>Password</key><string>SENTINEL-4</string>`,
		`<key>PayloadType</key><string>com.apple.vpn.managed</string><key>VPNType</key><string>IPSec</string><key>IPSec</key><dict><key>SharedSecret</key><string>{{SENTINEL_5}}</string></dict>`,
	)
	a := h.upload(t, file)
	h.do(t, exchange{method: "POST", path: profilesPath, body: []byte(strings.NewReplacer("SENTINEL", "OTHER", "U0VOVElORUw", "U0VOVElORUx").Replace(file)), header: aspen}).want(t, 201, nil)
	path := profilesPath + "/" + a.ID
	for _, x := range []exchange{
		{method: "GET", path: profilesPath},
		{method: "GET", path: path},
		{method: "GET", path: path + "/versions"},
		{method: "GET", path: path + "/versions/1"},
		{method: "GET", path: path + "/diff"},
		{method: "POST", path: profilesPath + "/lint?target=ios:18,user", body: []byte(file), header: aspen},
		{method: "POST", path: path + "/check", body: map[string]any{"device_ids": []string{"d1"}, "version": 1}},
		{method: "POST", path: path + "/check", body: map[string]any{"device_ids": []string{"d1"}}},
		{method: "GET", path: "/api/v1/audit"},
	} {
		got := h.do(t, x)
		for _, secret := range append(secrets, "SENTINEL", "OTHER", "$TWO", "_5") {
			if strings.Contains(string(got.answer), secret) {
				t.Errorf("%s %s tells %s: %s", x.method, x.path, secret, got.answer)
			}
		}
	}
}
