package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

// setParam reads KEY=VALUE into params, as JSON has it for a command with these keys. A key
// may lead into a dictionary, by dots. What the keys do not know goes as a text, so that it
// is the server that says what is wrong, in the same words as ever.
func setParam(params map[string]any, keys []command.Key, text string) error {
	path, value, ok := strings.Cut(text, "=")
	if !ok || path == "" {
		return fmt.Errorf("%q is not KEY=VALUE", text)
	}
	into := params
	for {
		name, rest, deeper := strings.Cut(path, ".")
		at := slices.IndexFunc(keys, func(k command.Key) bool {
			return k.Name == path || deeper && k.Name == name && k.Kind == command.Dictionary
		})
		switch {
		case at < 0:
			into[path] = value
			return nil
		case keys[at].Name != path:
			inner, ok := into[name].(map[string]any)
			if !ok {
				inner = map[string]any{}
				into[name] = inner
			}
			into, keys, path = inner, keys[at].Keys, rest
		default:
			return setValue(into, keys[at], value)
		}
	}
}

// setValue sets one key, or adds to it, if it is a list.
func setValue(into map[string]any, k command.Key, text string) error {
	if _, there := into[k.Name]; there && k.Kind != command.Array {
		return fmt.Errorf("%s is there twice", k.Name)
	}
	if k.Kind != command.Array {
		v, err := paramValue(k, text)
		into[k.Name] = v
		return err
	}
	list, _ := into[k.Name].([]any)
	if strings.HasPrefix(text, "[") {
		var more []any
		if err := json.Unmarshal([]byte(text), &more); err != nil {
			return fmt.Errorf("%s: %q is not JSON", k.Name, text)
		}
		into[k.Name] = append(list, more...)
		return nil
	}
	element := command.Key{Name: k.Name, Kind: command.String}
	if len(k.Items) > 0 {
		element.Kind = k.Items[0].Kind
	}
	v, err := paramValue(element, text)
	into[k.Name] = append(list, v)
	return err
}

// paramValue is what text says for a key that is no list.
func paramValue(k command.Key, text string) (any, error) {
	if file, ok := strings.CutPrefix(text, "@"); ok {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.Name, err)
		}
		if k.Kind == command.Data {
			return base64.StdEncoding.EncodeToString(raw), nil
		}
		text = string(raw)
	}
	switch k.Kind {
	case command.Boolean:
		if text != "true" && text != "false" {
			return nil, fmt.Errorf("%s must be true or false", k.Name)
		}
		return text == "true", nil
	case command.Integer, command.Real:
		var n json.Number
		if json.Unmarshal([]byte(text), &n) != nil || strings.HasPrefix(text, `"`) {
			return nil, fmt.Errorf("%s must be a number", k.Name)
		}
		return n, nil
	case command.Dictionary:
		var v map[string]any
		if json.Unmarshal([]byte(text), &v) != nil || v == nil {
			return nil, fmt.Errorf("%s is a dictionary: name one of its keys, as in %s.KEY=VALUE, or give a JSON object", k.Name, k.Name)
		}
		return v, nil
	}
	return text, nil
}
