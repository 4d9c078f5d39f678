package apiv1

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// openapi.yaml is embedded as it is served, in JSON, and compressed: a sixth of its size,
// and the program needs nothing that reads YAML into JSON. A test holds one against the other.
//
//go:embed openapi.json.gz
var openAPIGzip []byte

// openAPIJSON unpacks the document when it is first asked for.
var openAPIJSON = sync.OnceValues(func() ([]byte, error) {
	unzip, err := gzip.NewReader(bytes.NewReader(openAPIGzip))
	if err != nil {
		return nil, fmt.Errorf("apiv1: openapi.json: %w", err)
	}
	doc, err := io.ReadAll(unzip)
	if err != nil {
		return nil, fmt.Errorf("apiv1: openapi.json: %w", err)
	}
	return doc, nil
})

func (a *API) openAPI(w http.ResponseWriter, _ *http.Request) error {
	doc, err := openAPIJSON()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(doc) // the client may be gone; there is nobody to tell
	return nil
}
