package webui

import (
	"net/http"
	"net/url"
	"strings"
)

// contentSecurityPolicy lets pages load nothing but our own files, run no inline
// script or style, be framed by nobody and post nowhere else.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; " +
	"font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// SecurityHeaders sets the headers that every answer carries. serverURL is the
// URL that clients use: under https they are told to never try without, except on
// localhost, where that would bind every other server on the machine too.
func SecurityHeaders(serverURL *url.URL) Middleware {
	strict := serverURL.Scheme == "https" && serverURL.Hostname() != "localhost"
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h := w.Header()
			h.Set("Content-Security-Policy", contentSecurityPolicy)
			h.Set("X-Content-Type-Options", "nosniff")
			h.Set("X-Frame-Options", "DENY") // browsers that don't know frame-ancestors
			// Not no-referrer: with that, browsers send "Origin: null" with our own
			// forms, and old ones, without Sec-Fetch-Site, would be refused.
			h.Set("Referrer-Policy", "same-origin")
			h.Set("Cross-Origin-Opener-Policy", "same-origin")
			h.Set("Cross-Origin-Resource-Policy", "same-origin")
			h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=()")
			if strict {
				h.Set("Strict-Transport-Security", "max-age=31536000")
			}
			next.ServeHTTP(w, r)
		})
	}
}

// handBackScheme is that of the address at which a device waits for its browser view to
// come back (Apple, "Implementing the simple authentication account-driven enrollment flow").
const handBackScheme = "apple-remotemanagement-user-login:"

// AllowHandBack lets the forms of the page that is about to be sent lead a device's browser
// view back to the device. Browsers hold form-action against where the answer to a form
// redirects to as well.
func AllowHandBack(w http.ResponseWriter) {
	const forms = "form-action 'self'"
	h := w.Header()
	h.Set("Content-Security-Policy", strings.Replace(h.Get("Content-Security-Policy"), forms, forms+" "+handBackScheme, 1))
}

// SameOrigin refuses what another site makes a browser send. Requests that don't
// come from a browser (devices, programs) carry neither Origin nor Sec-Fetch-Site
// and pass.
func SameOrigin(serverURL *url.URL, fail FailFunc) (Middleware, error) {
	protection := http.NewCrossOriginProtection()
	// A proxy may rewrite Host; then an old browser, which sends Origin but not
	// Sec-Fetch-Site, would be refused on our own pages.
	if err := protection.AddTrustedOrigin(serverURL.Scheme + "://" + serverURL.Host); err != nil {
		return nil, err
	}
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fail(w, r, &Problem{Status: http.StatusForbidden, Code: "cross_origin", Title: "This request came from another website"})
	}))
	return protection.Handler, nil
}
