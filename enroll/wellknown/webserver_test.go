package wellknown_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/wellknown"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/freeport"
)

// program finds a web server, also where Debian keeps those. CI must have it.
func program(t *testing.T, name, pkg string) string {
	t.Helper()
	for _, path := range []string{name, "/usr/sbin/" + name} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	lacking(t, fmt.Sprintf("no %s (package %s): its snippets are not tried", name, pkg))
	return ""
}

func lacking(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// site is a web server's configuration in a directory of its own.
type site struct {
	world     *world
	dir       string
	address   string // HOST:PORT to listen on
	cert, key string // files
}

func newSite(t *testing.T) *site {
	t.Helper()
	w := newWorld(t, redirect, nil)
	s := &site{world: w, dir: t.TempDir()}
	if err := os.Chmod(s.dir, 0o755); err != nil { // Apache's workers are somebody else
		t.Fatal(err)
	}
	cert := w.ca.issue(t, nil)
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	s.cert = s.write(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})))
	s.key = s.write(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	port, err := freeport.Find()
	if err != nil {
		t.Fatal(err)
	}
	s.address = freeport.Address(port)
	return s
}

func (s *site) write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func (s *site) port() string {
	_, port, _ := net.SplitHostPort(s.address)
	return port
}

// start runs a web server in the foreground until the test ends, and waits for it to
// accept connections.
func (s *site) start(t *testing.T, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = s.dir, append(os.Environ(), "HOME="+s.dir, "XDG_DATA_HOME="+s.dir, "XDG_CONFIG_HOME="+s.dir)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() { cancel(); <-ended })
	for until := time.Now().Add(time.Minute); time.Now().Before(until); {
		conn, err := net.DialTimeout("tcp", s.address, time.Second)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-ended:
			t.Fatalf("%s ended: %s", name, out.String())
		case <-time.After(25 * time.Millisecond):
		}
	}
	t.Fatalf("%s does not answer", name)
}

// tried are the web servers that are tried where they are installed.
var tried = map[string]struct {
	program, pkg string
	run          func(t *testing.T, s *site, program, snippet string)
}{
	"nginx": {"nginx", "nginx", func(t *testing.T, s *site, program, snippet string) {
		conf := s.write(t, "nginx.conf", fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
    server {
        listen %[2]s ssl; server_name example.com;
        ssl_certificate %[3]s; ssl_certificate_key %[4]s;
        location ~ /\. { deny all; }
%[5]s    }
}
`, s.dir, s.address, s.cert, s.key, snippet))
		s.start(t, program, "-p", s.dir, "-c", conf, "-e", "stderr")
	}},
	"apache": {"apache2", "apache2-bin", func(t *testing.T, s *site, program, snippet string) {
		s.apache(t, program, snippet)
	}},
	"apache-htaccess": {"apache2", "apache2-bin", func(t *testing.T, s *site, program, snippet string) {
		s.write(t, "root/.htaccess", snippet+"RewriteRule . /index.php [L]\n")
		s.apache(t, program, "")
	}},
	"caddy": {"caddy", "caddy", func(t *testing.T, s *site, program, snippet string) {
		file := s.write(t, "Caddyfile", fmt.Sprintf("{\n admin off\n auto_https off\n storage file_system %s\n}\nhttps://example.com:%s {\n bind 127.0.0.1\n tls %s %s\n%s try_files {path} /index.html\n file_server\n}\n",
			s.dir, s.port(), s.cert, s.key, snippet))
		s.start(t, program, "run", "--config", file, "--adapter", "caddyfile")
	}},
}

func (s *site) apache(t *testing.T, program, snippet string) {
	modules := "/usr/lib/apache2/modules"
	if _, err := os.Stat(modules); err != nil {
		lacking(t, "no "+modules+": Apache's snippets are not tried")
	}
	var load strings.Builder
	for _, m := range []string{"mpm_event", "authz_core", "alias", "rewrite", "ssl", "unixd"} {
		if _, err := os.Stat(modules + "/mod_" + m + ".so"); err == nil { // some are built in
			fmt.Fprintf(&load, "LoadModule %s_module %s/mod_%s.so\n", m, modules, m)
		}
	}
	s.write(t, "root/index.php", "not me")
	// The snippet names a directory of the web server's machine.
	answer := s.write(t, "apple/com.apple.remotemanagement", s.world.good(wellknown.BYOD))
	snippet = strings.ReplaceAll(snippet, "/var/www/apple", filepath.Dir(answer))
	conf := s.write(t, "httpd.conf", fmt.Sprintf(`ServerRoot %[1]s
PidFile %[1]s/pid
DefaultRuntimeDir %[1]s
Mutex file:%[1]s default
%[2]sListen %[3]s
ServerName example.com
ErrorLog /dev/stderr
DocumentRoot %[1]s/root
<Directory %[1]s/root>
    Require all granted
    AllowOverride All
</Directory>
<VirtualHost *:%[6]s>
    SSLEngine on
    SSLCertificateFile %[4]s
    SSLCertificateKeyFile %[5]s
%[7]s</VirtualHost>
`, s.dir, load.String(), s.address, s.cert, s.key, s.port(), snippet))
	s.start(t, program, "-f", conf, "-D", "FOREGROUND")
}

func TestSnippetsInRealWebServers(t *testing.T) {
	storagetest.AnyEngine(t)
	for server, how := range tried {
		t.Run(server, func(t *testing.T) {
			path := program(t, how.program, how.pkg)
			for _, kind := range []wellknown.Kind{wellknown.Redirect, wellknown.Static} {
				if server == "apache-htaccess" && kind == wellknown.Static {
					continue
				}
				t.Run(string(kind), func(t *testing.T) {
					t.Parallel()
					s := newSite(t)
					how.run(t, s, path, snippet(t, snippets(t, s.world.mdm.String(), wellknown.BYOD), server, kind).Text)
					s.world.web = s.address
					s.world.hold(t, kind)
				})
			}
		})
	}
}

// hold checks the domain, with an identifier that tells whether it was escaped again.
func (w *world) hold(t *testing.T, kind wellknown.Kind) {
	t.Helper()
	r := w.check(t, func(o *wellknown.Options) { o.Identifier = "ana+b&c%40@example.com" })
	if got := codes(r); !r.OK || len(got) > 0 {
		t.Errorf("findings: %+v\nsteps: %+v", r.Findings, r.Steps)
	}
	want := http.StatusOK
	if kind == wellknown.Redirect {
		want = http.StatusTemporaryRedirect
	}
	if r.Steps[0].Status != want {
		t.Errorf("status %d, want %d", r.Steps[0].Status, want)
	}
	if isStatic := slices.ContainsFunc(r.Findings, func(f wellknown.Finding) bool { return f.Code == "static_answer" }); isStatic != (kind == wellknown.Static) {
		t.Errorf("findings: %+v", r.Findings)
	}
}

// TestScriptsOfSnippets runs those that are JavaScript.
func TestScriptsOfSnippets(t *testing.T) {
	storagetest.AnyEngine(t)
	node := program(t, "node", "nodejs")
	const query = "user-identifier=ana%2Bb@example.com&model-family=Mac"
	list := snippets(t, "https://mdm.example.com", wellknown.BYOD)
	worker := func(s wellknown.Snippet) string {
		return strings.Replace(s.Text, "export default", "const worker =", 1) + `
globalThis.fetch = async () => new Response("the site");
(async () => {
  for (const path of PATHS) {
    const r = await worker.fetch(new Request("https://example.com" + path));
    console.log(r.status, r.headers.get("Location") || await r.text(), r.headers.get("Content-Type"));
  }
})();
`
	}
	function := func(s wellknown.Snippet) string {
		return s.Text + `
for (const path of PATHS) {
  const [uri, query] = path.split("?");
  const r = handler({ request: { uri, rawQueryString: () => query } });
  console.log(r.statusCode || 200, r.headers ? r.headers.location.value : "the site", null);
}
`
	}
	target := "https://mdm.example.com" + wellknown.Path
	for name, tt := range map[string]struct{ script, want string }{
		"Worker, redirect": {worker(snippet(t, list, "cloudflare-worker", wellknown.Redirect)),
			"307 " + target + "?" + query + " null\n307 " + target + "?" + query + " null\n307 " + target + " null\n200 the site text/plain;charset=UTF-8\n"},
		"Worker, static": {worker(snippet(t, list, "cloudflare-worker", wellknown.Static)),
			strings.Repeat(`200 {"Servers":[{"Version":"mdm-byod","BaseURL":"https://mdm.example.com/enroll/byod"}]} application/json`+"\n", 3) + "200 the site text/plain;charset=UTF-8\n"},
		"CloudFront, redirect": {function(snippet(t, list, "cloudfront", wellknown.Redirect)),
			"307 " + target + "?" + query + " null\n307 " + target + "?" + query + " null\n307 " + target + " null\n200 the site null\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			paths := fmt.Sprintf("const PATHS = [%q, %q, %q, \"/\"];\n", wellknown.Path+"?"+query, wellknown.Path+".?"+query, wellknown.Path)
			out, err := exec.CommandContext(t.Context(), node, "-e", paths+tt.script).CombinedOutput()
			if err != nil || string(out) != tt.want {
				t.Errorf("%v: got\n%s\nwant\n%s", err, out, tt.want)
			}
		})
	}
}

// TestTLSWithoutExtendedMasterSecret asks nginx, because Go can't do without.
func TestTLSWithoutExtendedMasterSecret(t *testing.T) {
	storagetest.AnyEngine(t)
	path := program(t, "nginx", "nginx")
	s := newSite(t)
	text := snippet(t, snippets(t, s.world.mdm.String(), wellknown.BYOD), "nginx", wellknown.Redirect).Text
	tried["nginx"].run(t, s, path, "ssl_protocols TLSv1.2; ssl_conf_command Options -ExtendedMasterSecret;\n"+text)
	s.world.web = s.address
	if r := s.world.check(t, nil); !r.OK || !slices.Equal(codes(r), []string{"warning tls_no_extended_master_secret"}) {
		t.Errorf("findings: %+v", r.Findings)
	}
}
