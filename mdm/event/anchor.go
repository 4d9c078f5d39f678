package event

import (
	"context"
	"strconv"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// anchorEvery is how often the hash that the log has come to is told.
const anchorEvery = 24 * time.Hour

// anchor tells the world outside of the database what the audit log has come to, in the
// server's log and as an event, which webhooks carry away: who changes the database later
// can't change those.
func (r *Recorder) anchor(ctx context.Context) error {
	if err := r.Sequence(ctx); err != nil {
		return err
	}
	var head mark
	told := false
	err := r.db.Update(ctx, func(tx storage.Tx) (err error) {
		told = false
		if head, err = getMark(tx, headMark); err != nil {
			return err
		}
		last, err := getMark(tx, anchorMark)
		if err != nil || head.Seq <= last.Seq+1 { // the one is the last anchor itself
			return err
		}
		if err := marks.Put(tx, mark{Name: anchorMark, Seq: head.Seq, Hash: head.Hash}); err != nil {
			return err
		}
		told = true
		return Record(tx, Event{
			At: r.now(), Actor: "server", Action: "audit.anchored",
			Details: map[string]string{"seq": strconv.FormatUint(head.Seq, 10), "hash": head.Hash},
		})
	})
	if err == nil && told {
		r.log.InfoContext(ctx, "audit log has come to", "seq", head.Seq, "hash", head.Hash)
	}
	return wrap("anchor the audit log", err)
}
