package view

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
)

//go:embed assets/*
var assetFiles embed.FS

// AssetsPath is where assets are served.
const AssetsPath = "/assets/"

// Assets are embedded files, each under a URL that holds a hash of its content:
// browsers may keep them for ever.
type Assets struct {
	urls   map[string]string // by name
	byPath map[string]asset
}

type asset struct {
	content     []byte
	contentType string
}

func newAssets() (*Assets, error) {
	a := &Assets{urls: map[string]string{}, byPath: map[string]asset{}}
	entries, err := fs.ReadDir(assetFiles, "assets")
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		content, err := assetFiles.ReadFile("assets/" + entry.Name())
		if err != nil {
			return nil, err
		}
		a.add(entry.Name(), content)
	}
	a.add("tokens.css", []byte(tokenSheet()))
	return a, nil
}

func (a *Assets) add(name string, content []byte) {
	sum := sha256.Sum256(content)
	ext := path.Ext(name)
	url := AssetsPath + strings.TrimSuffix(name, ext) + "." + hex.EncodeToString(sum[:6]) + ext
	contentType := map[string]string{
		".css": "text/css; charset=utf-8",
		".js":  "text/javascript; charset=utf-8",
		".svg": "image/svg+xml",
	}[ext]
	if contentType == "" {
		contentType = mime.TypeByExtension(ext)
	}
	a.urls[name] = url
	a.byPath[url] = asset{content, contentType}
}

// URL returns where the asset name is served.
func (a *Assets) URL(name string) (string, error) {
	url, ok := a.urls[name]
	if !ok {
		return "", fmt.Errorf("no asset %s", name)
	}
	return url, nil
}

// Serve sends the asset at r's path, and says whether there is one.
func (a *Assets) Serve(w http.ResponseWriter, r *http.Request) bool {
	found, ok := a.byPath[r.URL.Path]
	if !ok {
		return false
	}
	h := w.Header()
	h.Set("Content-Type", found.contentType)
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(found.content)
	}
	return true
}
