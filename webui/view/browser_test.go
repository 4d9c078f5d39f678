package view

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/webui/browsertest"
)

// TestPagesInABrowser shows every sample on a phone and on a desk, by day and by
// night, and looks for what a person would trip over.
func TestPagesInABrowser(t *testing.T) {
	views, err := New()
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	pages := samples(t)
	for i, page := range pages {
		mux.HandleFunc(fmt.Sprintf("GET /%d", i), func(w http.ResponseWriter, _ *http.Request) {
			if err := views.Write(w, http.StatusOK, page); err != nil {
				t.Error(err)
			}
		})
	}
	mux.HandleFunc("GET "+AssetsPath, func(w http.ResponseWriter, r *http.Request) { views.Assets().Serve(w, r) })
	srv := httptest.NewServer(mux)
	defer srv.Close()

	browser := browsertest.Open(t)
	for i, page := range pages {
		t.Run(fmt.Sprintf("%d %s", i, reflect.TypeOf(page).Name()), func(t *testing.T) {
			browser := browser.In(t)
			type screen struct {
				width, height int64
				dark          bool
			}
			screens := []screen{{320, 720, false}, {390, 844, true}, {768, 1024, false}, {1280, 900, true}, {1280, 900, false}}
			if page.layout() == (Portal{}).layout() {
				// One column at any width; its rooms look closer, with texts as people read them.
				screens = []screen{{320, 720, false}, {1280, 900, true}}
			}
			for _, screen := range screens {
				browser.Screen(screen.width, screen.height, screen.dark)
				browser.Go(fmt.Sprintf("%s/%d", srv.URL, i))
				browser.Check()
			}
		})
	}
}
