package oidc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
)

// claims are what a provider says of a person, by name: a JSON object, numbers as they
// were written.
type claims map[string]any

// Bounds of what is handed on.
const (
	mostAttributes = 200
	mostValues     = 2000 // of one: groups are many
	longestValue   = 1024 // bytes
	deepest        = 3    // objects in objects
)

// read takes claims from what decodes a JSON object.
func (c *claims) read(decode func(any) error) error {
	var raw json.RawMessage
	if err := decode(&raw); err != nil {
		return errors.New("it is no object")
	}
	return c.readFrom(bytes.NewReader(raw))
}

func (c *claims) readFrom(r io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(r, longestToken+1))
	switch {
	case err != nil:
		return err
	case len(data) > longestToken:
		return errors.New("is longer than 64 KiB")
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	if err := decoder.Decode(c); err != nil || *c == nil {
		return errors.New("is no JSON object")
	}
	return nil
}

// text returns a claim that is a text; empty if it is none.
func (c claims) text(name string) string {
	text, _ := c[name].(string)
	return text
}

// time returns a claim that is a NumericDate (RFC 7519, 2).
func (c claims) time(name string) (t time.Time, ok bool) {
	number, ok := c[name].(json.Number)
	if !ok {
		return time.Time{}, false
	}
	seconds, err := number.Float64()
	if err != nil || seconds < 0 || seconds > 1<<40 {
		return time.Time{}, false
	}
	return time.Unix(int64(seconds), 0), true
}

// yes reports whether a claim says so: some providers write booleans as texts.
func (c claims) yes(name string) bool { return c[name] == true || c[name] == "true" }

// add takes what userinfo says beside an ID token. It must be of the same person (OpenID
// Connect Core 1.0, 5.3.2), and says nothing else of what the token says already.
func (c claims) add(more *claims) error {
	if c.text("sub") != more.text("sub") {
		return fmt.Errorf("%w: userinfo is about another person", identity.ErrSignIn)
	}
	// An address and whether it is verified belong together.
	if address, ok := (*more)["email"]; ok && address != c["email"] {
		delete(c, "email_verified")
		delete(c, "email")
	} else if !ok {
		delete(*more, "email_verified")
	}
	for name, value := range *more {
		if _, ok := c[name]; !ok {
			c[name] = value
		}
	}
	return nil
}

// ofTheToken are claims about a token and not about a person.
var ofTheToken = []string{"nonce", "at_hash", "c_hash", "s_hash", "jti", "sid", "_claim_names", "_claim_sources"}

// person says who c is about. Its errors wrap [identity.ErrDenied] or [identity.ErrSource].
func (s *Source) person(c *claims) (identity.Person, error) {
	for _, name := range slices.Sorted(maps.Keys(s.settings.RequiredClaims)) {
		if !slices.Contains(c.values(name), s.settings.RequiredClaims[name]) {
			return identity.Person{}, fmt.Errorf("%w: the claim %s is not as required", identity.ErrDenied, clean(name, 60))
		}
	}
	p := identity.Person{Subject: c.text("sub"), Email: c.text("email"), Attributes: map[string][]string{}}
	if p.Email != "" {
		_, said := (*c)["email_verified"]
		p.Unverified = !c.yes("email_verified") && (said || !s.settings.TrustEmail)
	}
	if s.settings.GroupsClaim != "" {
		if err := c.hasGroups(s.settings.GroupsClaim); err != nil {
			return identity.Person{}, err
		}
		p.Groups = c.values(s.settings.GroupsClaim)
	}
	c.attributes(p.Attributes, "", *c, deepest)
	for _, name := range ofTheToken {
		delete(p.Attributes, name)
	}
	return p, nil
}

// hasGroups returns an error if the provider says that a person has groups, but not which:
// Entra ID leaves them out where they are more than 200 ("groups overage claim").
func (c claims) hasGroups(claim string) error {
	elsewhere, _ := c["_claim_names"].(map[string]any)
	if _, ok := elsewhere[claim]; ok || claim == "groups" && c.yes("hasgroups") {
		return fmt.Errorf("%w: the person is in too many groups for the claim %s; let the provider send only the groups that are assigned to this application", identity.ErrSource, clean(claim, 60))
	}
	return nil
}

// values returns the texts of a claim, which may be inside others: "realm_access.roles".
func (c claims) values(name string) []string {
	if value, ok := c[name]; ok {
		return texts(value)
	}
	outer, rest, ok := strings.Cut(name, ".")
	if !ok {
		return nil
	}
	inside, _ := c[outer].(map[string]any)
	return claims(inside).values(rest)
}

// texts returns a claim's values as they are handed on: a text, number or boolean, or a
// list of these.
func texts(value any) (out []string) {
	list, ok := value.([]any)
	if !ok {
		list = []any{value}
	}
	for _, item := range list {
		text := ""
		switch item := item.(type) {
		case string:
			text = item
		case json.Number:
			text = item.String()
		case bool:
			text = fmt.Sprint(item)
		}
		if text != "" && len(text) <= longestValue && len(out) < mostValues {
			out = append(out, text)
		}
	}
	return out
}

// attributes flattens claims into out: what is in an object has its name before it.
func (c claims) attributes(out map[string][]string, prefix string, from claims, depth int) {
	for _, name := range slices.Sorted(maps.Keys(from)) {
		full := prefix + name
		if inside, ok := from[name].(map[string]any); ok && depth > 1 && !slices.Contains(ofTheToken, full) {
			c.attributes(out, full+".", inside, depth-1)
			continue
		}
		values := texts(from[name])
		_, taken := c[full]
		if len(values) == 0 || len(full) > longestValue || len(out) >= mostAttributes || prefix != "" && taken {
			continue
		}
		out[full] = values
	}
}
