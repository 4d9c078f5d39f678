package webui

import "net/http"

// Ready answers GET /readyz, as [Site] mounts it.
func (h *Health) Ready() HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error { return h.ready(w, r) }
}
