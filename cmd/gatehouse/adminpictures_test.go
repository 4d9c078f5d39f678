package main

import (
	"bytes"
	"cmp"
	"image"
	"image/color"
	"image/png"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui/browsertest"
)

// TestAdminPictures takes the pictures of the administrators' pages again: `make pictures`.
func TestAdminPictures(t *testing.T) {
	dir := os.Getenv("GATEHOUSE_ADMIN_PICTURES")
	if dir == "" {
		t.Skip("takes pictures when GATEHOUSE_ADMIN_PICTURES names a directory")
	}
	storagetest.AnyEngine(t)
	d := startDesk(t, "--demo", "5")
	d.furnish(t)
	must(t, os.MkdirAll(dir, 0o755))
	old, err := filepath.Glob(filepath.Join(dir, "*.png"))
	must(t, err)
	for _, file := range old { // of pages that are called otherwise by now
		must(t, os.Remove(file))
	}
	pages := d.pages(t)
	for size, width := range map[string]int64{"phone": 390, "desktop": 1280} {
		for theme, dark := range map[string]bool{"light": false, "dark": true} {
			t.Run(size+" "+theme, func(t *testing.T) {
				var browser *browsertest.Browser
				for i, at := range pages {
					if i%browserPages == 0 {
						browser = browsertest.Open(t)
						browser.Screen(width, 844, dark)
						d.signInBy(browser, ownerEmail, ownerPassword)
					}
					browser.Go(d.url + at)
					file := filepath.Join(dir, pictureName(t, at)+"-"+size+"-"+theme+".png")
					must(t, os.WriteFile(file, smallPNG(t, browser.Picture()), 0o644))
				}
			})
		}
	}
}

// pictureName is a page's address as the name of a file.
func pictureName(t *testing.T, at string) string {
	t.Helper()
	u, err := url.Parse(at)
	must(t, err)
	kind, _, _ := strings.Cut(kindOf(u), "?")
	name := cmp.Or(strings.TrimPrefix(strings.TrimPrefix(kind, "/admin"), "/"), "home")
	return strings.NewReplacer("/", "-", "*", "one").Replace(name)
}

// mostPicture is how much of a page a picture shows, in pixels: lists go on alike.
const mostPicture = 1200

// smallPNG is a picture in at most 32 colours, those that most of it has.
func smallPNG(t *testing.T, raw []byte) []byte {
	t.Helper()
	whole, err := png.Decode(bytes.NewReader(raw))
	must(t, err)
	size := whole.Bounds()
	size.Max.Y = min(size.Max.Y, size.Min.Y+mostPicture)
	often := make(map[color.RGBA]int)
	rough := func(x, y int) color.RGBA {
		c := color.RGBAModel.Convert(whole.At(x, y)).(color.RGBA)
		return color.RGBA{c.R &^ 3, c.G &^ 3, c.B &^ 3, 255}
	}
	for y := size.Min.Y; y < size.Max.Y; y++ {
		for x := size.Min.X; x < size.Max.X; x++ {
			often[rough(x, y)]++
		}
	}
	most := slices.SortedFunc(maps.Keys(often), func(a, b color.RGBA) int {
		return cmp.Or(cmp.Compare(often[b], often[a]), cmp.Compare(a.R, b.R), cmp.Compare(a.G, b.G), cmp.Compare(a.B, b.B))
	})
	var colours color.Palette
	for _, c := range most[:min(len(most), 32)] {
		colours = append(colours, c)
	}
	nearest := make(map[color.RGBA]uint8)
	small := image.NewPaletted(size, colours)
	for y := size.Min.Y; y < size.Max.Y; y++ {
		for x := size.Min.X; x < size.Max.X; x++ {
			c := rough(x, y)
			i, ok := nearest[c]
			if !ok {
				i = uint8(colours.Index(c))
				nearest[c] = i
			}
			small.SetColorIndex(x, y, i)
		}
	}
	var out bytes.Buffer
	must(t, (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, small))
	return out.Bytes()
}
