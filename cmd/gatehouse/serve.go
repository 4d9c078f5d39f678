package main

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/mail"
	"net/netip"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/gatehouse-mdm/gatehouse/webui/logtail"
)

// serveCommand is the configuration of the server. Every field is a flag, an
// environment variable and a key of the YAML file.
type serveCommand struct {
	Config string `type:"path" placeholder:"FILE" help:"YAML file with the settings below, names in snake_case."`

	DataDir        string `type:"path" placeholder:"DIR" group:"State" help:"Where the state is kept. Default: gatehouse in $XDG_DATA_HOME, for root /var/lib/gatehouse."`
	Store          string `default:"bolt:" placeholder:"URL" secret:"" group:"State" help:"The database: bolt: in the data directory, or postgres://USER:PASSWORD@HOST/DATABASE, which several servers may share. A password is better kept in GATEHOUSE_STORE_FILE, PGPASSWORD or PGPASSFILE than on the command line."`
	SecretsKeyFile string `type:"path" placeholder:"FILE" group:"State" help:"The key that seals secrets at rest; servers that share a database share it. Default: made in the data directory."`
	CAKeyBits      int    `name:"ca-key-bits" default:"3072" enum:"2048,3072,4096" placeholder:"N" group:"State" help:"RSA size of the authorities made at the first start: 2048, 3072 or 4096 (default ${default})."`

	Listen           string    `default:"127.0.0.1:8443" placeholder:"ADDR" group:"Network" help:"Address for everything (default ${default})."`
	MTLSListen       string    `name:"mtls-listen" placeholder:"ADDR" group:"Network" help:"Second address, on which clients are asked for a certificate: EST renewals, and devices that are asked for theirs. Nothing else is there. Default: none."`
	PKIURL           string    `name:"pki-url" placeholder:"URL" group:"Network" help:"Where certificates say that CRLs, OCSP and issuers are found: http or https, leading to this server or its --pki-listen. Default: --server-url."`
	PKIListen        string    `name:"pki-listen" placeholder:"ADDR" group:"Network" help:"Another address, without TLS, for CRLs, OCSP and issuers: who checks a certificate often can't use TLS for it. Default: none."`
	TrustProbeListen string    `name:"trust-probe-listen" placeholder:"ADDR" group:"Network" help:"Second address for --tls-mode own-ca, by which the portal finds out whether a device trusts the authority yet; off: none. Default: a free port beside --listen."`
	LAN              bool      `name:"lan" group:"Network" help:"Listen on all interfaces, and put the local names and addresses of this machine into the TLS certificate."`
	ServerURL        string    `name:"server-url" placeholder:"URL" group:"Network" help:"What devices and links use. Default: https://localhost:PORT."`
	TLSMode          string    `name:"tls-mode" default:"own-ca" enum:"own-ca,files,acme,proxy" placeholder:"MODE" group:"Network" help:"own-ca, files, acme, or proxy: plain HTTP behind a TLS proxy (default ${default})."`
	TLSCert          string    `name:"tls-cert" type:"path" placeholder:"FILE" group:"Network" help:"PEM certificate chain for --tls-mode files; read again on SIGHUP and when it changes."`
	TLSKey           string    `name:"tls-key" type:"path" placeholder:"FILE" group:"Network" help:"PEM key for --tls-mode files."`
	ACMEEmail        string    `name:"acme-email" placeholder:"EMAIL" group:"Network" help:"Your account for --tls-mode acme, a certificate from Let's Encrypt. To give it is to agree to the authority's terms of service."`
	ACMEDirectory    string    `name:"acme-directory" placeholder:"URL" group:"Network" help:"Another ACME authority than Let's Encrypt."`
	ACMECA           string    `name:"acme-ca" type:"path" placeholder:"FILE" group:"Network" help:"PEM certificates to trust at --acme-directory. Default: those of the system."`
	ACMEEABKeyID     string    `name:"acme-eab-key-id" placeholder:"ID" group:"Network" help:"External account that the authority wants (RFC 8555, 7.3.4)."`
	ACMEEABHMACKey   string    `name:"acme-eab-hmac-key" placeholder:"SECRET" secret:"" group:"Network" help:"Its key, in base64; better kept in GATEHOUSE_ACME_EAB_HMAC_KEY_FILE than on the command line."`
	ACMEHTTPListen   string    `name:"acme-http-listen" placeholder:"ADDR" group:"Network" help:"Answer ACME challenges, and redirect to https://, here too, where port 80 leads to; off: nowhere. Default: port 80 if --listen has port 443."`
	TrustedProxy     []network `name:"trusted-proxy" placeholder:"CIDR" group:"Network" help:"Believe X-Forwarded-* and the client certificate header from here. Repeatable."`
	ClientCertHeader string    `placeholder:"NAME" group:"Network" help:"Header in which a trusted proxy passes the verified client certificate (RFC 9440 or URL-escaped PEM)."`
	MetricsListen    string    `placeholder:"ADDR" group:"Network" help:"Another address, without TLS or login, for Prometheus: /metrics, and nothing else. Keep it on 127.0.0.1 or on a network of your own. Default: none."`

	AdminEmail         string `placeholder:"EMAIL" group:"First start" help:"Create the first owner without the setup page."`
	AdminPasswordFile  string `type:"path" placeholder:"FILE" group:"First start" help:"The first owner's password."`
	BootstrapTokenFile string `type:"path" placeholder:"FILE" group:"First start" help:"While there is no API token yet, make this file's content (20 to 80 URL-safe characters) one with the scope owner."`
	Demo               int    `placeholder:"N" group:"First start" help:"Enroll N simulated devices through the real endpoints. On a database that servers share, one of them may."`

	APNsURL string `name:"apns-url" placeholder:"URL" group:"Push" help:"Another push service than Apple's, for tests and proxies: https://HOST:PORT."`
	APNsCA  string `name:"apns-ca" type:"path" placeholder:"FILE" group:"Push" help:"PEM certificates of which the push service's must come, instead of the system's."`

	forwardFlags `embed:""`

	LogFormat string `enum:"text,json," default:"" placeholder:"FORMAT" group:"Log" help:"text or json. Default: text on a terminal, else json."`
	LogLevel  string `enum:"debug,info,warn,error" default:"info" placeholder:"LEVEL" group:"Log" help:"debug, info, warn or error (default ${default})."`
}

// network is a range of addresses, or one address.
type network struct{ netip.Prefix }

// UnmarshalText implements encoding.TextUnmarshaler.
func (n *network) UnmarshalText(text []byte) error {
	if addr, err := netip.ParseAddr(string(text)); err == nil {
		n.Prefix = netip.PrefixFrom(addr, addr.BitLen())
		return nil
	}
	prefix, err := netip.ParsePrefix(string(text))
	if err != nil {
		return fmt.Errorf("%q is no network such as 10.0.0.0/8 or 10.1.2.3", text)
	}
	n.Prefix = prefix.Masked()
	return nil
}

// config is a serveCommand that was checked, with the defaults that depend on
// others filled in.
type config struct {
	dataDir        string
	usualDir       bool // dataDir is the default
	store          storeURL
	secretsKeyFile string
	caKeyBits      int

	listen           string
	mtlsListen       string   // "": nowhere
	pkiURL           *url.URL // nil: serverURL
	pkiListen        string   // "": nowhere
	probeListen      string   // "": nowhere
	metricsListen    string   // "": nowhere
	lan              bool
	serverURL        *url.URL // nil: made from the port when that is known
	tls              tlsMode
	tlsCert, tlsKey  string
	acme             acmeConfig
	trustedProxies   []netip.Prefix
	clientCertHeader string

	adminEmail     string
	adminPassword  string
	bootstrapToken string
	demo           int

	apnsURL   string         // "": Apple's
	apnsRoots *x509.CertPool // nil: the system's

	forward forwarding

	logFormat string
	logLevel  slog.Level
	tail      *logtail.Tail

	probe string // URL of the trust probe, once it listens; "": there is none

	tuneCollector bool // nobody else decides when garbage is collected

	elsewhere
	thrift
}

// elsewhere are services of others where tests have them: addresses that may be in this
// machine's own network. It is zero in the program.
type elsewhere struct {
	mdmcert  *url.URL // nil: mdmcert.download
	business *url.URL // nil: Apple's service for device assignment
}

// thrift is what tests save on. It is zero in the program.
type thrift struct {
	newKey     func(authority string, bits int) (*rsa.PrivateKey, error) // makes keys of authorities; nil: depot's own
	hashMemory uint32                                                    // KiB that hashing a password takes; 0: identity's own
}

// tlsMode says where the server's TLS certificate comes from.
type tlsMode string

const (
	tlsOwnCA tlsMode = "own-ca" // from our own authority
	tlsFiles tlsMode = "files"
	tlsACME  tlsMode = "acme"
	tlsProxy tlsMode = "proxy" // plain HTTP: a proxy in front does TLS
)

// Run runs the server until ctx ends.
func (c *serveCommand) Run(ctx context.Context, p *process, kctx *kong.Context) error {
	cfg, err := c.check(p.env)
	if err != nil {
		return usageError(fmt.Errorf("serve: %w", p.settings.explain(err)))
	}
	cfg.elsewhere, cfg.thrift = p.elsewhere, p.thrift
	cfg.tail = new(logtail.Tail)
	log := slog.New(cfg.tail.Handler(newLogger(p.stderr, cfg.logFormat, cfg.logLevel).Handler()))
	for _, warning := range p.settings.strangers(kctx.Flags()) {
		log.WarnContext(ctx, warning)
	}
	if err := serve(ctx, cfg, log, p.stderr); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// check validates what was asked for. Its errors name the flag.
func (c *serveCommand) check(env environment) (config, error) {
	cfg := config{
		dataDir:          c.DataDir,
		store:            storeURL(strings.TrimSpace(c.Store)),
		secretsKeyFile:   c.SecretsKeyFile,
		caKeyBits:        c.CAKeyBits,
		listen:           c.Listen,
		mtlsListen:       c.MTLSListen,
		lan:              c.LAN,
		tls:              tlsMode(c.TLSMode),
		tlsCert:          c.TLSCert,
		tlsKey:           c.TLSKey,
		clientCertHeader: c.ClientCertHeader,
		adminEmail:       strings.TrimSpace(c.AdminEmail),
		demo:             c.Demo,
		logFormat:        c.LogFormat,
		tuneCollector:    env["GOGC"] == "" && env["GOMEMLIMIT"] == "",
	}
	for _, n := range c.TrustedProxy {
		cfg.trustedProxies = append(cfg.trustedProxies, n.Prefix)
	}
	if err := cfg.logLevel.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return config{}, invalid("log-level", "%w", err)
	}
	usual, err := defaultDataDir(env, os.Geteuid() == 0)
	switch {
	case cfg.dataDir != "":
		cfg.usualDir = cfg.dataDir == usual
	case err != nil:
		return config{}, err
	default:
		cfg.dataDir, cfg.usualDir = usual, true
	}
	if cfg.secretsKeyFile == "" {
		cfg.secretsKeyFile = filepath.Join(cfg.dataDir, "secrets.key")
	}

	for _, check := range []func(*config) error{c.checkStore, c.checkNetwork, c.checkMTLS, c.checkPKI, c.checkProbe, c.checkMetrics, c.checkTLS, c.checkACME, c.checkFirstStart, c.forwardFlags.check, c.checkPush} {
		if err := check(&cfg); err != nil {
			return config{}, err
		}
	}
	return cfg, nil
}

// checkPush checks where pushes go.
func (c *serveCommand) checkPush(cfg *config) error {
	if c.APNsURL != "" {
		u, err := url.Parse(c.APNsURL)
		if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
			return invalid("apns-url", "%q is no push service such as https://api.push.apple.com:2197", c.APNsURL)
		}
		cfg.apnsURL = c.APNsURL
	}
	if c.APNsCA == "" {
		return nil
	}
	pem, err := os.ReadFile(c.APNsCA)
	if err != nil {
		return invalid("apns-ca", "%w", err)
	}
	cfg.apnsRoots = x509.NewCertPool()
	if !cfg.apnsRoots.AppendCertsFromPEM(pem) {
		return invalid("apns-ca", "there is no certificate in %s", c.APNsCA)
	}
	return nil
}

func (c *serveCommand) checkStore(cfg *config) error {
	if err := cfg.store.check(); err != nil {
		return invalid("store", "%w", err)
	}
	return nil
}

func (c *serveCommand) checkNetwork(cfg *config) error {
	host, port, err := net.SplitHostPort(cfg.listen)
	if err != nil {
		return invalid("listen", "%q is no address such as 127.0.0.1:8443 or :8443", cfg.listen)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		return invalid("listen", "%q is no port", port)
	} else if c.LAN {
		if ip, err := netip.ParseAddr(host); err == nil && !ip.IsLoopback() && !ip.IsUnspecified() {
			return invalid("lan", "listens on all interfaces, but --listen asks for %s only", ip)
		}
		cfg.listen = net.JoinHostPort("", strconv.FormatUint(n, 10))
	}
	if c.ServerURL != "" {
		if cfg.serverURL, err = parseServerURL(c.ServerURL, cfg.tls); err != nil {
			return invalid("server-url", "%w", err)
		}
	}
	if cfg.clientCertHeader != "" {
		if !validHeaderName(cfg.clientCertHeader) {
			return invalid("client-cert-header", "%q is no header name", cfg.clientCertHeader)
		}
		if len(cfg.trustedProxies) == 0 {
			return invalid("client-cert-header", "needs --trusted-proxy: a certificate is no secret, so only a known proxy may pass one")
		}
		cfg.clientCertHeader = textproto.CanonicalMIMEHeaderKey(cfg.clientCertHeader)
	}
	return nil
}

func validHeaderName(name string) bool {
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-':
		default:
			return false
		}
	}
	return len(name) <= 64
}

// parseServerURL checks the URL that goes into every profile and link: devices
// keep it for the life of their enrollment.
func parseServerURL(text string, mode tlsMode) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Opaque != "" {
		return nil, fmt.Errorf("%q is no URL such as https://mdm.example.com", text)
	}
	u.Scheme = strings.ToLower(u.Scheme)
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("%q must begin with https://", text)
	case u.Scheme == "http" && mode != tlsProxy:
		return nil, errors.New("must begin with https://: Apple devices accept nothing else (http is allowed with --tls-mode proxy, for tests)")
	case u.User != nil:
		return nil, errors.New("must not hold a user name or password")
	case u.RawQuery != "" || u.ForceQuery:
		return nil, errors.New("must not have a query: devices refuse a renewal when it changes")
	case u.Fragment != "" || strings.Contains(text, "#"):
		return nil, errors.New("must not have a fragment")
	case strings.Trim(u.Path, "/") != "":
		return nil, fmt.Errorf("must not have a path: the server answers at the top of %s://%s", u.Scheme, u.Host)
	case u.Hostname() == "":
		return nil, fmt.Errorf("%q names no host", text)
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil && ip.IsUnspecified() {
		return nil, fmt.Errorf("%s means \"all addresses of this machine\"; name the one that devices can reach", ip)
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("%q is no port", port)
		}
	} else if strings.HasSuffix(u.Host, ":") {
		return nil, fmt.Errorf("%q has no port after the colon", text)
	}
	u.Host = strings.ToLower(u.Host)
	u.Path, u.RawPath = "", ""
	return u, nil
}

func (c *serveCommand) checkTLS(cfg *config) error {
	if cfg.tls != tlsFiles {
		if cfg.tlsCert != "" {
			return invalid("tls-cert", "is for --tls-mode files, not %s", cfg.tls)
		}
		if cfg.tlsKey != "" {
			return invalid("tls-key", "is for --tls-mode files, not %s", cfg.tls)
		}
		return nil
	}
	if cfg.tlsCert == "" {
		return invalid("tls-mode", "files needs --tls-cert FILE and --tls-key FILE")
	}
	if cfg.tlsKey == "" {
		return invalid("tls-mode", "files needs --tls-key FILE beside --tls-cert")
	}
	if cfg.serverURL == nil {
		return invalid("tls-mode", "files needs --server-url, with a name that the certificate is for")
	}
	if _, err := loadKeyPair(cfg.tlsCert, cfg.tlsKey); err != nil {
		return invalid("tls-cert", "%w", err)
	}
	return nil
}

func (c *serveCommand) checkFirstStart(cfg *config) error {
	if cfg.demo < 0 || cfg.demo > maxDemo {
		return invalid("demo", "must be 0 to %d", maxDemo)
	}
	if (c.AdminEmail == "") != (c.AdminPasswordFile == "") {
		return invalid("admin-email", "and --admin-password-file go together")
	}
	if c.AdminEmail != "" {
		at, err := mail.ParseAddress(cfg.adminEmail)
		if err != nil || at.Address != cfg.adminEmail {
			return invalid("admin-email", "%q is no e-mail address", c.AdminEmail)
		}
		if cfg.adminPassword, err = readSecret(c.AdminPasswordFile); err != nil {
			return invalid("admin-password-file", "%w", err)
		}
	}
	if c.BootstrapTokenFile != "" {
		token, err := readSecret(c.BootstrapTokenFile)
		if err != nil {
			return invalid("bootstrap-token-file", "%w", err)
		}
		if !validBootstrapToken(token) {
			return invalid("bootstrap-token-file", "its content must be 20 to 80 characters out of A-Z a-z 0-9 - . _ ~")
		}
		cfg.bootstrapToken = token
	}
	return nil
}

// validBootstrapToken reports whether token is 20 to 80 unreserved characters of
// RFC 3986.
func validBootstrapToken(token string) bool {
	for _, c := range []byte(token) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~", c) >= 0:
		default:
			return false
		}
	}
	return 20 <= len(token) && len(token) <= 80
}

// defaultDataDir follows the XDG Base Directory Specification; root's server is
// the machine's and keeps its state where the FHS says.
func defaultDataDir(env environment, root bool) (string, error) {
	if dir := env["XDG_DATA_HOME"]; filepath.IsAbs(dir) {
		return filepath.Join(dir, "gatehouse"), nil
	}
	if root {
		return "/var/lib/gatehouse", nil
	}
	if home := env["HOME"]; filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "share", "gatehouse"), nil
	}
	return "", invalid("data-dir", "is needed: neither XDG_DATA_HOME nor HOME is set")
}
