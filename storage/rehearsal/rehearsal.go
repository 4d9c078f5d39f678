// Package rehearsal runs what writes on a transaction of which nothing is kept: to find out
// what would come of it, while nobody who writes has to wait.
package rehearsal

import (
	"errors"
	"iter"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/internal/writeset"
)

// On returns a transaction that reads what tx, of a View, reads, and what was written to
// itself. Its writes are kept nowhere else, and its news reach nobody. It ends with tx.
func On(tx storage.Tx) storage.Tx { return writeset.New(stage{tx}) }

// stage is a transaction as a writeset reads it.
type stage struct{ tx storage.Tx }

var _ writeset.Base = stage{}

func (s stage) Get(bucket string, key []byte) (value []byte, ok bool, err error) {
	value, err = s.tx.Get(bucket, key)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, false, nil
	}
	return value, err == nil, err
}

func (s stage) Scan(span writeset.Span) iter.Seq2[storage.Item, error] {
	r := rangeOf(span)
	r.Limit = 0 // that of a span is not the last word
	return s.tx.Scan(span.Bucket, r)
}

func (s stage) Prefetch(keys []writeset.Key, spans []writeset.Ahead) {
	s.tx.Prefetch(reads(keys, spans)...)
}

func (s stage) Buckets() ([]string, error) { return s.tx.Buckets() }

func rangeOf(span writeset.Span) storage.Range {
	return storage.Range{Start: span.Lo, End: span.Hi, Reverse: span.Reverse, Limit: span.Limit, Lent: span.Lent}
}

func reads(keys []writeset.Key, spans []writeset.Ahead) []storage.Read {
	all := make([]storage.Read, 0, len(keys)+len(spans))
	for _, k := range keys {
		all = append(all, storage.Read{Bucket: k.Bucket, Key: k.Key})
	}
	for _, s := range spans {
		read := storage.Read{Bucket: s.Bucket, Range: rangeOf(s.Span)}
		if s.Then != nil {
			read.Then = func(item storage.Item) []storage.Read { return reads(s.Then(item)) }
		}
		all = append(all, read)
	}
	return all
}
