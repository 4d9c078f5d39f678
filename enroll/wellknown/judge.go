package wellknown

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// item is the server that an answer names.
type item struct {
	Version string
	BaseURL string
	mode    Mode
}

// judge says what is to be said of a probe, and sets w.item or w.refused.
func (c *checker) judge(w *walked) []Finding {
	found := w.findings
	if w.status != 0 {
		found = append(found, c.judgeAnswer(w)...)
	}
	if w.lost != nil {
		lost := *w.lost
		if w.item != nil && lost.Code != "query_changed" {
			lost.Severity = Warning
			lost.Sentence += " There is a good answer all the same, as long as it is the same for everybody."
		}
		found = append([]Finding{lost}, found...)
	}
	if w.item != nil && !slices.ContainsFunc(found, func(f Finding) bool { return f.Severity == Error }) {
		found = append(found, Finding{
			Severity: Fine, Code: "answer", URL: w.url(),
			Sentence: fmt.Sprintf("Devices are led to %s (%s) at %s.", w.item.mode, w.item.Version, w.item.BaseURL),
		})
	}
	return found
}

// judgeAnswer judges what is at the end of all redirects.
func (c *checker) judgeAnswer(w *walked) []Finding {
	var found []Finding
	note := func(severity Severity, code, fix, sentence string, args ...any) {
		found = append(found, Finding{Severity: severity, Code: code, URL: w.url(), Sentence: fmt.Sprintf(sentence, args...), Fix: fix})
	}
	host := w.final.Host
	configure := "Let the web server of " + host + " redirect " + Path + " to the MDM server: \"gatehouse wellknown snippet\" prints what it needs."
	if c.expects(w.final) {
		configure = "Look at the server's settings for account-driven enrollment: is " + c.report.Domain + " one of its domains?"
	}
	media, _, mediaErr := mime.ParseMediaType(w.contentType)
	switch status := w.status; {
	case status == http.StatusOK:
	case status == http.StatusForbidden:
		if r, ok := readRefusal(media, w.body); ok {
			w.refused = true
			message := "without a message"
			if r.Message != "" {
				message = fmt.Sprintf("with the message “%s”", strings.TrimSuffix(clip(r.Message, 300), "."))
			}
			note(Warning, "refused", "That is as it should be if these devices are not to enroll by an account. Otherwise allow it in the MDM server's settings for account-driven enrollment.",
				"The server at %s turns these devices away on purpose, %s.", host, message)
			break
		}
		note(Error, "forbidden", "Let no firewall, bot protection or login take "+Path+": devices can't solve a challenge, and send no cookies.", "%s answers 403, forbidden, without Apple's words for a refusal.", host)
	case status == http.StatusUnauthorized, status == http.StatusProxyAuthRequired:
		note(Error, "login_required", "Take "+Path+" out of what needs a login: devices ask before anybody has one.", "%s answers %d: it wants a login.", host, status)
	case status == http.StatusNotFound, status == http.StatusGone:
		note(Error, "not_found", configure+" Without it, iOS and iPadOS 18.2, macOS 15.2, visionOS 2.2 and later ask Apple Business Manager or Apple School Manager instead, which helps only Managed Apple Accounts of an organisation that has registered the server there; older systems give up.",
			"%s has nothing at %s (status %d).", host, w.final.Path, status)
	case status == http.StatusTooManyRequests:
		note(Error, "too_many_requests", "Take "+Path+" out of the limit, or raise it: many devices of an office share an address.", "%s answers 429: too many requests.", host)
	case status >= 500:
		note(Error, "server_error", "Look into the log of "+host+".", "%s answers %d, an error of its own.", host, status)
	case status == http.StatusMethodNotAllowed:
		note(Error, "method_not_allowed", configure, "%s answers 405: it takes no GET there.", host)
	default:
		note(Error, "status_unexpected", configure, "%s answers %d, and devices take 200 alone.", host, status)
	}
	if w.status != http.StatusOK {
		return found
	}

	text := bytes.TrimSpace(w.body)
	bom := bytes.HasPrefix(text, []byte("\xef\xbb\xbf"))
	text = bytes.TrimSpace(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")))
	switch {
	case w.tooLarge:
		note(Error, "answer_too_large", configure, "The answer of %s has more than %d KiB: that is no answer for a device.", host, maxAnswer>>10)
		return found
	case len(text) == 0:
		note(Error, "answer_empty", configure, "The answer of %s is empty.", host)
		return found
	case isHTML(text):
		if bytes.Contains(bytes.ToLower(text), []byte(`type="password"`)) || strings.Contains(strings.ToLower(w.final.Path), "login") {
			note(Error, "login_page", "Take "+Path+" out of what needs a login: devices ask before anybody has one.", "%s answers with a login page.", host)
		} else {
			note(Error, "html_page", "The web server answers every path it doesn't know with a page, as applications with one index.html do. "+configure, "%s answers with a web page (HTML), not with JSON.", host)
		}
		return found
	}

	const setType = "Let the web server send \"Content-Type: application/json\" with it; the file's name has no ending that would tell."
	switch {
	case w.contentType == "":
		note(Error, "content_type_missing", setType, "The answer of %s has no Content-Type.", host)
	case media == "application/json" && mediaErr == nil:
	case slices.Contains([]string{"application-json", "json", "application\\json", "application/jason", "aplication/json"}, strings.ToLower(media)),
		strings.HasPrefix(strings.ToLower(w.contentType), "application-json"):
		note(Error, "content_type_typo", setType, "The Content-Type of %s is misspelt: %q, where it must be application/json.", host, clip(w.contentType, 100))
	default:
		note(Error, "content_type_wrong", setType, "The Content-Type of %s is %q, and devices take application/json alone.", host, clip(w.contentType, 100))
	}
	if bom {
		note(Error, "byte_order_mark", "Save the file as UTF-8 without a byte order mark.", "The answer of %s begins with a byte order mark, which is not JSON.", host)
	}
	it, problems := c.readAnswer(host, text)
	for _, f := range problems {
		f.URL = w.url()
		found = append(found, f)
	}
	if it != nil && len(found) == 0 {
		w.item = it
	}
	return found
}

func isHTML(text []byte) bool {
	start := bytes.ToLower(text[:min(len(text), 1024)])
	return start[0] == '<' && (bytes.Contains(start, []byte("<!doctype html")) || bytes.Contains(start, []byte("<html")))
}

// refusal is a deliberate one (Apple: "WellKnownFailed").
type refusal struct {
	Code    string `json:"code" plist:"code"`
	Message string `json:"message" plist:"message"`
}

func readRefusal(media string, body []byte) (r refusal, ok bool) {
	if strings.HasSuffix(media, "xml") || strings.HasSuffix(media, "plist") {
		if guard.DecodePlist(body, &r, guard.PlistLimits{Bytes: maxAnswer}) != nil {
			return refusal{}, false
		}
	} else if json.Unmarshal(body, &r) != nil {
		return refusal{}, false
	}
	return r, r.Code == "com.apple.well-known.failed"
}

// readAnswer reads the JSON. A device takes the keys as Apple spells them.
func (c *checker) readAnswer(host string, text []byte) (*item, []Finding) {
	var found []Finding
	note := func(code, fix, sentence string, args ...any) {
		found = append(found, Finding{Severity: Error, Code: code, Sentence: fmt.Sprintf(sentence, args...), Fix: fix})
	}
	example := "It must look like {\"Servers\":[{\"Version\":\"mdm-byod\",\"BaseURL\":\"https://mdm.example.com/enroll/byod\"}]}: \"gatehouse wellknown snippet\" prints yours."
	var top map[string]json.RawMessage
	if err := json.Unmarshal(text, &top); err != nil {
		var syntax *json.SyntaxError
		var wrongType *json.UnmarshalTypeError
		switch {
		case !utf8.Valid(text):
			note("json_invalid", example, "The answer of %s is not UTF-8.", host)
		case errors.As(err, &syntax):
			note("json_invalid", example, "The answer of %s is not JSON: in line %d, %s.", host, line(text, syntax.Offset), err)
		case errors.As(err, &wrongType):
			note("json_invalid", example, "The answer of %s is JSON, but no object.", host)
		default:
			note("json_invalid", example, "The answer of %s is not JSON.", host)
		}
		return nil, found
	}
	raw, ok := top["Servers"]
	if !ok {
		if near := otherCase(top, "Servers"); near != "" {
			note("servers_missing", example, "The answer of %s has %q, which devices know as \"Servers\".", host, near)
		} else {
			note("servers_missing", example, "The answer of %s has no \"Servers\".", host)
		}
		return nil, found
	}
	var servers []map[string]json.RawMessage
	if err := json.Unmarshal(raw, &servers); err != nil {
		note("servers_invalid", example, "\"Servers\" in the answer of %s is not a list of objects.", host)
		return nil, found
	}
	switch len(servers) {
	case 0:
		note("servers_empty", example, "The list \"Servers\" in the answer of %s is empty.", host)
		return nil, found
	case 1:
	default:
		note("servers_several", "Leave the one alone that these devices are to use: Apple allows no more today, and devices take the first.", "The answer of %s names %d servers, where one alone is allowed.", host, len(servers))
	}
	var it item
	for key, field := range map[string]*string{"Version": &it.Version, "BaseURL": &it.BaseURL} {
		value, ok := servers[0][key]
		code := map[string]string{"Version": "version_missing", "BaseURL": "base_url_missing"}[key]
		switch near := otherCase(servers[0], key); {
		case !ok && near != "":
			note(code, example, "The server in the answer of %s has %q, which devices know as %q.", host, near, key)
		case !ok:
			note(code, example, "The server in the answer of %s has no %q.", host, key)
		case json.Unmarshal(value, field) != nil || *field == "":
			note(code, example, "%q in the answer of %s is not a text.", key, host)
		}
	}
	if it.Version != "" {
		for _, m := range Modes() {
			if it.Version == m.Version() {
				it.mode = m
			}
		}
		if it.mode == "" {
			note("version_unknown", "It is mdm-byod for User Enrollment or mdm-adde for account-driven Device Enrollment, in lower case.", "The answer of %s has the Version %q, which devices don't know.", host, clip(it.Version, 60))
		}
	}
	if it.BaseURL != "" {
		found = append(found, c.judgeBaseURL(host, it)...)
	}
	if len(found) > 0 {
		slices.SortStableFunc(found, func(a, b Finding) int { return strings.Compare(a.Code, b.Code) }) // the map above has no order
		return nil, found
	}
	return &it, nil
}

// judgeBaseURL looks at where devices are led to.
func (c *checker) judgeBaseURL(host string, it item) []Finding {
	wrong := func(code, fix, sentence string, args ...any) []Finding {
		return []Finding{{Severity: Error, Code: code, Sentence: fmt.Sprintf(sentence, args...), Fix: fix}}
	}
	shown := clip(it.BaseURL, 200)
	u, err := url.Parse(it.BaseURL)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || strings.TrimSpace(it.BaseURL) != it.BaseURL {
		return wrong("base_url_invalid", "It must be a whole URL that begins with https://, such as https://mdm.example.com/enroll/byod.", "The answer of %s has the BaseURL %q, which is no https URL.", host, shown)
	}
	if len(c.Expect) == 0 {
		return nil
	}
	i := slices.IndexFunc(c.Expect, func(e *url.URL) bool { return sameHost(e, u) })
	if i < 0 {
		return wrong("base_url_other_server", fmt.Sprintf("Let it lead to %s. If the answer is a file, it is another server's, or an old one.", c.Expect[0]),
			"The answer of %s leads to %s, and not to this server, %s.", host, shown, c.Expect[0])
	}
	if it.mode == "" {
		return nil // said already
	}
	if want := it.mode.BaseURL(c.Expect[i]); u.Path != pathOf(want) || u.RawQuery != "" {
		return wrong("base_url_path", fmt.Sprintf("For %s it must be %s.", it.Version, want), "The answer of %s leads to %s, where this server enrolls nobody with %s.", host, shown, it.Version)
	}
	return nil
}

func pathOf(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return text
	}
	return u.Path
}

// otherCase returns a key of m that is want but for its case.
func otherCase(m map[string]json.RawMessage, want string) string {
	for key := range m {
		if key != want && strings.EqualFold(key, want) {
			return key
		}
	}
	return ""
}

// line is the number of the line of an offset.
func line(text []byte, offset int64) int {
	return 1 + bytes.Count(text[:min(int(offset), len(text))], []byte("\n"))
}
