package event

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// The chain makes it visible when an event that was recorded is changed, left out or put
// in later. Each event has a digest and a hash:
//
//	digest = SHA-256(the event's canonical JSON)
//	hash   = SHA-256(hash of the event before, LF, digest, LF)            of one that is ok
//	hash   = SHA-256(hash of the event before, LF, digest, LF, trouble, LF) of any other
//
// where both are written as 64 lower-case hexadecimal digits, and the hash before the first
// event is 64 zeros, and trouble is that word. By it the hash tells that an event may be
// forgotten before older ones, with nothing but its digest left: of one that is ok, nobody
// can claim that it was. There is no key: who can write to the database can make another chain,
// but none that leads to a hash that was seen elsewhere before.

// zeroHash is the hash before the first event.
var zeroHash = strings.Repeat("0", 2*sha256.Size)

// fields are the members of e's JSON object, without those that are empty.
func (e Event) fields() map[string]any {
	all := map[string]any{
		"id": e.ID, "at": e.At.UTC().Format(time.RFC3339Nano), "action": e.Action, "outcome": string(e.Outcome),
	}
	for name, text := range map[string]string{
		"actor": e.Actor, "reason": e.Reason, "device_id": e.DeviceID, "user": e.User,
		"certificate": e.Certificate, "template": e.Template, "peer": e.Peer,
	} {
		if text != "" {
			all[name] = text
		}
	}
	if len(e.Details) > 0 {
		details := make(map[string]any, len(e.Details))
		for key, value := range e.Details {
			details[key] = value
		}
		all["details"] = details
	}
	if len(e.Changes) > 0 {
		changes := make([]any, len(e.Changes))
		for i, c := range e.Changes {
			change := map[string]any{"field": c.Field}
			if c.Before != "" {
				change["before"] = c.Before
			}
			if c.After != "" {
				change["after"] = c.After
			}
			changes[i] = change
		}
		all["changes"] = changes
	}
	return all
}

// canonical writes members as RFC 8785 has it: sorted by name, without white space, and
// nothing escaped that needn't be. It is encoding/json's own order and form for the texts
// and whole numbers that there are: no control characters, and names in ASCII.
func canonical(members map[string]any) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(members); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// digestOf returns the digest of an event's members.
func digestOf(members map[string]any) (string, error) {
	raw, err := canonical(members)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:]), nil
}

// linkHash is the hash of an event with this digest that follows one with the hash before.
func linkHash(before, digest string, outcome Outcome) string {
	text := before + "\n" + digest + "\n"
	if outcome != OK {
		text += "trouble\n"
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// Links are kept by [seqKey]: those of events that are erased apart from the others, so that
// who follows the feed does not read through them.
const (
	chainBucket  = "event.chain"
	erasedBucket = "event.chain.erased"
)

func seqKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

// link is the place of one event in the chain. Of trouble that is erased before events
// that are older, the digest stays, so that the chain holds.
type link struct {
	seq    uint64
	hash   string
	id     string // empty of one that is erased
	digest string // only of one that is erased
}

// A link is kept as a letter, the hash, and the ID's bytes or the digest.
const (
	linkKept   = 'k'
	linkErased = 'x'
)

func (l link) put(tx storage.Tx) error {
	value := []byte{linkKept}
	if l.id == "" {
		value[0] = linkErased
	}
	value, err := hex.AppendDecode(value, []byte(l.hash))
	if err == nil && l.id == "" {
		value, err = hex.AppendDecode(value, []byte(l.digest))
	} else if err == nil {
		value, err = idEncoding.AppendDecode(value, []byte(l.id))
	}
	if err != nil {
		return fmt.Errorf("link %d of the audit log: %w", l.seq, err)
	}
	if l.id != "" {
		return tx.Put(chainBucket, seqKey(l.seq), value)
	}
	if err := tx.Delete(chainBucket, seqKey(l.seq)); err != nil {
		return err
	}
	return tx.Put(erasedBucket, seqKey(l.seq), value)
}

func readLink(item storage.Item) (link, error) {
	const hashed = 1 + sha256.Size
	corrupt := func() (link, error) {
		return link{}, fmt.Errorf("link %x of the audit log: %w", item.Key, storage.ErrCorrupt)
	}
	if len(item.Key) != 8 || len(item.Value) < hashed {
		return corrupt()
	}
	l := link{seq: binary.BigEndian.Uint64(item.Key), hash: hex.EncodeToString(item.Value[1:hashed])}
	switch rest := item.Value[hashed:]; {
	case item.Value[0] == linkKept && len(rest) == idBytes:
		l.id = idEncoding.EncodeToString(rest)
	case item.Value[0] == linkErased && len(rest) == sha256.Size:
		l.digest = hex.EncodeToString(rest)
	default:
		return corrupt()
	}
	return l, nil
}

// getLink returns the link in place seq, of an event that is there or erased.
func getLink(tx storage.Tx, seq uint64) (link, error) {
	value, err := tx.Get(chainBucket, seqKey(seq))
	if errors.Is(err, storage.ErrNotFound) {
		value, err = tx.Get(erasedBucket, seqKey(seq))
	}
	if err != nil {
		return link{}, fmt.Errorf("link %d of the audit log: %w", seq, err)
	}
	return readLink(storage.Item{Key: seqKey(seq), Value: value})
}

// links yields the links in r, of events that are there and of erased ones, in order. Its
// limit is for either kind.
func links(tx storage.Tx, r storage.Range) iter.Seq2[link, error] {
	return func(yield func(link, error) bool) {
		nextErased, stop := iter.Pull2(tx.Scan(erasedBucket, r))
		defer stop()
		erased, err, more := nextErased()
		for item, kept := range tx.Scan(chainBucket, r) {
			if kept != nil {
				yield(link{}, kept)
				return
			}
			for ; more && (err != nil || bytes.Compare(erased.Key, item.Key) < 0); erased, err, more = nextErased() {
				if !yieldLink(yield, erased, err) {
					return
				}
			}
			if !yieldLink(yield, item, nil) {
				return
			}
		}
		for ; more; erased, err, more = nextErased() {
			if !yieldLink(yield, erased, err) {
				return
			}
		}
	}
}

// yieldLink yields what an item holds, and reports whether to go on.
func yieldLink(yield func(link, error) bool, item storage.Item, err error) bool {
	var l link
	if err == nil {
		l, err = readLink(item)
	}
	return yield(l, err) && err == nil
}

// mark is one end of the chain.
type mark struct {
	Name string `json:"name"`
	Seq  uint64 `json:"seq"`  // zero: there is none yet
	Hash string `json:"hash"` // of the event at Seq

	// Events of before there was a chain come first, once: those until Old have their place.
	Old    string `json:"old,omitempty"`
	Caught bool   `json:"caught,omitempty"` // all of them have
}

var marks = storage.NewCollection("event.mark", 1, func(m mark) string { return m.Name })

// The marks.
const (
	headMark   = "head"   // the newest event that has a place
	tailMark   = "tail"   // the newest of those that were erased from the old end
	anchorMark = "anchor" // what was told last by [Recorder.anchor]
)

func getMark(tx storage.Tx, name string) (mark, error) {
	m, err := marks.Get(tx, name)
	if errors.Is(err, storage.ErrNotFound) {
		return mark{Name: name, Hash: zeroHash}, nil
	}
	return m, err
}
