package apiv1

import (
	"encoding/json"
	"testing"
)

func FuzzCheckJSON(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"a":1,"a":2}`, `{"a":{"b":[1,{"c":null}]}}`, `{"a":[}`, `{"a" 1}`, `{"a":1e400}`, `{} {}`, "{\"\xff\":1}", `{"\u0061":1,"a":2}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if checkJSON(body, nil) != nil {
			return
		}
		// What is let through has one reading, the same as the standard decoder's.
		var v map[string]json.RawMessage
		if err := json.Unmarshal(body, &v); err != nil || v == nil {
			t.Errorf("checkJSON takes %q, encoding/json says %v", body, err)
		}
	})
}
