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

// clientTrusting returns an HTTP client without certificate that trusts more roots
// than the device does yet, and what ends its connections.
func (d *Device) clientTrusting(more []*x509.Certificate) (*http.Client, func(), error) {
	if d.opts.Transport != nil || len(more) == 0 {
		client, err := d.clientFor(nil)
		return client, func() {}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	roots, err := d.roots(more...)
	if err != nil {
		return nil, nil, err
	}
	client := newClient(roots, nil)
	return client, client.CloseIdleConnections, nil
}

// roots are the roots that TLS trusts: those before any profile, those that
// profiles delivered, and more. The caller holds mu.
func (d *Device) roots(more ...*x509.Certificate) (*x509.CertPool, error) {
	if d.profile != nil {
		more = append(more, d.profile.Roots...)
	}
	for _, p := range d.installed {
		more = append(more, p.Roots...)
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
