package guard

import "fmt"

// Limits of the ASN.1 that is read. Apple's CMS messages are 12 deep and have
// some 150 nodes; a list of all certificates of a fleet is no message.
const (
	maxNesting = 24
	maxNodes   = 32_000
)

// Tag bytes (X.690, 8.1.2) that are looked at here.
const (
	tagConstructed = 0x20
	tagOctets      = 0x04
	tagSequence    = 0x30
	tagSet         = 0x31
)

// normalize reads data as one value in BER and returns it in DER as far as
// lengths and octet strings go: definite lengths of minimal form, strings in
// one piece. What is DER already comes back as it is, not copied.
//
// Apple's clients write indefinite lengths and split strings; signatures are
// made over DER (RFC 5652, 5.4). Each byte is looked at once to measure and once
// to write, whatever the nesting, and each value must lie inside of the one
// around it, which the libraries behind this package do not check.
func normalize(data []byte) ([]byte, error) {
	w := berWalker{in: data}
	end, _, err := w.measure(0, len(data), 0)
	if err != nil {
		return nil, err
	}
	if end != len(data) {
		return nil, fmt.Errorf("%w: something follows it", ErrCMS)
	}
	if !w.rewrite {
		return data, nil
	}
	w.out = make([]byte, 0, len(data))
	w.next = 0
	w.write(0)
	return w.out, nil
}

// berWalker goes over the same values in the same order twice.
type berWalker struct {
	in      []byte
	rewrite bool      // in is not DER
	nodes   []berNode // in the order of their first bytes
	next    int       // of nodes, while writing
	out     []byte
}

// berNode is one value.
type berNode struct {
	start, end int // of its content in the input; for an indefinite length, without the end mark
	after      int // where the next value begins in the input
	size       int // of its content as it will be written
}

// measure notes the value that begins at pos, and those in it, and returns where
// it ends and how long it will be. It must end at or before limit.
func (w *berWalker) measure(pos, limit, depth int) (after, size int, err error) {
	if depth > maxNesting {
		return 0, 0, fmt.Errorf("%w: more than %d values in one another", ErrCMS, maxNesting)
	}
	if len(w.nodes) == maxNodes {
		return 0, 0, fmt.Errorf("%w: more than %d values", ErrCMS, maxNodes)
	}
	tag, start, length, err := w.header(pos, limit)
	if err != nil {
		return 0, 0, err
	}
	self := len(w.nodes)
	w.nodes = append(w.nodes, berNode{start: start})

	if tag&tagConstructed == 0 {
		size = length
		w.nodes[self] = berNode{start: start, end: start + length, after: start + length, size: size}
		return start + length, headerSize(size) + size, nil
	}

	chunked := tag == tagOctets|tagConstructed
	if chunked {
		w.rewrite = true
	}
	end := start + length
	if length < 0 {
		end = limit
		w.rewrite = true
	}
	at := start
	for at < end {
		if length < 0 && end-at >= 2 && w.in[at] == 0 && w.in[at+1] == 0 {
			break
		}
		if chunked && w.in[at]&^tagConstructed != tagOctets {
			return 0, 0, fmt.Errorf("%w: an octet string of something else, at byte %d", ErrCMS, at)
		}
		child := len(w.nodes)
		var n int
		if at, n, err = w.measure(at, end, depth+1); err != nil {
			return 0, 0, err
		}
		if chunked {
			n = w.nodes[child].size
		}
		size += n
	}
	after = at
	if length < 0 {
		if end-at < 2 {
			return 0, 0, fmt.Errorf("%w: it ends too early", ErrCMS)
		}
		after += 2
	}
	w.nodes[self] = berNode{start: start, end: at, after: after, size: size}
	return after, headerSize(size) + size, nil
}

// header reads tag and length at pos. The length is negative if it is indefinite.
func (w *berWalker) header(pos, limit int) (tag byte, start, length int, err error) {
	if limit-pos < 2 {
		return 0, 0, 0, fmt.Errorf("%w: it ends too early", ErrCMS)
	}
	tag = w.in[pos]
	switch {
	case tag&0x1F == 0x1F:
		return 0, 0, 0, fmt.Errorf("%w: a tag of several bytes, at byte %d", ErrCMS, pos)
	case tag == 0:
		return 0, 0, 0, fmt.Errorf("%w: an end mark that ends nothing, at byte %d", ErrCMS, pos)
	case tag&0xC0 == 0 && tag&tagConstructed != 0 && tag != tagSequence && tag != tagSet && tag != tagOctets|tagConstructed,
		tag == tagSequence&^tagConstructed, tag == tagSet&^tagConstructed:
		return 0, 0, 0, fmt.Errorf("%w: tag %#02x, at byte %d", ErrCMS, tag, pos)
	}
	first := w.in[pos+1]
	start = pos + 2
	switch {
	case first < 0x80:
		length = int(first)
	case first == 0x80:
		if tag&tagConstructed == 0 {
			return 0, 0, 0, fmt.Errorf("%w: a simple value of indefinite length, at byte %d", ErrCMS, pos)
		}
		return tag, start, -1, nil
	default:
		n := int(first & 0x7F)
		if n > 4 || limit-start < n {
			return 0, 0, 0, fmt.Errorf("%w: a length of %d bytes, at byte %d", ErrCMS, n, pos)
		}
		for _, b := range w.in[start : start+n] {
			length = length<<8 | int(b)
		}
		start += n
		if headerSize(length) != 2+n {
			w.rewrite = true
		}
	}
	if length < 0 || length > limit-start {
		return 0, 0, 0, fmt.Errorf("%w: a value is longer than what holds it, at byte %d", ErrCMS, pos)
	}
	return tag, start, length, nil
}

// write appends the next measured value, which begins at pos in the input.
func (w *berWalker) write(pos int) {
	n := w.nodes[w.next]
	w.next++
	tag := w.in[pos]
	chunked := tag == tagOctets|tagConstructed
	if chunked {
		tag = tagOctets
	}
	w.out = appendHeader(w.out, tag, n.size)
	switch {
	case w.in[pos]&tagConstructed == 0:
		w.out = append(w.out, w.in[n.start:n.end]...)
	case chunked:
		w.writeChunks(n)
	default:
		for at := n.start; at < n.end; {
			child := w.nodes[w.next]
			w.write(at)
			at = child.after
		}
	}
}

// writeChunks appends the pieces of the octet string n, without their headers.
func (w *berWalker) writeChunks(n berNode) {
	for at := n.start; at < n.end; {
		piece := w.nodes[w.next]
		w.next++
		if w.in[at]&tagConstructed != 0 {
			w.writeChunks(piece)
		} else {
			w.out = append(w.out, w.in[piece.start:piece.end]...)
		}
		at = piece.after
	}
}

// headerSize is the number of bytes of a tag and the length n in DER.
func headerSize(n int) int {
	size := 2
	if n >= 0x80 {
		for ; n > 0; n >>= 8 {
			size++
		}
	}
	return size
}

func appendHeader(out []byte, tag byte, n int) []byte {
	out = append(out, tag)
	if n < 0x80 {
		return append(out, byte(n))
	}
	bytes := headerSize(n) - 2
	out = append(out, 0x80|byte(bytes))
	for i := bytes - 1; i >= 0; i-- {
		out = append(out, byte(n>>(8*i)))
	}
	return out
}
