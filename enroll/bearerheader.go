package enroll

import (
	"net/http"
	"strings"
)

// maxBearer is more bytes than an access token of ours has.
const maxBearer = 512

// BearerOf returns the access token of its user that a device shows in r (RFC 6750, 2.1),
// for [Peer] and [AccountRequest]; empty if it shows none. What can't be a token is as good
// as an unknown one.
func BearerOf(r *http.Request) string {
	values := r.Header.Values("Authorization")
	if len(values) == 0 {
		return ""
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if len(values) > 1 || !strings.EqualFold(scheme, "Bearer") || len(token) > maxBearer {
		return "-"
	}
	return strings.TrimSpace(token)
}
