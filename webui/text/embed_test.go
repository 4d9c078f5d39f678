package text_test

import (
	"archive/zip"
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// -update compresses the messages anew, after they were changed.
func TestTheEmbeddedMessagesAreTheFiles(t *testing.T) {
	const name = "messages.zip"
	files, err := filepath.Glob("messages/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	if *update {
		compress(t, name, files)
	}
	r, err := zip.OpenReader(name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if len(r.File) != len(files) {
		t.Errorf("%s has %d files, want %d; run the tests with -update", name, len(r.File), len(files))
	}
	for _, file := range files {
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := fs.ReadFile(r, filepath.Base(file)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s has another %s (%v); run the tests with -update", name, filepath.Base(file), err)
		}
	}
}

// compress writes files, without their times, so that the same ones give the same bytes.
func compress(t *testing.T, name string, files []string) {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		f, err := w.CreateHeader(&zip.FileHeader{Name: filepath.Base(file), Method: zip.Deflate})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(f, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
