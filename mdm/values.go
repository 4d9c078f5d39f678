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
	// Without are keys that are taken out of the Command dictionary: no device knows them.
	Without []string `json:"without,omitempty"`
	// Variables stand in the texts of the profile that an InstallProfile brings, by their
	// names without the dollar sign.
	Variables map[string]string `json:"variables,omitempty"`
	// Certificates are what SCEP payloads of that profile ask for, the PayloadContent by the
	// name of the certificate template: see [profile.Profile.Expand].
	Certificates map[string]map[string]any `json:"certificates,omitempty"`
}

// Param is a text, data or dictionary in a property list.
type Param struct {
	Text string           `json:"text,omitempty"`
	Hash bool             `json:"hash,omitempty"` // of the password Text, see [command.HashPassword]
	Data []byte           `json:"data,omitempty"` // if not nil, instead of Text
	Keys map[string]Param `json:"keys,omitempty"` // if not nil, added to the dictionary that is there
}

// set puts p into d.
func (p Param) set(d map[string]any, key string) (err error) {
	switch {
	case p.Keys != nil:
		inner, _ := d[key].(map[string]any)
		if inner == nil {
			inner = make(map[string]any, len(p.Keys))
		}
		for name, v := range p.Keys {
			if err := v.set(inner, name); err != nil {
				return err
			}
		}
		d[key] = inner
	case p.Data != nil:
		d[key] = p.Data
	case p.Hash:
		d[key], err = command.HashPassword(p.Text)
	default:
		d[key] = p.Text
	}
	return err
}

const valuesBucket = "command_values"

func valuesKey(uuid string, id DeviceID) []byte { return storage.Key(uuid, string(id)) }

func valuesPurpose(uuid string, id DeviceID) string {
	return "mdm/command-values/" + uuid + "/" + string(id)
}

// personalize keeps what c has for a target of its own, and says whether that is anything, or
// returns why the target gets no command.
func (s *Service) personalize(tx storage.Tx, c NewCommand, f *filler, id DeviceID, target command.Target) (own bool, no *command.Refusal, err error) {
	var values Values
	switch {
	case c.Personalize != nil:
		d, err := GetDevice(tx, id)
		if err != nil {
			return false, nil, err
		}
		values, err = c.Personalize(tx, d)
		if err = refusalIn(err, &no); err != nil {
			return false, nil, fmt.Errorf("values of command %s for %s: %w", c.UUID, id, err)
		}
		own = true
	case f != nil:
		values, err = f.fill(tx, id, target)
		if err = refusalIn(err, &no); err != nil {
			return false, nil, fmt.Errorf("fill in command %s for %s: %w", c.UUID, id, err)
		}
		own = len(values.Keys)+len(values.Without) > 0
	}
	if no != nil || !own {
		return false, no, nil
	}
	b, err := json.Marshal(values)
	if err != nil {
		return false, nil, fmt.Errorf("values of command %s for %s: %w", c.UUID, id, err)
	}
	if err := tx.Put(valuesBucket, valuesKey(c.UUID, id), s.box.Seal(valuesPurpose(c.UUID, id), b)); err != nil {
		return false, nil, fmt.Errorf("values of command %s for %s: %w", c.UUID, id, err)
	}
	return true, nil, nil
}

// refusalIn sets no to the refusal that err is, and returns any other error.
func refusalIn(err error, no **command.Refusal) error {
	if errors.As(err, no) {
		return nil
	}
	return err
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
	for _, key := range values.Without {
		delete(params, key)
	}
	for key, v := range values.Keys {
		if err := v.set(params, key); err != nil {
			return nil, err
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
	p = p.WithFreshCertificates(func(old string) string {
		sum := sha256.Sum256([]byte(uuid + "\x00" + old))
		return formatUUID([16]byte(sum[:16]))
	})
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
	if s.sign == nil {
		return own, nil
	}
	return s.sign(own)
}
