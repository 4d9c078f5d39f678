package profile

import (
	"fmt"
	"maps"

	"github.com/gatehouse-mdm/gatehouse/mdm/internal/plistxml"
)

// Encode returns the profile as an XML property list, unsigned: what Top holds, to each
// value exactly. The same values give the same bytes.
//
// Variables and places for certificates stay as they are: what goes to a device comes from
// Expand or a Template.
func (p *Profile) Encode() ([]byte, error) {
	raw, err := plistxml.Marshal(p.Top)
	if err != nil {
		return nil, fmt.Errorf("profile %s: %w", clip(p.Identifier), err)
	}
	return raw, nil
}

// WithUUID returns the profile with another UUID of its own, by which a ProfileList tells
// which version of it is installed. Those of its payloads, which refer to one another by
// them, stay. It shares the rest with p.
func (p *Profile) WithUUID(uuid string) *Profile {
	return p.with("PayloadUUID", uuid)
}

// with returns the profile with another value at its top level.
func (p *Profile) with(key string, value any) *Profile {
	top := maps.Clone(p.Top)
	top[key] = value
	return read(top)
}
