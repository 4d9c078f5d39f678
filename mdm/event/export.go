package event

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Members that a line of an export has beside those of its event.
const (
	memberSeq    = "seq"       // the place
	memberHash   = "hash"      // what the chain has come to
	memberBefore = "prev_hash" // the hash of the event before: of the first line only
	memberErased = "erased"    // the digest of an event that is forgotten: instead of its members
)

// atEdge is how many events at either end of a time are looked at for their places, which
// need not be in the order of times.
const atEdge = 1000

// Export writes the events from since until before until, either of which may be zero, as
// JSON Lines: each line is canonical JSON and ends with LF. It writes an unbroken part of
// the chain, so that [VerifyExport] can tell whether anything is missing: from the first
// event of that time to the last one, with what has its place between them, though it may
// have happened a little earlier or later.
func Export(ctx context.Context, db storage.DB, w io.Writer, since, until time.Time) error {
	if err := Sequence(ctx, db); err != nil {
		return err
	}
	var next, last uint64
	err := db.View(ctx, func(tx storage.Tx) (err error) {
		next, last, err = placesOf(tx, since, until)
		return err
	})
	before := ""
	for err == nil && next <= last {
		var lines bytes.Buffer
		var hash string
		end := min(last, next+verifyBatch-1)
		err = db.View(ctx, func(tx storage.Tx) (err error) {
			lines.Reset()
			hash, err = exportLines(tx, &lines, before, next, end)
			return err
		})
		if err == nil {
			_, err = w.Write(lines.Bytes())
		}
		before, next = hash, end+1
	}
	return wrap("export the audit log", err)
}

// placesOf returns the first and the last place of the events of a time. There is none if
// the last one is before the first.
func placesOf(tx storage.Tx, since, until time.Time) (first, last uint64, err error) {
	if first, err = FirstSeq(tx); err != nil {
		return 0, 0, err
	}
	if last, err = LastSeq(tx); err != nil {
		return 0, 0, err
	}
	if !since.IsZero() {
		from := uint64(math.MaxUint64)
		for e, err := range log.All(tx, storage.Range{Start: []byte(firstID(since)), Limit: atEdge}) {
			if err != nil {
				return 0, 0, err
			}
			if e.Seq != 0 {
				from = min(from, e.Seq)
			}
		}
		first = max(first, from)
	}
	if !until.IsZero() {
		to := uint64(0)
		for e, err := range log.All(tx, storage.Range{End: []byte(firstID(until)), Reverse: true, Limit: atEdge}) {
			if err != nil {
				return 0, 0, err
			}
			to = max(to, e.Seq)
		}
		last = min(last, to)
	}
	return first, last, nil
}

// exportLines writes the lines of the events from first to last, and returns the hash of
// the last one. before is the hash of the event before; if it is empty, it is written.
func exportLines(tx storage.Tx, w *bytes.Buffer, before string, first, last uint64) (hash string, err error) {
	isFirst := before == ""
	if isFirst {
		if before, err = hashBefore(tx, first); err != nil {
			return "", err
		}
	}
	r := storage.Range{Start: seqKey(first), End: seqKey(last + 1)}
	tx.Prefetch(storage.Read{Bucket: chainBucket, Range: r, Then: readAhead})
	next := first
	for l, err := range links(tx, r) {
		if err != nil {
			return "", err
		}
		if l.seq != next {
			break
		}
		members := map[string]any{memberErased: l.digest}
		if l.id != "" {
			e, err := log.Get(tx, l.id)
			if err != nil {
				return "", fmt.Errorf("event %d: %w", l.seq, err)
			}
			members = e.fields()
		}
		members[memberSeq], members[memberHash] = l.seq, l.hash
		if isFirst {
			members[memberBefore], isFirst = before, false
		}
		line, err := canonical(members)
		if err != nil {
			return "", err
		}
		w.Write(line)
		w.WriteByte('\n')
		next, hash = next+1, l.hash
	}
	if next != last+1 {
		return "", fmt.Errorf("event %d: %w", next, errForgotten)
	}
	return hash, nil
}

// hashBefore returns the hash of the event before the one in place seq.
func hashBefore(tx storage.Tx, seq uint64) (string, error) {
	tail, err := getMark(tx, tailMark)
	if err != nil {
		return "", err
	}
	if seq == tail.Seq+1 {
		return tail.Hash, nil
	}
	l, err := getLink(tx, seq-1)
	return l.hash, err
}

// maxLine is how long a line of an export may be: a few times what an event can come to.
const maxLine = 256 << 10

// VerifyExport reads what [Export] has written, and computes the chain anew. want
// are hashes that were noted elsewhere, by the place of their events; those outside of the
// export make an error. The error wraps [ErrBroken] if the export is not as it was written:
// it names the first line where that shows. That lines are missing from its end shows only
// by a hash that was noted elsewhere.
func VerifyExport(r io.Reader, want map[uint64]string) (Verified, error) {
	in := bufio.NewReaderSize(r, maxLine)
	v := Verified{First: 1}
	for n := 1; ; n++ {
		line, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF) && len(line) == 0:
			return v, v.met(want)
		case errors.Is(err, bufio.ErrBufferFull):
			return v, fmt.Errorf("line %d is longer than any event: %w", n, ErrBroken)
		case errors.Is(err, io.EOF):
			return v, fmt.Errorf("line %d was cut off: %w", n, ErrBroken)
		case err != nil:
			return v, fmt.Errorf("read line %d: %w", n, err)
		}
		if v, err = v.line(bytes.TrimSuffix(line, []byte("\n")), n); err != nil {
			return v, err
		}
		if hash, ok := want[v.Last]; ok && hash != v.Hash {
			return v, fmt.Errorf("line %d: event %d does not have the hash that was noted of it: %w", n, v.Last, ErrBroken)
		}
	}
}

// met says whether all events that hashes are known of were there.
func (v Verified) met(want map[uint64]string) error {
	for seq := range want {
		if seq < v.First || seq > v.Last {
			return fmt.Errorf("%w: event %d is not among events %d to %d", ErrNotThere, seq, v.First, v.Last)
		}
	}
	return nil
}

// line verifies line n.
func (v Verified) line(line []byte, n int) (Verified, error) {
	broken := func(what string, args ...any) (Verified, error) {
		return v, fmt.Errorf("line %d %s: %w", n, fmt.Sprintf(what, args...), ErrBroken)
	}
	var members map[string]any
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.UseNumber()
	if err := dec.Decode(&members); err != nil {
		return broken("is no event")
	}
	if again, err := canonical(members); err != nil || !bytes.Equal(again, line) {
		return broken("is not written as it was exported")
	}
	number, _ := members[memberSeq].(json.Number)
	seq, err := strconv.ParseUint(number.String(), 10, 64)
	hash, ok := members[memberHash].(string)
	if err != nil || seq == 0 || !ok {
		return broken("is no event of an export: it has no %s or no %s", memberSeq, memberHash)
	}
	before, hasBefore := members[memberBefore].(string)
	switch {
	case n == 1 && !hasBefore:
		return broken("(event %d) lacks %s: the lines before it are missing", seq, memberBefore)
	case n == 1:
		v.First, v.Hash = seq, before
	case seq > v.Last+1:
		return broken("is event %d, and event %d should be there: lines are missing", seq, v.Last+1)
	case seq <= v.Last:
		return broken("is event %d, and event %d should be there: the line was put in", seq, v.Last+1)
	case hasBefore && before != v.Hash: // where a later export was put behind an earlier one
		return broken("(event %d) does not follow the line before it", seq)
	}
	digest, erased := members[memberErased].(string)
	for _, name := range []string{memberSeq, memberHash, memberBefore} {
		delete(members, name)
	}
	outcome := Refused // of what is erased: only trouble is
	if erased {
		if len(members) != 1 {
			return broken("(event %d) was changed", seq)
		}
		v.Erased++
	} else {
		if digest, err = digestOf(members); err != nil {
			return broken("is no event")
		}
		if members["outcome"] == string(OK) {
			outcome = OK
		}
		v.Events++
	}
	if v.Last, v.Hash = seq, linkHash(v.Hash, digest, outcome); v.Hash != hash {
		return broken("(event %d) was changed", seq)
	}
	return v, nil
}
