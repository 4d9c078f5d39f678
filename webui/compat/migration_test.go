package compat_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/compat"
)

// handed is what a test was handed over, and what it says to it.
type handed struct {
	last enroll.HandOver
	err  error
}

func (h *handed) HandedOver(_ context.Context, m enroll.HandOver) error {
	h.last = m
	return h.err
}

func message(keys string) string {
	return `<?xml version="1.0" encoding="UTF-8"?><plist version="1.0"><dict>` + keys + `</dict></plist>`
}

func TestCheckInsOfAnotherServerAreHandedOver(t *testing.T) {
	storagetest.AnyEngine(t)
	var config compat.Config
	h := newHouse(t, func(c *compat.Config) { config = *c })
	api, err := compat.New(config)
	must(t, err)
	to := &handed{}
	mux := webui.NewMux(func(w http.ResponseWriter, _ *http.Request, err error) { http.Error(w, err.Error(), http.StatusTeapot) })
	api.MountMigration(mux, to)
	srv := httptest.NewServer(webui.Chain(mux, webui.RealPeer(nil), webui.AssignRequestID))
	t.Cleanup(srv.Close)
	h.url = srv.URL
	text := func(key, value string) string { return "<key>" + key + "</key><string>" + value + "</string>" }

	got := h.call(t, "nanomdm", "PUT", "/migration", message(text("MessageType", "Authenticate")+text("UDID", "A-1")+text("Topic", "com.apple.mgmt.x")+text("SerialNumber", "C02")))
	if got.status != http.StatusOK || got.body != "" {
		t.Errorf("Authenticate: %d %q, want 200 and nothing", got.status, got.body)
	}
	if to.last.Message != "Authenticate" || to.last.ID != (mdm.AppleID{UDID: "A-1"}) || to.last.Facts.SerialNumber != "C02" {
		t.Errorf("Authenticate is handed over as %+v", to.last)
	}
	h.call(t, "nanomdm", "PUT", "/migration", message(text("MessageType", "TokenUpdate")+text("UDID", "A-1")+text("Topic", "com.apple.mgmt.x")+
		text("PushMagic", "magic")+"<key>Token</key><data>AQI=</data><key>UnlockToken</key><data>AwQ=</data>"+text("UserID", "501")+text("UserShortName", "ana")))
	if p := to.last; p.ID.UserID != "501" || p.Push.Magic != "magic" || string(p.Push.Token) != "\x01\x02" || p.Push.Topic != "com.apple.mgmt.x" || string(p.UnlockToken) != "\x03\x04" || p.UserShortName != "ana" {
		t.Errorf("TokenUpdate is handed over as %+v", p)
	}
	h.call(t, "nanomdm", "PUT", "/migration", message(text("MessageType", "TokenUpdate")+text("UDID", "A-1")+text("UserID", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF")+text("UserShortName", "ana")))
	if got := to.last.ID.UserID; got != "ana" {
		t.Errorf("the user of a Shared iPad is %q, want her account", got)
	}

	for name, tt := range map[string]struct {
		err    error
		body   string
		token  identity.Scope
		status int
	}{
		"a body that is no message":    {body: "hello", token: identity.ScopeOwner, status: 400},
		"a message that is refused":    {err: fmt.Errorf("%w: no", enroll.ErrBadMessage), body: message(""), token: identity.ScopeOwner, status: 400},
		"a device that is here":        {err: fmt.Errorf("%w: it is enrolled here", enroll.ErrNotHandedOver), body: message(""), token: identity.ScopeOwner, status: 409},
		"a failure of ours":            {err: errors.New("the disk is full"), body: message(""), token: identity.ScopeOwner, status: 500},
		"a token that may do less":     {body: message(""), token: identity.ScopeAdmin, status: 403},
		"a token that nobody has made": {body: message(""), status: 401},
	} {
		t.Run(name, func(t *testing.T) {
			to.err = tt.err
			password := "made-up-token-that-nobody-has"
			if tt.token != "" {
				password = h.token(t, tt.token)
			}
			if got := h.callWith(t, "nanomdm", password, "PUT", "/migration", tt.body); got.status != tt.status {
				t.Errorf("%d %s, want %d", got.status, got.body, tt.status)
			}
		})
	}
}
