package enroll

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"image"
	_ "image/jpeg" // decoded below
	_ "image/png"

	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// ErrLogo means that a picture can't be the organisation's logo; the text says why.
var ErrLogo = errors.New("not a logo")

// Limits of a logo.
const (
	MaxLogo     = 256 << 10 // bytes
	MaxLogoSide = 2000      // pixels
)

// Logo is the organisation's picture.
type Logo struct {
	SHA256      string `json:"sha256"` // of Content, in lower-case hexadecimal
	ContentType string `json:"content_type"`
	Width       int    `json:"width"` // pixels
	Height      int    `json:"height"`
	Content     []byte `json:"content"`
}

var logos = storage.NewCollection("enroll.logo", 1, func(l Logo) string { return l.SHA256 })

// SetLogo takes a PNG, JPEG or WebP picture, told by its content, for the organisation's.
// SVG is none of these: it can hold scripts. Its errors wrap ErrLogo, or are the store's.
func (s *Service) SetLogo(ctx context.Context, content []byte) (Logo, Settings, error) {
	l, err := readLogo(content)
	if err != nil {
		return Logo{}, Settings{}, err
	}
	in, err := s.ChangeSettings(ctx, func(tx storage.Tx, in *Settings) ([]event.Change, error) {
		if in.Organisation.Logo != l.SHA256 {
			if err := logos.Delete(tx, noLogo(in.Organisation.Logo)); err != nil {
				return nil, err
			}
		}
		in.Organisation.Logo = l.SHA256
		return nil, logos.Put(tx, l)
	})
	return l, in, err
}

// RemoveLogo makes the organisation one without a picture.
func (s *Service) RemoveLogo(ctx context.Context) (Settings, error) {
	return s.ChangeSettings(ctx, func(tx storage.Tx, in *Settings) ([]event.Change, error) {
		if err := logos.Delete(tx, noLogo(in.Organisation.Logo)); err != nil {
			return nil, err
		}
		in.Organisation.Logo = ""
		return nil, nil
	})
}

// noLogo is a key that can be deleted also where there was no picture.
func noLogo(sha256 string) string {
	if sha256 == "" {
		return "none"
	}
	return sha256
}

// Logo returns the picture with this hash, if it is the one in force, or an error that
// wraps storage.ErrNotFound.
func (s *Service) Logo(ctx context.Context, sha256 string) (l Logo, err error) {
	if len(sha256) != 64 {
		return Logo{}, fmt.Errorf("logo: %w", storage.ErrNotFound)
	}
	err = s.db.View(ctx, func(tx storage.Tx) error {
		l, err = logos.Get(tx, sha256)
		return err
	})
	return l, err
}

func readLogo(content []byte) (Logo, error) {
	sum := sha256.Sum256(content)
	l := Logo{SHA256: hex.EncodeToString(sum[:]), Content: content}
	if len(content) > MaxLogo {
		return Logo{}, fmt.Errorf("%w: it must be at most %d KiB", ErrLogo, MaxLogo>>10)
	}
	if width, height, ok := webpSize(content); ok {
		l.ContentType, l.Width, l.Height = "image/webp", width, height
	} else {
		// The size first: a picture of a few bytes may claim to be as large as it likes.
		config, format, err := image.DecodeConfig(bytes.NewReader(content))
		if err != nil {
			return Logo{}, fmt.Errorf("%w: it must be a PNG, JPEG or WebP picture", ErrLogo)
		}
		l.ContentType, l.Width, l.Height = "image/"+format, config.Width, config.Height
	}
	if l.Width < 1 || l.Height < 1 || l.Width > MaxLogoSide || l.Height > MaxLogoSide {
		return Logo{}, fmt.Errorf("%w: it has %d × %d pixels, and may have at most %d either way", ErrLogo, l.Width, l.Height, MaxLogoSide)
	}
	if l.ContentType != "image/webp" {
		if _, _, err := image.Decode(bytes.NewReader(content)); err != nil {
			return Logo{}, fmt.Errorf("%w: the picture is damaged", ErrLogo)
		}
	}
	return l, nil
}

// webpSize reads the head of a WebP file (RFC 9649, 2.3 to 2.7), for which the standard
// library has no decoder. The picture itself is left to browsers, which read those of
// strangers all day.
func webpSize(b []byte) (width, height int, ok bool) {
	if len(b) < 30 || string(b[:4]) != "RIFF" || string(b[8:12]) != "WEBP" ||
		uint64(b[4])|uint64(b[5])<<8|uint64(b[6])<<16|uint64(b[7])<<24 > uint64(len(b)-8) {
		return 0, 0, false
	}
	head := b[20:]
	switch string(b[12:16]) {
	case "VP8 ": // RFC 6386, 9.1
		if head[3] != 0x9d || head[4] != 0x01 || head[5] != 0x2a {
			return 0, 0, false
		}
		return (int(head[6]) | int(head[7])<<8) & 0x3fff, (int(head[8]) | int(head[9])<<8) & 0x3fff, true
	case "VP8L":
		if head[0] != 0x2f {
			return 0, 0, false
		}
		bits := uint32(head[1]) | uint32(head[2])<<8 | uint32(head[3])<<16 | uint32(head[4])<<24
		return int(bits&0x3fff) + 1, int(bits>>14&0x3fff) + 1, true
	case "VP8X":
		return int(uint32(head[4])|uint32(head[5])<<8|uint32(head[6])<<16) + 1, int(uint32(head[7])|uint32(head[8])<<8|uint32(head[9])<<16) + 1, true
	}
	return 0, 0, false
}
