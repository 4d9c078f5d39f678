package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// TestMicroMDMsClientGetsACertificateAndRenewsIt is about a client that keeps its key,
// and even its request with the challenge in it: only who signs it tells a renewal from
// a repetition.
func TestMicroMDMsClientGetsACertificateAndRenewsIt(t *testing.T) {
	storagetest.AnyEngine(t)
	if testing.Short() {
		t.Skip("builds another program")
	}
	t.Parallel()
	client := buildTool(t, scepClient)
	s := startProcess(t, "")
	s.staticTemplate(t, "printers", "/C=US/O=Example/OU=MDM/CN=$USERNAME", map[string]any{"dNSName": []string{"$USERNAME.example.com"}})
	root, issuing := s.authorityFiles(t, "printers")
	ask := func(t *testing.T, dir, path string, args ...string) (file string, out []byte, err error) {
		t.Helper()
		file = filepath.Join(dir, "cert.pem")
		cmd := exec.Command(client, append([]string{
			"-server-url", s.url + path, "-private-key", filepath.Join(dir, "key.pem"), "-certificate", file,
			"-organization", "Example", "-cn", "laser", "-dnsname", "laser.example.com",
		}, args...)...)
		cmd.Dir = dir
		out, err = cmd.CombinedOutput()
		return file, out, err
	}
	dir := t.TempDir()
	file, out, err := ask(t, dir, "/scep/printers", "-challenge", staticChallenge)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	verified(t, root, issuing, file)
	cert := readCertificate(t, file)
	if got := cert.Subject.String(); got != "CN=laser,OU=MDM,O=Example,C=US" || len(cert.DNSNames) != 1 || cert.DNSNames[0] != "laser.example.com" {
		t.Errorf("the certificate is for %s, %v", got, cert.DNSNames)
	}
	const another = "by another request, without a challenge"
	for _, step := range []string{"by the request that it has kept, challenge and all", "again", another, "again"} {
		if step == another {
			must(t, os.Remove(filepath.Join(dir, "csr.pem")))
		}
		file, out, err := ask(t, dir, "/scep/printers")
		if err != nil {
			t.Fatalf("renewal %s: %v\n%s", step, err, out)
		}
		verified(t, root, issuing, file)
		renewed := readCertificate(t, file)
		renews(t, renewed, cert)
		cert = renewed
	}
	if file, out, err := ask(t, t.TempDir(), "/scep/printers", "-challenge", "another challenge"); err == nil {
		t.Errorf("a wrong challenge bought %s\n%s", file, out)
	}
	if file, out, err := ask(t, t.TempDir(), "/certsrv/mscep/mscep.dll", "-challenge", staticChallenge); err != nil {
		t.Errorf("where NDES answers: %v\n%s", err, out)
	} else {
		verified(t, root, issuing, file)
	}
}
