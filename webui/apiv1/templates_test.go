package apiv1_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"
)

const templatesPath = "/api/v1/certificate-templates"

// wifi is the template of the contract, changed as the test likes.
func wifi(change map[string]any) map[string]any {
	in := map[string]any{"name": "wifi", "subject": "/C=HR/O=Example/CN=$EMAIL/"}
	maps.Copy(in, change)
	return in
}

// jsonOf is what v is once it has been JSON.
func jsonOf(t testing.TB, v any) any {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestATemplateHasDefaults(t *testing.T) {
	h := newHouse(t)
	var got map[string]any
	made := h.do(t, exchange{method: "POST", path: templatesPath, body: wifi(nil)})
	made.want(t, 201, &got)
	if at := made.response.Get("Location"); at != templatesPath+"/wifi" {
		t.Errorf("Location is %q", at)
	}
	want := map[string]any{
		"name": "wifi", "subject": "/C=HR/O=Example/CN=$EMAIL",
		"sans":     map[string]any{"rfc822Name": []any{}, "dNSName": []any{}, "uniformResourceIdentifier": []any{}, "ntPrincipalName": ""},
		"key_type": "RSA", "key_size": 2048.0, "key_usage": []any{"digitalSignature", "keyEncipherment"}, "ext_key_usage": []any{"clientAuth"},
		"validity": "8760h", "renew_before": "720h", "challenge_type": "one_time", "challenge": "", "has_challenge": false,
		"retries": 3.0, "retry_delay": 10.0, "key_extractable": false, "allow_all_apps_access": false,
		"include_root": false, "root_certificates": []any{}, "issuer": "builtin", "upstream": nil,
		"notes": "", "notes_history": []any{}, "warnings": []any{},
		"created_at": h.now().Format(time.RFC3339), "updated_at": h.now().Format(time.RFC3339),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("made is %v, want %v", got, want)
	}
}

// TestEveryFieldOfATemplateIsKept asks for one field after the other, and for its value
// in the answer and when it is read.
func TestEveryFieldOfATemplateIsKept(t *testing.T) {
	h := newHouse(t)
	root := h.depot.Root().Certificate()
	sum := sha256.Sum256(root.Raw)
	inPEM := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}))
	asRoot := []any{map[string]any{"pem": inPEM, "subject": root.Subject.String(), "not_after": root.NotAfter.UTC(), "sha256": hex.EncodeToString(sum[:])}}
	upstream := map[string]any{
		"url": "http://ndes.example.com/certsrv/mscep/mscep.dll", "name": "", "fingerprint": hex.EncodeToString(sum[:]), "allow_private": false, "challenge_type": "none",
		"challenge": "", "has_challenge": false, "challenge_url": "", "username": "", "password": "", "has_password": false,
	}
	with := func(change map[string]any) map[string]any {
		u := maps.Clone(upstream)
		maps.Copy(u, change)
		return u
	}
	for name, tt := range map[string]struct {
		in   map[string]any
		want map[string]any // nil: as in
	}{
		"a subject with commas":         {map[string]any{"subject": "CN=$JSSID,OU=users,CN=$PROFILE_IDENTIFIER"}, map[string]any{"subject": "/CN=$JSSID/OU=users/CN=$PROFILE_IDENTIFIER"}},
		"a subject of pairs":            {map[string]any{"subject": [][]string{{"O", "A/S"}, {"CN", "$EMAIL"}}}, map[string]any{"subject": `/O=A\/S/CN=$EMAIL`}},
		"a subject as Apple has it":     {map[string]any{"subject": [][][]string{{{"O", "x"}}, {{"CN", "$EMAIL"}, {"UID", "$USERNAME"}}}}, map[string]any{"subject": "/O=x/CN=$EMAIL+UID=$USERNAME"}},
		"all alternative names":         {map[string]any{"sans": map[string]any{"rfc822Name": []string{"$EMAIL", "all@example.com"}, "dNSName": []string{"$SERIALNUMBER.example.com"}, "uniformResourceIdentifier": []string{"mdm-device://$DEVICE_ID"}, "ntPrincipalName": "$UPN"}}, nil},
		"alternative names as texts":    {map[string]any{"sans": map[string]any{"rfc822Name": "$EMAIL"}}, map[string]any{"sans": map[string]any{"rfc822Name": []string{"$EMAIL"}, "dNSName": []string{}, "uniformResourceIdentifier": []string{}, "ntPrincipalName": ""}}},
		"a type of key":                 {map[string]any{"key_type": "RSA"}, nil},
		"a size of key":                 {map[string]any{"key_size": 4096}, nil},
		"a key usage":                   {map[string]any{"key_usage": []string{"keyEncipherment"}}, nil},
		"purposes":                      {map[string]any{"ext_key_usage": []string{"emailProtection", "1.3.6.1.5.5.7.3.2", "1.3.6.1.4.1.99999.1"}}, map[string]any{"ext_key_usage": []string{"emailProtection", "clientAuth", "1.3.6.1.4.1.99999.1"}}},
		"a validity in days":            {map[string]any{"validity": "365d"}, nil},
		"a validity in hours":           {map[string]any{"validity": "48h"}, map[string]any{"validity": "48h", "renew_before": "24h"}},
		"a renewal by a part":           {map[string]any{"renew_before": "30%"}, nil},
		"a renewal by days":             {map[string]any{"renew_before": "14d"}, nil},
		"a static challenge":            {map[string]any{"challenge_type": "static", "challenge": "a shared secret"}, map[string]any{"challenge_type": "static", "has_challenge": true}},
		"no retries":                    {map[string]any{"retries": 0}, nil},
		"a delay in seconds":            {map[string]any{"retry_delay": 30}, nil},
		"a delay as a duration":         {map[string]any{"retry_delay": "2m"}, map[string]any{"retry_delay": 120}},
		"an extractable key":            {map[string]any{"key_extractable": true}, nil},
		"a key for all apps":            {map[string]any{"allow_all_apps_access": true}, nil},
		"our root":                      {map[string]any{"include_root": true}, nil},
		"a root in PEM":                 {map[string]any{"include_root": true, "root_certificates": []string{inPEM}}, map[string]any{"include_root": true, "root_certificates": asRoot}},
		"a root in base64":              {map[string]any{"include_root": true, "root_certificates": []string{base64.StdEncoding.EncodeToString(root.Raw)}}, map[string]any{"root_certificates": asRoot}},
		"a note":                        {map[string]any{"notes": "tested in Zagreb"}, map[string]any{"notes": "tested in Zagreb", "notes_history": []any{map[string]any{"text": "tested in Zagreb", "author": "token:test", "at": h.now()}}}},
		"an external issuer":            {map[string]any{"issuer": "external", "upstream": upstream}, nil},
		"one with short keys":           {map[string]any{"issuer": "external", "key_size": 1024, "upstream": upstream}, nil},
		"a fingerprint with colons":     {map[string]any{"issuer": "external", "upstream": with(map[string]any{"fingerprint": strings.ToUpper(colons(sum[:]))})}, map[string]any{"upstream": upstream}},
		"a fingerprint in base64":       {map[string]any{"issuer": "external", "upstream": with(map[string]any{"fingerprint": base64.StdEncoding.EncodeToString(sum[:])})}, map[string]any{"upstream": upstream}},
		"a certificate for fingerprint": {map[string]any{"issuer": "external", "upstream": with(map[string]any{"fingerprint": inPEM})}, map[string]any{"upstream": upstream}},
		"a proxy with a challenge":      {map[string]any{"issuer": "proxy", "upstream": with(map[string]any{"name": "Example CA", "challenge_type": "static", "challenge": "theirs"})}, map[string]any{"issuer": "proxy", "upstream": with(map[string]any{"name": "Example CA", "challenge_type": "static", "has_challenge": true})}},
		"a proxy in our own network":    {map[string]any{"issuer": "proxy", "upstream": with(map[string]any{"allow_private": true})}, nil},
		"a proxy that fetches one": {
			map[string]any{"issuer": "proxy", "upstream": with(map[string]any{"challenge_type": "dynamic", "challenge_url": "https://ndes.example.com/x", "username": "ana", "password": "hush"})},
			map[string]any{"upstream": with(map[string]any{"challenge_type": "dynamic", "challenge_url": "https://ndes.example.com/x", "username": "ana", "has_password": true})},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.want == nil {
				tt.want = tt.in
			}
			var made, read map[string]any
			h.do(t, exchange{method: "POST", path: templatesPath, body: wifi(tt.in)}).want(t, 201, &made)
			h.do(t, exchange{method: "GET", path: templatesPath + "/wifi"}).want(t, 200, &read)
			for field, want := range tt.want {
				if want := jsonOf(t, want); field != "notes_history" && !reflect.DeepEqual(read[field], want) {
					t.Errorf("%s is %v, want %v", field, read[field], want)
				}
			}
			for field := range made {
				if field != "challenge" && !reflect.DeepEqual(made[field], read[field]) {
					t.Errorf("%s is %v when made, and %v when read", field, made[field], read[field])
				}
			}

			// What was read can be sent back, and changes nothing but the time.
			var again map[string]any
			h.pass(time.Second)
			h.do(t, exchange{method: "PUT", path: templatesPath + "/wifi", body: read}).want(t, 200, &again)
			if again["updated_at"] == read["updated_at"] {
				t.Errorf("updated_at is still %v", again["updated_at"])
			}
			again["updated_at"] = read["updated_at"]
			if !reflect.DeepEqual(again, read) {
				t.Errorf("sent back it is %v, want %v", again, read)
			}
			h.do(t, exchange{method: "DELETE", path: templatesPath + "/wifi"}).want(t, 204, nil)
			h.do(t, exchange{method: "GET", path: templatesPath + "/wifi"}).wantProblem(t, 404, "not_found")
		})
	}
}

func colons(b []byte) string {
	var parts []string
	for i := range b {
		parts = append(parts, hex.EncodeToString(b[i:i+1]))
	}
	return strings.Join(parts, ":")
}

func TestAWrongFieldOfATemplateIsNamed(t *testing.T) {
	h := newHouse(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	privateKey := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	external := func(u map[string]any) map[string]any {
		return map[string]any{"issuer": "external", "upstream": u}
	}
	for name, tt := range map[string]struct {
		change map[string]any
		field  string
		detail string
	}{
		"no name":                     {map[string]any{"name": nil}, "name", "required"},
		"two dots":                    {map[string]any{"name": ".."}, "name", "begin"},
		"no subject":                  {map[string]any{"subject": nil}, "subject", "required"},
		"a subject that is a number":  {map[string]any{"subject": 1}, "subject", "string"},
		"an unknown variable":         {map[string]any{"subject": "/CN=$NOBODY"}, "subject", "$NOBODY"},
		"an unknown type":             {map[string]any{"subject": "/X=1"}, "subject", `"X"`},
		"a pair of one":               {map[string]any{"subject": [][]string{{"CN"}}}, "subject", "pairs"},
		"a long CN":                   {map[string]any{"subject": "/CN=" + strings.Repeat("x", 70)}, "subject", "70 bytes"},
		"a kind of name unknown":      {map[string]any{"sans": map[string]any{"iPAddress": "192.0.2.1"}}, "sans.iPAddress", "not a field"},
		"names that are no list":      {map[string]any{"sans": "x"}, "sans", "object"},
		"a number as a name":          {map[string]any{"sans": map[string]any{"dNSName": 1}}, "sans.dNSName", "string"},
		"several principal names":     {map[string]any{"sans": map[string]any{"ntPrincipalName": []string{"a@b", "c@d"}}}, "sans.ntPrincipalName", "a string"},
		"a wildcard":                  {map[string]any{"sans": map[string]any{"dNSName": []string{"a.example.com", "*.example.com"}}}, "sans.dNSName[1]", "wildcard"},
		"an EC key":                   {map[string]any{"key_type": "EC"}, "key_type", "RSA"},
		"a short key":                 {map[string]any{"key_size": 1024}, "key_size", "too short"},
		"a size as text":              {map[string]any{"key_size": "2048"}, "key_size", "whole number"},
		"no key usage":                {map[string]any{"key_usage": []string{}}, "key_usage", "at least one"},
		"a key usage as text":         {map[string]any{"key_usage": "digitalSignature"}, "key_usage", "array"},
		"any purpose":                 {map[string]any{"ext_key_usage": []string{"anyExtendedKeyUsage"}}, "ext_key_usage[0]", "any purpose"},
		"a long validity":             {map[string]any{"validity": "1000d"}, "validity", "825"},
		"a validity as number":        {map[string]any{"validity": 365}, "validity", "string"},
		"a renewal after the end":     {map[string]any{"validity": "10d", "renew_before": "14d"}, "renew_before", "shorter"},
		"no challenge at all":         {map[string]any{"challenge_type": "none"}, "challenge_type", "one_time"},
		"a challenge for one time":    {map[string]any{"challenge": "a shared secret"}, "challenge", "static"},
		"negative retries":            {map[string]any{"retries": -1}, "retries", "0 to 100"},
		"a delay of words":            {map[string]any{"retry_delay": "soon"}, "retry_delay", "seconds"},
		"half a second of delay":      {map[string]any{"retry_delay": "0.5s"}, "retry_delay", "whole seconds"},
		"roots that are no list":      {map[string]any{"root_certificates": "x"}, "root_certificates", "array"},
		"a private key":               {map[string]any{"include_root": true, "root_certificates": []string{privateKey}}, "root_certificates[0]", "private key"},
		"a root of nothing":           {map[string]any{"include_root": true, "root_certificates": []string{"x"}}, "root_certificates[0]", "certificate"},
		"a root of unknown fields":    {map[string]any{"include_root": true, "root_certificates": []any{map[string]any{"der": "x"}}}, "root_certificates[0].der", "not a field"},
		"an issuer that is none":      {map[string]any{"issuer": "ndes"}, "issuer", "builtin"},
		"an external issuer nowhere":  {map[string]any{"issuer": "external"}, "upstream.url", "required"},
		"an upstream without issuer":  {map[string]any{"upstream": map[string]any{"url": "https://example.com/"}}, "upstream", "builtin"},
		"a query":                     {external(map[string]any{"url": "https://example.com/?x=1"}), "upstream.url", "query"},
		"a fingerprint of MD5":        {external(map[string]any{"url": "https://example.com/", "fingerprint": strings.Repeat("ab", 16)}), "upstream.fingerprint", "MD5"},
		"a kind of challenge unknown": {external(map[string]any{"url": "https://example.com/", "challenge_type": "magic"}), "upstream.challenge_type", "dynamic"},
		"a URL as a number":           {external(map[string]any{"url": 1}), "upstream.url", "a string"},
		"a field that nobody knows":   {map[string]any{"colour": "red"}, "colour", "not a field"},
	} {
		t.Run(name, func(t *testing.T) {
			got := h.do(t, exchange{method: "POST", path: templatesPath, body: wifi(tt.change), wild: true})
			got.wantField(t, tt.field)
			if !strings.Contains(string(got.answer), strings.Trim(string(mustJSON(t, tt.detail)), `"`)) {
				t.Errorf("answer is %s, want it to say %q", got.answer, tt.detail)
			}
		})
	}
	var all struct{ Items []any }
	h.do(t, exchange{method: "GET", path: templatesPath}).want(t, 200, &all)
	if len(all.Items) != 0 {
		t.Errorf("there are templates now: %v", all.Items)
	}
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestAllWrongFieldsOfATemplateAreNamedAtOnce(t *testing.T) {
	h := newHouse(t)
	for name, body := range map[string]map[string]any{
		"that can't be read":  wifi(map[string]any{"subject": "/X=1", "retry_delay": "soon", "sans": map[string]any{"dNSName": 1}}),
		"that can't be right": wifi(map[string]any{"key_size": 1, "validity": "1000d", "retries": -1}),
	} {
		t.Run(name, func(t *testing.T) {
			p := h.do(t, exchange{method: "POST", path: templatesPath, body: body, wild: true}).wantProblem(t, 400, "invalid_request")
			if len(p.Errors) != 3 {
				t.Errorf("errors are %v, want three", p.Errors)
			}
			for _, e := range p.Errors {
				if !strings.Contains(p.Detail, e.Field+" "+e.Detail) {
					t.Errorf("detail %q does not say %v", p.Detail, e)
				}
			}
		})
	}
}

func TestATemplatesNameIsItsOwn(t *testing.T) {
	h := newHouse(t)
	h.do(t, exchange{method: "POST", path: templatesPath, body: wifi(nil)}).want(t, 201, nil)
	for _, name := range []string{"wifi", "WiFi"} {
		h.do(t, exchange{method: "POST", path: templatesPath, body: wifi(map[string]any{"name": name})}).wantProblem(t, 409, "template_exists")
	}
	h.do(t, exchange{method: "PUT", path: templatesPath + "/wifi", body: wifi(map[string]any{"name": "vpn"})}).wantField(t, "name")
	h.do(t, exchange{method: "PUT", path: templatesPath + "/vpn", body: wifi(map[string]any{"name": "vpn"})}).wantProblem(t, 404, "not_found")
	h.do(t, exchange{method: "PUT", path: templatesPath + "/wifi", body: map[string]any{"subject": "/CN=$UDID"}}).want(t, 200, nil)
	for _, path := range []string{"/vpn", "/WIFI", "/%2e%2e", "/a%2fb"} {
		h.do(t, exchange{method: "DELETE", path: templatesPath + path}).wantProblem(t, 404, "not_found")
	}
}

func TestAStaticChallengeIsShownOnce(t *testing.T) {
	h := newHouse(t)
	type answer struct {
		Challenge    string
		HasChallenge bool `json:"has_challenge"`
		Warnings     []struct{ Field, Detail string }
	}
	ask := func(method, path string, body any, status int) (a answer) {
		t.Helper()
		x := h.do(t, exchange{method: method, path: path, body: body})
		x.want(t, status, &a)
		return a
	}
	static := wifi(map[string]any{"challenge_type": "static"})
	made := ask("POST", templatesPath, static, 201)
	if len(made.Challenge) < 20 || !made.HasChallenge || len(made.Warnings) != 1 || made.Warnings[0].Field != "challenge_type" {
		t.Errorf("made is %+v, want a challenge and a warning", made)
	}
	for _, path := range []string{templatesPath + "/wifi", templatesPath} {
		if got := h.do(t, exchange{method: "GET", path: path}); strings.Contains(string(got.answer), made.Challenge) {
			t.Errorf("GET %s shows the challenge: %s", path, got.answer)
		}
	}
	if got := ask("PUT", templatesPath+"/wifi", static, 200); got.Challenge != "" || !got.HasChallenge {
		t.Errorf("replaced by the same it is %+v, want the challenge kept and not shown", got)
	}
	static["challenge"] = "by hand, and long enough"
	if got := ask("PUT", templatesPath+"/wifi", static, 200); got.Challenge != "by hand, and long enough" {
		t.Errorf("with a challenge it is %+v", got)
	}
	if got := ask("PUT", templatesPath+"/wifi", wifi(nil), 200); got.Challenge != "" || got.HasChallenge || len(got.Warnings) != 0 {
		t.Errorf("with one-time challenges it is %+v", got)
	}
	delete(static, "challenge")
	if got := ask("PUT", templatesPath+"/wifi", static, 200); got.Challenge == "" || got.Challenge == made.Challenge {
		t.Errorf("static again it is %+v, want a new challenge", got)
	}
}

func TestTemplatesAreListedByName(t *testing.T) {
	h := newHouse(t)
	for _, name := range []string{"vpn", "mail", "wifi"} {
		h.do(t, exchange{method: "POST", path: templatesPath, body: wifi(map[string]any{"name": name})}).want(t, 201, nil)
	}
	var names []string
	for cursor := ""; ; {
		var got struct {
			Items      []struct{ Name string }
			NextCursor string `json:"next_cursor"`
		}
		h.do(t, exchange{method: "GET", path: templatesPath + "?limit=2&cursor=" + cursor}).want(t, 200, &got)
		for _, item := range got.Items {
			names = append(names, item.Name)
		}
		if cursor = got.NextCursor; cursor == "" {
			break
		}
	}
	if want := []string{"mail", "vpn", "wifi"}; !reflect.DeepEqual(names, want) {
		t.Errorf("listed are %v, want %v", names, want)
	}
}
