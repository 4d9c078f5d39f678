package mdmtest

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// server is a small MDM and SCEP server on loopback TLS: enough to tell whether
// the device says what it should. It decodes with this package's own code, whose
// output other tests hold against openssl and the standard library.
type server struct {
	t    testing.TB
	http *httptest.Server
	key  *rsa.PrivateKey
	ca   *x509.Certificate

	mu       sync.Mutex
	profile  Dict                                     // what GET /profile serves
	caps     string                                   // GetCACaps
	caType   string                                   // Content-Type of GetCACert
	rep      func(*certRep)                           // spoils CertReps
	events   []string                                 // in their order, for stories
	checkins []Dict                                   // messages, with "signer" added
	results  []Dict                                   // results and Idles, with "signer" added
	commands []Dict                                   // queue
	issued   []string                                 // fingerprints of identities
	names    []string                                 // message= of GetCACert and GetCACaps
	requests []scepRequest                            // PKIOperations other than GetCertInitial
	status   func(kind string) (int, string, string)  // an HTTP answer other than 200: status, Content-Type, body
	hook     func(msg Dict) Dict                      // answers polls in place of the queue
	answers  map[string]Dict                          // to check-ins
	guard    func(msg Dict, bearer string) string     // the challenge of a 401 in place of an answer
	other    func(http.ResponseWriter, *http.Request) // what has no handler here
}

// scepRequest is what a PKIOperation asked for.
type scepRequest struct {
	messageType string
	signer      *x509.Certificate
	csr         *x509.CertificateRequest
}

// certRep is an answer that a test may spoil.
type certRep struct {
	status, messageType, transaction, failInfo string
	senderNonce, recipientNonce                []byte
	textTag                                    byte
	twice                                      bool // repeat pkiStatus
	signer                                     *x509.Certificate
	key                                        crypto.Signer
	cipher                                     string
	also                                       []*x509.Certificate // beside the issued certificate
	issued                                     *x509.Certificate
	recipient                                  *x509.Certificate
	contentType                                string
	spoil                                      func([]byte) []byte
}

func newServer(t testing.TB) *server {
	t.Helper()
	key := rsaKey(t)
	s := &server{
		t: t, key: key, ca: certificateFor(t, key, "Test identity CA", nil, nil),
		caps:   "Renewal\nSHA-1\nSHA-256\nAES\nDES3\nSCEPStandard\nPOSTPKIOperation\n",
		caType: "application/x-x509-ca-cert", answers: map[string]Dict{},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /profile", s.serveProfile)
	mux.HandleFunc("/scep", s.serveSCEP)
	mux.HandleFunc("PUT /mdm/checkin", s.serveCheckIn)
	mux.HandleFunc("PUT /mdm/connect", s.serveConnect)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.other == nil {
			http.NotFound(w, r)
			return
		}
		s.other(w, r)
	})
	mux.HandleFunc("/moved/", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, strings.TrimPrefix(r.URL.Path, "/moved"), http.StatusFound)
	})
	s.http = httptest.NewUnstartedServer(mux)
	s.http.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.http.EnableHTTP2 = true
	s.http.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are part of the stories
	s.http.StartTLS()
	t.Cleanup(s.http.Close)
	s.profile = s.enrollmentProfile()
	return s
}

func (s *server) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.http.Certificate())
	return pool
}

// enrollmentProfile is a correct one, with new UUIDs and challenge.
func (s *server) enrollmentProfile() Dict {
	id := func() string {
		u, err := newUUID(rand.Reader)
		if err != nil {
			s.t.Fatal(err)
		}
		return u
	}
	identity := id()
	sum := sha256.Sum256(s.ca.Raw)
	return Dict{
		"PayloadType": "Configuration", "PayloadVersion": 1, "PayloadIdentifier": "com.example.mdm", "PayloadUUID": id(),
		"PayloadDisplayName": "Example MDM", "PayloadScope": "User",
		"PayloadContent": []any{
			Dict{"PayloadType": "com.apple.security.root", "PayloadVersion": 1, "PayloadIdentifier": "com.example.mdm.root", "PayloadUUID": id(),
				"PayloadContent": s.ca.Raw},
			Dict{"PayloadType": "com.apple.security.scep", "PayloadVersion": 1, "PayloadIdentifier": "com.example.mdm.scep", "PayloadUUID": identity,
				"PayloadContent": Dict{
					"URL": s.http.URL + "/scep", "Challenge": "secret " + identity[:8], "Keysize": 2048, "Key Type": "RSA", "Key Usage": 5,
					"CAFingerprint": sum[:], "Subject": []any{[]any{[]any{"O", "Example & Söhne"}}, []any{[]any{"CN", "%SerialNumber%"}}},
					"SubjectAltName": Dict{"rfc822Name": "ana@example.com", "dNSName": []string{"a.example.com"}, "ntPrincipalName": "ana@corp"},
				}},
			Dict{"PayloadType": "com.apple.mdm", "PayloadVersion": 1, "PayloadIdentifier": "com.example.mdm.mdm", "PayloadUUID": id(),
				"IdentityCertificateUUID": identity, "Topic": "com.apple.mgmt.External.test", "AccessRights": 8191, "SignMessage": true,
				"ServerURL": s.http.URL + "/mdm/connect", "CheckInURL": s.http.URL + "/mdm/checkin", "CheckOutWhenRemoved": true,
				"ServerCapabilities": []string{"com.apple.mdm.per-user-connections", "com.apple.mdm.bootstraptoken"}},
		},
	}
}

// payload finds one payload of a profile.
func payload(p Dict, kind string) Dict {
	for _, v := range p["PayloadContent"].([]any) {
		if d := v.(Dict); d["PayloadType"] == kind {
			return d
		}
	}
	return nil
}

func byod(p Dict) Dict {
	mdm := payload(p, "com.apple.mdm")
	delete(mdm, "AccessRights")
	mdm["EnrollmentMode"], mdm["AssignedManagedAppleID"] = "BYOD", "ana@example.com"
	return p
}

func (s *server) note(format string, args ...any) {
	s.events = append(s.events, fmt.Sprintf(format, args...))
}

// takeEvents returns what happened since it was called last.
func (s *server) takeEvents() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.events
	s.events = nil
	return e
}

func (s *server) serveProfile(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note("GET profile")
	w.Header().Set("Content-Type", "application/x-apple-aspen-config")
	_, _ = w.Write(s.signed(s.profile))
}

// signed is a profile as the server sends it. The caller may hold mu.
func (s *server) signed(profile Dict) []byte {
	data, err := MarshalPlist(profile)
	if err != nil {
		s.t.Error(err)
		return nil
	}
	raw, err := Signature{Certificate: s.ca, Key: s.key, Encoding: DER}.Sign(data)
	if err != nil {
		s.t.Error(err)
	}
	return raw
}

func (s *server) serveSCEP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	operation := r.URL.Query().Get("operation")
	s.note("%s %s", r.Method, operation)
	if operation != "PKIOperation" {
		s.names = append(s.names, r.URL.Query().Get("message"))
	}
	switch operation {
	case "GetCACert":
		w.Header().Set("Content-Type", s.caType)
		_, _ = w.Write(s.ca.Raw)
	case "GetCACaps":
		_, _ = io.WriteString(w, s.caps)
	case "PKIOperation":
		body, err := io.ReadAll(r.Body)
		if r.Method == http.MethodGet {
			_, message, _ := strings.Cut(r.URL.RawQuery, "message=")
			message = strings.NewReplacer("%3D", "=", "%2B", "+", "%2F", "/", "-", "+", "_", "/").Replace(message)
			body, err = base64.StdEncoding.DecodeString(message)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer, err := s.pkiOperation(body)
		if err != nil {
			s.t.Error(err)
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/x-pki-message")
		_, _ = w.Write(answer)
	}
}

func (s *server) pkiOperation(body []byte) ([]byte, error) {
	sd, err := parseSignedData(body)
	if err != nil {
		return nil, err
	}
	info, signer, err := sd.verify(sd.content)
	if err != nil {
		return nil, err
	}
	value := func(id string) []byte {
		el, err := info.one(id, id)
		if err != nil {
			s.t.Error(err)
		}
		return el.content
	}
	content, err := openEnvelope(sd.content, s.ca, s.key, true)
	if err != nil {
		return nil, err
	}
	rep := &certRep{
		status: "0", messageType: "3", transaction: string(value(oidTransactionID)),
		recipientNonce: value(oidSenderNonce), senderNonce: bytes.Repeat([]byte{7}, 16), textTag: tagPrintable,
		signer: s.ca, key: s.key, cipher: oidAES128, recipient: signer, contentType: oidSignedData,
	}
	kind := string(value(oidMessageType))
	if kind == messageGetCertInitial {
		s.note("GetCertInitial")
	} else {
		csr, err := x509.ParseCertificateRequest(content)
		if err != nil {
			return nil, err
		}
		s.requests = append(s.requests, scepRequest{kind, signer, csr})
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(len(s.issued) + 2)), Subject: pkix.Name{CommonName: csr.Subject.CommonName},
			NotBefore: time.Now().Add(-10 * time.Minute), NotAfter: time.Now().Add(time.Hour),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}
		raw, err := x509.CreateCertificate(rand.Reader, template, s.ca, csr.PublicKey, s.key)
		if err != nil {
			return nil, err
		}
		if rep.issued, err = x509.ParseCertificate(raw); err != nil {
			return nil, err
		}
		s.issued = append(s.issued, fingerprint(rep.issued))
	}
	if s.rep != nil {
		s.rep(rep)
	}
	return rep.encode()
}

func (r *certRep) encode() ([]byte, error) {
	attributes := [][]byte{
		attributeDER(oidMessageType, der(r.textTag, []byte(r.messageType))),
		attributeDER(oidPKIStatus, der(r.textTag, []byte(r.status))),
		attributeDER(oidTransactionID, der(r.textTag, []byte(r.transaction))),
		attributeDER(oidSenderNonce, der(tagOctets, r.senderNonce)),
		attributeDER(oidRecipientNonce, der(tagOctets, r.recipientNonce)),
	}
	if r.twice {
		attributes = append(attributes, attributeDER(oidPKIStatus, der(r.textTag, []byte(r.status))))
	}
	if r.failInfo != "" {
		attributes = append(attributes, attributeDER(oidFailInfo, der(tagPrintable, []byte(r.failInfo))))
	}
	var content []byte
	if r.status == pkiSuccess {
		var certs [][]byte
		for _, c := range append(slices.Clone(r.also), r.issued) {
			certs = append(certs, c.Raw)
		}
		degenerate := der(tagSequence, oid(r.contentType), der(tagContext0, der(tagSequence,
			integer(big.NewInt(1)), der(tagSet), der(tagSequence, oid(oidData)), der(tagContext0, certs...), der(tagSet))))
		var err error
		if content, err = envelope(degenerate, r.recipient, r.cipher, DER, rand.Reader); err != nil {
			return nil, err
		}
	}
	raw, err := Signature{Certificate: r.signer, Key: r.key, Encoding: DER, attributes: attributes}.Sign(content)
	if err == nil && r.spoil != nil {
		raw = r.spoil(raw)
	}
	return raw, err
}

func fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:4])
}

// open reads an MDM message and says which identity signed it, by its number.
func (s *server) open(r *http.Request) (Dict, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	v, err := UnmarshalPlist(body)
	if err != nil {
		return nil, err
	}
	msg := v.(Dict)
	msg["signer"] = "nobody"
	var cert *x509.Certificate
	if header := r.Header.Get("Mdm-Signature"); header != "" {
		raw, err := base64.StdEncoding.DecodeString(header)
		if err != nil {
			return nil, err
		}
		sd, err := parseSignedData(raw)
		if err != nil {
			return nil, err
		}
		if !sd.detached {
			return nil, fmt.Errorf("Mdm-Signature holds the content")
		}
		if _, cert, err = sd.verify(body); err != nil {
			return nil, err
		}
	} else if len(r.TLS.PeerCertificates) > 0 {
		cert = r.TLS.PeerCertificates[0]
		msg["tls"] = true
	}
	if cert != nil {
		msg["signer"] = fmt.Sprintf("identity %d", slices.Index(s.issued, fingerprint(cert))+1)
	}
	if header, ok := r.Header["Authorization"]; ok {
		msg["bearer"] = strings.Join(header, ", ")
	}
	if r.UserAgent() != "MDM/1.0" {
		return nil, fmt.Errorf("User-Agent %q", r.UserAgent())
	}
	return msg, nil
}

// refused answers in the way that a test asks for.
func (s *server) refused(w http.ResponseWriter, kind string, msg Dict) bool {
	if s.guard != nil {
		header, _ := msg["bearer"].(string)
		if challenge := s.guard(msg, strings.TrimPrefix(header, "Bearer ")); challenge != "" {
			w.Header().Set("WWW-Authenticate", challenge)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
	}
	if s.status == nil {
		return false
	}
	code, contentType, body := s.status(kind)
	if code == 0 {
		return false
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(code)
	_, _ = io.WriteString(w, body)
	return true
}

func (s *server) serveCheckIn(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	msg, err := s.open(r)
	if err == nil && r.Header.Get("Content-Type") != "application/x-apple-aspen-mdm-checkin" {
		err = fmt.Errorf("Content-Type %q", r.Header.Get("Content-Type"))
	}
	if err != nil {
		s.t.Errorf("check-in: %v", err)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	kind := msg["MessageType"].(string)
	s.checkins = append(s.checkins, msg)
	if id, ok := msg["UserID"]; ok && id != "" {
		s.note("user %s by %s", kind, msg["signer"])
	} else {
		s.note("%s by %s", kind, msg["signer"])
	}
	if s.refused(w, kind, msg) {
		return
	}
	if answer, ok := s.answers[kind]; ok {
		s.write(w, answer)
	}
}

func (s *server) write(w http.ResponseWriter, d Dict) {
	data, err := MarshalPlist(d)
	if err != nil {
		s.t.Error(err)
	}
	w.Header().Set("Content-Type", "application/xml")
	_, _ = w.Write(data)
}

// serveConnect hands out the queue in its order; a command leaves it with its
// result, and is skipped after NotNow until the next Idle.
func (s *server) serveConnect(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	msg, err := s.open(r)
	if err == nil && !strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-apple-aspen-mdm;") {
		err = fmt.Errorf("Content-Type %q", r.Header.Get("Content-Type"))
	}
	if err != nil {
		s.t.Errorf("connect: %v", err)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	status := msg["Status"].(string)
	uuid, _ := msg["CommandUUID"].(string)
	s.note("%s %s by %s", status, uuid, msg["signer"])
	if s.refused(w, status, msg) {
		return
	}
	s.results = append(s.results, msg)
	if s.hook != nil {
		if c := s.hook(msg); c != nil {
			s.write(w, c)
		}
		return
	}
	switch status {
	case StatusIdle:
		for _, c := range s.commands {
			delete(c, "later")
		}
	case StatusNotNow:
		for _, c := range s.commands {
			if c["CommandUUID"] == uuid {
				c["later"] = true
			}
		}
	default:
		s.commands = slices.DeleteFunc(s.commands, func(c Dict) bool { return c["CommandUUID"] == uuid })
	}
	for _, c := range s.commands {
		if c["later"] == nil && (c["user"] == nil) == (msg["UserID"] == nil && msg["EnrollmentUserID"] == nil) {
			c = maps.Clone(c)
			delete(c, "user")
			s.write(w, c)
			return
		}
	}
}

// queue adds a command for the device channel.
func (s *server) queue(uuid, requestType string, params Dict) {
	s.mu.Lock()
	defer s.mu.Unlock()
	command := Dict{"RequestType": requestType}
	maps.Copy(command, params)
	s.commands = append(s.commands, Dict{"CommandUUID": uuid, "Command": command})
}

// result is the last one for a command.
func (s *server) result(uuid string) Dict {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range slices.Backward(s.results) {
		if r["CommandUUID"] == uuid {
			return r
		}
	}
	s.t.Fatalf("no result for command %s", uuid)
	return nil
}

// device makes a device that trusts the server.
func (s *server) device(o Options) *Device {
	s.t.Helper()
	if o.RootCAs == nil {
		o.RootCAs = s.roots()
	}
	var err error
	if o.Keys, err = testKeys(); err != nil {
		s.t.Fatal(err)
	}
	d, err := NewDevice(o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(d.Close)
	return d
}

// enrolled makes a device and enrols it.
func (s *server) enrolled(o Options) *Device {
	s.t.Helper()
	d := s.device(o)
	if err := d.Enroll(s.t.Context(), s.http.URL+"/profile"); err != nil {
		s.t.Fatal(err)
	}
	s.takeEvents()
	return d
}

func wantEvents(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("the server saw\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}
