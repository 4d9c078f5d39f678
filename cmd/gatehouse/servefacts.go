package main

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/apiv1"
)

// serverFacts returns what the API tells of how this process was started. What it names is
// no secret: not where the database is, nor any key.
func serverFacts(cfg config, cert *certificate, demoOn func() bool, now func() time.Time) func() apiv1.Server {
	yes := func(b bool) string {
		if b {
			return "yes"
		}
		return ""
	}
	address := func(u *url.URL) string {
		if u == nil {
			return ""
		}
		return u.String()
	}
	proxies := func(list []netip.Prefix) string {
		texts := make([]string, len(list))
		for i, p := range list {
			texts[i] = p.String()
		}
		return strings.Join(texts, ", ")
	}
	facts := apiv1.Server{Version: readBuildInfo().Version, Store: "bolt", TLSMode: string(cfg.tls)}
	if cfg.store.shared() {
		facts.Store = "postgres"
	}
	demo := ""
	if cfg.demo > 0 {
		demo = fmt.Sprint(cfg.demo)
	}
	facts.Options = []apiv1.Option{
		{Flag: "--server-url", Value: address(cfg.serverURL)},
		{Flag: "--listen", Value: cfg.listen},
		{Flag: "--lan", Value: yes(cfg.lan)},
		{Flag: "--tls-mode", Value: string(cfg.tls)},
		{Flag: "--tls-cert", Value: cfg.tlsCert},
		{Flag: "--acme-email", Value: cfg.acme.email},
		{Flag: "--acme-directory", Value: cfg.acme.directory},
		{Flag: "--trusted-proxy", Value: proxies(cfg.trustedProxies)},
		{Flag: "--client-cert-header", Value: cfg.clientCertHeader},
		{Flag: "--mtls-listen", Value: cfg.mtlsListen},
		{Flag: "--pki-url", Value: address(cfg.pkiURL)},
		{Flag: "--pki-listen", Value: cfg.pkiListen},
		{Flag: "--trust-probe-listen", Value: cfg.probeListen},
		{Flag: "--metrics-listen", Value: cfg.metricsListen},
		{Flag: "--apns-url", Value: cfg.apnsURL},
		{Flag: "--demo", Value: demo},
	}
	return func() apiv1.Server {
		out := facts
		out.Demo = demoOn()
		if cert == nil {
			return out
		}
		current := cert.current.Load()
		out.Certificates = []*x509.Certificate{current.Leaf}
		for _, der := range current.Certificate[1:] {
			if c, err := x509.ParseCertificate(der); err == nil {
				out.Certificates = append(out.Certificates, c)
			}
		}
		_, _, _, out.Public = publicIdentity(cert, nil, now())
		return out
	}
}
