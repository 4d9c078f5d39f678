package webui_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/webui"
)

func TestTheCertificateOfAHandshakeIsTheClients(t *testing.T) {
	certify := func(curve elliptic.Curve) *x509.Certificate {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	own := certify(elliptic.P256())
	proxy := []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}
	for name, tt := range map[string]struct {
		trusted []netip.Prefix // the client is 192.0.2.1
		tls     *tls.ConnectionState
		want    *x509.Certificate
	}{
		"of a client":                         {nil, &tls.ConnectionState{PeerCertificates: []*x509.Certificate{own, certify(elliptic.P256())}}, own},
		"of a client that has none":           {nil, &tls.ConnectionState{}, nil},
		"without TLS":                         {nil, nil, nil},
		"of a proxy, which is not its client": {proxy, &tls.ConnectionState{PeerCertificates: []*x509.Certificate{own}}, nil},
		"of a key that we don't work with":    {nil, &tls.ConnectionState{PeerCertificates: []*x509.Certificate{certify(elliptic.P224())}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got *x509.Certificate
			h := webui.Chain(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = webui.ClientCertificate(r.Context()) }),
				webui.RealPeer(tt.trusted), webui.TLSClientCertificate(slog.New(slog.DiscardHandler)))
			r := httptest.NewRequest("GET", "/", nil)
			r.RemoteAddr, r.TLS = "192.0.2.1:1234", tt.tls
			h.ServeHTTP(httptest.NewRecorder(), r)
			if got != tt.want && (got == nil || tt.want == nil || !got.Equal(tt.want)) {
				t.Errorf("client certificate = %v, want %v", got, tt.want)
			}
		})
	}
}
