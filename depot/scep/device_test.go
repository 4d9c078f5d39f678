package scep_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
)

// simulated is the SCEP client of the simulated device, which reads answers as
// strictly as Apple's and shares no code with the server.
func simulated(t *testing.T, f *fixture) *mdmtest.SCEP {
	t.Helper()
	s := &mdmtest.SCEP{URL: f.url + "/scep", Name: "Gatehouse", HTTP: http.DefaultClient, Now: time.Now, Rand: rand.Reader}
	if err := s.Discover(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTheSimulatedDeviceEnrols(t *testing.T) {
	subject := mdmtest.Subject{{{"O", "Example"}}, {{"CN", "whatever the device says"}}}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		challenge string
		opts      []mdmtest.SCEPOption
		refused   bool
	}{
		"by POST":                     {"open sesame", nil, false},
		"by GET, half escaped":        {"open sesame", []mdmtest.SCEPOption{mdmtest.ByGET(mdmtest.GETHalfEscaped)}, false},
		"by GET, URL-safe":            {"open sesame", []mdmtest.SCEPOption{mdmtest.ByGET(mdmtest.GETURLSafe)}, false},
		"in 3DES":                     {"open sesame", []mdmtest.SCEPOption{mdmtest.WithTripleDES()}, false},
		"in AES-256":                  {"open sesame", []mdmtest.SCEPOption{mdmtest.WithAES256()}, false},
		"with SHA-1":                  {"open sesame", []mdmtest.SCEPOption{mdmtest.WithDigest(crypto.SHA1)}, false},
		"with a wrong challenge":      {"open barley", nil, true},
		"without a challenge":         {"", nil, true},
		"with two challenges":         {"open sesame", []mdmtest.SCEPOption{mdmtest.WithChallenge("open sesame", "open sesame")}, true},
		"as an UpdateReq":             {"open sesame", []mdmtest.SCEPOption{mdmtest.WithMessageType("18")}, true},
		"as a renewal of nothing":     {"open sesame", []mdmtest.SCEPOption{mdmtest.WithMessageType("17")}, true},
		"with a broken signature":     {"open sesame", []mdmtest.SCEPOption{mdmtest.WithBrokenSignature()}, true},
		"with another's public key":   {"open sesame", []mdmtest.SCEPOption{mdmtest.WithPublicKey(otherKey().Public())}, true},
		"signed with another RSA key": {"open sesame", []mdmtest.SCEPOption{mdmtest.WithSignerKey(otherKey())}, true},
		"with another certificate":    {"open sesame", []mdmtest.SCEPOption{mdmtest.WithCertificates(selfSigned(t, ec))}, true},
		"with garbage for a request":  {"open sesame", []mdmtest.SCEPOption{mdmtest.WithContent([]byte("garbage"))}, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t)
			s := simulated(t, f)
			r, err := s.Request(deviceKey(), subject, tt.challenge, nil, tt.opts...)
			if err != nil {
				t.Fatal(err)
			}
			cert, err := s.Send(t.Context(), r)
			if tt.refused {
				var failure *mdmtest.SCEPFailure
				if !errors.As(err, &failure) || failure.FailInfo != "2" || f.issuer.issued != 0 {
					t.Errorf("Send = %v, %d issued, want badRequest and none", err, f.issuer.issued)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if cert.Subject.CommonName != "set by the server" || !deviceKey().PublicKey.Equal(cert.PublicKey) {
				t.Errorf("the certificate is for %v", cert.Subject)
			}
		})
	}
}

func TestTheSimulatedDeviceRenews(t *testing.T) {
	f := serve(t)
	s := simulated(t, f)
	get := func(key crypto.Signer, challenge string, opts ...mdmtest.SCEPOption) *x509.Certificate {
		t.Helper()
		r, err := s.Request(key, mdmtest.Subject{{{"CN", "device"}}}, challenge, nil, opts...)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := s.Send(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	first := get(deviceKey(), "open sesame")
	second := get(otherKey(), "", mdmtest.WithSigner(first, deviceKey()))
	if !otherKey().PublicKey.Equal(second.PublicKey) {
		t.Error("the second certificate is not for the new key")
	}
	if got := f.issuer.last(t); !got.Signer.Equal(first) {
		t.Error("the issuer was not told who signed")
	}
}
