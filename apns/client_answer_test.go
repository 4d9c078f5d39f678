package apns_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/apns/apnstest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// Apple's whole table ("Handling notification responses from APNs"), and what PROTOCOL 6.3
// makes of it.
var appleReasons = []struct {
	status  int
	reasons string
	want    apns.Result // Outcome, Whole and Ours
}{
	{400, "BadDeviceToken DeviceTokenNotForTopic BadTopic TopicDisallowed MissingTopic", apns.Result{Outcome: apns.Refused}},
	{400, "IdleTimeout", apns.Result{Outcome: apns.Retry}},
	{400, "BadCollapseId BadExpirationDate BadMessageId BadPriority DuplicateHeaders InvalidPushType MissingDeviceToken PayloadEmpty",
		apns.Result{Outcome: apns.Refused, Ours: true}},
	{403, "BadCertificate BadCertificateEnvironment Forbidden BadEnvironmentKeyIdInToken ExpiredProviderToken InvalidProviderToken MissingProviderToken UnrelatedKeyIdInToken",
		apns.Result{Outcome: apns.Refused, Whole: true}},
	{404, "BadPath", apns.Result{Outcome: apns.Refused, Ours: true}},
	{405, "MethodNotAllowed", apns.Result{Outcome: apns.Refused, Ours: true}},
	{410, "ExpiredToken Unregistered", apns.Result{Outcome: apns.TokenInvalid}},
	{413, "PayloadTooLarge", apns.Result{Outcome: apns.Refused, Ours: true}},
	{429, "TooManyRequests", apns.Result{Outcome: apns.Retry}},
	{429, "TooManyProviderTokenUpdates", apns.Result{Outcome: apns.Retry, Whole: true}},
	{500, "InternalServerError", apns.Result{Outcome: apns.Retry, Whole: true}},
	{503, "ServiceUnavailable", apns.Result{Outcome: apns.Retry, Whole: true}},
	{503, "Shutdown", apns.Result{Outcome: apns.Retry}},
}

func TestEachReasonOfApplesHasItsAction(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t, apnstest.Options{})
	w.certificate(t, topic)
	for _, row := range appleReasons {
		for reason := range strings.FieldsSeq(row.reasons) {
			token := []byte(reason)
			w.server.Script(token, apnstest.Answer{Status: row.status, Reason: reason})
			got := w.push(t, apns.Push{Token: token, Magic: "magic"})[0]
			if got.Outcome != row.want.Outcome || got.Whole != row.want.Whole || got.Ours != row.want.Ours || got.Status != row.status || got.Reason != reason {
				t.Errorf("%d %s: %+v, want %+v", row.status, reason, got, row.want)
			}
		}
	}
}

func TestStrangeAnswersAreUnderstood(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t, apnstest.Options{})
	w.certificate(t, topic)
	dead := time.UnixMilli(1_760_000_000_123).UTC()
	html := []byte("<html><title>503 Service Unavailable</title></html>")
	none := apns.ReasonUnexpected
	for name, tt := range map[string]struct {
		answer apnstest.Answer
		want   apns.Result // all but Detail and APNsID
	}{
		"a dead token has its time, to the millisecond": {
			apnstest.Answer{Status: 410, Reason: "Unregistered", Timestamp: dead},
			apns.Result{Outcome: apns.TokenInvalid, Reason: "Unregistered", Timestamp: dead},
		},
		"a time that is no number is none": {
			apnstest.Answer{Status: 410, Body: []byte(`{"reason":"Unregistered","timestamp":"yesterday"}`)},
			apns.Result{Outcome: apns.TokenInvalid, Reason: "Unregistered"},
		},
		"410 without Apple's word is no dead token": {
			apnstest.Answer{Status: 410, Body: html},
			apns.Result{Outcome: apns.Refused, Reason: none},
		},
		"410 with another word is no dead token": {
			apnstest.Answer{Status: 410, Reason: "GoneFishing"},
			apns.Result{Outcome: apns.Refused, Reason: "GoneFishing"},
		},
		"a reason with another status does not count": {
			apnstest.Answer{Status: 400, Reason: "Unregistered"},
			apns.Result{Outcome: apns.Refused, Reason: "Unregistered"},
		},
		"an unknown reason is not ours": {
			apnstest.Answer{Status: 400, Reason: "BadMoon"},
			apns.Result{Outcome: apns.Refused, Reason: "BadMoon"},
		},
		"an unknown reason of 403 is the certificate's": {
			apnstest.Answer{Status: 403, Reason: "BadMoon"},
			apns.Result{Outcome: apns.Refused, Reason: "BadMoon", Whole: true},
		},
		"an unknown status": {
			apnstest.Answer{Status: 418, Reason: "Teapot"},
			apns.Result{Outcome: apns.Refused, Reason: "Teapot"},
		},
		"404 of somebody else is not our path": {
			apnstest.Answer{Status: 404, Body: html},
			apns.Result{Outcome: apns.Refused, Reason: none},
		},
		"429 says how long to wait": {
			apnstest.Answer{Status: 429, Reason: "TooManyRequests", Header: map[string]string{"Retry-After": "30"}},
			apns.Result{Outcome: apns.Retry, Reason: "TooManyRequests", RetryAfter: 30 * time.Second},
		},
		"nobody waits for years": {
			apnstest.Answer{Status: 429, Reason: "TooManyRequests", Header: map[string]string{"Retry-After": "2000000000"}},
			apns.Result{Outcome: apns.Retry, Reason: "TooManyRequests", RetryAfter: 24 * time.Hour},
		},
		"503 with HTML, and a date in the past": {
			apnstest.Answer{Status: 503, Body: html, Header: map[string]string{"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT", "Content-Type": "text/html"}},
			apns.Result{Outcome: apns.Retry, Reason: none, Whole: true},
		},
		"503 with nothing":        {apnstest.Answer{Status: 503}, apns.Result{Outcome: apns.Retry, Reason: none, Whole: true}},
		"500 with nothing":        {apnstest.Answer{Status: 500}, apns.Result{Outcome: apns.Retry, Reason: none, Whole: true}},
		"502 of a gateway":        {apnstest.Answer{Status: 502, Body: html}, apns.Result{Outcome: apns.Retry, Reason: none, Whole: true}},
		"a redirect":              {apnstest.Answer{Status: 307, Header: map[string]string{"Location": "/elsewhere"}}, apns.Result{Outcome: apns.Retry, Reason: none, Whole: true}},
		"204 is not taken":        {apnstest.Answer{Status: 204}, apns.Result{Outcome: apns.Retry, Reason: none, Whole: true}},
		"200 with something else": {apnstest.Answer{Body: html}, apns.Result{Outcome: apns.Sent}},
		"JSON that is no object":  {apnstest.Answer{Status: 400, Body: []byte(`["BadTopic"]`)}, apns.Result{Outcome: apns.Refused, Reason: none}},
		"a reason that forges a line of the log": {
			apnstest.Answer{Status: 400, Reason: "Bad\nlevel=ERROR"},
			apns.Result{Outcome: apns.Refused, Reason: none},
		},
		"a reason without end": {
			apnstest.Answer{Status: 400, Reason: strings.Repeat("A", 5000)},
			apns.Result{Outcome: apns.Refused, Reason: none},
		},
		"a body of 64 MiB": {
			apnstest.Answer{Status: 400, Body: []byte(`{"reason":"BadDeviceToken"}`), Padding: 64 << 20},
			apns.Result{Outcome: apns.Refused, Reason: "BadDeviceToken"},
		},
		"a body that breaks off": {
			apnstest.Answer{Status: 410, Body: []byte(`{"reason":"Unregi`), Truncate: true},
			apns.Result{Outcome: apns.Refused, Reason: none},
		},
	} {
		t.Run(name, func(t *testing.T) {
			token := []byte(name)
			before := w.server.Count()
			w.server.Script(token, tt.answer)
			got := w.push(t, apns.Push{Token: token, Magic: "magic"})[0]
			if (got.Detail == "") != (got.Reason != none) {
				t.Errorf("Detail is %q", got.Detail)
			}
			if tt.want.Status = tt.answer.Status; tt.want.Status == 0 {
				tt.want.Status = http.StatusOK
			}
			got.Detail, got.APNsID = "", ""
			if got != tt.want {
				t.Errorf("got %+v\nwant %+v", got, tt.want)
			}
			if n := w.server.Count() - before; n != 1 {
				t.Errorf("%d requests came, want 1", n)
			}
			// The connection, or the next one, is none the worse for it.
			if r := w.push(t, apns.Push{Token: []byte("next"), Magic: "magic"})[0]; r.Outcome != apns.Sent {
				t.Errorf("the push after it: %+v", r)
			}
		})
	}
}

func TestRetryAfterMayBeADate(t *testing.T) {
	storagetest.AnyEngine(t)
	now := time.Now().Truncate(time.Second)
	w := newWorld(t, apnstest.Options{}, func(c *apns.ClientConfig) { c.Now = func() time.Time { return now } })
	w.certificate(t, topic)
	w.server.Script([]byte("a"), apnstest.Answer{Status: 503, Reason: "ServiceUnavailable", Header: map[string]string{
		"Retry-After": now.Add(90 * time.Second).UTC().Format(http.TimeFormat),
	}})
	if r := w.push(t, apns.Push{Token: []byte("a"), Magic: "m"})[0]; r.RetryAfter != 90*time.Second {
		t.Errorf("RetryAfter = %v, want 1m30s", r.RetryAfter)
	}
}

func TestARefusedCertificateStopsTheBatch(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t, apnstest.Options{OnPush: func(apnstest.Received) apnstest.Answer {
		return apnstest.Answer{Status: 403, Reason: "BadCertificate"}
	}})
	w.certificate(t, topic)
	for i, r := range w.push(t, many(1000)...) {
		if r.Outcome != apns.Refused || !r.Whole || r.Reason != "BadCertificate" {
			t.Fatalf("push %d: %+v, want refused for all", i, r)
		}
	}
	if n := w.server.Count(); n != 1 {
		t.Errorf("%d pushes went to a server that refuses the certificate, want 1", n)
	}
}

// many makes pushes whose tokens are all different.
func many(n int) []apns.Push {
	pushes := make([]apns.Push, n)
	for i := range pushes {
		pushes[i] = apns.Push{Token: fmt.Appendf(nil, "token-%06d", i), Magic: fmt.Sprintf("magic-%06d", i)}
	}
	return pushes
}
