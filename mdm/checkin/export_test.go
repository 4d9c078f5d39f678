package checkin

import "time"

// Within has f wait for an answer no longer than d.
func (f *Forwarder) Within(d time.Duration) { f.time = d }
