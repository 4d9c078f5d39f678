package devices

import (
	"cmp"
	"net/url"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// choice is a filter of the list with few values, by the API's name of it.
type choice struct {
	Name, Label string
	Options     []admin.Option
}

// withChannels are all enrollment types: lists have no user channels unless they are asked
// for, or looked for.
const (
	noChannels   = "device,user,account_device"
	withChannels = noChannels + ",user_channel"
)

// choices are the filters in their order. The form has them as selects.
var choices = []choice{
	{"state", "State", admin.Options("enrolled", "Enrolled", "pending", "Pending", "unenrolled", "Unenrolled", "blocked", "Blocked")},
	{"platform", "Platform", admin.Options("ios", "iOS and iPadOS", "macos", "macOS", "tvos", "tvOS", "visionos", "visionOS", "watchos", "watchOS")},
	{"enrollment_type", "Enrollment", append(typeOptions(), admin.Options(withChannels, "All, with user channels")...)},
	{"ownership", "Ownership", admin.Options("institutional", "The organisation’s", "personal", "Personal")},
	{"supervised", "Supervised", admin.Options("true", "Yes", "false", "No", "unknown", "Not known")},
	{"last_seen_before", "Last seen", admin.Options("1d", "More than a day ago", "7d", "More than a week ago", "30d", "More than 30 days ago", "90d", "More than 90 days ago", "never", "Never")},
	{"pending_commands", "Commands", admin.Options("true", "Some are pending", "false", "None is pending")},
	{"push", "Push", admin.Options("token_dead", "Token dead", "no_token", "No token", "refused", "Refused", "no_certificate", "No certificate", "certificate_refused", "Certificate refused", "unreachable", "Apple can’t be reached", "exhausted", "Given up")},
	{"lost", "Reported lost", admin.Options("true", "Yes", "false", "No")},
}

// texts are the filters that are typed, each with an example.
var texts = []struct{ name, label, example string }{
	{"os_version", "OS version", "18 or <18.2"},
	{"model", "Model", "MacBook Pro"},
	{"user", "Owner", "E-mail address"},
	{"app", "App", "com.example.app<2.1"},
	{"profile", "Profile", "com.example.wifi"},
}

// otherNames are filters of addresses, which the form has no field for.
var otherNames = map[string]string{
	"q": "Search", "group_id": "Group", "last_seen": "Last seen", "last_seen_after": "Seen since", "enrolled_before": "Enrolled before",
	"enrolled_after": "Enrolled since", "demo": "Demo", "attribute": "Attribute", "parent_id": "User channels of",
}

// sorts are the orders of the list.
var sorts = admin.Options(
	"name", "Name", "-last_seen_at", "Last seen, newest first", "last_seen_at", "Last seen, oldest first", "-enrolled_at", "Enrolled, newest first",
	"os_version", "OS version, oldest first", "-os_version", "OS version, newest first", "model", "Model", "user", "Owner", "state", "State")

func typeOptions() (options []admin.Option) {
	for _, t := range enrollmentTypes {
		options = append(options, admin.Option{Value: t.name, Label: t.words})
	}
	return options
}

// clean returns a query without what a form sends of fields that nobody filled in, and with
// the API's names; and whether that differs, so that addresses can be made to say no more
// than what they ask for.
func clean(query url.Values) (filters url.Values, changed bool) {
	filters = url.Values{}
	for name, values := range query {
		for _, v := range values {
			v = strings.TrimSpace(v)
			switch {
			case v == "" || name == "sort" && v == "name":
				changed = true
				continue
			case name == "last_seen_before" && v == "never":
				filters.Set("last_seen", "never")
				changed = true
				continue
			}
			filters.Add(name, v)
		}
	}
	return filters, changed
}

// only returns the filters of a query, without where in the list it is and what was done.
func only(query url.Values) url.Values {
	filters, _ := clean(query)
	for _, name := range []string{"cursor", "limit", "done", "sort"} {
		filters.Del(name)
	}
	return filters
}

// ask is what the API is asked for: the list is in the order of names, and without user
// channels, unless the query says otherwise.
func ask(query url.Values) url.Values {
	q, _ := clean(query)
	q.Del("done")
	if !q.Has("sort") {
		q.Set("sort", "name")
	}
	for _, name := range []string{"q", "enrollment_type", "parent_id"} {
		if q.Has(name) {
			return q
		}
	}
	q.Set("enrollment_type", noChannels)
	return q
}

// chip is a filter that is in force. URL is the list without it.
type chip struct{ Label, Value, URL string }

// chips are the filters of a query, in the order of the form. Groups have names.
func chips(query url.Values, groups map[string]string) (all []chip) {
	filters := only(query)
	rank := func(name string) int {
		for i, c := range choices {
			if c.Name == name {
				return i + 1
			}
		}
		if name == "q" || name == "group_id" {
			return 0
		}
		return len(choices) + 1
	}
	names := make([]string, 0, len(filters))
	for name := range filters {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(rank(a)-rank(b), strings.Compare(a, b)) })
	for _, name := range names {
		for i, v := range filters[name] {
			rest, _ := clean(query)
			rest.Del("cursor")
			rest.Del("done")
			if rest[name] = slices.Delete(slices.Clone(filters[name]), i, i+1); len(rest[name]) == 0 {
				rest.Del(name)
			}
			all = append(all, chip{label(name), value(name, v, groups), address(rest)})
		}
	}
	return all
}

func label(name string) string {
	for _, c := range choices {
		if c.Name == name {
			return c.Label
		}
	}
	for _, t := range texts {
		if t.name == name {
			return t.label
		}
	}
	return cmp.Or(otherNames[name], name)
}

// value is the value of a filter in words.
func value(name, v string, groups map[string]string) string {
	if name == "group_id" {
		return cmp.Or(groups[v], v)
	}
	if name == "last_seen" {
		name = "last_seen_before"
	}
	for _, c := range choices {
		if c.Name != name {
			continue
		}
		for _, o := range c.Options {
			if o.Value == v {
				return o.Label
			}
		}
		words := strings.Split(v, ",")
		for i, word := range words {
			for _, o := range c.Options {
				if o.Value == word {
					words[i] = o.Label
				}
			}
		}
		return strings.Join(words, " or ")
	}
	return v
}

// address is the list with a query.
func address(query url.Values) string {
	if len(query) == 0 {
		return section
	}
	return section + "?" + query.Encode()
}

// column is a heading of the table, which sorts.
type column struct {
	Label, URL string
	Sorted     string // of aria-sort: ascending, descending or empty
	Class      string
}

// columns are the headings of the list for a query. Those that sort turn round when they
// are in force.
func columns(query url.Values) []column {
	now := cmp.Or(query.Get("sort"), "name")
	heads := []struct{ label, by, first, class string }{
		{"Name", "name", "name", ""}, {"Owner", "user", "user", ""}, {"OS", "os_version", "-os_version", ""},
		{"Enrollment", "", "", ""}, {"State", "state", "state", ""}, {"Last seen", "last_seen_at", "-last_seen_at", ""}, {"Pending", "", "", "num"},
	}
	all := make([]column, len(heads))
	for i, h := range heads {
		all[i] = column{Label: h.label, Class: h.class}
		if h.by == "" {
			continue
		}
		next := h.first
		switch now {
		case h.by:
			all[i].Sorted, next = "ascending", "-"+h.by
		case "-" + h.by:
			all[i].Sorted, next = "descending", h.by
		}
		q, _ := clean(query)
		q.Del("cursor")
		q.Del("done")
		q.Set("sort", next)
		all[i].URL = address(q)
	}
	return all
}

// quick are the filters that are a click away.
func quick(query url.Values, groups []group) (links []tab) {
	filters := only(query)
	add := func(words string, pairs ...string) {
		q := url.Values{}
		for i := 0; i+1 < len(pairs); i += 2 {
			q.Set(pairs[i], pairs[i+1])
		}
		links = append(links, tab{Link: view.Link{Label: words, URL: address(q)}, Current: q.Encode() == filters.Encode()})
	}
	add("All")
	add("Enrolled", "state", "enrolled")
	add("Pending commands", "pending_commands", "true")
	add("Not seen for a month", "last_seen_before", "30d")
	add("Reported lost", "lost", "true")
	add("Push token dead", "push", "token_dead")
	for _, g := range groups {
		add(g.Name, "group_id", g.ID)
	}
	return links
}

// tab is a link to a part of a page, or to another one beside it.
type tab struct {
	view.Link
	Current bool
}
