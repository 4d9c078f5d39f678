package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns/standin"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
)

// Files of --apns-dir.
const (
	apnsAuthorityFile = "authority.pem"        // what the simulated push service is known by, with its key
	apnsCAFile        = "ca.pem"               // for --apns-ca of the server
	apnsPushFile      = "push-certificate.pem" // for the server's push certificates, with its key
)

// pushService is a simulated push service beside the simulated devices.
type pushService struct {
	*standin.Server
	fleet atomic.Pointer[mdmtest.Fleet] // nil: there are no devices, and any push is taken
}

// newPushService listens on addr. What it is known by is kept in dir, so that a server goes
// on knowing it after a restart.
func newPushService(addr, dir string) (*pushService, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(filepath.Join(dir, apnsAuthorityFile))
	if errors.Is(err, fs.ErrNotExist) {
		authority, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	p := &pushService{}
	p.Server, err = standin.New(standin.Options{Addr: addr, Authority: authority, OnPush: p.answer})
	if err != nil {
		return nil, err
	}
	if err := p.write(dir, authority); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (p *pushService) answer(push standin.Push) standin.Answer {
	if fleet := p.fleet.Load(); fleet != nil {
		return deliver(fleet, push)
	}
	return standin.Answer{}
}

// write keeps what dir lacks.
func (p *pushService) write(dir string, authority []byte) error {
	known, err := p.PEM()
	if err != nil {
		return err
	}
	if authority == nil {
		if err := os.WriteFile(filepath.Join(dir, apnsAuthorityFile), known, 0o600); err != nil {
			return err
		}
	}
	path := filepath.Join(dir, apnsCAFile)
	if old, err := os.ReadFile(path); err != nil || !bytes.Equal(old, p.CertificatePEM()) {
		if err := os.WriteFile(path, p.CertificatePEM(), 0o644); err != nil {
			return err
		}
	}
	path = filepath.Join(dir, apnsPushFile)
	if old, err := os.ReadFile(path); err == nil && p.accepts(old) {
		return nil
	}
	chain, key, err := p.Issue(standin.Identity{Topic: "com.apple.mgmt.External." + strings.ToLower(mdm.NewUUID()), RSA: true})
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(chain, key...), 0o600)
}

// accepts says whether a push certificate is good here for a day at least.
func (p *pushService) accepts(pem []byte) bool {
	pair, err := tls.X509KeyPair(pem, pem)
	if err != nil {
		return false
	}
	_, err = pair.Leaf.Verify(x509.VerifyOptions{
		Roots: p.Roots(), CurrentTime: time.Now().Add(24 * time.Hour), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err == nil
}
