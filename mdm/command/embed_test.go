package command_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"testing"
)

// -update compresses commands.json anew, after it was replaced.
func TestTheEmbeddedFactsAreCommandsJSON(t *testing.T) {
	want, err := os.ReadFile("commands.json")
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
		if err := os.WriteFile("commands.json.gz", b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open("commands.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unzip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(unzip); err != nil || !bytes.Equal(got, want) {
		t.Errorf("commands.json.gz is not commands.json (%d and %d bytes, %v); run the tests with -update", len(got), len(want), err)
	}
}
