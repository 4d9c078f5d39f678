package text

import (
	"compress/gzip"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"
)

// packed has the files of messages, a language in a file: de.json.gz is an object with
// those of German by their names, compressed to a fifth. A test holds one against the other.
//
//go:embed packed
var packed embed.FS

const packedEnd = ".json.gz"

// source reads the files of one language, by their names.
type source func() (map[string]json.RawMessage, error)

// ours returns the sources of the program's own texts, by language.
func ours() (map[string]source, error) {
	files, err := packed.ReadDir("packed")
	if err != nil {
		return nil, err
	}
	sources := map[string]source{}
	for _, f := range files {
		lang := strings.TrimSuffix(f.Name(), packedEnd)
		sources[lang] = func() (map[string]json.RawMessage, error) { return unpack(lang) }
	}
	return sources, nil
}

func unpack(lang string) (files map[string]json.RawMessage, err error) {
	name := "packed/" + lang + packedEnd
	f, err := packed.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	unzip, err := gzip.NewReader(f)
	if err == nil {
		err = json.NewDecoder(unzip).Decode(&files)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return files, nil
}

// loose returns the sources of files named <room>.<language>.json, by language.
func loose(dir fs.FS) (map[string]source, error) {
	names, err := fs.Glob(dir, "*.json")
	if err != nil {
		return nil, err
	}
	byLang := map[string][]string{}
	for _, name := range names {
		room, lang, _ := strings.Cut(strings.TrimSuffix(name, ".json"), ".")
		if room == "" || localeOf(lang) == nil {
			return nil, fmt.Errorf("%s is not named <room>.<language>.json", name)
		}
		byLang[lang] = append(byLang[lang], name)
	}
	sources := map[string]source{}
	for lang, names := range byLang {
		sources[lang] = func() (map[string]json.RawMessage, error) {
			files := map[string]json.RawMessage{}
			for _, name := range names {
				data, err := fs.ReadFile(dir, name)
				if err != nil {
					return nil, err
				}
				files[name] = data
			}
			return files, nil
		}
	}
	return sources, nil
}
