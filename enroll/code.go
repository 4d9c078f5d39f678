package enroll

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// codeAlphabet has no letters that are taken for one another, or for digits.
const codeAlphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

const codeLen = 8 // characters, of 5 bits each

// newShortCode returns a code that a person types from one screen into another.
func newShortCode() string {
	random := make([]byte, codeLen)
	_, _ = rand.Read(random)
	for i, b := range random {
		random[i] = codeAlphabet[b%32]
	}
	return string(random)
}

// SpellCode is how a short code is shown: "7Q4M-W2KD".
func SpellCode(code string) string {
	if len(code) != codeLen {
		return code
	}
	return code[:codeLen/2] + "-" + code[codeLen/2:]
}

// normalCode forgives what a person may change while typing. It returns nothing for what
// can't be a code.
func normalCode(typed string) string {
	if len(typed) > 100 {
		return ""
	}
	code := strings.Map(func(r rune) rune {
		switch r {
		case '-', ' ', '\t', '\r', '\n', '\u00a0', '–':
			return -1
		case 'O':
			return '0'
		case 'I', 'L':
			return '1'
		}
		return r
	}, strings.ToUpper(typed))
	if len(code) != codeLen || strings.Trim(code, codeAlphabet) != "" {
		return ""
	}
	return code
}

// Found is what a short code leads to: one of the two.
type Found struct {
	LinkCode  string
	AttemptID string
}

// FindCode returns what a person typed the short code of: an enrollment link, or an
// attempt that was begun in another browser. ErrLinkUnknown if it is none. Codes can be
// guessed by who has the time, so whoever asks counts how often a stranger does.
func (s *Service) FindCode(ctx context.Context, typed string) (f Found, err error) {
	code := normalCode(typed)
	if code == "" {
		return Found{}, fmt.Errorf("find code: %w", ErrLinkUnknown)
	}
	err = s.db.View(ctx, func(tx storage.Tx) error {
		f = Found{}
		l, err := links.One(tx, linksByShort, code)
		if err == nil {
			f.LinkCode = l.Code
			return nil
		}
		if !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		a, err := attempts.One(tx, attemptsByCode, code)
		if errors.Is(err, storage.ErrNotFound) {
			return ErrLinkUnknown
		}
		f.AttemptID = a.ID
		return err
	})
	if err != nil {
		return Found{}, fmt.Errorf("find code: %w", err)
	}
	return f, nil
}
