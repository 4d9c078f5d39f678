package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/acme"
)

// certificate is the TLS certificate in use. It is replaced while the server runs.
type certificate struct {
	load    func(context.Context) (tls.Certificate, error)
	changed func() bool     // whether it is worth to load again; called every minute
	fresh   <-chan struct{} // tells that there is another one to load; may be nil
	current atomic.Pointer[tls.Certificate]
	log     *slog.Logger

	substitute bool // load returned one that is not what was asked for, which is yet to come
}

// reload loads the certificate again; on an error the old one stays in use.
func (c *certificate) reload(ctx context.Context) error {
	cert, err := c.load(ctx)
	if err != nil {
		return err
	}
	if cert.Leaf == nil {
		if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return err
		}
	}
	c.current.Store(&cert)
	return nil
}

// get is a tls.Config's GetCertificate.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.current.Load(), nil
}

// Run loads the certificate again on hangup and when it changed.
func (c *certificate) Run(ctx context.Context, hangup <-chan os.Signal) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	failed := false
	for {
		asked := false
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			asked = true
		case <-c.fresh:
		case <-tick.C:
			if !failed && !c.changed() {
				continue
			}
		}
		before := c.current.Load()
		err := c.reload(ctx)
		if failed = err != nil; failed {
			c.log.ErrorContext(ctx, "TLS certificate not loaded, the old one stays in use", "err", err)
		} else if asked || !bytes.Equal(before.Certificate[0], c.current.Load().Certificate[0]) {
			c.log.InfoContext(ctx, "TLS certificate loaded")
		}
	}
}

// fileCertificate is --tls-mode files.
func fileCertificate(certFile, keyFile string, log *slog.Logger) *certificate {
	stamp := func() (stamps [2]time.Time) {
		for i, name := range []string{certFile, keyFile} {
			if info, err := os.Stat(name); err == nil {
				stamps[i] = info.ModTime()
			}
		}
		return stamps
	}
	loaded := stamp()
	return &certificate{
		log: log,
		load: func(context.Context) (tls.Certificate, error) {
			loaded = stamp() // before reading: a change after it is seen next time
			return loadKeyPair(certFile, keyFile)
		},
		changed: func() bool { return stamp() != loaded },
	}
}

// loadKeyPair loads a certificate chain and its key, and says plainly what is
// wrong with them.
func loadKeyPair(certFile, keyFile string) (tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s and %s: %w", certFile, keyFile, err)
	}
	if cert.Leaf.IsCA {
		return tls.Certificate{}, fmt.Errorf("%s: the first certificate is a CA's; the server's own must come first", certFile)
	}
	return cert, nil
}

// tlsIssuer is the part of a depot that makes TLS certificates.
type tlsIssuer interface {
	TLSCertificate(ctx context.Context, dnsNames []string, ips []net.IP) (cert tls.Certificate, issued bool, err error)
}

// ownCertificate is --tls-mode own-ca. The depot issues anew in time before the
// old one expires, so it is asked twice a day.
// fresh tells of what other replicas did to it.
func ownCertificate(issuer tlsIssuer, names tlsNames, fresh <-chan struct{}, log *slog.Logger, now func() time.Time) *certificate {
	var asked time.Time
	return &certificate{
		log: log,
		load: func(ctx context.Context) (tls.Certificate, error) {
			cert, _, err := issuer.TLSCertificate(ctx, names.dns, names.ips)
			if err != nil {
				return tls.Certificate{}, fmt.Errorf("issue the TLS certificate: %w", err)
			}
			asked = now()
			return cert, nil
		},
		changed: func() bool { return now().Sub(asked) > 12*time.Hour },
		fresh:   fresh,
	}
}

// tlsNames are the names and addresses that an own-CA certificate is for.
type tlsNames struct {
	dns []string
	ips []net.IP
}

// namesFor collects what clients may call this server: the host of its URL,
// localhost, the address it listens on and, on a LAN, the names and addresses of
// the machine.
func namesFor(host, listen string, lan bool) (tlsNames, error) {
	n := tlsNames{dns: []string{"localhost"}, ips: []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback}}
	n.add(host)
	if listenHost, _, err := net.SplitHostPort(listen); err == nil {
		n.add(listenHost)
	}
	if !lan {
		return n, nil
	}
	if name, err := os.Hostname(); err == nil {
		short, _, _ := strings.Cut(strings.ToLower(name), ".")
		n.add(short)
		n.add(short + ".local") // as mDNS knows it
	}
	addrs, err := lanAddresses()
	if err != nil {
		return tlsNames{}, err
	}
	for _, addr := range addrs {
		n.add(addr.String())
	}
	return n, nil
}

func (n *tlsNames) add(host string) {
	if addr, err := netip.ParseAddr(host); err == nil {
		ip := net.IP(addr.Unmap().AsSlice())
		if !addr.IsUnspecified() && !slices.ContainsFunc(n.ips, ip.Equal) {
			n.ips = append(n.ips, ip)
		}
		return
	}
	if host != "" && host != ".local" && !slices.Contains(n.dns, host) {
		n.dns = append(n.dns, host)
	}
}

// String lists the names for a person, without those of this machine alone.
func (n tlsNames) String() string {
	all := slices.Clone(n.dns)
	for _, ip := range n.ips {
		if !ip.IsLoopback() {
			all = append(all, ip.String())
		}
	}
	return strings.Join(all, ", ")
}

// lanAddresses returns the addresses by which others on the local networks reach
// this machine, IPv4 first.
func lanAddresses() ([]netip.Addr, error) {
	interfaces, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("find this machine's addresses: %w", err)
	}
	var addrs []netip.Addr
	for _, a := range interfaces {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		if addr := prefix.Addr().Unmap(); addr.IsGlobalUnicast() {
			addrs = append(addrs, addr)
		}
	}
	slices.SortStableFunc(addrs, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	return addrs, nil
}

// tlsConfig is what the server offers: TLS 1.3, and 1.2 with forward secrecy and
// authenticated encryption. It asks no client for a certificate: browsers would
// show a picker, and macOS' SCEP client breaks.
//
// The manager answers ACME's challenges; it may be nil.
func tlsConfig(cert *certificate, manager *acme.Manager) *tls.Config {
	config := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: cert.get,
		NextProtos:     []string{"h2", "http/1.1"},
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
	}
	if manager != nil {
		config.GetConfigForClient = manager.ConfigForClient
	}
	return config
}
