package business

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// parameter is one of a request that OAuth 1.0 signs.
type parameter struct{ name, value string }

// authorize signs r as OAuth 1.0 has it, by HMAC-SHA1 (RFC 5849, 3.4.2), which is the one
// method that Apple's service takes. r must have no body that is a form.
func authorize(r *http.Request, c credentials, now time.Time) {
	params := []parameter{
		{"oauth_consumer_key", c.ConsumerKey},
		{"oauth_token", c.AccessToken},
		{"oauth_signature_method", "HMAC-SHA1"},
		{"oauth_timestamp", strconv.FormatInt(now.Unix(), 10)},
		{"oauth_nonce", rand.Text()},
		{"oauth_version", "1.0"},
	}
	params = append(params, parameter{"oauth_signature", sign(r.Method, r.URL, params, c.ConsumerSecret, c.AccessSecret)})
	var b strings.Builder
	b.WriteString(`OAuth realm="ADM"`) // RFC 5849, 3.5.1
	for _, p := range params {
		b.WriteString(", " + escape(p.name) + `="` + escape(p.value) + `"`)
	}
	r.Header.Set("Authorization", b.String())
}

// sign returns the signature over a request by method for u, whose query and params are
// all of its parameters.
func sign(method string, u *url.URL, params []parameter, consumerSecret, tokenSecret string) string {
	mac := hmac.New(sha1.New, []byte(escape(consumerSecret)+"&"+escape(tokenSecret)))
	mac.Write([]byte(signatureBase(method, u, params)))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// signatureBase is what is signed (RFC 5849, 3.4.1).
func signatureBase(method string, u *url.URL, params []parameter) string {
	type pair = [2]string
	var all []pair
	for _, p := range params {
		all = append(all, pair{escape(p.name), escape(p.value)})
	}
	for name, values := range u.Query() {
		for _, v := range values {
			all = append(all, pair{escape(name), escape(v)})
		}
	}
	sort.Slice(all, func(i, j int) bool { // 3.4.1.3.2: by what is escaped already
		return slices.Compare(all[i][:], all[j][:]) < 0
	})
	joined := make([]string, len(all))
	for i, p := range all {
		joined[i] = p[0] + "=" + p[1]
	}
	// 3.4.1.2: without the port that the scheme has anyway.
	scheme, host := strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	if port := u.Port(); port == "443" && scheme == "https" || port == "80" && scheme == "http" {
		host = strings.TrimSuffix(host, ":"+port)
	}
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	return strings.ToUpper(method) + "&" + escape(scheme+"://"+host+path) + "&" + escape(strings.Join(joined, "&"))
}

// escape escapes all but the unreserved characters (RFC 5849, 3.6), which is stricter
// than what net/url has for queries or paths.
func escape(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', strings.IndexByte("-._~", c) >= 0:
			b.WriteByte(c)
		default:
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}
