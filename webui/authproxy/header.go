package authproxy

import (
	"net/http"
	"strings"
)

// ours is what cookies of this server begin with, under whichever name they go.
const ours = "gatehouse"

func isOurs(cookie string) bool {
	name := strings.ToLower(strings.TrimSpace(cookie))
	for _, prefix := range []string{"__host-", "__secure-"} {
		name = strings.TrimPrefix(name, prefix)
	}
	return strings.HasPrefix(name, ours)
}

// clean takes out of a request what proves to us who sends it, and what would tell the other
// server something that only we may tell it. Servers differ in what they take for a dash.
func clean(h http.Header) {
	for key := range h {
		name := strings.ReplaceAll(strings.ToLower(key), "_", "-")
		switch {
		case strings.HasPrefix(name, "x-enrollment-"), strings.HasPrefix(name, "x-forwarded-"), strings.HasPrefix(name, "mdm-signature"),
			name == "x-trace-id", name == "x-real-ip", name == "forwarded", name == "upgrade", name == "connection":
			delete(h, key)
		case name == "authorization":
			// Devices that were enrolled by account show the access token of their user.
			for _, value := range h[key] {
				if scheme, _, _ := strings.Cut(strings.TrimSpace(value), " "); strings.EqualFold(scheme, "Bearer") {
					delete(h, key)
					break
				}
			}
		}
	}
	var kept []string
	for _, line := range h.Values("Cookie") {
		for pair := range strings.SplitSeq(line, ";") {
			if pair = strings.TrimSpace(pair); pair != "" && !isOurs(pair) {
				kept = append(kept, pair)
			}
		}
	}
	h.Del("Cookie")
	if len(kept) > 0 {
		h.Set("Cookie", strings.Join(kept, "; "))
	}
}

// foreign takes out of an answer what another server has no say in under this one's name: the
// headers by which browsers keep its pages safe, and its cookies.
func foreign(h http.Header) {
	for _, name := range []string{
		"Content-Security-Policy", "X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy", "Cross-Origin-Opener-Policy",
		"Cross-Origin-Resource-Policy", "Permissions-Policy", "Strict-Transport-Security", "X-Request-ID",
		"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Clear-Site-Data", "Service-Worker-Allowed", "Alt-Svc",
	} {
		h.Del(name)
	}
	cookies := h.Values("Set-Cookie")
	h.Del("Set-Cookie")
	for _, cookie := range cookies {
		if !isOurs(cookie) {
			h.Add("Set-Cookie", cookie)
		}
	}
}
