package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
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

func TestStrongSwanFetchesTheAuthority(t *testing.T) {
	t.Parallel()
	s := startProcess(t, "")
	file := filepath.Join(t.TempDir(), "ca.pem")
	if _, said, err := pki(t, "--scepca", "--url", s.url+"/scep", "--caout", file, "--outform", "pem"); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := fetch(t, s.http, "GET", s.url+"/ca/identity.pem", nil)
	if !readCertificate(t, file).Equal(readCertificate(t, fileOf(t, "identity.pem", want))) {
		t.Errorf("strongSwan got\n%s\nwant what is at /ca/identity.pem\n%s", got, want)
	}
}
