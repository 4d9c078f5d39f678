package migrate

import (
	"encoding/binary"
	"errors"
	"iter"
)

// field is one field of a Protocol Buffers message (protobuf.dev: Encoding). Which of its two
// values it has says the sender; a reader takes the one that it expects.
type field struct {
	number int
	varint uint64
	bytes  []byte // a part of the message
}

var errWire = errors.New("a record is not whole")

// Wire types.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

// fields yields the fields of a message in the order in which they stand. An error ends the
// sequence.
func fields(message []byte) iter.Seq2[field, error] {
	return func(yield func(field, error) bool) {
		for len(message) > 0 {
			f, n := readField(message)
			if n <= 0 {
				yield(field{}, errWire)
				return
			}
			if message = message[n:]; !yield(f, nil) {
				return
			}
		}
	}
}

// readField returns the first field and its length, 0 if there is no whole one. Groups, which
// nobody writes any more, are none.
func readField(b []byte) (f field, n int) {
	key, n := binary.Uvarint(b)
	if n <= 0 || key>>3 == 0 || key>>3 > 1<<29-1 {
		return field{}, 0
	}
	f.number = int(key >> 3)
	rest := b[n:]
	size := 0
	switch key & 7 {
	case wireVarint:
		if f.varint, size = binary.Uvarint(rest); size <= 0 {
			return field{}, 0
		}
	case wireFixed64:
		size = 8
	case wireFixed32:
		size = 4
	case wireBytes:
		length, at := binary.Uvarint(rest)
		if at <= 0 || length > uint64(len(rest)-at) {
			return field{}, 0
		}
		size = at + int(length)
		f.bytes = rest[at:size]
	default:
		return field{}, 0
	}
	if size > len(rest) {
		return field{}, 0
	}
	return f, n + size
}
