package profile

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// ErrNoStarter means that there is no starter of a name.
var ErrNoStarter = errors.New("no such starter")

// Starter is a kind of profile that many want, with the few questions that it takes to make
// one: see Fill.
type Starter struct {
	Name           string             `json:"name"` // "wifi-certificate"
	Title          string             `json:"title"`
	Summary        string             `json:"summary"`
	Platforms      []command.Platform `json:"platforms"`       // whose devices it is made for
	UserEnrollment bool               `json:"user_enrollment"` // personal devices take it, and do as it says
	Supervised     bool               `json:"supervised"`      // made for supervised iPhones and iPads
	Parameters     []Parameter        `json:"parameters"`
}

// Parameter is one question of a Starter.
type Parameter struct {
	Name     string       `json:"name"`
	Label    string       `json:"label"`
	Help     string       `json:"help,omitempty"`
	Kind     command.Kind `json:"type"`
	Required bool         `json:"required"`
	Default  any          `json:"default,omitempty"` // of Kind; nil: none
	Allowed  []string     `json:"allowed,omitempty"`
	Min      *float64     `json:"min,omitempty"`
	Max      *float64     `json:"max,omitempty"`
	Secret   bool         `json:"secret,omitempty"` // not to be shown, nor kept in the clear
	Form     Form         `json:"form,omitempty"`
}

// Form says what the text of a Parameter is.
type Form string

// The forms; the empty one is plain text, where $EMAIL is no variable.
const (
	FormVariables    Form = "variables"            // text that may hold variables
	FormURL          Form = "url"                  // http or https, may hold variables
	FormHost         Form = "host"                 // a host name, or an address
	FormBundle       Form = "bundle_id"            // the identifier of an app
	FormCertificates Form = "certificates"         // PEM, or base64 of one certificate
	FormTemplate     Form = "certificate_template" // the name of a certificate template
)

// starter is a Starter with what makes a draft of its parameters.
type starter struct {
	Starter
	fill func(f *filling)
}

// starters are all starters, in the order in which to show them.
func starters() []starter {
	return slices.Concat(networkStarters(), accountStarters(), protectionStarters(), macStarters())
}

// Starters returns all starters, in the order in which to show them.
func Starters() []Starter {
	var all []Starter
	for _, s := range starters() {
		all = append(all, s.Starter)
	}
	return all
}

// Fill returns the draft that a starter makes of parameters, whose values are as of
// [command.Build]; those that are missing have their defaults. identifier is the
// PayloadIdentifier of the profile; on it depend the UUIDs by which payloads refer to each
// other, so that the same answers give the same draft.
//
// The error wraps ErrNoStarter or is a *command.ParamError, with a path such as
// "params.ssid".
func Fill(name, identifier string, params map[string]any) (Draft, error) {
	all := starters()
	i := slices.IndexFunc(all, func(s starter) bool { return s.Name == name })
	if i < 0 {
		return Draft{}, fmt.Errorf("%q: %w", clip(name), ErrNoStarter)
	}
	if reason := badIdentifier(identifier); reason != "" {
		return Draft{}, &command.ParamError{Path: "identifier", Reason: reason}
	}
	s := all[i]
	keys := make([]command.Key, len(s.Parameters))
	given := maps.Clone(params)
	if given == nil {
		given = make(map[string]any)
	}
	for i, p := range s.Parameters {
		keys[i] = command.Key{Name: p.Name, Kind: p.Kind, Required: p.Required, Min: p.Min, Max: p.Max}
		for _, v := range p.Allowed {
			keys[i].Enum = append(keys[i].Enum, v)
		}
		if p.Kind == command.Array {
			keys[i].Items = []command.Key{{Kind: command.String, Required: true}}
		}
		if v, there := given[p.Name]; p.Default != nil && !there {
			given[p.Name] = p.Default
		} else if v == "" && !p.Required { // what a form sends of a field that nobody filled in
			delete(given, p.Name)
		}
	}
	values, err := command.Convert("params", "the starter "+s.Name, given, keys)
	if err != nil {
		return Draft{}, err
	}
	f := &filling{values: values, draft: Draft{Identifier: identifier, DisplayName: s.Title}}
	for _, p := range s.Parameters {
		f.check(p)
	}
	if s.fill(f); f.err != nil {
		return Draft{}, f.err
	}
	return f.draft, nil
}

// filling is a draft that is made of the parameters of a starter.
type filling struct {
	values map[string]any // checked, by Parameter.Name
	draft  Draft
	err    error // the first one
}

func (f *filling) wrong(name, reason string) {
	if f.err == nil {
		f.err = &command.ParamError{Path: "params." + name, Reason: reason}
	}
}

// check looks at what the kind of a parameter does not say.
func (f *filling) check(p Parameter) {
	for _, text := range f.texts(p.Name) {
		reason := ""
		switch p.Form {
		case FormURL:
			if u, err := url.Parse(text); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
				reason = "must be a URL that begins with https:// or http://"
			}
		case FormHost:
			if strings.ContainsAny(text, "/:@ \t\r\n$") && !strings.HasPrefix(text, "[") {
				reason = "must be the name of a host such as mail.example.com, without https:// and port"
			}
		case FormBundle:
			reason = badIdentifier(text)
		case FormCertificates:
			if _, err := certificates(text); err != nil {
				reason = err.Error()
			}
		case "":
			if _, isText := f.values[p.Name].(string); isText {
				f.values[p.Name] = escape(text)
			}
		}
		if reason != "" {
			f.wrong(p.Name, reason)
		}
	}
}

// texts returns the text or texts of a parameter.
func (f *filling) texts(name string) []string {
	switch v := f.values[name].(type) {
	case string:
		return []string{v}
	case []any:
		var all []string
		for _, element := range v {
			if s, ok := element.(string); ok {
				all = append(all, s)
			}
		}
		return all
	}
	return nil
}

func (f *filling) text(name string) string {
	s, _ := f.values[name].(string)
	return s
}

func (f *filling) on(name string) bool {
	b, _ := f.values[name].(bool)
	return b
}

// put sets a key to a parameter, if there is one.
func (f *filling) put(settings map[string]any, key, name string) {
	switch v := f.values[name].(type) {
	case nil:
	case int64:
		settings[key] = int(v) // as of command.Build
	case []any:
		if len(v) > 0 {
			settings[key] = v
		}
	default:
		settings[key] = v
	}
}

func (f *filling) add(p DraftPayload) { f.draft.Payloads = append(f.draft.Payloads, p) }

// certificates adds payloads for the certificates of a parameter, and returns their UUIDs.
func (f *filling) certificates(name string) []any {
	var uuids []any
	certs, _ := certificates(f.text(name))
	for _, cert := range certs {
		sum := sha256.Sum256(cert.Raw)
		p := DraftPayload{
			Type: "com.apple.security.root", Identifier: f.draft.Identifier + ".certificate." + hex.EncodeToString(sum[:8]),
			DisplayName: cert.Subject.CommonName,
			Settings:    map[string]any{"PayloadContent": cert.Raw, "PayloadCertificateFileName": "certificate.cer"},
		}
		if string(cert.RawSubject) != string(cert.RawIssuer) { // not a root: it is there, but anchors nothing
			p.Type = "com.apple.security.pkcs1"
		}
		p.UUID = derivedUUID(p.Identifier)
		if !slices.Contains(uuids, any(p.UUID)) {
			f.add(p)
			uuids = append(uuids, p.UUID)
		}
	}
	return uuids
}

// identity adds the place for a certificate of the template that a parameter names, and returns
// its UUID; empty without one.
func (f *filling) identity(name string) string {
	template := f.text(name)
	if template == "" {
		return ""
	}
	p := DraftPayload{
		Type: scepType, Identifier: f.draft.Identifier + ".identity", DisplayName: "Certificate",
		Settings: map[string]any{"PayloadContent": map[string]any{CertificateTemplateKey: template}},
	}
	p.UUID = derivedUUID(p.Identifier)
	f.add(p)
	return p.UUID
}

// certificates reads PEM, or base64 of one certificate.
func certificates(text string) ([]*x509.Certificate, error) {
	const wrong = "must be certificates in PEM, from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----"
	rest := []byte(text)
	if !strings.Contains(text, "-----BEGIN") {
		der, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
		if err != nil {
			return nil, errors.New(wrong)
		}
		rest = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch {
		case strings.Contains(block.Type, "PRIVATE KEY"):
			return nil, errors.New("must not hold a private key")
		case block.Type != "CERTIFICATE":
			return nil, errors.New(wrong)
		}
		cert, err := guard.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("has a certificate that can't be read, the one with the number %d", len(certs)+1)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, errors.New(wrong)
	}
	return certs, nil
}

// escape returns a text in which nothing is a variable, and that is s when it is expanded.
func escape(s string) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 {
			b.WriteString(s)
			return b.String()
		}
		b.WriteString(s[:i])
		rest := strings.TrimLeft(s[i:], "$")
		dollars := s[i : len(s)-len(rest)]
		if _, written := variableName(rest); written > 0 {
			b.WriteString(dollars)
		}
		b.WriteString(dollars)
		s = rest
	}
}

// unescape returns the text that escape was given.
func unescape(s string) string {
	var b strings.Builder
	for _, p := range pieces(s) {
		b.WriteString(p.text)
	}
	return b.String()
}

// What parameters are made of.

func ask(name, label, help string, form Form) Parameter {
	return Parameter{Name: name, Label: label, Help: help, Kind: command.String, Form: form}
}

func askList(name, label, help string, form Form) Parameter {
	return Parameter{Name: name, Label: label, Help: help, Kind: command.Array, Form: form}
}

func askWhether(name, label, help string, on bool) Parameter {
	return Parameter{Name: name, Label: label, Help: help, Kind: command.Boolean, Default: on}
}

func askNumber(name, label, help string, least, most float64) Parameter {
	return Parameter{Name: name, Label: label, Help: help, Kind: command.Integer, Min: &least, Max: &most}
}

func (p Parameter) required() Parameter {
	p.Required = true
	return p
}

func (p Parameter) secret() Parameter {
	p.Secret = true
	return p
}

func (p Parameter) or(v any) Parameter {
	p.Default = v
	return p
}

func (p Parameter) oneOf(values ...string) Parameter {
	p.Allowed = values
	return p
}
