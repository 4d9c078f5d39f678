package apiv1_test

import (
	"net/http"
	"strings"
	"testing"
)

func TestBodiesAreReadStrictly(t *testing.T) {
	h := newHouse(t)
	deep := func(n int) string {
		return `{"request_type":"DeviceLock","device_ids":["a"],"params":{"a":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}}`
	}
	for name, tt := range map[string]struct {
		path, body string
		code       string // empty: a wrong field
		field      string
	}{
		"nothing":                  {"/enrollment-links", "", "malformed_json", ""},
		"blanks":                   {"/enrollment-links", " \n", "malformed_json", ""},
		"half an object":           {"/enrollment-links", `{"name":`, "malformed_json", ""},
		"a list":                   {"/enrollment-links", `[]`, "malformed_json", ""},
		"null":                     {"/enrollment-links", `null`, "malformed_json", ""},
		"bytes that are no text":   {"/enrollment-links", "{\"name\":\"\xff\"}", "malformed_json", ""},
		"a comma too many":         {"/enrollment-links", `{"name":"x",}`, "malformed_json", ""},
		"a second object":          {"/enrollment-links", `{} {}`, "malformed_json", ""},
		"text after the object":    {"/enrollment-links", `{}x`, "malformed_json", ""},
		"nested 10,000 deep":       {"/commands", deep(10_000), "malformed_json", ""},
		"nested a million deep":    {"/commands", deep(1_000_000), "malformed_json", ""},
		"an unknown field":         {"/enrollment-links", `{"nmae":"x"}`, "", "nmae"},
		"a field in other case":    {"/enrollment-links", `{"Name":"x"}`, "", "Name"},
		"a field twice":            {"/enrollment-links", `{"name":"x","name":"y"}`, "", "name"},
		"a nested field twice":     {"/commands", `{"request_type":"DeviceLock","device_ids":["a"],"params":{"PIN":"1","PIN":"2"}}`, "", "params.PIN"},
		"twice, escaped otherwise": {"/enrollment-links", `{"name":"x","n\u0061me":"y"}`, "", "name"},
		"a number for a string":    {"/enrollment-links", `{"name":1}`, "", "name"},
		"a string for a number":    {"/enrollment-links", `{"uses":"1"}`, "", "uses"},
		"a fraction":               {"/enrollment-links", `{"uses":1.5}`, "", "uses"},
		"a number beyond doubles":  {"/enrollment-links", `{"uses":1e400}`, "", "uses"},
		"a number beyond integers": {"/enrollment-links", `{"uses":9223372036854775808}`, "", "uses"},
		"a string for a truth":     {"/commands", `{"confirm":"true"}`, "", "confirm"},
		"a string for a list":      {"/commands", `{"device_ids":"a"}`, "", "device_ids"},
		"a list for an object":     {"/commands", `{"params":[]}`, "", "params"},
		"a negative duration":      {"/enrollment-links", `{"expires_in":"-1h"}`, "", "expires_in"},
		"a duration without unit":  {"/enrollment-links", `{"expires_in":"24"}`, "", "expires_in"},
		"a very long duration":     {"/enrollment-links", `{"expires_in":"90000h"}`, "", "expires_in"},
		"no uses":                  {"/enrollment-links", `{"uses":0}`, "", "uses"},
		"negative uses":            {"/enrollment-links", `{"uses":-1}`, "", "uses"},
		"an ownership of its own":  {"/enrollment-links", `{"ownership":"rented"}`, "", "ownership"},
		"a login of its own":       {"/enrollment-links", `{"login":"maybe"}`, "", "login"},
		"a very long name":         {"/enrollment-links", `{"name":"` + strings.Repeat("n", 201) + `"}`, "", "name"},
	} {
		t.Run(name, func(t *testing.T) {
			got := h.do(t, exchange{method: "POST", path: "/api/v1" + tt.path, body: tt.body, wild: true})
			if tt.code != "" {
				got.wantProblem(t, http.StatusBadRequest, tt.code)
				return
			}
			got.wantField(t, tt.field)
		})
	}
}

func TestLongNamesAreNotRepeated(t *testing.T) {
	h := newHouse(t)
	name := strings.Repeat("k", 200_000)
	// Each element's path would hold the name once more.
	body := `{"` + name + `":1}`
	p := h.do(t, exchange{method: "POST", path: "/api/v1/enrollment-links", body: body, wild: true}).wantProblem(t, 400, "invalid_request")
	if len(p.Errors) != 1 || len(p.Errors[0].Field) > 200 {
		t.Errorf("the answer has %d bytes about the field", len(p.Detail))
	}
	body = `{"params":{"` + name + `":[` + strings.Repeat("1,", 200_000) + `1]},"x":1}`
	h.do(t, exchange{method: "POST", path: "/api/v1/commands", body: body, wild: true}).wantField(t, "x")
}

func TestBodiesHaveATypeAndASize(t *testing.T) {
	h := newHouse(t)
	for name, tt := range map[string]struct {
		contentType string
		status      int
	}{
		"JSON":                {"application/json", 201},
		"JSON with a charset": {"application/json; charset=utf-8", 201},
		"a form":              {"application/x-www-form-urlencoded", 415},
		"text":                {"text/plain", 415},
		"nonsense":            {";;", 415},
	} {
		t.Run(name, func(t *testing.T) {
			got := h.do(t, exchange{method: "POST", path: "/api/v1/enrollment-links", body: `{}`, wild: true, header: map[string]string{"Content-Type": tt.contentType}})
			got.want(t, tt.status, nil)
		})
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/enrollment-links", body: `{"name":"` + strings.Repeat("n", 1<<20) + `"}`, wild: true}).
		wantProblem(t, http.StatusRequestEntityTooLarge, "body_too_large")
}

func TestQueriesThatAreRefused(t *testing.T) {
	h := newHouse(t)
	for name, tt := range map[string]struct{ query, code string }{
		"no limit":                  {"limit=", "invalid_request"},
		"limit zero":                {"limit=0", "invalid_request"},
		"a negative limit":          {"limit=-1", "invalid_request"},
		"a limit beyond all":        {"limit=1001", "invalid_request"},
		"a limit in words":          {"limit=ten", "invalid_request"},
		"a huge limit":              {"limit=99999999999999999999", "invalid_request"},
		"two limits":                {"limit=1&limit=2", "invalid_request"},
		"a cursor of no page":       {"cursor=%21%21", "invalid_cursor"},
		"a cursor of another place": {"cursor=AAAA", "invalid_cursor"},
		"a long cursor":             {"cursor=" + strings.Repeat("a", 5000), "invalid_cursor"},
		"a broken escape":           {"k=%zz", "bad_query"},
		"a semicolon":               {"a=1;b=2", "bad_query"},
		"ten thousand parameters":   {strings.Repeat("k=v&", 10_000), "bad_query"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{"/devices", "/certificates", "/tokens", "/enrollment-links", "/enrollment-attempts"} {
				h.do(t, exchange{method: "GET", path: "/api/v1" + path + "?" + tt.query, wild: true}).wantProblem(t, http.StatusBadRequest, tt.code)
			}
		})
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/certificates?some=thing&limit=1000"}).want(t, 200, nil)
}

func TestWhatIsNotThere(t *testing.T) {
	h := newHouse(t)
	for _, path := range []string{
		"/devices/none", "/devices/none/commands", "/commands/none", "/enrollment-links/none", "/enrollment-attempts/none",
		"/certificates/0a", "/certificates/zz", "/certificates/0",
		"/devices/%00", "/devices/" + strings.Repeat("a", 5000), "/commands/" + strings.Repeat("a", 5000),
	} {
		h.do(t, exchange{method: "GET", path: "/api/v1" + path}).wantProblem(t, http.StatusNotFound, "not_found")
	}
}
