package ldaptest

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/freeport"
)

// errNotInstalled means that this machine has no slapd.
var errNotInstalled = errors.New("no slapd is installed")

//go:embed supervise.sh
var supervisor string

//go:embed slapd.conf
var configText string

//go:embed content.ldif
var contentText string

const rootDN = "cn=root," + BaseDN

// process is a slapd. It ends with this process, whatever way that ends, because a shell
// beside it waits for the end of our pipe.
type process struct {
	cmd *exec.Cmd
	in  *os.File

	rootPassword string
}

// content is what the templates of configuration and content are filled with.
type content struct {
	Dir, Schema, Modules         string
	BaseDN, RootDN, RootPassword string
	ReaderPassword               string
	Elsewhere                    string
	Many                         []string
}

func start() (*Server, error) {
	slapd, schema, modules, err := installed()
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		s, err := startAt(slapd, schema, modules)
		if err == nil {
			return s, s.addGroups()
		}
		if attempt == 5 || !strings.Contains(err.Error(), errPortTaken) {
			return nil, err
		}
	}
}

// errPortTaken is in slapd's log when somebody was quicker to take a port.
const errPortTaken = "bind("

func startAt(slapd, schema, modules string) (_ *Server, err error) {
	dir, err := os.MkdirTemp("/dev/shm", "gatehouse-slapd-")
	if err != nil {
		dir, err = os.MkdirTemp("", "gatehouse-slapd-")
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	c := content{
		Dir: dir, Schema: schema, Modules: modules,
		BaseDN: BaseDN, RootDN: rootDN, RootPassword: rand.Text(),
		ReaderPassword: ReaderPassword, Elsewhere: "ldap://127.0.0.1:1/dc=elsewhere", Many: many(),
	}
	ca, certificate, key, err := certificates()
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{"server.pem": certificate, "server.key": key}
	for name, text := range map[string]string{"slapd.conf": configText, "content.ldif": contentText} {
		if files[name], err = fill(text, c); err != nil {
			return nil, err
		}
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return nil, err
		}
	}
	plain, err := freeport.Find()
	if err != nil {
		return nil, err
	}
	encrypted, err := freeport.Find()
	if err != nil {
		return nil, err
	}
	s := &Server{
		URL:    "ldap://127.0.0.1:" + strconv.Itoa(plain),
		TLSURL: "ldaps://127.0.0.1:" + strconv.Itoa(encrypted),
		CA:     string(ca),
	}
	s.p, err = supervise(slapd, dir, s.URL+" "+s.TLSURL)
	if err != nil {
		return nil, err
	}
	s.p.rootPassword = c.RootPassword
	return s, errors.Join(reach(plain), reach(encrypted))
}

// reach waits until slapd takes connections at a port, which it does a moment after it has
// gone into the background, and tells nobody.
func reach(port int) (err error) {
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); time.Sleep(2 * time.Millisecond) {
		var c net.Conn
		if c, err = net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			return c.Close()
		}
	}
	return fmt.Errorf("slapd is not ready: %w", err)
}

// supervise starts slapd and returns when it listens.
func supervise(slapd, dir, urls string) (_ *process, err error) {
	theirIn, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirIn.Close()
	out, theirOut, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	defer theirOut.Close()
	cmd := exec.Command("sh", "-c", supervisor, "supervise", slapd, dir, urls)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"} // and nothing of LDAP*
	// Not our standard error: go test waits until nobody holds it any more.
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirIn, theirOut, theirOut
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, in.Close(), out.Close())
	}
	_ = theirOut.Close()
	var said strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if lines.Text() == "ok" {
			return &process{cmd: cmd, in: in}, nil
		}
		said.WriteString(lines.Text() + "\n")
	}
	return nil, errors.Join(fmt.Errorf("start slapd: %s", said.String()), in.Close(), cmd.Wait())
}

// installed returns the program, the directory of its schema files and that of its
// modules, which is empty where they are built in.
func installed() (slapd, schema, modules string, err error) {
	if slapd, err = exec.LookPath("slapd"); err != nil {
		slapd = first("/usr/sbin/slapd", "/usr/libexec/slapd", "/usr/local/libexec/slapd") // Debian keeps it off the path
	}
	if slapd == "" {
		return "", "", "", errNotInstalled
	}
	if schema = first("/etc/ldap/schema", "/etc/openldap/schema", "/usr/local/etc/openldap/schema"); schema == "" {
		return "", "", "", errors.New("slapd is installed, but its schema files are nowhere")
	}
	return slapd, schema, first("/usr/lib/ldap", "/usr/lib64/openldap", "/usr/lib/openldap"), nil
}

func first(names ...string) string {
	for _, name := range names {
		if _, err := os.Stat(name); err == nil {
			return name
		}
	}
	return ""
}

func fill(text string, c content) ([]byte, error) {
	t, err := template.New("").Funcs(template.FuncMap{
		"password": Password,
		"base64":   func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	}).Parse(text)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.Execute(&out, c)
	return out.Bytes(), err
}

// certificates returns an authority's certificate, and a server's with its key, in PEM.
func certificates() (ca, certificate, key []byte, err error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, err
	}
	serverKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, err
	}
	now := time.Now()
	issuer := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA of a test directory"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "directory.example.com"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	caDER, err := x509.CreateCertificate(rand.Reader, issuer, issuer, caKey.Public(), caKey)
	if err != nil {
		return nil, nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, issuer, serverKey.Public(), caKey)
	if err != nil {
		return nil, nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(serverKey)
	if err != nil {
		return nil, nil, nil, err
	}
	encode := func(kind string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	return encode("CERTIFICATE", caDER), encode("CERTIFICATE", der), encode("PRIVATE KEY", keyDER), nil
}
