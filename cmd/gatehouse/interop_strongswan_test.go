package main

import (
	"bytes"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// pki runs strongSwan's tool and returns what it prints on standard output and what
// it says. Its SCEP client fetches by a plugin that Debian has in another package.
func pki(t *testing.T, args ...string) (stdout []byte, said string, err error) {
	t.Helper()
	cmd := exec.Command(tool(t, "pki"), args...)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	err = cmd.Run()
	if strings.Contains(problems.String(), "no capable fetcher found") {
		missing(t, "strongSwan's curl plugin is not installed")
	}
	return out.Bytes(), problems.String(), err
}

// scepca has strongSwan fetch the authority at a URL. It returns the file.
func scepca(t *testing.T, url string) string {
	t.Helper()
	dir := t.TempDir()
	if _, said, err := pki(t, "--scepca", "--url", url, "--caout", filepath.Join(dir, "ca.pem"), "--outform", "pem"); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*")) // its name tells a root from others
	if err != nil || len(files) != 1 {
		t.Fatalf("strongSwan got %q, %v; want one authority", files, err)
	}
	return files[0]
}

// TestStrongSwanGetsCertificatesAndRenewsThem is a VPN gateway's day: it knows the URL,
// a static challenge and, from elsewhere, the root.
func TestStrongSwanGetsCertificatesAndRenewsThem(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	tool(t, "pki")
	s := startProcess(t, "")
	s.staticTemplate(t, "vpn", "/O=Example/CN=$USERNAME", map[string]any{"dNSName": []string{"$USERNAME.example.com"}})
	identities := fileOf(t, "identity.pem", fetch(t, s.http, "GET", s.url+"/ca/identity.pem", nil))
	if got := scepca(t, s.url+"/scep"); !readCertificate(t, got).Equal(readCertificate(t, identities)) {
		t.Error("at /scep strongSwan gets another authority than there is at /ca/identity.pem")
	}
	root, _ := s.authorityFiles(t, "vpn")
	issuing := scepca(t, s.url+"/scep/vpn")

	// request asks for a certificate of gw.example.com.
	request := func(t *testing.T, path, key string, args ...string) (file, said string, err error) {
		args = append([]string{
			"--scep", "--url", s.url + path, "--in", key, "--dn", "O=Example, CN=gw", "--san", "gw.example.com",
			"--cacert-enc", issuing, "--cacert-sig", issuing, "--cacert", root, "--outform", "pem",
		}, args...)
		out, said, err := pki(t, args...)
		return fileOf(t, "cert.pem", out), said, err
	}
	granted := func(t *testing.T, path, key string, args ...string) (file string, cert *x509.Certificate) {
		t.Helper()
		file, said, err := request(t, path, key, args...)
		if err != nil || !strings.Contains(said, "Issued certificate is trusted") {
			t.Fatalf("%v\n%s", err, said)
		}
		verified(t, root, issuing, file)
		cert = readCertificate(t, file)
		if got := cert.Subject.String(); got != "CN=gw,O=Example" || len(cert.DNSNames) != 1 || cert.DNSNames[0] != "gw.example.com" {
			t.Errorf("the certificate is for %s, %v", got, cert.DNSNames)
		}
		return file, cert
	}

	firstKey, secondKey := keyFile(t), keyFile(t)
	firstFile, first := granted(t, "/scep/vpn", firstKey, "--password", staticChallenge)
	secondFile, second := granted(t, "/scep/vpn", secondKey, "--cert", firstFile, "--key", firstKey)
	renews(t, second, first)
	thirdFile, third := granted(t, "/scep/vpn", secondKey, "--cert", secondFile, "--key", secondKey)
	renews(t, third, second)
	_, fourth := granted(t, "/scep/vpn", keyFile(t), "--cert", thirdFile, "--key", secondKey, "--password", staticChallenge)
	renews(t, fourth, third)

	for name, tt := range map[string]struct {
		path string
		args []string
	}{
		"where OpenCA answers":                    {"/cgi-bin/pkiclient.exe", nil},
		"where NDES answers":                      {"/certsrv/mscep/mscep.dll", nil},
		"by triple DES and the strongest digest":  {"/scep/vpn", []string{"--cipher", "des3", "--digest", "sha512"}},
		"by a challenge that tells the template":  {"/scep", nil},
		"where Windows clients of NDES look also": {"/certsrv/mscep/mscep.dll/pkiclient.exe", []string{"--digest", "sha384"}},
	} {
		t.Run(name, func(t *testing.T) {
			granted(t, tt.path, keyFile(t), append(tt.args, "--password", staticChallenge)...)
		})
	}
	for name, args := range map[string][]string{
		"no challenge":         nil,
		"a wrong challenge":    {"--password", "another"},
		"another organisation": {"--password", staticChallenge, "--dn", "O=Evil, CN=gw"},
		"a host more":          {"--password", staticChallenge, "--san", "www.example.org"},
		"another's renewal":    {"--cert", firstFile, "--key", firstKey, "--dn", "O=Example, CN=other"},
	} {
		t.Run("refused for "+name, func(t *testing.T) {
			file, said, err := request(t, "/scep/vpn", keyFile(t), args...)
			got, readErr := os.ReadFile(file)
			if err == nil || readErr != nil || len(got) > 0 || !strings.Contains(said, "failInfo:") {
				t.Errorf("strongSwan: %v, and it has %q\n%s", err, got, said)
			}
		})
	}
}
