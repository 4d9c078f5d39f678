package wellknown

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// TLSFacts are what there is to know of a connection and its certificate.
type TLSFacts struct {
	Version     string // TLS 1.3
	CipherSuite string
	Subject     string
	Issuer      string
	Names       []string // that the certificate is for
	Key         string   // RSA 2048
	NotBefore   time.Time
	NotAfter    time.Time
	Chain       int // certificates that the server sent
}

// dialer makes connections that a device would accept.
type dialer struct {
	roots *x509.CertPool
	now   func() time.Time
	dial  func(ctx context.Context, network, address string) (net.Conn, error)

	mu    sync.Mutex
	asked map[string]bool // hosts that want a certificate of the client
}

// ask notes that host wants a certificate. It gets none.
func (d *dialer) ask(host string) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.asked == nil {
			d.asked = map[string]bool{}
		}
		d.asked[host] = true
		return &tls.Certificate{}, nil
	}
}

func (d *dialer) askedBy(host string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asked[host]
}

func wantsCertificate(host string) *handshakeError {
	return &handshakeError{
		code: "tls_client_certificate", sentence: host + " wants a certificate of whoever asks.",
		fix: "Don't ask for client certificates on this host and port: devices have none yet.",
	}
}

// handshakeError says why a device would not go on.
type handshakeError struct {
	code, sentence, fix string
	facts               *TLSFacts
}

func (e *handshakeError) Error() string { return e.sentence }

// deviceSuites are those that devices of 2026 want with TLS 1.2 (PROTOCOL 0; Apple's
// support page 126655): ephemeral keys and AES-GCM.
var deviceSuites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
}

// DialTLS connects, and judges the certificate as a device does. Errors that are about TLS
// are *handshakeError.
func (d *dialer) DialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	conn, err := d.handshake(ctx, network, address, &tls.Config{
		ServerName: host, MinVersion: tls.VersionTLS12, CipherSuites: deviceSuites, NextProtos: []string{"h2", "http/1.1"},
		GetClientCertificate: d.ask(host),
		InsecureSkipVerify:   true, // judged below, so that each mistake has its name
	})
	if err != nil {
		var failed *tlsFailure
		if !errors.As(err, &failed) {
			return nil, err
		}
		if conn, err = d.lenient(ctx, network, address, host, failed.err); err != nil {
			return nil, err
		}
	}
	state := conn.ConnectionState()
	if e := d.judge(host, state); e != nil {
		facts := factsOf(state)
		e.facts = &facts
		conn.Close()
		return nil, e
	}
	return conn, nil
}

// tlsFailure is a handshake that failed, on a connection that did not.
type tlsFailure struct{ err error }

func (e *tlsFailure) Error() string { return e.err.Error() }
func (e *tlsFailure) Unwrap() error { return e.err }

func (d *dialer) handshake(ctx context.Context, network, address string, config *tls.Config) (*tls.Conn, error) {
	raw, err := d.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &tlsFailure{err}
	}
	return conn, nil
}

// lenient tries again with all that TLS ever had, to say what it is that a server lacks. A
// connection that it returns is good enough for older devices.
func (d *dialer) lenient(ctx context.Context, network, address, host string, first error) (*tls.Conn, error) {
	var record tls.RecordHeaderError
	if errors.As(first, &record) {
		return nil, &handshakeError{
			code: "not_tls", sentence: host + " does not speak TLS on that port.",
			fix: "Switch TLS on for that port, with a certificate for " + host + ".",
		}
	}
	all := []uint16{}
	for _, s := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
		all = append(all, s.ID)
	}
	conn, err := d.handshake(ctx, network, address, &tls.Config{
		ServerName: host, MinVersion: tls.VersionTLS10, CipherSuites: all, NextProtos: []string{"http/1.1"},
		GetClientCertificate: d.ask(host),
		InsecureSkipVerify:   true, // nothing is sent before the certificate was judged
	})
	if err != nil && d.askedBy(host) {
		return nil, wantsCertificate(host)
	}
	if err != nil {
		return nil, &handshakeError{
			code:     "tls_handshake",
			sentence: fmt.Sprintf("%s breaks off the TLS handshake (%s).", host, clip(first.Error(), 150)),
			fix:      "Give the web server a certificate for the name " + host + ", and TLS 1.2 and 1.3 with the usual cipher suites.",
		}
	}
	state := conn.ConnectionState()
	if state.Version < tls.VersionTLS12 {
		facts := factsOf(state)
		conn.Close()
		return nil, &handshakeError{
			code: "tls_too_old", facts: &facts,
			sentence: fmt.Sprintf("%s has nothing newer than %s.", host, tls.VersionName(state.Version)),
			fix:      "Switch on TLS 1.2 and 1.3.",
		}
	}
	return conn, nil
}

// judge says why a device would not trust the server of host.
func (d *dialer) judge(host string, state tls.ConnectionState) *handshakeError {
	now := d.now()
	leaf := state.PeerCertificates[0]
	wrong := func(code, fix, sentence string, args ...any) *handshakeError {
		return &handshakeError{code: code, sentence: fmt.Sprintf(sentence, args...), fix: fix}
	}
	const renew = "Renew the certificate, and find out why that did not happen by itself."
	switch {
	case now.After(leaf.NotAfter):
		return wrong("tls_certificate_expired", renew, "The certificate of %s expired on %s.", host, day(leaf.NotAfter))
	case now.Before(leaf.NotBefore):
		return wrong("tls_certificate_not_yet_valid", "Look at the clocks of this machine and of the one that issued the certificate.", "The certificate of %s is not valid before %s.", host, day(leaf.NotBefore))
	case len(leaf.DNSNames)+len(leaf.IPAddresses) == 0:
		return wrong("tls_no_san", "Get a certificate with "+host+" as a subject alternative name: devices don't look at the common name.", "The certificate of %s has no subject alternative name.", host)
	case leaf.VerifyHostname(host) != nil:
		return wrong("tls_wrong_host", "Get a certificate for "+host+" too. If it is the web server's default one, the server has no site of that name.",
			"The certificate that %s shows is for %s.", host, clip(names(certNames(leaf)), 300))
	}
	for i, cert := range state.PeerCertificates {
		selfSigned := isSelfSigned(cert)
		switch key := cert.PublicKey.(type) {
		case *rsa.PublicKey:
			if key.N.BitLen() < 2048 {
				return wrong("tls_weak_key", "Issue the certificate again for an RSA key of 2048 bits or more, or an ECDSA key.", "The certificate chain of %s has an RSA key of %d bits.", host, key.N.BitLen())
			}
		case *ecdsa.PublicKey:
			if key.Params().BitSize < 256 {
				return wrong("tls_weak_key", "Issue the certificate again for a P-256 key.", "The certificate chain of %s has an ECDSA key of %d bits.", host, key.Params().BitSize)
			}
		}
		if weakSignature(cert.SignatureAlgorithm) && (i == 0 || !selfSigned) {
			return wrong("tls_weak_signature", "Issue the certificate again with SHA-256.", "The certificate chain of %s has a signature of %s.", host, cert.SignatureAlgorithm)
		}
		if i > 0 && now.After(cert.NotAfter) {
			return wrong("tls_intermediate_expired", "Replace the chain that the web server sends by the current one of its authority: an expired certificate anywhere in it loses the device.",
				"The chain of %s has a certificate that expired on %s: %s.", host, day(cert.NotAfter), clip(cert.Subject.String(), 150))
		}
	}
	return d.verify(host, state)
}

// verify looks for a chain to an authority that is trusted.
func (d *dialer) verify(host string, state tls.ConnectionState) *handshakeError {
	leaf := state.PeerCertificates[0]
	intermediates := x509.NewCertPool()
	for _, cert := range state.PeerCertificates[1:] {
		intermediates.AddCert(cert)
	}
	_, err := leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: d.roots, Intermediates: intermediates, CurrentTime: d.now()})
	var (
		unknown  x509.UnknownAuthorityError
		noRoots  x509.SystemRootsError
		last     = state.PeerCertificates[len(state.PeerCertificates)-1]
		issuedBy = clip(last.Issuer.String(), 150)
	)
	wrong := func(code, fix, sentence string, args ...any) *handshakeError {
		return &handshakeError{code: code, sentence: fmt.Sprintf(sentence, args...), fix: fix}
	}
	const public = "Get a certificate from an authority that devices come with, such as Let's Encrypt. A device that is about to enroll trusts no authority of yours yet."
	switch {
	case err == nil:
		return nil
	case errors.As(err, &noRoots):
		return wrong("no_roots", "Install the list of authorities (Debian: the package ca-certificates), or name one with --ca.", "This machine has no list of public authorities, so no certificate can be checked.")
	case !errors.As(err, &unknown):
		return wrong("tls_certificate_invalid", "Issue the certificate again, for a TLS server.", "The certificate of %s is not valid: %s.", host, clip(strings.TrimPrefix(err.Error(), "x509: "), 200))
	case isSelfSigned(leaf):
		return wrong("tls_self_signed", public, "The certificate of %s is signed by itself.", host)
	case !isSelfSigned(last) && len(state.PeerCertificates) == 1:
		return wrong("tls_chain_incomplete", "Let the web server send the whole chain (Let's Encrypt: fullchain.pem). If the authority is one of your own: "+public,
			"%s sends its certificate alone, and its issuer (%s) is not trusted by itself: the intermediate certificate is missing, or the authority is unknown.", host, issuedBy)
	}
	return wrong("tls_unknown_authority", public, "The certificate of %s comes from an authority that is not trusted: %s.", host, issuedBy)
}

// tlsWarnings are about connections that are good enough, for now or for most devices.
func tlsWarnings(host string, state tls.ConnectionState, now time.Time) []Finding {
	var out []Finding
	warn := func(code, fix, sentence string, args ...any) {
		out = append(out, Finding{Severity: Warning, Code: code, Sentence: fmt.Sprintf(sentence, args...), Fix: fix})
	}
	leaf := state.PeerCertificates[0]
	for i, cert := range state.PeerCertificates {
		switch {
		case cert.NotAfter.Sub(now) > expiresSoon:
		case i == 0:
			warn("tls_certificate_expires_soon", "See to it that it is renewed.", "The certificate of %s expires on %s.", host, day(cert.NotAfter))
		default:
			warn("tls_intermediate_expires_soon", "Let the web server send the current chain of its authority.", "The chain of %s has a certificate that expires on %s: %s.", host, day(cert.NotAfter), clip(cert.Subject.String(), 150))
		}
	}
	if validity := leaf.NotAfter.Sub(leaf.NotBefore); validity > 399*24*time.Hour {
		warn("tls_certificate_too_long", "Issue it for at most 398 days: Apple's systems refuse more from public authorities, and more than 825 days from any.",
			"The certificate of %s is valid for %d days.", host, int(validity.Hours()/24))
	}
	if state.Version == tls.VersionTLS12 {
		const newer = "Switch on TLS 1.3, or in TLS 1.2 the suites of ECDHE with AES-GCM and Extended Master Secret."
		if !slices.Contains(deviceSuites, state.CipherSuite) {
			warn("tls_weak_cipher", newer, "%s has no better cipher suite than %s: devices with the systems of version 27 may refuse it, and nothing is in any log then.", host, tls.CipherSuiteName(state.CipherSuite))
		}
		if _, err := state.ExportKeyingMaterial("EXPORTER-gatehouse", nil, 16); err != nil { // RFC 7627: without it there is none
			warn("tls_no_extended_master_secret", newer, "%s does TLS 1.2 without Extended Master Secret: devices with the systems of version 27 may refuse it, and nothing is in any log then.", host)
		}
	}
	return out
}

func factsOf(state tls.ConnectionState) TLSFacts {
	f := TLSFacts{Version: tls.VersionName(state.Version), CipherSuite: tls.CipherSuiteName(state.CipherSuite), Chain: len(state.PeerCertificates), Names: []string{}}
	if len(state.PeerCertificates) == 0 {
		return f
	}
	leaf := state.PeerCertificates[0]
	f.Subject, f.Issuer = clip(leaf.Subject.String(), 200), clip(leaf.Issuer.String(), 200)
	f.NotBefore, f.NotAfter = leaf.NotBefore, leaf.NotAfter
	for _, n := range certNames(leaf) {
		if len(f.Names) == 20 {
			break // some have hundreds
		}
		f.Names = append(f.Names, clip(n, 253))
	}
	switch key := leaf.PublicKey.(type) {
	case *rsa.PublicKey:
		f.Key = fmt.Sprintf("RSA %d", key.N.BitLen())
	case *ecdsa.PublicKey:
		f.Key = "ECDSA " + key.Params().Name
	default:
		f.Key = leaf.PublicKeyAlgorithm.String()
	}
	return f
}

func certNames(cert *x509.Certificate) []string {
	list := slices.Clone(cert.DNSNames)
	for _, ip := range cert.IPAddresses {
		list = append(list, ip.String())
	}
	return list
}

func isSelfSigned(cert *x509.Certificate) bool {
	return string(cert.RawSubject) == string(cert.RawIssuer)
}

func weakSignature(a x509.SignatureAlgorithm) bool {
	return slices.Contains([]x509.SignatureAlgorithm{x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1}, a)
}

func day(t time.Time) string { return t.UTC().Format("2 January 2006") }
