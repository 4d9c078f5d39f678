package apiv1

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

const (
	maxDepth      = 64  // of JSON
	maxParameters = 64  // in a query, but for device_ids
	maxID         = 128 // bytes of an id in a path
	maxCursor     = 512 // bytes

	defaultLimit = 100
	maxLimit     = 1000 // items of a page
)

// readJSON reads the body of r into v, a pointer to a struct, and returns the body
// as it came. Strict reading finds the client's mistakes early: unknown and
// repeated keys, names in other case, and anything after the object are refused.
// Free values in v are decoded with json.Number.
func readJSON(r *http.Request, v any) ([]byte, error) {
	if ct := r.Header.Get("Content-Type"); ct != "" {
		media, _, err := mime.ParseMediaType(ct)
		if err != nil || media != "application/json" {
			return nil, &problem{Problem: webui.Problem{
				Status: http.StatusUnsupportedMediaType, Code: "unsupported_media_type", Title: "The body must be application/json",
			}}
		}
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	if err := checkJSON(body, fieldsOf(v)); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if err := dec.Decode(v); err != nil {
		var wrongType *json.UnmarshalTypeError
		if errors.As(err, &wrongType) {
			field := wrongType.Field
			if embedded, inside, ok := strings.Cut(field, "."); ok && !fieldsOf(v)[embedded] { // a Go name that the client does not know
				field = inside
			}
			return nil, invalid(field, "must be "+inJSON(wrongType.Type))
		}
		return nil, malformed("It is not JSON.")
	}
	return body, nil
}

// fieldsOf returns the names that a struct has in JSON.
func fieldsOf(v any) map[string]bool {
	names := make(map[string]bool)
	for _, f := range reflect.VisibleFields(reflect.TypeOf(v).Elem()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		names[name] = true
	}
	return names
}

// stranger says that an object has no field of a name, and which of the known ones may be
// meant.
func stranger(name string, known map[string]bool) string {
	const what = "is not a field of this request"
	name = clip(name)
	nearest := Nearest(name, known)
	if nearest == "" {
		return what
	}
	return what + fmt.Sprintf(": the nearest is %q", nearest)
}

// inJSON names the kind of JSON value that a Go type is read from.
func inJSON(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return inJSON(t.Elem())
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "an array"
	case reflect.Map, reflect.Struct:
		return "an object"
	}
	return "a whole number in range"
}

func malformed(detail string) *problem {
	return &problem{Problem: webui.Problem{
		Status: http.StatusBadRequest, Code: "malformed_json", Title: "The body is not the JSON that is expected here", Detail: detail,
	}}
}

// checkJSON refuses what encoding/json would let pass: repeated keys, bytes that
// are no text, names in other case, and values after the first.
func checkJSON(body []byte, fields map[string]bool) error {
	switch {
	case len(bytes.TrimSpace(body)) == 0:
		return malformed("It is empty.")
	case !utf8.Valid(body):
		return malformed("It is not UTF-8.")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	first, err := dec.Token()
	if err != nil {
		return malformed("It is not JSON.")
	}
	if first != json.Delim('{') {
		return malformed("It must be an object.")
	}
	if err := checkObject(dec, "", 1, fields); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return malformed("Something follows the object.")
	}
	return nil
}

// checkObject reads an object whose brace was read. fields are the names that it
// may have, nil for any.
func checkObject(dec *json.Decoder, path string, depth int, fields map[string]bool) error {
	seen := make(map[string]bool)
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return malformed("It is not JSON.")
		}
		name, _ := token.(string)
		at := clip(name)
		if path != "" {
			at = clip(path + "." + at)
		}
		switch {
		case fields != nil && !fields[name]:
			return invalid(at, stranger(name, fields))
		case seen[name]:
			return invalid(at, "is there twice")
		}
		seen[name] = true
		if err := checkValue(dec, at, depth); err != nil {
			return err
		}
	}
	return closed(dec)
}

func checkValue(dec *json.Decoder, path string, depth int) error {
	token, err := dec.Token()
	if err != nil {
		return malformed("It is not JSON.")
	}
	if _, opens := token.(json.Delim); opens && depth == maxDepth {
		return malformed(fmt.Sprintf("It is nested deeper than %d.", maxDepth))
	}
	switch token {
	case json.Delim('{'):
		return checkObject(dec, path, depth+1, nil)
	case json.Delim('['):
		for i := 0; dec.More(); i++ {
			if err := checkValue(dec, clip(fmt.Sprintf("%s[%d]", path, i)), depth+1); err != nil {
				return err
			}
		}
		return closed(dec)
	}
	return nil
}

func closed(dec *json.Decoder) error {
	if _, err := dec.Token(); err != nil {
		return malformed("It is not JSON.")
	}
	return nil
}

// clip bounds a path that a client chose, for an answer that names it, and for
// the work of carrying it along.
func clip(s string) string {
	const most = 128
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most-len("…")], "") + "…"
}

// checkQuery refuses queries that can't be parsed, have very many parameters, or
// have one twice that is there once; parameters that nobody knows are left alone.
func checkQuery(r *http.Request) error {
	if r.URL.RawQuery == "" {
		return nil
	}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return badQuery("It can't be parsed.")
	}
	n := 0
	for name, all := range values {
		if name != "device_ids" {
			n += len(all)
		}
	}
	if n > maxParameters {
		return badQuery(fmt.Sprintf("It has more than %d parameters.", maxParameters))
	}
	for _, name := range []string{"limit", "cursor", "wait"} {
		if len(values[name]) > 1 {
			return invalid(name, "is there more than once")
		}
	}
	return nil
}

// onlyParameters refuses a query with other parameters than those of names: a filter with a
// slip in its name must not let everything pass.
func onlyParameters(query url.Values, names ...string) error {
	known := make(map[string]bool, len(names))
	for _, name := range names {
		known[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if !known[name] {
			return invalid(clip(name), "is no parameter of this request"+meant(name, known))
		}
	}
	return nil
}

func badQuery(detail string) *problem {
	return &problem{Problem: webui.Problem{
		Status: http.StatusBadRequest, Code: "bad_query", Title: "The query string is malformed", Detail: detail,
	}}
}

// pageOf reads ?limit= and ?cursor=.
func pageOf(r *http.Request) (cursor string, limit int, err error) {
	query := r.URL.Query()
	limit = defaultLimit
	if query.Has("limit") {
		limit, err = strconv.Atoi(query.Get("limit"))
		if err != nil || limit < 1 || limit > maxLimit {
			return "", 0, invalid("limit", fmt.Sprintf("must be a whole number from 1 to %d", maxLimit))
		}
	}
	cursor = query.Get("cursor")
	if len(cursor) > maxCursor {
		return "", 0, storage.ErrBadCursor
	}
	return cursor, limit, nil
}

// waitOf reads ?wait=, a duration such as 30s; 0 if there is none.
func waitOf(r *http.Request) (time.Duration, error) {
	query := r.URL.Query()
	if !query.Has("wait") {
		return 0, nil
	}
	wait, err := time.ParseDuration(query.Get("wait"))
	if err != nil || wait < 0 || wait > maxWait {
		return 0, invalid("wait", fmt.Sprintf("must be a duration such as 30s, up to %s", maxWait))
	}
	return wait, nil
}

// pathID returns a name out of the path. What is too long for one has no record.
func pathID(r *http.Request, name string) (string, error) {
	id := r.PathValue(name)
	if id == "" || len(id) > maxID {
		return "", storage.ErrNotFound
	}
	return id, nil
}

// flag reads a parameter that is true or false; without it, false.
func flag(query url.Values, name string) (bool, error) {
	if !query.Has(name) {
		return false, nil
	}
	v, err := strconv.ParseBool(query.Get(name))
	if err != nil {
		return false, invalid(name, "must be true or false")
	}
	return v, nil
}
