package main

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"regexp"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestTrustProbeAnswersOnlyWhoTrustsTheAuthority(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	s := start(t, t.TempDir())
	at := regexp.MustCompile(`"trust probe listens","url":"([^"]+)"`).FindStringSubmatch(s.out.String())
	if at == nil {
		t.Fatalf("nothing says where the trust probe is:\n%s", s.out)
	}
	resp, err := s.client.Get(at[1])
	if err != nil {
		t.Fatalf("who trusts the authority: %v", err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "image/gif" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("probe = %s %v", resp.Status, resp.Header)
	}

	// Whoever made an exception for the server's own certificate, as browsers offer.
	server, err := tls.Dial("tcp", s.url[len("https://"):], &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	leaf := server.ConnectionState().PeerCertificates[0]
	server.Close()
	exception := x509.NewCertPool()
	exception.AddCert(leaf)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: exception}}}
	resp, err = client.Get(s.url + "/livez")
	if err != nil {
		t.Fatalf("the exception is none: %v", err)
	}
	resp.Body.Close()
	if resp, err := client.Get(at[1]); err == nil {
		resp.Body.Close()
		t.Error("the probe answers who does not trust the authority")
	}

	for _, path := range []string{"/", "/enroll", "/api/openapi.json"} {
		resp, err := s.client.Get(at[1][:len(at[1])-len(probePath)] + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s beside the probe = %s", path, resp.Status)
		}
	}
}
