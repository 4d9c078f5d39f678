package commands

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// shownData is up to how many characters of base64 a request is shown with.
const shownData = 1024

// curl is the request for a script. Secrets are left for whoever runs it to fill in: nothing
// shows what was typed.
func (o order) curl(server *url.URL, r *reading, typ commandType) string {
	o.Confirm = typ.Confirm
	o.Params = veiled("params", o.Params, typ.Keys, r)
	return curlOf(server, http1{"POST", "/api/v1/commands", o})
}

// http1 is a request with a JSON body.
type http1 struct {
	method, path string
	body         any
}

func curlOf(server *url.URL, x http1) string {
	return "curl --fail-with-body -X " + x.method + " " + quote(server.JoinPath(x.path).String()) + " \\\n" +
		"  -H \"Authorization: Bearer $GATEHOUSE_TOKEN\" -H 'Content-Type: application/json' \\\n" +
		"  --data " + quote(indented(x.body))
}

// cli is the same for the command line.
func (o order) cli(server *url.URL, r *reading, typ commandType) string {
	if o.GroupID != "" || o.Filter != "" {
		return "" // curl says it
	}
	line := []string{"gatehouse command send " + o.RequestType + " --server " + quote(server.String())}
	for _, id := range o.DeviceIDs {
		line = append(line, "--device "+quote(id))
	}
	params := veiled("params", o.Params, typ.Keys, r)
	for _, name := range slices.Sorted(maps.Keys(params)) {
		values, list := params[name].([]any)
		if !list {
			values = []any{params[name]}
		} else if slices.ContainsFunc(values, func(v any) bool { _, object := v.(map[string]any); return object }) {
			values = []any{values} // as JSON
		}
		for _, v := range values {
			line = append(line, "--param "+quote(name+"="+text(v)))
		}
	}
	if typ.Confirm {
		line = append(line, "--confirm")
	}
	if o.ExpiresIn != "" {
		line = append(line, "--expires-in "+o.ExpiresIn)
	}
	if o.Priority != "" {
		line = append(line, "--priority "+o.Priority)
	}
	return strings.Join(line, " \\\n  ")
}

// veiled are params to be shown: what is secret, and what is long, is left for whoever runs
// it to fill in.
func veiled(path string, params map[string]any, keys []key, r *reading) map[string]any {
	out := make(map[string]any, len(params))
	for name, v := range params {
		i := slices.IndexFunc(keys, func(k key) bool { return k.Name == name })
		if i < 0 {
			out[name] = v
			continue
		}
		out[name] = veiledValue(path+"."+name, v, keys[i], r)
	}
	return out
}

func veiledValue(path string, v any, k key, r *reading) any {
	switch v := v.(type) {
	case map[string]any:
		return veiled(path, v, k.Keys, r)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			item, _ := v[i].(map[string]any)
			name, _ := item["Item"].(string)
			if shape, ok := k.shape(name); ok {
				out[i] = veiledValue(element(path, i), v[i], shape, r)
			} else {
				out[i] = v[i]
			}
		}
		return out
	case string:
		switch {
		case k.Secret:
			return "<" + k.Name + ">"
		case k.Type == "data" && len(v) > shownData:
			if file := r.files[r.names[path]]; file != "" {
				return "<base64 of " + file + ">"
			}
			return "<base64 of " + k.Name + ">"
		}
	}
	return v
}

// text is a value as --param takes it.
func text(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(b)
}

// indented is JSON that a person reads, in which < and > stand for themselves.
func indented(v any) string {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return ""
	}
	return strings.TrimSpace(out.String())
}

// quote makes one word of s for a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
