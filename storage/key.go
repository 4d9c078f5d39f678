package storage

import (
	"bytes"
	"strings"
)

// A part of a composite key is written with 0x00 escaped as 0x00 0xff, and ends
// with 0x00 0x01: the end sorts before every byte that a longer part could have
// in its place, so that keys sort as the tuples of their parts do.
const (
	escape     = 0x00
	escapedNul = 0xff
	partEnd    = 0x01
)

// Key composes parts, which may hold any bytes, into one key. Keys sort as their
// parts do, one after the other, and no two tuples share a key: Key("ab", "c")
// and Key("a", "bc") differ. A key costs two bytes a part, and one more for each
// zero byte, out of [MaxKey].
func Key(parts ...string) []byte {
	n := 0
	for _, p := range parts {
		n += len(p) + 2
	}
	key := make([]byte, 0, n)
	for _, p := range parts {
		key = appendPart(key, p)
	}
	return key
}

func appendPart(key []byte, part string) []byte {
	for {
		i := strings.IndexByte(part, escape)
		if i < 0 {
			break
		}
		key = append(append(key, part[:i]...), escape, escapedNul)
		part = part[i+1:]
	}
	return append(append(key, part...), escape, partEnd)
}

// KeyPrefix is what all keys begin with whose first parts are these, and no other
// key does: KeyPrefix("a") is a prefix of Key("a", "b") and not of Key("ab").
func KeyPrefix(parts ...string) []byte {
	return Key(parts...)
}

// afterPart returns what follows the first part of a composite key.
func afterPart(key []byte) (rest []byte, ok bool) {
	for at := 0; ; {
		i := bytes.IndexByte(key[at:], escape)
		if i < 0 || at+i+1 >= len(key) {
			return nil, false
		}
		at += i + 2
		switch key[at-1] {
		case partEnd:
			return key[at:], true
		case escapedNul:
		default:
			return nil, false
		}
	}
}

// firstPart returns the first part of a composite key.
func firstPart(key []byte) (part string, ok bool) {
	rest, ok := afterPart(key)
	if !ok {
		return "", false
	}
	quoted := key[:len(key)-len(rest)-2]
	return string(bytes.ReplaceAll(quoted, []byte{escape, escapedNul}, []byte{escape})), true
}
