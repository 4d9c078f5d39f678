package portal_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/portal"
)

// oneLogo is there under one hash.
type oneLogo struct{}

func (oneLogo) Logo(_ context.Context, sha256 string) (enroll.Logo, error) {
	if sha256 != "abc" {
		return enroll.Logo{}, fmt.Errorf("logo: %w", storage.ErrNotFound)
	}
	return enroll.Logo{ContentType: "image/png", Content: []byte("\x89PNG")}, nil
}

func TestTheLogoIsAPictureAndNothingElse(t *testing.T) {
	storagetest.AnyEngine(t)
	mux := webui.NewMux(func(w http.ResponseWriter, _ *http.Request, err error) {
		http.Error(w, err.Error(), http.StatusNotFound)
	})
	portal.MountLogo(mux.Group(webui.Group{Fail: func(w http.ResponseWriter, _ *http.Request, err error) {
		http.Error(w, err.Error(), http.StatusNotFound)
	}}), oneLogo{})
	get := func(method, path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w
	}
	w := get("GET", portal.LogoPath+"abc")
	for name, want := range map[string]string{
		"Content-Type": "image/png", "X-Content-Type-Options": "nosniff", "Content-Length": "4",
		"Cache-Control": "public, max-age=31536000, immutable", "Content-Security-Policy": "default-src 'none'; sandbox",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if w.Code != 200 || w.Body.String() != "\x89PNG" {
		t.Errorf("the answer is %d %q", w.Code, w.Body)
	}
	if w := get("HEAD", portal.LogoPath+"abc"); w.Code != 200 || w.Body.Len() != 0 {
		t.Errorf("HEAD is %d, %d bytes", w.Code, w.Body.Len())
	}
	if w := get("GET", portal.LogoPath+"abd"); w.Code != 404 || w.Header().Get("Cache-Control") != "" {
		t.Errorf("another hash is %d, %q", w.Code, w.Header().Get("Cache-Control"))
	}
}
