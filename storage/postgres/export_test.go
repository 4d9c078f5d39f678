package postgres

import "time"

// SetPatience is how long db waits for an answer.
func (db *DB) SetPatience(d time.Duration) { db.patience = d }

var (
	Lost     = lost
	ErrBusy  = errBusy
	NewsStep = newsPause
)
