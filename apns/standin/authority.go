package standin

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"time"
)

// oidUserID is the attribute of a push certificate's subject that names its topic.
var oidUserID = asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}

// Authority issues the certificates of a push service: its own, and those of its clients.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes one with a key of its own.
func NewAuthority(now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Simulated push service CA", Organization: []string{"Not Apple"}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Authority{cert, key}, nil
}

// ReadAuthority reads what [Authority.PEM] wrote.
func ReadAuthority(data []byte) (*Authority, error) {
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !pair.Leaf.IsCA {
		return nil, errors.New("authority: not one of this package")
	}
	return &Authority{pair.Leaf, key}, nil
}

// PEM is the CA's certificate and its key, one behind the other.
func (a *Authority) PEM() ([]byte, error) {
	key, err := keyPEM(a.key)
	return append(certPEM(a.cert.Raw), key...), err
}

// CertificatePEM is the CA's certificate without its key.
func (a *Authority) CertificatePEM() []byte { return certPEM(a.cert.Raw) }

// Roots is the CA's certificate as a pool.
func (a *Authority) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// Listen listens for clients that must have a push certificate of this CA, on addr, which is
// 127.0.0.1:0 when empty. The certificate for config has the names of loopback, that of
// addr, and hosts, which are names or addresses. The URL names the first of hosts if there
// are any, and has no path.
func (a *Authority) Listen(addr string, hosts ...string) (listener net.Listener, url string, config *tls.Config, err error) {
	listener, err = net.Listen("tcp", cmp.Or(addr, "127.0.0.1:0"))
	if err != nil {
		return nil, "", nil, err
	}
	names := append([]string{"localhost", "127.0.0.1", "::1"}, hosts...)
	host, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		listener.Close()
		return nil, "", nil, err
	}
	if net.ParseIP(host).IsUnspecified() {
		host = "localhost"
	} else if !slices.Contains(names, host) {
		names = append(names, host)
	}
	if len(hosts) > 0 {
		host = hosts[0]
	}
	leaf, err := a.server(time.Now(), names...)
	if err != nil {
		listener.Close()
		return nil, "", nil, err
	}
	return listener, "https://" + net.JoinHostPort(host, port), &tls.Config{
		Certificates: []tls.Certificate{leaf}, ClientCAs: a.Roots(), ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, SessionTicketsDisabled: true,
	}, nil
}

// server is the server's certificate for hosts, which are names or addresses.
func (a *Authority) server(now time.Time, hosts ...string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Simulated push service"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(2, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// Identity says what push certificate to make. Only Topic is required.
type Identity struct {
	Topic     string        // com.apple.mgmt.External.…
	NotBefore time.Time     // an hour ago when zero
	NotAfter  time.Time     // in a year when zero
	Key       crypto.Signer // a new one when nil
	RSA       bool          // 2048 bits as Apple's; else a new key is for ECDSA, which is made faster
}

// Issue makes a push certificate and its key, in PEM.
func (a *Authority) Issue(id Identity) (chain, key []byte, err error) {
	switch {
	case id.Key != nil:
	case id.RSA:
		id.Key, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		id.Key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return nil, nil, err
	}
	if chain, err = a.Certify(id, id.Key.Public()); err != nil {
		return nil, nil, err
	}
	key, err = keyPEM(id.Key)
	return chain, key, err
}

// Certify makes a push certificate for the public key of a request, as Apple's portal does,
// in PEM. What id says of keys does not matter.
func (a *Authority) Certify(id Identity, public crypto.PublicKey) ([]byte, error) {
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(), NotBefore: id.NotBefore, NotAfter: id.NotAfter,
		Subject: pkix.Name{CommonName: "APSP:simulated", Country: []string{"US"}, ExtraNames: []pkix.AttributeTypeAndValue{
			{Type: oidUserID, Value: id.Topic},
		}},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if template.NotBefore.IsZero() {
		template.NotBefore = now.Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = now.AddDate(1, 0, 0)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		return nil, err
	}
	return certPEM(der), nil
}

// TopicOf returns the topic of a push certificate, "" if it has none.
func TopicOf(cert *x509.Certificate) string {
	for _, name := range cert.Subject.Names {
		if topic, ok := name.Value.(string); ok && name.Type.Equal(oidUserID) {
			return topic
		}
	}
	return ""
}

func serial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b)
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyPEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
