package mdmtest

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
)

// clientFor returns the HTTP client that offers id, or no certificate.
func (d *Device) clientFor(id *identity) (*http.Client, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	slot := &d.plain
	if id != nil && (d.opts.Sign == SignAsTold || d.opts.Sign == SignTLS) {
		slot = &id.client
	}
	if *slot != nil {
		return *slot, nil
	}
	if d.opts.Transport != nil {
		*slot = clientOver(d.opts.Transport)
		return *slot, nil
	}
	roots, err := d.roots()
	if err != nil {
		return nil, err
	}
	var cert *tls.Certificate
	if slot != &d.plain {
		cert = &tls.Certificate{Certificate: [][]byte{id.cert.Raw}, PrivateKey: id.key, Leaf: id.cert}
	}
	*slot = newClient(roots, cert)
	return *slot, nil
}

// roots are the roots that TLS trusts: those before any profile, and those that
// profiles delivered.
func (d *Device) roots() (*x509.CertPool, error) {
	var more []*x509.Certificate
	if d.profile != nil {
		more = append(more, d.profile.Roots...)
	}
	for _, p := range d.installed {
		more = append(more, p.roots...)
	}
	if len(more) == 0 {
		return d.opts.RootCAs, nil
	}
	var pool *x509.CertPool
	if d.opts.RootCAs != nil {
		pool = d.opts.RootCAs.Clone()
	} else {
		var err error
		if pool, err = x509.SystemCertPool(); err != nil {
			return nil, fmt.Errorf("system roots: %w", err)
		}
	}
	for _, cert := range more {
		pool.AddCert(cert)
	}
	return pool, nil
}

// dropClients makes the next request use the trust of now. The caller holds mu.
func (d *Device) dropClients() {
	slots := []**http.Client{&d.plain}
	if d.identity != nil {
		slots = append(slots, &d.identity.client)
	}
	for _, slot := range slots {
		if *slot != nil && d.opts.Transport == nil {
			(*slot).CloseIdleConnections()
		}
		*slot = nil
	}
}

// Close ends the device's idle connections.
func (d *Device) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dropClients()
}
