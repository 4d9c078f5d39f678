package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// TestEveryCodeIsInTheDocuments holds docs/errors.md against the code, both ways.
func TestEveryCodeIsInTheDocuments(t *testing.T) {
	storagetest.AnyEngine(t)
	codes := regexp.MustCompile(`GH-E\d{3}`)
	documented := map[string]int{}
	text, err := os.ReadFile("../../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if code, ok := strings.CutPrefix(line, "| GH-E"); ok {
			documented["GH-E"+code[:3]]++
		}
	}
	used := map[string]string{}
	for _, root := range []string{"../../webui", "../../enroll", "."} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") || !strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, ".html") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, code := range codes.FindAllString(string(text), -1) {
				used[code] = path
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for code, path := range used {
		if documented[code] != 1 {
			t.Errorf("%s of %s stands %d times in docs/errors.md, want once", code, path, documented[code])
		}
	}
	for code := range documented {
		if used[code] == "" {
			t.Errorf("%s of docs/errors.md is used nowhere", code)
		}
	}
}
