package text_test

import (
	"log/slog"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
)

// BenchmarkNew is a part of the server's start.
func BenchmarkNew(b *testing.B) {
	c := text.Config{DB: storagetest.Open(b), Log: slog.New(slog.DiscardHandler), Now: time.Now}
	for b.Loop() {
		if _, err := text.New(c); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFor is a part of every page: its language, and whether texts have changed.
func BenchmarkFor(b *testing.B) {
	cat := newCatalogue(b, nil)
	r := httptest.NewRequest("GET", "/enroll", nil)
	r.Header.Set("Accept-Language", "de-AT,de;q=0.9,en;q=0.8")
	for b.Loop() {
		if _, err := cat.For(r); err != nil {
			b.Fatal(err)
		}
	}
}
