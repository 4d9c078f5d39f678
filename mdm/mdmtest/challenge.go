package mdmtest

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Methods of a sign-in.
const (
	MethodWeb    = "apple-as-web"
	MethodOAuth2 = "apple-oauth2"
)

const signInScheme = "apple-remotemanagement-user-login"

// Challenge is what a 401 asks for (PROTOCOL 2.3 and 2.5).
type Challenge struct {
	Method string
	URL    string // of apple-as-web; the rest is of apple-oauth2

	AuthorizationURL string
	TokenURL         string
	RedirectURL      string
	ClientID         string
	Scope            string
}

// ParseChallenge reads the Bearer challenge of WWW-Authenticate. Its error says why a
// device would cancel: a missing or repeated parameter, one without quotes or comma.
func ParseChallenge(h http.Header, plainHTTP bool) (Challenge, error) {
	var c Challenge
	lines := h.Values("WWW-Authenticate")
	if len(lines) != 1 {
		return c, fmt.Errorf("%d WWW-Authenticate headers, want one", len(lines))
	}
	scheme, rest, _ := strings.Cut(lines[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return c, fmt.Errorf("WWW-Authenticate: scheme %q, want Bearer", scheme)
	}
	params, err := authParams(rest)
	if err == nil {
		c, err = challengeOf(params, plainHTTP)
	}
	if err != nil {
		return Challenge{}, fmt.Errorf("WWW-Authenticate: %w", err)
	}
	return c, nil
}

func challengeOf(params map[string]string, plainHTTP bool) (Challenge, error) {
	c := Challenge{Method: params["method"]}
	var want []string
	switch c.Method {
	case MethodWeb:
		want = []string{"url"}
	case MethodOAuth2:
		want = []string{"authorization-url", "token-url", "redirect-url", "client-id", "scope"}
	default:
		return c, fmt.Errorf("method %q", c.Method)
	}
	for _, name := range want {
		if params[name] == "" {
			return c, fmt.Errorf("method %s without %s", c.Method, name)
		}
	}
	if c.Method == MethodWeb {
		c.URL = params["url"]
		return c, checkURL(c.URL, true) // https is advice here
	}
	c.AuthorizationURL, c.TokenURL, c.RedirectURL = params["authorization-url"], params["token-url"], params["redirect-url"]
	c.ClientID, c.Scope = params["client-id"], params["scope"]
	for _, u := range []string{c.AuthorizationURL, c.TokenURL} {
		if err := checkURL(u, plainHTTP); err != nil {
			return c, err
		}
	}
	u, err := url.Parse(c.RedirectURL)
	switch {
	case err != nil:
		return c, fmt.Errorf("redirect-url: %w", err)
	case u.Scheme != signInScheme || strings.Trim(u.Path, "/") == "":
		return c, fmt.Errorf("redirect-url %q: want scheme %s and a path", c.RedirectURL, signInScheme)
	case u.RawQuery != "" || u.Fragment != "":
		return c, fmt.Errorf("redirect-url %q has a query or fragment", c.RedirectURL)
	}
	return c, nil
}

// authParams reads name="value" pairs with commas between them (RFC 9110, 11.2).
func authParams(s string) (map[string]string, error) {
	params := map[string]string{}
	for {
		name, rest, ok := strings.Cut(strings.TrimLeft(s, " \t"), "=")
		name = strings.ToLower(name)
		if !ok || name == "" || strings.ContainsAny(name, " \t\",") {
			return nil, fmt.Errorf("no parameter at %q", s)
		}
		value, rest, err := quoted(rest)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if _, twice := params[name]; twice {
			return nil, fmt.Errorf("%s repeats", name)
		}
		params[name] = value
		rest = strings.TrimLeft(rest, " \t")
		if rest == "" {
			return params, nil
		}
		if s, ok = strings.CutPrefix(rest, ","); !ok {
			return nil, fmt.Errorf("no comma after %s", name)
		}
	}
}

// quoted reads a quoted string (RFC 9110, 5.6.4) and returns what follows it.
func quoted(s string) (value, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		return "", "", errors.New("the value is not quoted")
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:], nil
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", "", errors.New("the value does not end")
}

// checkToken holds a bearer token against RFC 6750, 2.1: what else would break the
// header that carries it.
func checkToken(token string) error {
	body := strings.TrimRight(token, "=")
	if body == "" || slices.ContainsFunc([]byte(body), func(c byte) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~+/", c) >= 0)
	}) {
		return errors.New("the access token is empty or has characters that a header can't carry")
	}
	return nil
}
