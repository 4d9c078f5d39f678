package portal

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// LogoPath is where the organisation's picture is served, under its hash.
const LogoPath = "/logo/"

// Logos have the organisation's picture. *enroll.Service is one.
type Logos interface {
	Logo(ctx context.Context, sha256 string) (enroll.Logo, error)
}

// MountLogo registers the organisation's picture. It stands in pages and mails, so that
// whoever asks may see it. Browsers may keep it: another picture has another hash.
func MountLogo(r webui.Router, logos Logos) {
	r.Handle("GET "+LogoPath+"{sha256}", func(w http.ResponseWriter, r *http.Request) error {
		l, err := logos.Logo(r.Context(), r.PathValue("sha256"))
		if errors.Is(err, storage.ErrNotFound) {
			return &webui.Problem{Status: http.StatusNotFound, Code: "not_found", Title: "Not found"}
		}
		if err != nil {
			return err
		}
		h := w.Header()
		h.Set("Content-Type", l.ContentType)
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
		h.Set("X-Content-Type-Options", "nosniff")
		// It is a stranger's file: opened by itself, it does nothing.
		h.Set("Content-Security-Policy", "default-src 'none'; sandbox")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(l.Content))
		return nil
	})
}
