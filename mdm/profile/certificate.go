package profile

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

// CertificateTemplateKey is our own key in the PayloadContent of a com.apple.security.scep:
// such a payload is the place for a request that is made for each device, by the certificate
// template of this name. Expand and Template put the request there. The PayloadUUID stays, so
// that a Wi-Fi or VPN payload can refer to the certificate.
//
// No device understands it: a profile with it must not be sent as it is.
const CertificateTemplateKey = "CertificateTemplate"

const scepType = "com.apple.security.scep"

// ErrNoCertificate means that there is no request for a place that a profile has for one.
var ErrNoCertificate = errors.New("no request for a certificate")

// certificate returns the name of the certificate template whose request belongs in p; is
// says that p is the place for one. A name that is no text, or empty, is empty.
func (p Payload) certificate() (name string, is bool) {
	content, _ := p.Content["PayloadContent"].(map[string]any)
	v, is := content[CertificateTemplateKey]
	if !is || p.Type != scepType {
		return "", false
	}
	name, _ = v.(string)
	return name, true
}

// Certificates returns the names of the certificate templates of which the profile brings
// certificates, sorted, each once. Such a profile goes to a device by Expand or a Template only.
func (p *Profile) Certificates() []string {
	var names []string
	for _, payload := range p.Payloads {
		if name, is := payload.certificate(); is {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// withRequests returns the profile with what fill returns in all places for certificates. It
// shares the rest with p.
func (p *Profile) withRequests(fill func(template string) (any, error)) (*Profile, error) {
	var content []any
	for _, payload := range p.Payloads {
		template, is := payload.certificate()
		if !is {
			continue
		}
		request, err := fill(template)
		if err != nil {
			return nil, err
		}
		if content == nil {
			content = slices.Clone(p.Top["PayloadContent"].([]any)) // a payload has an index in it
		}
		filled := maps.Clone(payload.Content)
		filled["PayloadContent"] = request
		content[payload.Index] = filled
	}
	if content == nil {
		return p, nil
	}
	return p.with("PayloadContent", content), nil
}

// Content returns the PayloadContent of a com.apple.security.scep, for Expand: all of s but
// its PayloadUUID, in whose place the profile has one of its own.
func (s SCEP) Content() (map[string]any, error) {
	if s.PayloadUUID == "" {
		s.PayloadUUID = "of the profile"
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	return s.payload(heading{}, "")["PayloadContent"].(map[string]any), nil
}

// request returns the PayloadContent that is to fill the place of a certificate template.
// It may have been through JSON, which knows neither integers nor data.
func request(template string, certificates map[string]map[string]any) (map[string]any, error) {
	content := certificates[template]
	url, _ := content["URL"].(string)
	if _, unfilled := content[CertificateTemplateKey]; url == "" || unfilled {
		return nil, fmt.Errorf("%w of the template %q", ErrNoCertificate, clip(template))
	}
	content = maps.Clone(content)
	for _, key := range scepKeys() {
		var err error
		switch v := content[key.Name].(type) {
		case string:
			if key.Kind == command.Data {
				content[key.Name], err = base64.StdEncoding.DecodeString(v)
			}
		case json.Number:
			content[key.Name], err = v.Int64()
		case float64:
			if v == math.Trunc(v) && key.Kind == command.Integer {
				content[key.Name] = int64(v)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("request for a certificate of the template %q: %s: %w", clip(template), key.Name, err)
		}
	}
	return content, nil
}

// scepKeys are the keys of a SCEP payload's content.
func scepKeys() []command.Key {
	for _, facts := range Lookup(scepType) {
		for _, key := range facts.Keys {
			if key.Name == "PayloadContent" {
				return key.Keys
			}
		}
	}
	return nil
}

// WithFreshCertificates returns the profile with other PayloadUUIDs of those payloads, each
// what of makes of the one that it has, also wherever a payload refers to such a certificate:
// a device asks for another one only by another PayloadUUID. It shares the rest with p.
//
// A reference is a whole text that is the PayloadUUID, in capitals or not. A PayloadUUID that
// is none in form, such as "wifi", may well be a network's name, too: it is referred to by
// keys with UUID in their names only.
func (p *Profile) WithFreshCertificates(of func(uuid string) string) *Profile {
	fresh := make(map[string]string)
	for _, payload := range p.Payloads {
		if _, is := payload.certificate(); is && payload.UUID != "" {
			fresh[strings.ToUpper(payload.UUID)] = of(payload.UUID)
		}
	}
	if len(fresh) == 0 {
		return p
	}
	content := slices.Clone(p.Top["PayloadContent"].([]any)) // a payload has an index in it
	for _, payload := range p.Payloads {
		referring, _ := refresh(payload.Content, fresh, false)
		d := referring.(map[string]any)
		if _, is := payload.certificate(); is && payload.UUID != "" {
			d = maps.Clone(d)
			d["PayloadUUID"] = fresh[strings.ToUpper(payload.UUID)]
		}
		content[payload.Index] = d
	}
	return p.with("PayloadContent", content)
}

// refresh returns v with the texts that fresh replaces, and whether there are any; named says
// that v is the value of a key with UUID in its name.
func refresh(v any, fresh map[string]string, named bool) (out any, changed bool) {
	switch v := v.(type) {
	case string:
		other, is := fresh[strings.ToUpper(v)]
		if is && (named || isUUID(v)) {
			return other, true
		}
	case []any:
		all := v
		for i, element := range v {
			if other, is := refresh(element, fresh, named); is {
				if !changed {
					all, changed = slices.Clone(v), true
				}
				all[i] = other
			}
		}
		return all, changed
	case map[string]any:
		all := v
		for key, value := range v {
			if isFixed(key) {
				continue
			}
			if other, is := refresh(value, fresh, strings.Contains(strings.ToUpper(key), "UUID")); is {
				if !changed {
					all, changed = maps.Clone(v), true
				}
				all[key] = other
			}
		}
		return all, changed
	}
	return v, false
}
