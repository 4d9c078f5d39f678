package signin

import (
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
)

// purpose is what somebody signs in for, by where they go on to.
type purpose string

const (
	toAnything   purpose = "any"
	toEnroll     purpose = "enroll"
	toSeeOwn     purpose = "me"
	toAdminister purpose = "admin"
)

// uses are what accounts must be for; none: anything.
func (p purpose) uses() []identity.Use {
	switch p {
	case toEnroll:
		return []identity.Use{identity.UseInstitutional, identity.UsePersonal}
	case toAdminister:
		return []identity.Use{identity.UseAdmin}
	}
	return nil
}

// purposeOf says what a path is that [localPath] has let pass.
func purposeOf(next string) purpose {
	first, _, _ := strings.Cut(strings.TrimPrefix(next, "/"), "/")
	first, _, _ = strings.Cut(first, "?")
	switch first {
	case "enroll":
		return toEnroll
	case "me":
		return toSeeOwn
	case "admin":
		return toAdminister
	}
	return toAnything
}

const longestPath = 1000

// plain are the characters of paths that nobody reads in another way than we do: no
// backslash, no percent sign.
const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/-._~:@!$'()*+,;="

// localPath returns next if it is a page of ours that people go on to, and nothing if not:
// so nobody can make the login send people elsewhere.
func localPath(next string) string {
	if next == "" || len(next) > longestPath || strings.ContainsFunc(next, func(r rune) bool { return r <= 0x20 || r >= 0x7f }) {
		return ""
	}
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Opaque != "" || u.Host != "" || u.User != nil || u.Fragment != "" {
		return ""
	}
	way, query, _ := strings.Cut(next, "?")
	if !strings.HasPrefix(way, "/") || strings.Trim(way, plain) != "" || strings.ContainsAny(query, `\#`) || path.Clean(way) != strings.TrimSuffix(way, "/") {
		return ""
	}
	// Not pages that one comes to by signing in and out.
	if purposeOf(way) == toAnything || slices.Contains([]string{pathAdminLogin, "/admin/logout"}, path.Clean(way)) {
		return ""
	}
	return next
}

// nextOf returns where r wants to go on to. At the administrators' address that is a page
// of theirs in any case.
func nextOf(address, next string) string {
	next = localPath(next)
	if address == pathAdminLogin && purposeOf(next) != toAdminister {
		return "/admin"
	}
	return next
}

// loginPath is the address of the form that leads to next.
func loginPath(next string) string {
	if next == "" {
		return pathLogin
	}
	return pathLogin + "?next=" + url.QueryEscape(next)
}
