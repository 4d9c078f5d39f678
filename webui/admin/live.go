package admin

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// streamLife is how long one stream of events lasts. Then the browser opens the next where
// this one ended, and its session is looked at again.
const streamLife = time.Minute

// live is the stream that says what happens, so that pages fetch what has changed: events
// of the API without names, for a browser's onmessage.
func (d *Desk) live(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), streamLife)
	defer cancel()
	query := url.Values{"unnamed": {"true"}}
	if after := r.URL.Query().Get("after"); after != "" {
		query.Set("after", after)
	}
	return d.Forward(w, r.WithContext(ctx), "/api/v1/events", query)
}
