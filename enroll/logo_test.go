package enroll_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"image"
	"image/jpeg"
	"image/png"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func pngOf(t testing.TB, width, height int) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewGray(image.Rect(0, 0, width, height))); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// webp is one pixel.
func webp(t testing.TB) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString("UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTheLogoIsAPicture(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	ctx := context.Background()
	var asJPEG bytes.Buffer
	if err := jpeg.Encode(&asJPEG, image.NewGray(image.Rect(0, 0, 20, 10)), nil); err != nil {
		t.Fatal(err)
	}
	before := ""
	for contentType, content := range map[string][]byte{
		"image/png": pngOf(t, 2000, 1), "image/jpeg": asJPEG.Bytes(), "image/webp": webp(t),
	} {
		l, in, err := h.SetLogo(ctx, content)
		if err != nil || l.ContentType != contentType || in.Organisation.Logo != l.SHA256 {
			t.Fatalf("SetLogo = %s %d × %d, %+v, %v", l.ContentType, l.Width, l.Height, in.Organisation, err)
		}
		got, err := h.Logo(ctx, l.SHA256)
		if err != nil || !bytes.Equal(got.Content, content) {
			t.Errorf("Logo = %d bytes, %v", len(got.Content), err)
		}
		if _, err := h.Logo(ctx, before); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("the logo before = %v, want it gone", err)
		}
		before = l.SHA256
	}
	if _, _, err := h.SetLogo(ctx, pngOf(t, 1, 1)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time, too
		if in, err := h.RemoveLogo(ctx); err != nil || in.Organisation.Logo != "" {
			t.Errorf("RemoveLogo = %+v, %v", in.Organisation, err)
		}
	}
}

func TestWhatIsNoLogo(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	good := pngOf(t, 40, 40)
	giant := bytes.Clone(pngOf(t, 1, 1)) // claims to be larger than it is
	binary.BigEndian.PutUint32(giant[16:], 50_000)
	binary.BigEndian.PutUint32(giant[29:], crc32.ChecksumIEEE(giant[12:29]))
	wide := bytes.Clone(webp(t))
	binary.LittleEndian.PutUint16(wide[26:], 2001)
	for name, content := range map[string][]byte{
		"nothing":                 {},
		"text":                    []byte("logo"),
		"SVG":                     []byte(`<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>`),
		"a GIF":                   []byte("GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"),
		"a page":                  []byte("<!doctype html><script>alert(1)</script>"),
		"a PNG that is cut":       good[:len(good)/2],
		"a PNG that is too wide":  pngOf(t, 2001, 1),
		"a PNG that lies":         giant,
		"a WebP that is too wide": wide,
		"a WebP that is cut":      webp(t)[:25],
		"too many bytes":          append(good, make([]byte, enroll.MaxLogo)...),
	} {
		if _, _, err := h.SetLogo(context.Background(), content); !errors.Is(err, enroll.ErrLogo) {
			t.Errorf("%s: SetLogo = %v", name, err)
		}
	}
	if in, err := h.Settings(context.Background()); err != nil || in.Organisation.Logo != "" {
		t.Errorf("Settings = %+v, %v", in.Organisation, err)
	}
}
