package signin

import (
	"cmp"
	"net/url"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// purpose is what somebody signs in for, by where they go on to.
type purpose string

const (
	toAnything   purpose = "any"
	toEnroll     purpose = "enroll"
	toEnrollUser purpose = "byod" // as the next: in the browser view of a device
	toEnrollAll  purpose = "adde" // all of a device, with an account
	toSeeOwn     purpose = "me"
	toAdminister purpose = "admin"
)

// uses are what accounts must be for; none: anything.
func (p purpose) uses() []identity.Use {
	switch p {
	case toEnroll:
		return []identity.Use{identity.UseInstitutional, identity.UsePersonal}
	case toEnrollUser:
		return []identity.Use{identity.UseUser}
	case toEnrollAll:
		return []identity.Use{identity.UseAccountDevice}
	case toAdminister:
		return []identity.Use{identity.UseAdmin}
	}
	return nil
}

// one is the use that an account must have, empty if it may have several.
func (p purpose) one() identity.Use {
	if uses := p.uses(); len(uses) == 1 {
		return uses[0]
	}
	return ""
}

// byAccount says that a device waits for the sign-in, in whose browser view it is.
func (p purpose) byAccount() bool { return p == toEnrollUser || p == toEnrollAll }

// enrolls says that somebody signs in to enroll a device.
func (p purpose) enrolls() bool { return p == toEnroll || p.byAccount() }

// lead is the key of the text that says what somebody signs in for.
func (p purpose) lead() string {
	if p.byAccount() {
		return "account.sign_in." + string(p)
	}
	return "signin.lead." + string(p)
}

// purposeOf says what a path is that [localPath] has let pass.
func purposeOf(next string) purpose {
	first, _, _ := strings.Cut(strings.TrimPrefix(next, "/"), "/")
	first, _, _ = strings.Cut(first, "?")
	switch {
	case strings.HasPrefix(next, enroll.PathBYOD+"/"):
		return toEnrollUser
	case strings.HasPrefix(next, enroll.PathADDE+"/"):
		return toEnrollAll
	}
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

// longestPath is for the longest that there is: that of a sign-in which a device asks for by
// OAuth 2, with all that it says of itself, and its state.
const longestPath = 4000

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

// hintOf returns who signs in to go on to next, as they have told their device (PROTOCOL 2.3,
// 2.5); empty if it is not known.
func hintOf(next string) string {
	u, err := url.Parse(next)
	if err != nil || !purposeOf(next).byAccount() {
		return ""
	}
	query := u.Query()
	return shortHint(cmp.Or(query.Get("user-identifier"), query.Get("login_hint")))
}

// shortHint returns hint if somebody can be called so.
func shortHint(hint string) string {
	if len(hint) > 254 || !utf8.ValidString(hint) {
		return ""
	}
	return hint
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

// hidden are the parameters of the form that leads to next. It shows itself to who is
// signed in and wants to be somebody else, too.
func hidden(next string, somebodyElse bool) (list []view.Hidden) {
	if next != "" {
		list = append(list, view.Hidden{Name: "next", Value: next})
	}
	if somebodyElse {
		list = append(list, view.Hidden{Name: "switch", Value: "1"})
	}
	return list
}

// loginPath is the address of that form.
func loginPath(next string, somebodyElse bool) string {
	query := url.Values{}
	for _, h := range hidden(next, somebodyElse) {
		query.Set(h.Name, h.Value)
	}
	if len(query) == 0 {
		return pathLogin
	}
	return pathLogin + "?" + query.Encode()
}
