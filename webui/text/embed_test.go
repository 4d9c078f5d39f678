package text_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// -update compresses the messages anew, after they were changed.
func TestTheEmbeddedMessagesAreTheFiles(t *testing.T) {
	files, err := filepath.Glob("messages/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	byLang := map[string]map[string]json.RawMessage{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(file)
		_, lang, _ := strings.Cut(strings.TrimSuffix(name, ".json"), ".")
		if byLang[lang] == nil {
			byLang[lang] = map[string]json.RawMessage{}
		}
		byLang[lang][name] = data
	}
	for lang, files := range byLang {
		want := pack(t, files)
		name := filepath.Join("packed", lang+".json.gz")
		if *update {
			compress(t, name, want)
		}
		f, err := os.Open(name)
		if err != nil {
			t.Errorf("%v; run the tests with -update", err)
			continue
		}
		defer f.Close()
		unzip, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(name, err)
		}
		if got, err := io.ReadAll(unzip); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not messages/*.%s.json (%d and %d bytes, %v); run the tests with -update", name, lang, len(got), len(want), err)
		}
	}
	packed, err := filepath.Glob("packed/*")
	if err != nil || len(packed) != len(byLang) {
		t.Errorf("packed has %d files for %d languages: %v %v", len(packed), len(byLang), packed, err)
	}
}

// pack writes files as they are embedded. Go sorts the keys of a map, so the same ones give
// the same bytes.
func pack(t *testing.T, files map[string]json.RawMessage) []byte {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(files); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func compress(t *testing.T, name string, data []byte) {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
