package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// curl sends requests as a script does. It trusts the authority in a file alone.
type curl struct {
	program string
	root    string
}

func newCurl(t *testing.T, root []byte) *curl {
	t.Helper()
	return &curl{program: tool(t, "curl"), root: fileOf(t, "root.pem", root)}
}

// fetch returns the status of the answer and the file with its body.
func (c *curl) fetch(t *testing.T, url string, args ...string) (status int, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "answer")
	args = append([]string{"-sS", "--cacert", c.root, "-o", file, "-w", "%{http_code}", url}, args...)
	out, err := exec.Command(c.program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("curl %q: %v\n%s", args, err, out)
	}
	status, err = strconv.Atoi(string(out))
	must(t, err)
	return status, file
}

// opensslRequest has openssl make a key and a request with it, in PEM.
func opensslRequest(t *testing.T, args ...string) (csr, key string) {
	t.Helper()
	dir := t.TempDir()
	csr, key = filepath.Join(dir, "req.pem"), filepath.Join(dir, "key.pem")
	args = append([]string{"req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", csr}, args...)
	if out, err := openssl(t, args...); err != nil {
		t.Fatalf("openssl %q: %v\n%s", args, err, out)
	}
	return csr, key
}

// converted has openssl turn one file into another.
func converted(t *testing.T, command string, in string, args ...string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "out.pem")
	args = append([]string{command, "-in", in, "-out", file}, args...)
	if out, err := openssl(t, args...); err != nil {
		text, _ := os.ReadFile(in)
		t.Fatalf("openssl %q: %v\n%s\n%s", args, err, out, text)
	}
	return file
}

// contentOf is what is in a file.
func contentOf(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	must(t, err)
	return string(data)
}

// TestCurlGetsCertificates enrols by EST and by /api/csr with nothing but curl and
// openssl, as scripts do.
func TestCurlGetsCertificates(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	tool(t, "openssl")
	tool(t, "curl")
	m := startMutual(t)
	c := newCurl(t, fetch(t, m.client, "GET", m.url+"/ca.pem", nil))
	const password = "correct horse battery staple"
	var ana struct{ ID string }
	decode(t, fetch(t, m.client, "POST", m.url+"/api/v1/users", []byte(
		`{"username":"ana","email":"ana@example.com","full_name":"Ana Exámple","password":"`+password+`"}`)), &ana)
	var self struct{ Token string }
	decode(t, fetch(t, m.client, "POST", m.url+"/api/v1/tokens", []byte(`{"name":"ana's","scopes":["cert:self"],"user":"ana@example.com"}`)), &self)

	// est sends an EST request, and returns the certificates of a 200 in PEM.
	est := func(t *testing.T, at, operation string, args ...string) (status int, file string) {
		t.Helper()
		status, file = c.fetch(t, at+"/.well-known/est/"+operation, args...)
		if status != 200 {
			return status, file
		}
		der := converted(t, "base64", file, "-d")
		return status, converted(t, "pkcs7", der, "-inform", "DER", "-print_certs")
	}
	request := func(t *testing.T, csr string) []string {
		t.Helper()
		body := converted(t, "base64", converted(t, "req", csr, "-outform", "DER"))
		return []string{"-H", "Content-Type: application/pkcs10", "-H", "Content-Transfer-Encoding: base64", "--data-binary", "@" + body}
	}
	status, authorities := est(t, m.url, "cacerts")
	if status != 200 {
		t.Fatalf("cacerts: %d %s", status, contentOf(t, authorities))
	}
	check := func(t *testing.T, file string) {
		t.Helper()
		if out, err := openssl(t, "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", c.root, "-untrusted", authorities, file); err != nil {
			t.Errorf("openssl: %v\n%s", err, out)
		}
	}
	aboutPrinter := []string{"-subj", "/O=Example/CN=printer", "-addext", "subjectAltName=DNS:printer.example.com"}
	aboutAna := []string{"-utf8", "-subj", "/CN=Ana Exámple"}

	for name, tt := range map[string]struct {
		operation string
		auth      []string
		asked     []string
		want      string // in the subject
	}{
		"by a bearer token":                       {"printer/simpleenroll", []string{"-H", "Authorization: Bearer " + m.token}, aboutPrinter, "O = Example, CN = printer"},
		"by a token as the password":              {"printer/simpleenroll", []string{"-u", "est:" + m.token}, aboutPrinter, "O = Example, CN = printer"},
		"by name and password, in one's own name": {"simpleenroll", []string{"-u", "ana:" + password}, aboutAna, "CN = Ana Exámple"},
	} {
		t.Run("EST "+name, func(t *testing.T) {
			csr, key := opensslRequest(t, tt.asked...)
			status, file := est(t, m.url, tt.operation, append(request(t, csr), tt.auth...)...)
			if status != 200 {
				t.Fatalf("%d %s", status, contentOf(t, file))
			}
			check(t, file)
			if out, err := openssl(t, "x509", "-in", file, "-noout", "-subject", "-nameopt", "oneline,utf8,-esc_msb"); err != nil || strings.TrimSpace(out) != "subject="+tt.want {
				t.Errorf("openssl: %s, %v; want %s", out, err, tt.want)
			}
			again, newKey := opensslRequest(t, tt.asked...)
			operation := strings.Replace(tt.operation, "simpleenroll", "simplereenroll", 1)
			// What the server has added to the names must be asked for (RFC 7030, 4.2.2).
			if tt.operation == "simpleenroll" {
				again, newKey = opensslRequest(t, append(tt.asked, "-addext", "subjectAltName=otherName:1.3.6.1.4.1.311.20.2.3;UTF8:ana@example.com")...)
			}
			status, renewed := est(t, m.at, operation, append(request(t, again), "--cert", file, "--key", key)...)
			if status != 200 {
				t.Fatalf("renewal: %d %s", status, contentOf(t, renewed))
			}
			check(t, renewed)
			got, err := openssl(t, "x509", "-in", renewed, "-noout", "-pubkey")
			must(t, err)
			want, err := openssl(t, "pkey", "-in", newKey, "-pubout")
			must(t, err)
			if got != want {
				t.Error("the renewed certificate is for another key")
			}
		})
	}
	for name, tt := range map[string]struct {
		at, operation string
		auth          []string
		status        int
	}{
		"without a token":           {m.url, "printer/simpleenroll", nil, 401},
		"with a wrong password":     {m.url, "simpleenroll", []string{"-u", "ana:wrong"}, 401},
		"a template with cert:self": {m.url, "printer/simpleenroll", []string{"-u", "ana:" + self.Token}, 403},
		"a renewal by token":        {m.at, "printer/simplereenroll", []string{"-u", "est:" + m.token}, 403},
	} {
		t.Run("EST refused "+name, func(t *testing.T) {
			csr, _ := opensslRequest(t, aboutPrinter...)
			if status, file := est(t, tt.at, tt.operation, append(request(t, csr), tt.auth...)...); status != tt.status {
				t.Errorf("%d, want %d: %s", status, tt.status, contentOf(t, file))
			}
		})
	}

	own, foreign := enrolledFor(t, m, "ana@example.com"), enrolledFor(t, m, "ben@example.com")
	for name, tt := range map[string]struct {
		token  string
		asked  []string
		status int
		want   []string // in openssl's words, or in the answer's
	}{
		"one's own name": {self.Token, aboutAna, 200, []string{"CN = Ana Exámple", "UPN::ana@example.com", "CA:FALSE", "TLS Web Client Authentication"}},
		"one's own name, with the address": {self.Token, append(aboutAna, "-addext", "subjectAltName=email:ana@example.com"), 200,
			[]string{"CN = Ana Exámple", "UPN::ana@example.com", "email:ana@example.com"}},
		"one's own device, by its URI": {self.Token, []string{"-subj", "/", "-addext", "subjectAltName=URI:mdm-device://" + own}, 200,
			[]string{"CN = " + own, "URI:mdm-device://" + own, "TLS Web Client Authentication"}},
		"one's own device, by its ID": {self.Token, []string{"-subj", "/CN=" + own}, 200, []string{"CN = " + own, "URI:mdm-device://" + own}},
		"any names with cert:any": {m.token, []string{"-subj", "/O=Else/CN=anything", "-addext", "subjectAltName=DNS:any.example.org,IP:192.0.2.7"}, 200,
			[]string{"O = Else, CN = anything", "DNS:any.example.org", "IP Address:192.0.2.7"}},
		"another's name":     {self.Token, []string{"-subj", "/CN=Ben Example"}, 400, []string{"subject.cn"}},
		"another's device":   {self.Token, []string{"-subj", "/CN=" + foreign}, 400, []string{"subject.cn"}},
		"another's UPN":      {self.Token, append(aboutAna, "-addext", "subjectAltName=otherName:1.3.6.1.4.1.311.20.2.3;UTF8:ben@example.com"), 400, []string{"san.upn"}},
		"a host":             {self.Token, append(aboutAna, "-addext", "subjectAltName=DNS:www.example.com"), 400, []string{"san.dns"}},
		"server's usage":     {self.Token, append(aboutAna, "-addext", "extendedKeyUsage=serverAuth"), 400, []string{"ext_key_usage"}},
		"to be an authority": {m.token, []string{"-subj", "/CN=CA", "-addext", "basicConstraints=critical,CA:TRUE"}, 400, []string{"basic_constraints"}},
	} {
		t.Run("upload, "+name, func(t *testing.T) {
			csr, _ := opensslRequest(t, tt.asked...)
			status, file := c.fetch(t, m.url+"/api/csr", "-H", "Authorization: Bearer "+tt.token, "--data-binary", "@"+csr)
			if status != tt.status {
				t.Fatalf("%d, want %d: %s", status, tt.status, contentOf(t, file))
			}
			shown := contentOf(t, file)
			if status == 200 {
				check(t, file)
				shown = contentOf(t, converted(t, "x509", file, "-noout", "-text", "-nameopt", "oneline,utf8,-esc_msb"))
			} else {
				var p struct{ Errors []struct{ Field string } }
				must(t, json.Unmarshal([]byte(shown), &p))
				if len(p.Errors) != 1 {
					t.Fatalf("%s names %d fields", shown, len(p.Errors))
				}
				shown = p.Errors[0].Field
			}
			for _, want := range tt.want {
				if !strings.Contains(shown, want) {
					t.Errorf("there is no %q in\n%s", want, shown)
				}
			}
		})
	}
	t.Run("upload, in DER", func(t *testing.T) {
		csr, _ := opensslRequest(t, aboutAna...)
		status, file := c.fetch(t, m.url+"/api/csr", "-H", "Authorization: Bearer "+self.Token, "--data-binary", "@"+converted(t, "req", csr, "-outform", "DER"))
		if status != 200 {
			t.Fatalf("%d %s", status, contentOf(t, file))
		}
		check(t, converted(t, "x509", file, "-inform", "DER"))
	})
	t.Run("all ends with the user", func(t *testing.T) {
		fetch(t, m.client, "PATCH", m.url+"/api/v1/users/"+ana.ID, []byte(`{"disabled":true}`))
		var theirs struct{ Items []certificateItem }
		decode(t, fetch(t, m.client, "GET", m.url+"/api/v1/certificates?user=ana@example.com&limit=1000", nil), &theirs)
		if len(theirs.Items) < 6 { // the device's identity, two for the device, three for the user
			t.Errorf("the user has %d certificates", len(theirs.Items))
		}
		for _, item := range theirs.Items {
			if item.Status != "revoked" {
				t.Errorf("the certificate %s for device %q is %s", item.Serial, item.DeviceID, item.Status)
			}
		}
		csr, _ := opensslRequest(t, aboutAna...)
		if status, file := c.fetch(t, m.url+"/api/csr", "-H", "Authorization: Bearer "+self.Token, "--data-binary", "@"+csr); status != 401 && status != 403 {
			t.Errorf("the user's token: %d %s", status, contentOf(t, file))
		}
		if status, file := est(t, m.url, "simpleenroll", append(request(t, csr), "-u", "ana:"+password)...); status != 401 {
			t.Errorf("the user's password: %d %s", status, contentOf(t, file))
		}
	})
}

// enrolledFor enrolls a device of a user, and returns its ID.
func enrolledFor(t *testing.T, m *mutual, user string) string {
	t.Helper()
	var link struct {
		ProfileURL string `json:"profile_url"`
	}
	decode(t, fetch(t, m.client, "POST", m.url+"/api/v1/enrollment-links", []byte(`{"login":"none","uses":1,"user":"`+user+`"}`)), &link)
	pool, err := keyPool()
	must(t, err)
	d, err := mdmtest.NewDevice(mdmtest.Options{Keys: pool, Transport: m.client.Transport})
	must(t, err)
	must(t, d.Enroll(t.Context(), link.ProfileURL))
	var devices struct{ Items []struct{ ID, UDID string } }
	decode(t, fetch(t, m.client, "GET", m.url+"/api/v1/devices", nil), &devices)
	for _, item := range devices.Items {
		if item.UDID == d.ID() {
			return item.ID
		}
	}
	t.Fatalf("the server knows no device %s", d.ID())
	return ""
}
