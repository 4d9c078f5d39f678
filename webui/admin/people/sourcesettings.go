package people

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
)

// setting is one of a kind's settings, as its form shows it.
type setting struct {
	name, label, hint string
	kind              string // text, lines, pairs, bool, number, area, secret, secret area or select
	usual             string // what an empty field means: a default of the server's
	options           []admin.Option
	required, more    bool // more: folded away
}

var settingsOf = map[string][]setting{
	"ldap": {
		{name: "urls", label: "Servers", kind: "lines", required: true, hint: "One per line, tried in this order: ldaps://ldap.example.com"},
		{name: "start_tls", label: "Start TLS on ldap:// connections", kind: "bool"},
		{name: "bind_dn", label: "Sign in to search as", kind: "text", hint: "The DN of a service account: cn=gatehouse,ou=services,dc=example,dc=com"},
		{name: "bind_password", label: "Its password", kind: "secret"},
		{name: "base_dn", label: "Search below", kind: "text", required: true, hint: "ou=people,dc=example,dc=com"},
		{name: "user_filter", label: "Filter for who signs in", kind: "text", hint: "{login} is what they typed: (uid={login}). Empty: a name, an address or an account as OpenLDAP, FreeIPA and Active Directory have them."},
		{name: "subject_attribute", label: "Attribute that never changes", kind: "text", more: true, hint: "What a person is recognised by when their name changes: entryUUID, or objectGUID."},
		{name: "scope", label: "Search depth", kind: "select", more: true, options: admin.Options("", "Everything below, as usual", "sub", "Everything below", "one", "One level")},
		{name: "people_filter", label: "Filter for everybody", kind: "text", more: true, hint: "For looking who has left. Empty: the one above, with any name."},
		{name: "page_size", label: "Entries in an answer", kind: "number", more: true, usual: "500", hint: "At most 1,000, when everybody is listed."},
		{name: "disabled_filter", label: "Filter for who is disabled", kind: "text", more: true, hint: "Beside the ways of the usual directories, which are known."},
		{name: "attributes", label: "Other attributes to read", kind: "lines", more: true, hint: "One per line: those that the fields below name, where they are none of the usual ones."},
		{name: "group_base_dn", label: "Search groups below", kind: "text", more: true, hint: "Empty: groups are only those that memberOf names."},
		{name: "group_filter", label: "Filter for groups of a person", kind: "text", more: true, usual: "(|(member={dn})(uniqueMember={dn})(memberUid={uid}))", hint: "{dn} and {uid} are the person’s."},
		{name: "nested_groups", label: "Groups in groups", kind: "select", more: true, options: admin.Options("", "Not followed, as usual", "none", "Not followed", "walk", "Followed one by one", "active_directory", "Active Directory does it")},
		{name: "ca_certificates", label: "Trusted authorities", kind: "area", more: true, hint: "PEM, if the directory’s certificate is of an authority of your own. Beside those that this machine trusts."},
		{name: "server_name", label: "Name in its certificate", kind: "text", more: true, hint: "Empty: the host of the address above."},
		{name: "client_certificate", label: "Certificate to show it", kind: "area", more: true, hint: "PEM, for directories that ask for one."},
		{name: "client_key", label: "The key of that certificate", kind: "secret area", more: true, hint: "PEM, without a password."},
		{name: "timeout", label: "Wait at most", kind: "text", more: true, usual: "5s", hint: "For each step."},
		{name: "allow_plaintext", label: "Allow connections that anybody on the way can read", kind: "bool", more: true, hint: "Passwords travel readable. For a directory on this machine only."},
	},
	"oidc": {
		{name: "issuer", label: "Issuer", kind: "text", required: true, hint: "https://login.example.com: below it is .well-known/openid-configuration"},
		{name: "client_id", label: "Client ID", kind: "text", required: true},
		{name: "client_secret", label: "Client secret", kind: "secret"},
		{name: "scopes", label: "Scopes", kind: "lines", more: true, usual: "openid profile email", hint: "One per line; openid must be among them."},
		{name: "groups_claim", label: "Claim with the groups", kind: "text", more: true, usual: "groups", hint: "With dots into an object: realm_access.roles"},
		{name: "client_authentication", label: "How the client secret is sent", kind: "select", more: true, options: admin.Options("", "As the provider says", "basic", "Basic", "post", "In the form", "none", "Not at all")},
		{name: "prompt", label: "Ask in any case", kind: "select", more: true, options: admin.Options("", "As the provider likes", "login", "To sign in again", "select_account", "Which account", "consent", "To consent")},
		{name: "max_age", label: "Signed in at most so many seconds ago", kind: "number", more: true},
		{name: "acr", label: "Ways to sign in of which one is required", kind: "lines", more: true, hint: "acr_values, one per line."},
		{name: "required_claims", label: "Claims that people must have", kind: "pairs", more: true, hint: "One per line, with its value: tid = 3f2a…, hd = example.com"},
		{name: "extra_authorization_parameters", label: "What else the provider is told", kind: "pairs", more: true, hint: "Parameters of its address, one per line: domain_hint = example.com"},
		{name: "userinfo", label: "Ask for claims that ID tokens lack", kind: "bool", more: true, hint: "At the provider’s UserInfo endpoint, at each sign-in."},
		{name: "trust_email", label: "Believe e-mail addresses that the provider doesn’t call verified", kind: "bool", more: true, hint: "For providers that don’t say. Addresses that it calls unverified are not believed."},
		{name: "ca_certificates", label: "Trusted authorities", kind: "area", more: true, hint: "PEM, if the provider’s certificate is of an authority of your own. Beside those that this machine trusts."},
		{name: "allow_private", label: "It may be at a private address", kind: "bool", more: true, hint: "This server then connects to addresses of your own network for it."},
	},
}

var mappingFields = []setting{
	{name: "username", label: "Username"}, {name: "email", label: "E-mail address"}, {name: "full_name", label: "Full name"},
	{name: "managed_apple_account", label: "Managed Apple Account"},
	{name: "managed_apple_accounts", label: "Managed Apple Accounts of single people", kind: "pairs", hint: "One per line, before what the field above says: ana@example.com = ana@appleid.example.com"},
}

// sourceField is a field of a provider's form.
type sourceField struct {
	admin.Field
	More bool
}

// formOf fills a form with a provider as it is.
func (p source) form() *admin.Form {
	form := admin.NewForm("name", p.Name, "position", strconv.Itoa(p.Position), "groups", strings.Join(p.Groups, "\n"))
	form.Values["uses"] = p.Uses
	for name, on := range map[string]bool{"enabled": p.Enabled, "disable_missing": p.DisableMissing, "require_second_factor": p.RequireSecondFactor} {
		if on {
			form.Values.Set(name, "true")
		}
	}
	for _, f := range settingsOf[p.Kind] {
		form.Values.Set("settings."+f.name, words(p.Settings[f.name]))
	}
	for _, f := range mappingFields {
		form.Values.Set("mapping."+f.name, words(p.Mapping[f.name]))
	}
	return form
}

// settingFields are the fields of the settings and of the mapping of p, as form has them.
func settingFields(form *admin.Form, p source) (settings, mapping []sourceField) {
	for _, f := range settingsOf[p.Kind] {
		name := "settings." + f.name
		field := f.field(form, name)
		has := string(p.Settings["has_"+f.name]) == "true"
		if f.secret() && has {
			field.Hint = strings.TrimSpace(field.Hint + " One is set. Leave this empty to keep it.")
		}
		folded := f.more && field.Error == ""
		settings = append(settings, sourceField{field, folded})
		if f.secret() && has && !f.required {
			settings = append(settings, sourceField{setting{label: "Take it away: " + strings.ToLower(f.label[:1]) + f.label[1:], kind: "bool"}.field(form, forget+f.name), folded})
		}
	}
	if p.Local() {
		return settings, nil
	}
	for _, f := range mappingFields {
		field := f.field(form, "mapping."+f.name)
		field.Mono = true
		mapping = append(mapping, sourceField{Field: field})
	}
	return settings, mapping
}

// forget is before the name of a secret setting in the name of the box that takes it away.
const forget = "forget."

func (f setting) secret() bool { return strings.HasPrefix(f.kind, "secret") }

// field is the control for a setting. What is secret is never in it.
func (f setting) field(form *admin.Form, name string) admin.Field {
	field := admin.Field{
		Name: name, Label: f.label, Hint: f.hint, Type: "text", Required: f.required, ID: "f-" + strings.ReplaceAll(name, ".", "-"),
		Value: form.Values.Get(name), Error: form.Errors[name], Autocomplete: "off", Placeholder: f.usual,
	}
	if f.usual != "" {
		field.Hint = strings.TrimSpace(f.hint + " Empty: " + f.usual + ".")
	}
	switch f.kind {
	case "lines", "pairs":
		field.Type, field.Rows, field.Mono = "textarea", 3, true
	case "area":
		field.Type, field.Rows, field.Mono = "textarea", 6, true
	case "secret area":
		field.Type, field.Rows, field.Mono, field.Value = "textarea", 6, true, ""
	case "bool":
		field.Type, field.Checked, field.Value = "checkbox", field.Value == "true", "true"
	case "number":
		field.InputMode = "numeric"
	case "secret":
		field.Type, field.Value, field.Autocomplete = "password", "", "new-password"
	case "select":
		field.Type = "select"
		for _, o := range f.options {
			o.Selected = o.Value == field.Value
			field.Options = append(field.Options, o)
		}
	}
	return field
}

// read returns what a form says of the setting in a field of that name, which has been set
// before if had says so: nil for what goes back to its default. It is false where the form
// says nothing: then the setting stays.
func (f setting) read(form *admin.Form, name string, had bool) (value any, said bool) {
	if _, there := form.Values[name]; !there && f.kind != "bool" {
		return nil, false
	}
	text := form.Get(name)
	switch {
	case f.kind == "bool":
		return form.Has(name, "true"), true
	case f.secret():
		if form.Has(forget+f.name, "true") {
			return nil, true
		}
		raw := form.Values.Get(name) // a password may begin with a space
		return raw, raw != ""
	case text == "":
		return nil, had
	}
	switch f.kind {
	case "lines":
		return form.Lines(name), true
	case "pairs":
		pairs := map[string]string{}
		for _, line := range form.Lines(name) {
			key, v, ok := strings.Cut(line, "=")
			key = strings.TrimSpace(key)
			_, twice := pairs[key]
			switch {
			case !ok || key == "":
				form.Fail(name, "must be lines like name = value: %q is none", line)
			case twice:
				form.Fail(name, "names %q twice", key)
			}
			pairs[key] = strings.TrimSpace(v)
		}
		return pairs, true
	case "number":
		n, err := strconv.Atoi(text)
		if err != nil {
			form.Fail(name, "must be a whole number")
		}
		return n, true
	}
	return text, true
}

// words is a setting as a form shows it: the items of a list, or of an object, in a line each.
func words(raw json.RawMessage) string {
	var text string
	var list []string
	var pairs map[string]string
	switch {
	case len(raw) == 0 || string(raw) == "null":
		return ""
	case json.Unmarshal(raw, &text) == nil:
		return text
	case json.Unmarshal(raw, &list) == nil:
		return strings.Join(list, "\n")
	case json.Unmarshal(raw, &pairs) == nil:
		for _, name := range slices.Sorted(maps.Keys(pairs)) {
			list = append(list, name+" = "+pairs[name])
		}
		return strings.Join(list, "\n")
	}
	return string(raw)
}

// sourceChange is what a form says of a provider, as the API wants it. What is empty is
// left to the API's usual value where there is none yet.
func sourceChange(form *admin.Form, p source, isNew, owner bool) map[string]any {
	in := map[string]any{"name": form.Get("name")}
	if owner {
		in["require_second_factor"] = form.Has("require_second_factor", "true")
	}
	uses := append([]string{}, form.Values["uses"]...)
	for _, use := range p.Uses { // a box that can't be clicked sends nothing
		if use == "admin" && (!owner || p.Local()) && !form.Has("uses", "admin") {
			uses = append(uses, "admin")
		}
	}
	in["uses"] = uses
	if p.Local() {
		return in
	}
	if p.Kind == "oidc" {
		delete(in, "require_second_factor") // the provider asks for one itself
	}
	in["groups"], in["disable_missing"] = append([]string{}, form.Lines("groups")...), form.Has("disable_missing", "true")
	if isNew {
		in["enabled"] = form.Has("enabled", "true")
	}
	if n, err := strconv.Atoi(form.Get("position")); err == nil {
		in["position"] = n
	} else if form.Get("position") != "" {
		form.Fail("position", "must be a whole number")
	}
	settings, mapping := map[string]any{}, map[string]any{}
	for _, f := range settingsOf[p.Kind] {
		if value, said := f.read(form, "settings."+f.name, words(p.Settings[f.name]) != ""); said {
			settings[f.name] = value
		}
	}
	for _, f := range mappingFields {
		value, said := f.read(form, "mapping."+f.name, words(p.Mapping[f.name]) != "")
		switch {
		case said && value != nil:
			mapping[f.name] = value
		case said && f.kind == "pairs":
			mapping[f.name] = map[string]string{}
		case said:
			mapping[f.name] = ""
		}
	}
	in["settings"] = settings
	if len(mapping) > 0 {
		in["mapping"] = mapping
	}
	return in
}
