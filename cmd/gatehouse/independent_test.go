package main

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// scepClient is a client that shares no line with this project. It is built
// outside of our module, whose versions it must not get.
const scepClient = "github.com/micromdm/scep/v2/cmd/scepclient@v2.3.0"

// buildTool builds a command of another module at its own versions.
func buildTool(t *testing.T, pkg string) (bin string) {
	t.Helper()
	dir := t.TempDir()
	if err := installTool(dir, pkg); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("%s can't be fetched here", pkg)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("go install %s made %q, %v; want one program", pkg, found, err)
	}
	return found[0]
}

// installTool builds a command of another module into dir.
func installTool(dir, pkg string) error {
	install := exec.Command("go", "install", pkg)
	install.Dir = dir // in no module
	install.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=-mod=mod", "CGO_ENABLED=0")
	if out, err := install.CombinedOutput(); err != nil {
		return fmt.Errorf("go install %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// TestAnIndependentSCEPClientGetsOneCertificate enrolls for an identity as a
// device would, by a client that was not written for this server.
func TestAnIndependentSCEPClientGetsOneCertificate(t *testing.T) {
	storagetest.AnyEngine(t)
	if testing.Short() {
		t.Skip("builds another program")
	}
	t.Parallel()
	client := buildTool(t, scepClient)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(apiToken), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, serve := range map[string]func(t *testing.T) (url string, c *http.Client){
		"over TLS of its own authority": func(t *testing.T) (string, *http.Client) {
			s := start(t, t.TempDir(), "--bootstrap-token-file", token)
			return s.url, s.client
		},
		"over HTTP behind a proxy": func(t *testing.T) (string, *http.Client) {
			s := startProcess(t, "")
			return s.url, s.http
		},
	} {
		t.Run(name, func(t *testing.T) {
			url, browser := serve(t)
			dir := t.TempDir()
			// The root that the server hands out is all that the client trusts.
			roots := filepath.Join(dir, "ca.pem")
			if err := os.WriteFile(roots, fetch(t, browser, "GET", url+"/ca.pem", nil), 0o600); err != nil {
				t.Fatal(err)
			}
			var link struct {
				ID         string `json:"id"`
				ProfileURL string `json:"profile_url"`
			}
			decode(t, fetch(t, browser, "POST", url+"/api/v1/enrollment-links", []byte(`{"login":"none","uses":5}`)), &link)
			challenge := challengeOf(t, fetch(t, browser, "GET", link.ProfileURL, nil))

			enroll := func() (cert string, out []byte, err error) {
				device := t.TempDir() // it takes up what another run left beside its key
				cert = filepath.Join(device, "cert.pem")
				cmd := exec.Command(client, "-server-url", url+"/scep", "-challenge", challenge, "-cn", "whoever",
					"-private-key", filepath.Join(device, "key.pem"), "-certificate", cert)
				cmd.Dir = device
				cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+roots, "SSL_CERT_DIR="+dir)
				out, err = cmd.CombinedOutput()
				return cert, out, err
			}
			file, out, err := enroll()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			cert := readCertificate(t, file)

			// The same profile installed on a second device: a new key, and the old challenge.
			if file, out, err := enroll(); err == nil {
				t.Errorf("the challenge bought a second certificate\n%s", out)
			} else if _, err := os.Stat(file); err == nil {
				t.Error("the second request was refused, and left a certificate")
			}

			var attempts struct {
				Items []struct {
					ID, Stage string
					LinkID    string `json:"link_id"`
				}
			}
			decode(t, fetch(t, browser, "GET", url+"/api/v1/enrollment-attempts", nil), &attempts)
			if len(attempts.Items) != 1 || attempts.Items[0].LinkID != link.ID || attempts.Items[0].Stage != "identity_issued" {
				t.Fatalf("attempts = %+v, want one with its identity issued", attempts.Items)
			}
			if got, want := cert.Subject.CommonName, attempts.Items[0].ID; got != want {
				t.Errorf("the certificate is for %q, want %q: it is the server that names it", got, want)
			}
			var certificates struct {
				Items []struct{ Template, Serial string }
			}
			decode(t, fetch(t, browser, "GET", url+"/api/v1/certificates", nil), &certificates)
			issued := 0
			for _, c := range certificates.Items {
				if c.Template != "identity" {
					continue
				}
				if issued++; c.Serial != cert.SerialNumber.Text(16) {
					t.Errorf("the inventory has %s, the client %x", c.Serial, cert.SerialNumber)
				}
			}
			if issued != 1 {
				t.Errorf("the inventory has %d identities, want 1", issued)
			}
		})
	}
}

// fetch sends an API request and returns the body of a 2xx answer.
func fetch(t *testing.T, c *http.Client, method, url string, body []byte) []byte {
	t.Helper()
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+apiToken)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 != 2 {
		t.Fatalf("%s %s = %s %s, %v", method, url, resp.Status, out, err)
	}
	return out
}

func decode(t *testing.T, body []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(body, v); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
}

// challengeOf returns the SCEP challenge in an enrollment profile.
func challengeOf(t *testing.T, signed []byte) string {
	t.Helper()
	plain, _, err := profile.Unwrap(signed)
	if err != nil {
		t.Fatal(err)
	}
	var p struct {
		PayloadContent []struct {
			PayloadType    string
			PayloadContent any
		}
	}
	if err := guard.DecodePlist(plain, &p, guard.PlistLimits{}); err != nil {
		t.Fatal(err)
	}
	for _, payload := range p.PayloadContent {
		if settings, ok := payload.PayloadContent.(map[string]any); ok && payload.PayloadType == "com.apple.security.scep" {
			return settings["Challenge"].(string)
		}
	}
	t.Fatal("the profile has no SCEP payload")
	return ""
}

func readCertificate(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("%s is not PEM: %s", file, text)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
