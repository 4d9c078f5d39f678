// Package businesstest is a device assignment service on loopback, as Apple's is at
// mdmenrollment.apple.com: it hands out server tokens, checks how requests are signed,
// ends sessions, and refuses what it is told to.
//
// It was written from Apple's pages ("Authenticating for Automated Device Enrollment",
// "Get the Account Detail", "Assign Account-Driven Enrollment Service Discovery") and
// RFC 5849, and shares no code with the client.
package businesstest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// SessionTime is how long a session lasts.
const SessionTime = 3 * time.Minute

// Answer is one that the service gives in place of its own.
type Answer struct {
	Status int
	Body   string // "T_C_NOT_SIGNED"
	Header http.Header
}

// Apple is the service. The zero value is no use: see New.
type Apple struct {
	URL *url.URL

	now func() time.Time

	mu        sync.Mutex
	consumer  secret // of the device management service
	access    secret // of the token that was downloaded last
	expires   time.Time
	uuid      string
	nonces    map[string]bool
	sessions  map[string]time.Time // to when each began
	rotate    bool
	script    map[string][]Answer
	requests  []string
	discovery string
	updated   time.Time
}

type secret struct{ key, secret string }

// New starts the service, with one device management service and no token.
func New(t testing.TB, now func() time.Time) *Apple {
	t.Helper()
	a := &Apple{now: now, nonces: map[string]bool{}, sessions: map[string]time.Time{}, script: map[string][]Answer{}}
	a.NewServer()
	srv := httptest.NewServer(a)
	t.Cleanup(srv.Close)
	var err error
	if a.URL, err = url.Parse(srv.URL); err != nil {
		t.Fatal(err)
	}
	return a
}

// NewServer removes the device management service and makes another one.
func (a *Apple) NewServer() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.consumer = secret{"CK_" + random(), "CS_" + random()}
	a.access, a.uuid, a.discovery = secret{}, strings.ToUpper(random()), ""
}

// PlainToken is what the token file says inside, for a token of a year, and makes those
// before it invalid.
func (a *Apple) PlainToken() []byte { return a.TokenUntil(a.now().AddDate(0, 0, 365)) }

// TokenUntil is PlainToken for a token that ends at expires.
func (a *Apple) TokenUntil(expires time.Time) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	// Characters that must be escaped on the way.
	a.access, a.expires = secret{"AT_" + random() + "/+", "AS_" + random() + "&="}, expires
	token, err := json.Marshal(map[string]string{
		"consumer_key": a.consumer.key, "consumer_secret": a.consumer.secret,
		"access_token": a.access.key, "access_secret": a.access.secret,
		"access_token_expiry": expires.UTC().Format(time.RFC3339),
	})
	if err != nil {
		panic(err)
	}
	return token
}

// TokenFile is the file that an administrator downloads: a new token, encrypted to the
// certificate in PEM that was uploaded.
func (a *Apple) TokenFile(t testing.TB, certificate []byte) []byte {
	t.Helper()
	return File(t, certificate, a.PlainToken())
}

// File wraps a token as Apple does.
func File(t testing.TB, certificate, token []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(certificate)
	if block == nil || block.Type != "CERTIFICATE" {
		t.Fatalf("Apple takes a certificate in PEM, and not %q", certificate)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatalf("Apple could not read the certificate: %v", err)
	}
	message := "Content-Type: text/plain;charset=UTF-8\r\nContent-Transfer-Encoding: 7bit\r\n\r\n" +
		"-----BEGIN MESSAGE-----\n" + string(token) + "\n-----END MESSAGE-----\n"
	cms, err := Envelop(cert, []byte(message))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("Content-Type: application/pkcs7-mime; name=\"smime.p7m\"; smime-type=enveloped-data\r\n" +
		"Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename=\"smime.p7m\"\r\n" +
		"Content-Description: S/MIME Encrypted Message\r\n\r\n")
	for text := base64.StdEncoding.EncodeToString(cms); text != ""; {
		n := min(76, len(text))
		b.WriteString(text[:n] + "\r\n")
		text = text[n:]
	}
	return []byte(b.String())
}

// Envelop encrypts content to cert (RFC 5652, 6): AES-256 in CBC mode, RSA.
func Envelop(cert *x509.Certificate, content []byte) ([]byte, error) {
	pub, ok := cert.PublicKey.(*rsa.PublicKey)
	if !ok || pub.Size() < 256 {
		return nil, fmt.Errorf("Apple takes RSA keys of 2048 bits and more, and not %T", cert.PublicKey)
	}
	random := make([]byte, 32+aes.BlockSize)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	key, iv := random[:32], random[32:]
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	pad := aes.BlockSize - len(content)%aes.BlockSize
	for range pad {
		content = append(content, byte(pad))
	}
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(content, content)
	//lint:ignore SA1019 it is what Apple uses
	wrapped, err := rsa.EncryptPKCS1v15(rand.Reader, pub, key)
	if err != nil {
		return nil, err
	}
	type recipient struct {
		Version int
		ID      struct {
			Issuer asn1.RawValue
			Serial asn1.RawValue
		}
		Algorithm pkix.AlgorithmIdentifier
		Key       []byte
	}
	var enveloped struct {
		Version    int
		Recipients []recipient `asn1:"set"`
		Content    struct {
			Type      asn1.ObjectIdentifier
			Algorithm pkix.AlgorithmIdentifier
			Content   []byte `asn1:"tag:0"`
		}
	}
	serial, err := asn1.Marshal(cert.SerialNumber)
	if err != nil {
		return nil, err
	}
	vector, err := asn1.Marshal(iv)
	if err != nil {
		return nil, err
	}
	to := recipient{Key: wrapped, Algorithm: pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}, Parameters: asn1.NullRawValue}}
	to.ID.Issuer.FullBytes, to.ID.Serial.FullBytes = cert.RawIssuer, serial
	enveloped.Recipients = []recipient{to}
	enveloped.Content.Type = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	enveloped.Content.Algorithm = pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}, Parameters: asn1.RawValue{FullBytes: vector}}
	enveloped.Content.Content = content
	return asn1.Marshal(struct {
		Type    asn1.ObjectIdentifier
		Content any `asn1:"explicit,tag:0"`
	}{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 3}, enveloped})
}

// Next makes the service answer the next requests for "METHOD /path" so, one after the
// other, whatever they are.
func (a *Apple) Next(call string, answers ...Answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.script[call] = append(a.script[call], answers...)
}

// Rotate makes each answer bring another session, which ends the one before.
func (a *Apple) Rotate() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rotate = true
}

// ForgetSessions makes sessions unknown, as a restart would.
func (a *Apple) ForgetSessions() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sessions = map[string]time.Time{}
}

// Requests returns what was asked for since it was last called: "GET /session".
func (a *Apple) Requests() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := a.requests
	a.requests = nil
	return list
}

// DiscoveryURL is the registered one; empty: none.
func (a *Apple) DiscoveryURL() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.discovery
}

// SetDiscoveryURL registers a URL from elsewhere.
func (a *Apple) SetDiscoveryURL(to string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.discovery, a.updated = to, a.now()
}

// UUID is the server_uuid of the device management service.
func (a *Apple) UUID() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.uuid
}

func (a *Apple) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	call := r.Method + " " + r.URL.Path
	a.requests = append(a.requests, call)
	w.Header().Set("Content-Type", "text/plain;charset=UTF8")
	if script := a.script[call]; len(script) > 0 {
		a.script[call] = script[1:]
		for name, values := range script[0].Header {
			w.Header()[name] = values
		}
		refuse(w, script[0].Status, script[0].Body)
		return
	}
	switch agent := r.UserAgent(); {
	case agent == "" || strings.HasPrefix(agent, "Go-http-client"):
		refuse(w, http.StatusBadRequest, "USER_AGENT_MISSING")
	case r.URL.Path == "/session":
		a.begin(w, r)
	default:
		a.inSession(w, r)
	}
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	_, _ = io.WriteString(w, code)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json;charset=UTF8")
	_ = json.NewEncoder(w).Encode(v)
}

func (a *Apple) begin(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		refuse(w, http.StatusMethodNotAllowed, "METHOD_NOT_ALLOWED")
		return
	}
	p, ok := oauthParameters(r.Header.Get("Authorization"))
	if !ok || p["realm"] != "ADM" || p["oauth_signature_method"] != "HMAC-SHA1" || p["oauth_version"] != "" && p["oauth_version"] != "1.0" {
		refuse(w, http.StatusBadRequest, "")
		return
	}
	at, err := strconv.ParseInt(p["oauth_timestamp"], 10, 64)
	if err != nil || p["oauth_nonce"] == "" {
		refuse(w, http.StatusBadRequest, "")
		return
	}
	off := a.now().Sub(time.Unix(at, 0)).Abs()
	if p["oauth_consumer_key"] != a.consumer.key || a.access.key == "" || p["oauth_token"] != a.access.key ||
		!a.now().Before(a.expires) || off > 5*time.Minute || a.nonces[p["oauth_nonce"]] || !a.signed(r, p) {
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED")
		return
	}
	a.nonces[p["oauth_nonce"]] = true
	answer(w, map[string]string{"auth_session_token": a.newSession()})
}

func (a *Apple) newSession() string {
	id := random()
	a.sessions[id] = a.now()
	return id
}

// oauthParameters reads a header Authorization (RFC 5849, 3.5.1).
func oauthParameters(header string) (map[string]string, bool) {
	rest, ok := strings.CutPrefix(header, "OAuth ")
	if !ok {
		return nil, false
	}
	p := map[string]string{}
	for part := range strings.SplitSeq(rest, ",") {
		name, quoted, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok || len(quoted) < 2 || quoted[0] != '"' || quoted[len(quoted)-1] != '"' {
			return nil, false
		}
		value, err := url.PathUnescape(quoted[1 : len(quoted)-1])
		if _, twice := p[name]; err != nil || twice {
			return nil, false
		}
		p[name] = value
	}
	return p, true
}

// signed recomputes the signature. No value here has a blank, so that url.QueryEscape
// escapes what RFC 5849, 3.6, has it escape.
func (a *Apple) signed(r *http.Request, p map[string]string) bool {
	var parts []string
	for name, value := range p {
		if name != "realm" && name != "oauth_signature" {
			parts = append(parts, url.QueryEscape(name)+"="+url.QueryEscape(value))
		}
	}
	sort.Strings(parts)
	base := r.Method + "&" + url.QueryEscape("http://"+r.Host+r.URL.Path) + "&" + url.QueryEscape(strings.Join(parts, "&"))
	mac := hmac.New(sha1.New, []byte(url.QueryEscape(a.consumer.secret)+"&"+url.QueryEscape(a.access.secret)))
	_, _ = io.WriteString(mac, base)
	got, err := base64.StdEncoding.DecodeString(p["oauth_signature"])
	return err == nil && hmac.Equal(got, mac.Sum(nil))
}

func (a *Apple) inSession(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get("X-ADM-Auth-Session")
	switch began, known := a.sessions[id]; {
	case !known:
		refuse(w, http.StatusForbidden, "FORBIDDEN")
		return
	case a.now().Sub(began) > SessionTime:
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED")
		return
	}
	if a.rotate {
		delete(a.sessions, id)
		id = a.newSession()
	}
	w.Header().Set("X-ADM-Auth-Session", id)
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	switch call := r.Method + " " + r.URL.Path; call {
	case "GET /account":
		account := map[string]any{
			"server_name": "Gatehouse", "server_uuid": a.uuid, "admin_id": "admin@example.com", "facilitator_id": "admin@example.com",
			"org_name": "Example", "org_email": "it@example.com", "org_phone": "111-222-3333", "org_address": "1 Example Street, 8000 Zürich",
			"urls": []any{map[string]any{"uri": "/account-driven-enrollment/profile", "http_method": []string{"GET", "POST", "DELETE"}}},
		}
		if version, _ := strconv.Atoi(r.Header.Get("X-Server-Protocol-Version")); version >= 3 { // without it: 1
			account["org_type"], account["org_version"], account["org_id"], account["org_id_hash"] = "org", "v2", "780420", "f6e1e81a"
		}
		answer(w, account)
	case "POST /account-driven-enrollment/profile":
		var in struct {
			URL *string `json:"mdm_service_discovery_url"`
		}
		switch {
		case !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") || json.Unmarshal(body, &in) != nil:
			refuse(w, http.StatusBadRequest, "MALFORMED_REQUEST_BODY")
		case in.URL == nil || *in.URL == "":
			refuse(w, http.StatusBadRequest, "MDM_SERVICE_DISCOVERY_URL_REQUIRED")
		case !isHTTPS(*in.URL):
			refuse(w, http.StatusBadRequest, "MDM_SERVICE_DISCOVERY_URL_NOT_VALID")
		default:
			a.discovery, a.updated = *in.URL, a.now()
			answer(w, map[string]string{})
		}
	case "GET /account-driven-enrollment/profile":
		if a.discovery == "" {
			refuse(w, http.StatusNotFound, "NOT_FOUND")
			return
		}
		answer(w, map[string]string{"mdm_service_discovery_url": a.discovery, "last_updated_timestamp": a.updated.UTC().Format(time.RFC3339)})
	case "DELETE /account-driven-enrollment/profile":
		a.discovery = ""
		w.WriteHeader(http.StatusOK)
	default:
		refuse(w, http.StatusMethodNotAllowed, "METHOD_NOT_ALLOWED")
	}
}

func isHTTPS(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "https" && u.Host != ""
}

func random() string { return strings.ToLower(rand.Text()) }
