package portal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/machineinfo"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/portal"
)

// delivers answers every statement alike.
type delivers struct{ err error }

func (d delivers) Deliver(_ context.Context, token, _ string, body []byte) ([]byte, error) {
	return []byte(token + " " + string(body)), d.err
}

func TestWhatADeviceIsTold(t *testing.T) {
	storagetest.AnyEngine(t)
	for _, tt := range []struct {
		err    error
		status int
		code   string
	}{
		{nil, 200, "token body"},
		{fmt.Errorf("%w: %w", enroll.ErrStatement, guard.ErrCMS), 400, "GH-E301"},
		{fmt.Errorf("%w: %w", enroll.ErrStatement, guard.ErrTooLarge), 413, "GH-E301"},
		{machineinfo.ErrNotApple, 403, "GH-E302"},
		{enroll.ErrDelivery, 410, "GH-E303"},
		{enroll.ErrNotReady, 410, "GH-E303"},
		{enroll.ErrSerialNumber, 403, "GH-E304"},
		{enroll.ErrDeviceOwned, 403, "GH-E305"},
		{mdm.ErrBlocked, 403, "GH-E306"},
		{enroll.ErrUserDisabled, 403, "GH-E106"},
		{identity.ErrMayNotEnroll, 403, "GH-E106"},
		{enroll.ErrLinkExpired, 410, "GH-E102"},
		{enroll.ErrLinkUsedUp, 410, "GH-E103"},
		{enroll.ErrLinkRevoked, 410, "GH-E104"},
		{storage.ErrUnavailable, 503, "GH-E008"},
		{context.DeadlineExceeded, 503, "GH-E006"},
		{errors.New("the secret is xyzzy"), 500, "GH-E007"},
	} {
		t.Run(fmt.Sprint(tt.err), func(t *testing.T) {
			var log bytes.Buffer
			d, err := portal.NewDeliveries(delivers{tt.err}, slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			mux := webui.NewMux(d.Fail)
			d.Mount(mux.Group(webui.Group{BodyLimit: portal.MaxDeliveryBody, Timeout: time.Minute, Fail: d.Fail}))
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, httptest.NewRequest("POST", enroll.PathOTA+"token", strings.NewReader("body")))
			if w.Code != tt.status || !strings.HasPrefix(w.Body.String(), tt.code) || strings.Contains(w.Body.String(), "xyzzy") {
				t.Errorf("%d %q, want %d and %s", w.Code, w.Body, tt.status, tt.code)
			}
			if !strings.Contains(w.Header().Get("Cache-Control"), "no-store") || (w.Code == 503) != (w.Header().Get("Retry-After") != "") {
				t.Errorf("headers %v", w.Header())
			}
			if (log.Len() > 0) != (tt.err != nil) || tt.status < 500 && tt.err != nil && !strings.Contains(log.String(), "code="+tt.code) {
				t.Errorf("the log has %s", &log)
			}
		})
	}
}
