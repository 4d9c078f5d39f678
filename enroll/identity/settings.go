package identity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// maxSettings is in bytes, of a provider's settings with the secrets.
const maxSettings = 256 << 10

// HasSecret says whether a secret setting is there.
func (p Provider) HasSecret(name string) bool { return len(p.Sealed[name]) > 0 }

// SecretSettings returns which settings of a kind of provider are secret.
func (s *Service) SecretSettings(kind string) []string {
	if k, ok := s.kinds[kind]; ok {
		return k.Secrets()
	}
	return nil
}

// changeSettings changes the settings of p and takes the secrets out of them, and says
// whether they differ. A setting that is null, and a secret that is empty, is taken away.
func (s *Service) changeSettings(p *Provider, change json.RawMessage) (differs bool, err error) {
	kind := s.kinds[p.Kind]
	if kind == nil {
		return false, &FieldError{"kind", "is none that this server knows: it can only be deleted"}
	}
	if len(change) > maxSettings {
		return false, &FieldError{"settings", fmt.Sprintf("must be at most %d bytes", maxSettings)}
	}
	raw, err := s.unsealSettings(*p)
	if err != nil {
		return false, err
	}
	settings := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &settings); err != nil {
		return false, fmt.Errorf("stored settings: %w", err)
	}
	before := maps.Clone(settings)
	given, err := parseSettings(change)
	if err != nil {
		return false, err
	}
	for name, value := range given {
		secret := slices.Contains(kind.Secrets(), name)
		if isNull(value) || secret && string(value) == `""` {
			delete(settings, name)
		} else {
			settings[name] = value
		}
	}
	after, err := json.Marshal(settings)
	if err != nil {
		return false, fmt.Errorf("settings: %w", err)
	}
	if err := s.checkSettings(kind, *p, after); err != nil {
		return false, err
	}
	if err := keptSecrets(kind, before, settings, given); err != nil {
		return false, err
	}
	if maps.EqualFunc(before, settings, sameJSON) && p.Version > 0 {
		return false, nil
	}
	return true, s.sealSettings(p, kind, settings)
}

func parseSettings(change json.RawMessage) (given map[string]json.RawMessage, err error) {
	if change == nil {
		return nil, nil
	}
	if err := json.Unmarshal(change, &given); err != nil || given == nil {
		return nil, &FieldError{"settings", "must be an object"}
	}
	return given, nil
}

func isNull(value json.RawMessage) bool { return string(bytes.TrimSpace(value)) == "null" }

// keptSecrets refuses to keep a secret that would go elsewhere from now on.
func keptSecrets(kind SourceKind, before, after, given map[string]json.RawMessage) error {
	destined, ok := kind.(Destined)
	if !ok || !slices.ContainsFunc(destined.Destinations(), func(name string) bool { return !sameJSON(before[name], after[name]) }) {
		return nil
	}
	for _, secret := range kind.Secrets() {
		_, had := before[secret]
		if _, again := given[secret]; had && !again {
			return &FieldError{"settings." + secret, "must be given again, as it would be sent to another server than before"}
		}
	}
	return nil
}

// keptNamespace refuses to have the users of old known as whoever has their subjects
// elsewhere.
func (s *Service) keptNamespace(old, p Provider) error {
	distinct, ok := s.kinds[p.Kind].(Distinct)
	if !ok || !old.Bound {
		return nil
	}
	var before, after map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(old.Settings, &before), json.Unmarshal(p.Settings, &after)); err != nil {
		return fmt.Errorf("stored settings: %w", err)
	}
	said := func(value json.RawMessage) json.RawMessage {
		if string(value) == `""` {
			return nil
		}
		return value
	}
	for _, name := range distinct.Namespace() {
		if !sameJSON(said(before[name]), said(after[name])) {
			return &FieldError{"settings." + name, "can't be changed once people have signed in: make another provider"}
		}
	}
	return nil
}

func sameJSON(a, b json.RawMessage) bool {
	var left, right bytes.Buffer
	if json.Compact(&left, a) != nil || json.Compact(&right, b) != nil {
		return bytes.Equal(a, b)
	}
	return bytes.Equal(left.Bytes(), right.Bytes())
}

// checkSettings says what is wrong with settings of a kind, and with what p asks of them.
func (s *Service) checkSettings(kind SourceKind, p Provider, settings json.RawMessage) error {
	err := kind.Check(settings)
	var field *FieldError
	switch {
	case errors.As(err, &field):
		return &FieldError{"settings." + field.Field, field.Reason}
	case err != nil:
		return fmt.Errorf("check settings: %w", err)
	}
	source, err := kind.Open(settings)
	if err != nil {
		return fmt.Errorf("open source: %w", err)
	}
	defer opened{source: source}.close()
	if _, ok := source.(Directory); p.DisableMissing && !ok {
		return &FieldError{"disable_missing", "is for directories that can be asked who is in them"}
	}
	if _, ok := source.(PasswordSource); p.RequireSecondFactor && !ok {
		return &FieldError{"require_second_factor", "is for providers that take a password here: others ask for a second factor themselves"}
	}
	return nil
}

func sealPurpose(p Provider, setting string) string {
	return "identity provider " + p.ID + " " + setting
}

// sealSettings puts settings into p, secrets apart.
func (s *Service) sealSettings(p *Provider, kind SourceKind, settings map[string]json.RawMessage) error {
	p.Sealed = nil
	plain := maps.Clone(settings)
	for _, name := range kind.Secrets() {
		value, ok := plain[name]
		if !ok {
			continue
		}
		delete(plain, name)
		sealed, err := s.seal(sealPurpose(*p, name), value)
		if err != nil {
			return err
		}
		if p.Sealed == nil {
			p.Sealed = map[string][]byte{}
		}
		p.Sealed[name] = sealed
	}
	var err error
	if p.Settings, err = json.Marshal(plain); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	return nil
}

// unsealSettings returns the settings of p with the secrets.
func (s *Service) unsealSettings(p Provider) (json.RawMessage, error) {
	if len(p.Sealed) == 0 {
		return p.Settings, nil
	}
	settings := map[string]json.RawMessage{}
	if err := json.Unmarshal(p.Settings, &settings); err != nil {
		return nil, fmt.Errorf("stored settings: %w", err)
	}
	for name, sealed := range p.Sealed {
		value, err := s.unseal(sealPurpose(p, name), sealed)
		if err != nil {
			return nil, err
		}
		settings[name] = value
	}
	return json.Marshal(settings)
}

// errNoBox means that this server was put together without a key for secrets.
var errNoBox = errors.New("there is no key to seal secrets with")

func (s *Service) seal(purpose string, plain []byte) ([]byte, error) {
	if s.box == nil {
		return nil, errNoBox
	}
	return s.box.Seal(purpose, plain), nil
}

func (s *Service) unseal(purpose string, sealed []byte) ([]byte, error) {
	if s.box == nil {
		return nil, errNoBox
	}
	return s.box.Open(purpose, sealed)
}
