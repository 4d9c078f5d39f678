package standin_test

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns/standin"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

const topic = "com.apple.mgmt.External.standin"

func newServer(t *testing.T, o standin.Options) *standin.Server {
	t.Helper()
	s, err := standin.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// newClient has a push certificate of one server, and knows another.
func newClient(t *testing.T, issuer, of *standin.Server) *http.Client {
	t.Helper()
	config := &tls.Config{RootCAs: of.Roots()}
	if issuer != nil {
		chain, key, err := issuer.Issue(standin.Identity{Topic: topic})
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(chain, key)
		if err != nil {
			t.Fatal(err)
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	transport := &http.Transport{TLSClientConfig: config, Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// newRequest is a push as it should be.
func newRequest(t *testing.T, s *standin.Server, token []byte, magic string) *http.Request {
	t.Helper()
	body, err := json.Marshal(map[string]string{"mdm": magic})
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), "POST", s.URL()+"/3/device/"+hex.EncodeToString(token), bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"apns-topic": topic, "apns-push-type": "mdm", "apns-priority": "10", "apns-expiration": "0"} {
		r.Header.Set(name, value)
	}
	return r
}

func TestAPushIsCheckedAndHandedOn(t *testing.T) {
	storagetest.AnyEngine(t)
	gone := time.Unix(1_700_000_000, 0)
	came := make(chan standin.Push, 1)
	s := newServer(t, standin.Options{OnPush: func(p standin.Push) standin.Answer {
		came <- p
		if p.Magic == "gone" {
			return standin.Answer{Status: http.StatusGone, Reason: "Unregistered", Timestamp: gone}
		}
		return standin.Answer{}
	}})
	client := newClient(t, s, s)
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	body := func(s string) func(*http.Request) {
		return func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader(s)), int64(len(s)) }
	}
	path := func(p string) func(*http.Request) { return func(r *http.Request) { r.URL.Path = p } }
	for name, tt := range map[string]struct {
		magic  string
		change func(*http.Request)
		status int
		said   string
	}{
		"a push is taken":                 {"m", func(*http.Request) {}, 200, ""},
		"a dead token has its time":       {"gone", func(*http.Request) {}, 410, `{"reason":"Unregistered","timestamp":1700000000000}`},
		"another method":                  {"", func(r *http.Request) { r.Method = "PUT" }, 405, `{"reason":"MethodNotAllowed"}`},
		"another path":                    {"", path("/4/device/00"), 404, `{"reason":"BadPath"}`},
		"no token":                        {"", path("/3/device/"), 400, `{"reason":"MissingDeviceToken"}`},
		"a token that is not hexadecimal": {"", path("/3/device/token"), 400, `{"reason":"BadDeviceToken"}`},
		"no topic":                        {"", func(r *http.Request) { r.Header.Del("apns-topic") }, 400, `{"reason":"MissingTopic"}`},
		"a topic that is another's":       {"", header("apns-topic", "com.example"), 400, `{"reason":"TopicDisallowed"}`},
		"two topics":                      {"", func(r *http.Request) { r.Header.Add("apns-topic", topic) }, 400, `{"reason":"DuplicateHeaders"}`},
		"another type":                    {"", header("apns-push-type", "alert"), 400, `{"reason":"InvalidPushType"}`},
		"another priority":                {"", header("apns-priority", "5"), 400, `{"reason":"BadPriority"}`},
		"an expiration that is no time":   {"", header("apns-expiration", "soon"), 400, `{"reason":"BadExpirationDate"}`},
		"an expiration far away":          {"", header("apns-expiration", "99999999999"), 400, `{"reason":"BadExpirationDate"}`},
		"no payload":                      {"", body(""), 400, `{"reason":"PayloadEmpty"}`},
		"a payload too large":             {"", body(strings.Repeat(" ", standin.MaxPayload+1)), 413, `{"reason":"PayloadTooLarge"}`},
		"a payload that wakes nobody":     {"", body(`{"aps":{}}`), 400, `{"reason":"BadPayload"}`},
		"a payload with more":             {"", body(`{"mdm":"m"} {}`), 400, `{"reason":"BadPayload"}`},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRequest(t, s, []byte("token"), tt.magic)
			tt.change(r)
			resp, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			said, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != tt.status || string(said) != tt.said || resp.ProtoMajor != 2 || resp.Header.Get("apns-id") == "" {
				t.Errorf("%s %s %q (%v), apns-id %q; want %d %q over HTTP/2", resp.Proto, resp.Status, said, err, resp.Header.Get("apns-id"), tt.status, tt.said)
			}
			select {
			case p := <-came:
				if tt.magic == "" || string(p.Token) != "token" || p.Magic != tt.magic || p.Topic != topic || p.Problem != "" || !p.Expiration.IsZero() {
					t.Errorf("handed on: %+v", p)
				}
			default:
				if tt.magic != "" {
					t.Error("nothing was handed on")
				}
			}
		})
	}
}

func TestOnlyItsOwnCertificatesAreAccepted(t *testing.T) {
	storagetest.AnyEngine(t)
	s := newServer(t, standin.Options{OnPush: func(standin.Push) standin.Answer { return standin.Answer{} }})
	authority, err := s.PEM()
	if err != nil {
		t.Fatal(err)
	}
	again := newServer(t, standin.Options{Authority: authority, OnPush: func(standin.Push) standin.Answer { return standin.Answer{} }})
	other := newServer(t, standin.Options{OnPush: func(standin.Push) standin.Answer { return standin.Answer{} }})
	for name, tt := range map[string]struct {
		client   *http.Client
		accepted bool
	}{
		"its own":             {newClient(t, s, s), true},
		"of an earlier start": {newClient(t, s, again), true},
		"of another":          {newClient(t, other, s), false},
		"none":                {newClient(t, nil, s), false},
	} {
		t.Run(name, func(t *testing.T) {
			to := s
			if name == "of an earlier start" {
				to = again
			}
			resp, err := tt.client.Do(newRequest(t, to, []byte("token"), "m"))
			if err == nil {
				resp.Body.Close()
			}
			if (err == nil) != tt.accepted {
				t.Errorf("error %v, want the client accepted: %v", err, tt.accepted)
			}
		})
	}
	if _, err := standin.New(standin.Options{Authority: []byte("torn")}); err == nil {
		t.Error("an authority that is none is taken")
	}
}

func TestAfterCloseNothingIsTaken(t *testing.T) {
	storagetest.AnyEngine(t)
	s := newServer(t, standin.Options{OnPush: func(standin.Push) standin.Answer { return standin.Answer{} }})
	client := newClient(t, s, s)
	resp, err := client.Do(newRequest(t, s, []byte("token"), "m"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if resp, err := client.Do(newRequest(t, s, []byte("token"), "m")); err == nil {
		resp.Body.Close()
		t.Error("a push was taken over the connection that was open")
	}
}
