package mdm

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Values are what one device gets in a command that goes to many. It is found out when the
// command is queued, so that what a device lacks is said before anything is sent, kept
// sealed, and put in its place when the command is sent.
type Values struct {
	// Keys are set in the Command dictionary: a PIN, an UnlockToken.
	Keys map[string]Param `json:"keys,omitempty"`
	// Variables stand in the texts of the profile that an InstallProfile brings, by their
	// names without the dollar sign.
	Variables map[string]string `json:"variables,omitempty"`
	// Certificates are what SCEP payloads of that profile ask for, the PayloadContent by the
	// name of the certificate template: see [profile.Profile.Expand].
	Certificates map[string]map[string]any `json:"certificates,omitempty"`
}

// Param is a text or data in a property list.
type Param struct {
	Text string `json:"text,omitempty"`
	Data []byte `json:"data,omitempty"` // if not nil, instead of Text
}

const valuesBucket = "command_values"

func valuesKey(uuid string, id DeviceID) []byte { return storage.Key(uuid, string(id)) }

func valuesPurpose(uuid string, id DeviceID) string {
	return "mdm/command-values/" + uuid + "/" + string(id)
}

// personalize keeps what c has for a target of its own, or returns why it gets nothing.
func (s *Service) personalize(tx storage.Tx, c NewCommand, id DeviceID) (*command.Refusal, error) {
	if c.Personalize == nil {
		return nil, nil
	}
	d, err := GetDevice(tx, id)
	if err != nil {
		return nil, err
	}
	values, err := c.Personalize(tx, d)
	var no *command.Refusal
	if errors.As(err, &no) {
		return no, nil
	}
	if err != nil {
		return nil, fmt.Errorf("values of command %s for %s: %w", c.UUID, id, err)
	}
	b, err := json.Marshal(values)
	if err != nil {
		return nil, fmt.Errorf("values of command %s for %s: %w", c.UUID, id, err)
	}
	if err := tx.Put(valuesBucket, valuesKey(c.UUID, id), s.box.Seal(valuesPurpose(c.UUID, id), b)); err != nil {
		return nil, fmt.Errorf("values of command %s for %s: %w", c.UUID, id, err)
	}
	return nil, nil
}

// complete returns the property list of a command with what its device gets of its own.
func (s *Service) complete(plist, own []byte, uuid string) ([]byte, error) {
	var values Values
	dec := json.NewDecoder(bytes.NewReader(own))
	dec.UseNumber() // integers stay integers
	if err := dec.Decode(&values); err != nil {
		return nil, err
	}
	params, err := command.Params(plist)
	if err != nil {
		return nil, err
	}
	for key, v := range values.Keys {
		if v.Data != nil {
			params[key] = v.Data
		} else {
			params[key] = v.Text
		}
	}
	if len(values.Variables)+len(values.Certificates) > 0 {
		payload, _ := params["Payload"].([]byte)
		if params["Payload"], err = s.fill(payload, values, uuid); err != nil {
			return nil, err
		}
	}
	return command.Encode(params, uuid)
}

// fill returns a profile with what a device has in it of its own, signed.
//
// A device asks for another certificate only by a SCEP payload with another PayloadUUID, so
// those that ask for one get a UUID of the command, wherever the profile names it: the same
// when the command is sent again.
func (s *Service) fill(payload []byte, values Values, uuid string) ([]byte, error) {
	p, err := profile.Parse(payload)
	if err != nil {
		return nil, err
	}
	t, err := p.Template()
	if err != nil {
		return nil, err
	}
	own, err := t.Render(func(name string) (string, error) {
		v, ok := values.Variables[name]
		if !ok {
			return "", errors.New("has no value")
		}
		return v, nil
	}, values.Certificates)
	if err != nil {
		return nil, err
	}
	for _, old := range p.CertificateUUIDs() {
		sum := sha256.Sum256([]byte(uuid + "\x00" + old))
		own = bytes.ReplaceAll(own, []byte(old), []byte(formatUUID([16]byte(sum[:16]))))
	}
	if s.sign == nil {
		return own, nil
	}
	return s.sign(own)
}
