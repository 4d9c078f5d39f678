package mdmtest

import (
	"bytes"
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/html"
)

// page is an HTML page as a person without script sees it.
type page struct {
	url   *url.URL
	visit Visit
	root  *html.Node
	forms []*form
}

// form is a form of a page.
type form struct {
	id, action, method string
	inMain             bool
	fields             []*control
}

// control is a field or button of a form.
type control struct {
	name, kind, value, autocomplete string
	text                            string // of a button
	class                           string
	action                          string // formaction of a button
	checked, required, readonly     bool
	options                         []string // values of a select
}

func parsePage(u *url.URL, v Visit) (*page, error) {
	if kind := mediaType(v.Header); kind != "text/html" && kind != "application/xhtml+xml" {
		return nil, &PageError{Visit: v, Text: fmt.Sprintf("Content-Type %q is no page", kind)}
	}
	root, err := html.Parse(bytes.NewReader(v.Body))
	if err != nil {
		return nil, fmt.Errorf("page %s: %w", u, err)
	}
	pg := &page{url: u, visit: v, root: root}
	pg.walk(root, nil, false)
	// Controls may name a form that they don't stand in.
	for n := range root.Descendants() {
		if id := attr(n, "form"); n.Type == html.ElementNode && id != "" {
			for _, f := range pg.forms {
				if f.id == id {
					f.add(n)
				}
			}
		}
	}
	return pg, nil
}

func (pg *page) walk(n *html.Node, in *form, inMain bool) {
	if n.Type == html.ElementNode {
		switch n.Data {
		case "main":
			inMain = true
		case "form":
			in = &form{id: attr(n, "id"), action: attr(n, "action"), method: http.MethodGet, inMain: inMain}
			if strings.EqualFold(attr(n, "method"), "post") {
				in.method = http.MethodPost
			}
			pg.forms = append(pg.forms, in)
		default:
			if in != nil && attr(n, "form") == "" {
				in.add(n)
			}
		}
	}
	for child := range n.ChildNodes() {
		pg.walk(child, in, inMain)
	}
}

func (f *form) add(n *html.Node) {
	if has(n, "disabled") {
		return
	}
	c := &control{
		name: attr(n, "name"), value: attr(n, "value"), autocomplete: attr(n, "autocomplete"), class: attr(n, "class"),
		action: attr(n, "formaction"), checked: has(n, "checked"), required: has(n, "required"), readonly: has(n, "readonly"),
	}
	switch n.Data {
	case "input":
		c.kind = cmp.Or(strings.ToLower(attr(n, "type")), "text")
		c.text = c.value
	case "button":
		c.kind, c.text = cmp.Or(strings.ToLower(attr(n, "type")), "submit"), textOf(n)
	case "textarea":
		c.kind, c.value = "text", textOf(n)
	case "select":
		c.kind = "select"
		for o := range n.Descendants() {
			if o.Data != "option" {
				continue
			}
			value := attr(o, "value")
			if !has(o, "value") {
				value = textOf(o)
			}
			if c.options = append(c.options, value); len(c.options) == 1 || has(o, "selected") {
				c.value = value
			}
		}
	default:
		return
	}
	f.fields = append(f.fields, c)
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func has(n *html.Node, name string) bool {
	return slices.ContainsFunc(n.Attr, func(a html.Attribute) bool { return a.Key == name })
}

func textOf(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		switch {
		case d.Type == html.TextNode:
			b.WriteString(d.Data)
		case slices.Contains([]string{"br", "p", "div", "li", "td"}, d.Data):
			b.WriteByte(' ')
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// text is what a page says in short: its alert, else its heading, else its title.
func (pg *page) text() string {
	found := map[string]string{}
	for n := range pg.root.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		kind := n.Data
		if attr(n, "role") == "alert" {
			kind = "alert"
		}
		if found[kind] == "" {
			found[kind] = textOf(n)
		}
	}
	return cmp.Or(found["alert"], found["h1"], found["title"])
}

// link is a step to another page by something that the person clicks.
func (pg *page) link(href string) (*navigation, error) {
	u, err := pg.url.Parse(strings.TrimSpace(href))
	if err != nil {
		return nil, fmt.Errorf("link: %w", err)
	}
	return &navigation{method: http.MethodGet, url: u, from: pg}, nil
}

// refresh is where the page leads by itself.
func (pg *page) refresh() (seconds int, target string, ok bool) {
	if seconds, target, ok = refreshOf(pg.visit.Header.Get("Refresh")); ok {
		return seconds, target, ok
	}
	for n := range pg.root.Descendants() {
		if n.Type == html.ElementNode && n.Data == "meta" && strings.EqualFold(attr(n, "http-equiv"), "refresh") {
			return refreshOf(attr(n, "content"))
		}
	}
	return 0, "", false
}

// referrerPolicy is the last policy of the header that browsers know.
func (pg *page) referrerPolicy() string {
	known := []string{"no-referrer", "no-referrer-when-downgrade", "same-origin", "origin", "strict-origin",
		"origin-when-cross-origin", "strict-origin-when-cross-origin", "unsafe-url"}
	policy := "strict-origin-when-cross-origin"
	for value := range strings.SplitSeq(strings.Join(pg.visit.Header.Values("Referrer-Policy"), ","), ",") {
		if value = strings.ToLower(strings.TrimSpace(value)); slices.Contains(known, value) {
			policy = value
		}
	}
	return policy
}

// formAction has the form-action of each policy of the page.
func (pg *page) formAction() []string {
	var list []string
	for policy := range strings.SplitSeq(strings.Join(pg.visit.Header.Values("Content-Security-Policy"), ","), ",") {
		for directive := range strings.SplitSeq(policy, ";") {
			name, sources, _ := strings.Cut(strings.TrimSpace(directive), " ")
			if strings.EqualFold(name, "form-action") {
				list = append(list, sources)
				break // the first counts
			}
		}
	}
	return list
}

// button is the one that a wish names, with its form.
func (pg *page) button(wish string) (*form, *control) {
	for _, f := range pg.forms {
		for _, c := range f.buttons() {
			if c.name == wish || c.value == wish || says(c.text, wish) {
				return f, c
			}
		}
	}
	return nil, nil
}

// anchor is where the link goes that a wish names.
func (pg *page) anchor(wish string) (string, bool) {
	for n := range pg.root.Descendants() {
		if n.Type == html.ElementNode && n.Data == "a" && has(n, "href") && says(textOf(n), wish) {
			return attr(n, "href"), true
		}
	}
	return "", false
}

func says(text, wish string) bool {
	return strings.Contains(strings.ToLower(text), strings.ToLower(wish))
}

// best is the form that the page is about, nil when there is none to send.
func (pg *page) best(b *Browser) *form {
	var best *form
	top := 0
	for _, f := range pg.forms {
		if s := f.score(b); s > top {
			best, top = f, s
		}
	}
	return best
}

// score is 0 for a form that nobody sends without being told to.
func (f *form) score(b *Browser) int {
	if len(f.buttons()) == 0 && !f.asks() {
		return 0
	}
	score := 0
	if f.method == http.MethodPost {
		score += 2
	}
	if f.inMain {
		score++
	}
	for _, c := range f.fields {
		switch c.asksFor() {
		case "password":
			if b.Password != "" {
				score += 10
			}
		case "code":
			if b.Code != nil {
				score += 10
			}
		case "login":
			score += 5
		}
	}
	if c := f.primary(); c != nil {
		score += c.weight()
	}
	return max(score, 0)
}

// asks reports whether the form wants to know who the person is.
func (f *form) asks() bool {
	return slices.ContainsFunc(f.fields, func(c *control) bool { return c.asksFor() != "" })
}

// signature tells the forms of one address apart.
func (f *form) signature() string {
	var names []string
	for _, c := range f.fields {
		if kind := c.asksFor(); kind != "" {
			names = append(names, kind)
		}
	}
	return strings.Join(names, " ")
}

func (f *form) buttons() []*control {
	var list []*control
	for _, c := range f.fields {
		if c.kind == "submit" || c.kind == "image" {
			list = append(list, c)
		}
	}
	return list
}

// primary is the button that stands out, nil when the form has none.
func (f *form) primary() *control {
	list := f.buttons()
	if len(list) == 0 {
		return nil
	}
	return slices.MaxFunc(list, func(a, b *control) int { return cmp.Compare(a.weight(), b.weight()) })
}

// weight is how much a button stands out by its class.
func (c *control) weight() int {
	switch {
	case says(c.class, "primary"):
		return 2
	case says(c.class, "secondary"), says(c.class, "plain"), says(c.class, "danger"), says(c.class, "link"):
		return -2
	}
	return 0
}

// asksFor says which of the person's secrets or names a field is for.
func (c *control) asksFor() string {
	name := strings.ToLower(c.name)
	anyOf := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(name, w) })
	}
	switch c.kind {
	case "password":
		if c.autocomplete != "one-time-code" {
			return "password"
		}
		return "code"
	case "text", "email", "tel", "number":
	default:
		return ""
	}
	switch {
	case strings.Contains(c.autocomplete, "one-time-code"), anyOf("code", "otp", "pin"):
		return "code"
	case c.kind == "email", strings.Contains(c.autocomplete, "username"), strings.Contains(c.autocomplete, "email"),
		anyOf("login", "user", "email", "identifier", "account"):
		return "login"
	}
	return ""
}

// fill makes the values that the form sends when the person clicks button.
func (f *form) fill(b *Browser, button *control) (url.Values, error) {
	values := url.Values{}
	chosen := map[string]bool{} // radio groups that have a choice
	for _, c := range f.fields {
		chosen[c.name] = chosen[c.name] || c.kind == "radio" && c.checked
	}
	for _, c := range f.fields {
		value, send, err := c.fill(b, chosen)
		if err != nil {
			return nil, fmt.Errorf("field %q: %w", c.name, err)
		}
		if send && c.name != "" {
			values.Add(c.name, value)
		}
	}
	if button != nil && button.name != "" {
		values.Add(button.name, button.value)
	}
	return values, nil
}

func (c *control) fill(b *Browser, chosen map[string]bool) (value string, send bool, err error) {
	if wanted, ok := b.Fields[c.name]; ok {
		switch c.kind {
		case "submit", "image", "button", "reset":
		case "checkbox", "radio":
			return c.box(), wanted == c.value || c.kind == "checkbox" && wanted == "on", nil
		default:
			return wanted, true, nil
		}
	}
	switch c.kind {
	case "submit", "image", "button", "reset", "file":
		return "", false, nil
	case "checkbox":
		return c.box(), c.checked || c.required, nil
	case "radio":
		first := !chosen[c.name]
		chosen[c.name] = true
		return c.box(), c.checked || first, nil
	}
	value = c.value
	if c.readonly {
		return value, true, nil
	}
	switch c.asksFor() {
	case "login":
		value = cmp.Or(b.Login, value)
	case "password":
		value = b.Password
	case "code":
		if b.Code == nil {
			break
		}
		if value, err = b.Code(); err != nil {
			return "", false, err
		}
	}
	if value == "" && c.required {
		return "", false, errNoValue
	}
	return value, true, nil
}

// box is what a box sends that is ticked.
func (c *control) box() string { return cmp.Or(c.value, "on") }
