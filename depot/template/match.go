package template

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// Match returns what a certificate says that is issued by t to somebody of whom
// nothing is known but a request, who is trusted to fill in what t leaves open: where t
// has variables, the request's own words are taken, as far as they fit around t's. It
// returns a *FieldError for a request that asks for anything else.
//
// The subject has t's RDNs, of its types, in its order. Of alternative names a request
// may have one for each of t's, of its kind; those without variables are there in any
// case. Usages are t's, whatever is asked for.
func (t Template) Match(asked guard.Asked) (Expanded, error) {
	var e Expanded
	var err error
	if asked.CA {
		return Expanded{}, &FieldError{"basic_constraints", "must not ask for an authority: certificates of templates are end entities'"}
	}
	if e.Subject, err = t.Subject.match(asked.Subject); err != nil {
		return Expanded{}, err
	}
	if e.SANs, err = t.SANs.match(asked.Names); err != nil {
		return Expanded{}, err
	}
	if e.RawSubject, err = e.Subject.der(); err != nil {
		return Expanded{}, fmt.Errorf("template %s: subject: %w", t.Name, err)
	}
	e.KeyUsage, e.ExtKeyUsage, e.ExtKeyUsageOIDs, err = t.Usages()
	return e, err
}

// Usages returns what certificates of t are good for.
func (t Template) Usages() (usage x509.KeyUsage, extended []x509.ExtKeyUsage, oids []asn1.ObjectIdentifier, err error) {
	if usage, err = keyUsages(t.KeyUsage); err != nil {
		return 0, nil, nil, fmt.Errorf("template %s: key_usage: %w", t.Name, err)
	}
	if extended, oids, err = extKeyUsages(t.ExtKeyUsage); err != nil {
		return 0, nil, nil, fmt.Errorf("template %s: ext_key_usage: %w", t.Name, err)
	}
	return usage, extended, oids, nil
}

// match returns s with the values of name where s has variables.
func (s Subject) match(name guard.Name) (Subject, error) {
	if _, fixed := s.fixed(); fixed && len(name) == 0 {
		return s.expand(Facts{}) // there is nothing to ask for
	}
	if len(name) != len(s) {
		return nil, &FieldError{"subject", fmt.Sprintf("has %d parts, and the template has %d", len(name), len(s))}
	}
	out := make(Subject, len(s))
	for i, rdn := range s {
		if len(name[i]) != len(rdn) {
			return nil, &FieldError{"subject", fmt.Sprintf("has %d attributes in its part %d, and the template has %d", len(name[i]), i+1, len(rdn))}
		}
		out[i] = make(RDN, len(rdn))
		for j, a := range rdn {
			t, err := typeOf(a.Type)
			if err != nil {
				return nil, &FieldError{"subject", err.Error()}
			}
			// DER sorts the attributes of one part, so they are found by their type.
			at := slices.IndexFunc(name[i], func(asked guard.NameAttribute) bool { return asked.Type.String() == t.oid })
			if at < 0 {
				return nil, &FieldError{"subject", fmt.Sprintf("lacks %s in its part %d", t.id(), i+1)}
			}
			value := name[i][at].Value
			if err := matchValue(a.Value, value, anyText, t.check); err != nil {
				return nil, &FieldError{"subject." + t.id(), err.Error()}
			}
			out[i][j] = Attribute{a.Type, value}
		}
	}
	return out, nil
}

// fixed returns s without variables; ok is false if it has any.
func (s Subject) fixed() (Subject, bool) {
	for _, rdn := range s {
		for _, a := range rdn {
			if _, ok := literal(a.Value); !ok {
				return nil, false
			}
		}
	}
	return s, true
}

// match returns the names that are asked for, and those of s that have no variables.
func (s SANs) match(names guard.AlternativeNames) (SANs, error) {
	if len(names.Others) > 0 {
		return SANs{}, &FieldError{"sans", "has a " + names.Others[0] + ", which no template has"}
	}
	if len(names.IPs) > 0 {
		return SANs{}, &FieldError{"sans", "has an IP address, which no template has"}
	}
	var out SANs
	for _, kind := range sanKinds() {
		var asked []string
		switch kind.name {
		case "rfc822Name":
			asked = names.EmailAddresses
		case "dNSName":
			asked = names.DNSNames
		case "uniformResourceIdentifier":
			asked = names.URIs
		}
		// What fills a variable of a URI stays within one part of it, as when it is
		// expanded: else it could bring another host.
		anything := anyText
		if kind.escape != nil {
			anything = `[^/?#@:\\]+`
		}
		values, err := matchNames(kind.name, *kind.of(&s), asked, anything, kind.check)
		if err != nil {
			return SANs{}, err
		}
		*kind.of(&out) = values
	}
	var patterns []string
	if s.NTPrincipalName != "" {
		patterns = []string{s.NTPrincipalName}
	}
	upns, err := matchNames("ntPrincipalName", patterns, names.UserPrincipalNames, anyText, checkUPN)
	if err != nil {
		return SANs{}, err
	}
	if len(upns) > 0 {
		out.NTPrincipalName = upns[0]
	}
	return out, nil
}

// matchNames finds for each asked name a pattern of its own.
func matchNames(kind string, patterns, asked []string, anything string, check func(string) error) ([]string, error) {
	free := slices.Clone(patterns)
	var out []string
	for i, value := range asked {
		why := fmt.Errorf("%.100q is more than the template has", value)
		at := slices.IndexFunc(free, func(pattern string) bool {
			err := matchValue(pattern, value, anything, check)
			if err != nil {
				why = err
			}
			return err == nil
		})
		if at < 0 {
			return nil, &FieldError{fmt.Sprintf("sans.%s[%d]", kind, i), why.Error()}
		}
		free = slices.Delete(free, at, at+1)
		out = append(out, value)
	}
	for _, pattern := range free {
		if text, ok := literal(pattern); ok {
			out = append(out, text)
		}
	}
	return out, nil
}

// anyText is the regular expression of what a variable can come to.
const anyText = `.+`

// matchValue says whether value is what pattern can come to, with the regular expression
// anything in place of each variable that has text beside it.
func matchValue(pattern, value, anything string, check func(string) error) error {
	if text, ok := literal(pattern); ok {
		if value != text {
			return fmt.Errorf("is %.100q, and in the template %.100q", value, text)
		}
		return nil
	}
	all, err := pieces(pattern)
	if err != nil {
		return err
	}
	if len(all) == 1 {
		anything = anyText // there is nothing that it could break
	}
	var b strings.Builder
	b.WriteString(`^(?s:`)
	for _, p := range all {
		if p.variable != "" {
			b.WriteString(anything)
			continue
		}
		b.WriteString(regexp.QuoteMeta(p.text))
	}
	b.WriteString(`)$`)
	re, err := regexp.Compile(b.String())
	if err != nil {
		return err
	}
	if !re.MatchString(value) {
		return fmt.Errorf("is %.100q, and in the template %.100q", value, pattern)
	}
	return check(value)
}

// SubjectOf returns the subject that a request asks for, once it is such as a template
// could have; its error is a *FieldError.
func SubjectOf(name guard.Name) (Subject, error) {
	s := make(Subject, len(name))
	for i, rdn := range name {
		for _, a := range rdn {
			t, err := typeOf(a.Type.String())
			if err != nil {
				return nil, &FieldError{"subject", err.Error()}
			}
			if err := t.check(a.Value); err != nil {
				return nil, &FieldError{"subject." + t.id(), err.Error()}
			}
			s[i] = append(s[i], Attribute{t.id(), a.Value})
		}
	}
	if len(s) > maxRDNs {
		return nil, &FieldError{"subject", fmt.Sprintf("has %d parts, at most %d", len(s), maxRDNs)}
	}
	return s, nil
}

// DER returns a subject without variables as a certificate has it.
func (s Subject) DER() ([]byte, error) { return s.der() }

// CheckNames says whether the alternative names that a request asks for are such as a
// template could have; its error is a *FieldError. IP addresses are not looked at.
func CheckNames(names guard.AlternativeNames) error {
	for _, kind := range []struct {
		name   string
		values []string
		check  func(string) error
	}{
		{"rfc822Name", names.EmailAddresses, checkAddress}, {"dNSName", names.DNSNames, checkHost},
		{"uniformResourceIdentifier", names.URIs, checkURI}, {"ntPrincipalName", names.UserPrincipalNames, checkUPN},
	} {
		if len(kind.values) > maxSANs {
			return &FieldError{"sans." + kind.name, fmt.Sprintf("has %d values, at most %d", len(kind.values), maxSANs)}
		}
		for i, value := range kind.values {
			if err := kind.check(value); err != nil {
				return &FieldError{fmt.Sprintf("sans.%s[%d]", kind.name, i), err.Error()}
			}
		}
	}
	return nil
}
