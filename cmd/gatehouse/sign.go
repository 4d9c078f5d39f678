package main

import (
	"crypto"
	"crypto/x509"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
)

// profileSigner signs enrollment profiles: with the key of the TLS certificate in
// use when that chains to a public root, since then a device shows "Verified"
// beside the profile, else with the organisation root, which root returns. cert may be
// nil; roots are the public ones, nil for those of the system.
func profileSigner(root func() *depot.Authority, cert *certificate, roots *x509.CertPool, now func() time.Time) enroll.Signer {
	return func(plain []byte) ([]byte, error) {
		if leaf, key, chain, ok := publicIdentity(cert, roots, now()); ok {
			return profile.Sign(plain, leaf, key, chain...)
		}
		ours := root()
		return profile.Sign(plain, ours.Certificate(), ours.Signer())
	}
}

// publicIdentity returns the TLS certificate in use, its key and its intermediates,
// if it chains to one of roots at the time.
func publicIdentity(cert *certificate, roots *x509.CertPool, at time.Time) (leaf *x509.Certificate, key crypto.Signer, chain []*x509.Certificate, ok bool) {
	if cert == nil {
		return nil, nil, nil, false
	}
	current := cert.current.Load()
	if key, ok = current.PrivateKey.(crypto.Signer); !ok {
		return nil, nil, nil, false
	}
	intermediates := x509.NewCertPool()
	for _, der := range current.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, nil, false
		}
		intermediates.AddCert(c)
		chain = append(chain, c)
	}
	_, err := current.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: at})
	return current.Leaf, key, chain, err == nil
}
