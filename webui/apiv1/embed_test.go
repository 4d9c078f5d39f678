package apiv1_test

import (
	"bytes"
	"compress/gzip"
	"flag"
	"io"
	"os"
	"testing"
)

var update = flag.Bool("update", false, "compress openapi.yaml anew")

// -update compresses openapi.yaml anew, after it was changed.
func TestTheEmbeddedDocumentIsOpenAPIYAML(t *testing.T) {
	want, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		var b bytes.Buffer
		w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(want)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("openapi.yaml.gz", b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open("openapi.yaml.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unzip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(unzip); err != nil || !bytes.Equal(got, want) {
		t.Errorf("openapi.yaml.gz is not openapi.yaml (%d and %d bytes, %v); run the tests with -update", len(got), len(want), err)
	}
}
