package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/scep"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// desk is what an administrator would do by the API.
type desk struct {
	*composed
	templates *template.Service
	issuance  *issuance.Service
}

func (c *composed) desk(t testing.TB) *desk {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	templates, err := template.NewService(template.Config{DB: c.db, Box: c.state.box, Log: log, Now: c.now})
	must(t, err)
	events, err := event.New(event.Config{DB: c.db, Log: log, Now: c.now})
	must(t, err)
	serverURL, err := url.Parse(c.url)
	must(t, err)
	others, err := scep.NewClient(scep.ClientConfig{Log: log, Now: c.now})
	must(t, err)
	payloads, err := issuance.New(issuance.Config{
		DB: c.db, Depot: c.state.depot, Templates: templates, MDM: c.devices, Audit: events, Upstream: others,
		Sign: profileSigner(c.state.depot.Root, nil, nil, c.now), ServerURL: serverURL, Log: log, Now: c.now,
	})
	must(t, err)
	return &desk{c, templates, payloads}
}

func (d *desk) template(t testing.TB, name string, change func(*template.Template)) {
	t.Helper()
	tmpl := template.New(name)
	var err error
	tmpl.Subject, err = template.ParseSubject("/O=Example/OU=$EMAIL/CN=$SERIALNUMBER")
	must(t, err)
	tmpl.SANs = template.SANs{DNSNames: []string{"$SERIALNUMBER.example.com"}, URIs: []string{"mdm-device://$DEVICE_ID"}}
	change(&tmpl)
	_, err = d.templates.Create(context.Background(), "test", tmpl, nil)
	must(t, err)
}

// send has a device fetch a certificate, and returns the server's ID of it.
func (d *desk) send(t testing.TB, name string, device *mdmtest.Device) (id mdm.DeviceID) {
	t.Helper()
	must(t, d.db.View(t.Context(), func(tx storage.Tx) error {
		found, err := mdm.FindDevice(tx, mdm.AppleID{UDID: device.ID()})
		id = found.ID
		return err
	}))
	_, rejected, err := d.issuance.Send(t.Context(), "test", name, []mdm.DeviceID{id})
	must(t, err)
	if len(rejected) > 0 {
		t.Fatalf("rejected %+v", rejected)
	}
	return id
}

// only is the one certificate of a template on record.
func (d *desk) only(t testing.TB, name string) (found depot.Certificate) {
	t.Helper()
	n := 0
	must(t, d.db.View(t.Context(), func(tx storage.Tx) error {
		n = 0
		page, _, err := d.state.depot.Page(tx, "", 1000)
		for _, c := range page {
			if c.Template == name {
				found, n = c, n+1
			}
		}
		return err
	}))
	if n != 1 {
		t.Fatalf("there are %d certificates of %s, want one", n, name)
	}
	return found
}

// TestACertificateOfAnotherServer has two servers, of which one passes on to the other
// what a device asks it for.
func TestACertificateOfAnotherServer(t *testing.T) {
	storagetest.AnyEngine(t)
	const challenge = "what the corporation was told"
	for name, tt := range map[string]struct {
		change func(u *template.Upstream, page string)
		issuer template.Issuer
	}{
		"passed on, with a static challenge": {func(u *template.Upstream, _ string) {
			u.ChallengeType, u.Challenge = template.UpstreamStatic, challenge
		}, template.Proxy},
		"passed on, with one that is fetched": {func(u *template.Upstream, page string) {
			u.ChallengeType, u.ChallengeURL = template.UpstreamDynamic, page
		}, template.Proxy},
		"asked for by the device": {func(u *template.Upstream, _ string) {
			u.ChallengeType, u.Challenge = template.UpstreamStatic, challenge
		}, template.External},
	} {
		t.Run(name, func(t *testing.T) {
			theirs, ours := newComposed(t, nil).desk(t), newComposed(t, nil).desk(t)
			theirs.template(t, "corp", func(tmpl *template.Template) {
				tmpl.ChallengeType, tmpl.Challenge = template.Static, challenge
			})
			page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, "<HTML>The enrollment challenge password is: <B> "+strings.ReplaceAll(challenge, " ", "&#32;")+" </B></HTML>")
			}))
			defer page.Close()
			ca := theirs.state.depot.Payload().Certificate()
			sum := sha256.Sum256(ca.Raw)
			ours.template(t, "wifi", func(tmpl *template.Template) {
				tmpl.Issuer = tt.issuer
				tmpl.Upstream = template.Upstream{URL: theirs.url + "/scep/corp", Name: "corp", Fingerprint: sum[:], AllowPrivate: true}
				tt.change(&tmpl.Upstream, page.URL)
			})

			d := ours.enrolled(t, mdmtest.Options{})
			id := ours.send(t, "wifi", d)
			if _, err := d.Poll(t.Context()); err != nil {
				t.Fatal(err)
			}
			credentials := d.Channel().Credentials()
			if len(credentials) != 1 {
				t.Fatalf("the device has %d certificates, want one", len(credentials))
			}
			cert := credentials[0].Certificate
			issued := theirs.only(t, "corp")
			if err := cert.CheckSignatureFrom(ca); err != nil || issued.Fingerprint != depot.FingerprintOf(cert) {
				t.Errorf("the device has %s of %s (%v), want the one that the other server issued", cert.Subject, cert.Issuer, err)
			}
			if tt.issuer == template.External {
				return
			}
			rec := ours.only(t, "wifi")
			if rec.Fingerprint != issued.Fingerprint || rec.Authority != depot.ExternalAuthority || rec.DeviceID != string(id) || rec.User != "ana@example.com" {
				t.Errorf("on record is %+v", rec)
			}
			log := ours.log.String()
			if !strings.Contains(log, "/scep/{name}/k/{token}") || regexp.MustCompile(`/k/[^{]`).MatchString(log) || strings.Contains(log, challenge) {
				t.Error("the log does not tell of the request, or it tells a token or a challenge")
			}
		})
	}
}

// TestAnotherServerThatIsDown has the device come back.
func TestAnotherServerThatIsDown(t *testing.T) {
	storagetest.AnyEngine(t)
	theirs, ours := newComposed(t, nil).desk(t), newComposed(t, nil).desk(t)
	theirs.template(t, "corp", func(tmpl *template.Template) {
		tmpl.ChallengeType, tmpl.Challenge, tmpl.SANs = template.Static, "their challenge", template.SANs{}
	})
	var down atomic.Bool
	down.Store(true)
	gate := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		r.RequestURI, r.URL.Scheme, r.URL.Host = "", "http", strings.TrimPrefix(theirs.url, "http://")
		resp, err := theirs.http.RoundTrip(r)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		_, _ = io.Copy(w, resp.Body)
	}))
	defer gate.Close()
	sum := sha256.Sum256(theirs.state.depot.Payload().Certificate().Raw)
	ours.template(t, "wifi", func(tmpl *template.Template) {
		tmpl.Issuer, tmpl.SANs = template.Proxy, template.SANs{}
		tmpl.Upstream = template.Upstream{
			URL: gate.URL + "/scep/corp", Fingerprint: sum[:], AllowPrivate: true,
			ChallengeType: template.UpstreamStatic, Challenge: "their challenge",
		}
	})
	d := ours.enrolled(t, mdmtest.Options{})
	ours.send(t, "wifi", d)
	cmd, err := d.Idle(t.Context())
	must(t, err)
	raw, ok := cmd.Params["Payload"].([]byte)
	if !ok {
		t.Fatalf("the device is to run %v", cmd.Params)
	}
	p, err := d.Configuration(raw)
	must(t, err)
	payload := p.SCEPs[0]
	client := &mdmtest.SCEP{
		URL: payload.URL, Name: payload.Name, Fingerprint: payload.CAFingerprint,
		HTTP: &http.Client{Transport: ours.http}, Now: ours.now, Rand: rand.Reader,
	}
	must(t, client.Discover(t.Context()))
	pool, err := keyPool()
	must(t, err)
	key, err := pool.Key()
	must(t, err)
	request, err := client.Request(key, payload.Subject, payload.Challenge, nil)
	must(t, err)

	_, err = client.Send(t.Context(), request)
	var answer *mdmtest.HTTPError
	if !errors.As(err, &answer) || answer.Status != http.StatusServiceUnavailable || answer.Header.Get("Retry-After") == "" {
		t.Errorf("while the other server is down: %v, want a 503 with Retry-After", err)
	}
	down.Store(false)
	cert, err := client.Send(t.Context(), request)
	must(t, err)
	if issued := theirs.only(t, "corp"); issued.Fingerprint != depot.FingerprintOf(cert) {
		t.Error("the certificate is not the one that the other server issued")
	}
	again, err := client.Send(t.Context(), request)
	if err != nil || !again.Equal(cert) {
		t.Errorf("the same request again: %v", err)
	}
	theirs.only(t, "corp")
}
