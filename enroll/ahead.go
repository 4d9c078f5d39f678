package enroll

import (
	"sync"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// maxAcquainted bounds what acquaintances remember, to some 20 MB.
const maxAcquainted = 100_000

// acquaintances remember which enrollments polled with which certificate, so that the next
// poll can ask the database for all that it needs at once. They are never believed: what
// a certificate stands for is read each time, and a wrong guess costs only that.
type acquaintances struct {
	mu    sync.Mutex
	known map[acquaintance]enrollments
}

type acquaintance struct {
	certificate depot.Fingerprint
	user        string // AppleID.UserID
}

// enrollments are a device and the channel of it that polls, which are often the same.
type enrollments struct{ device, channel mdm.DeviceID }

func (a *acquaintances) get(p Peer, id mdm.AppleID) (enrollments, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e, ok := a.known[acquaintance{depot.FingerprintOf(p.Certificate), id.UserID}]
	return e, ok
}

func (a *acquaintances) remember(p Peer, id mdm.AppleID, e enrollments) {
	key := acquaintance{depot.FingerprintOf(p.Certificate), id.UserID}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known[key] == e {
		return
	}
	if a.known == nil || len(a.known) >= maxAcquainted {
		a.known = make(map[acquaintance]enrollments)
	}
	a.known[key] = e
}

// readAhead announces what a poll reads, as far as one can tell before the first answer.
func (s *Service) readAhead(tx storage.Tx, p Peer, id mdm.AppleID) {
	if p.Certificate == nil {
		return
	}
	e, ok := s.acquainted.get(p, id)
	if !ok {
		return
	}
	if id := authorizationOf(p.Bearer); id != "" {
		tx.Prefetch(authorizations.Read(id), accountDrivenRecords.Read(settingsKey))
	}
	if tap, ok := s.tap.(foretold); ok {
		tx.Prefetch(tap.Reads()...)
	}
	tx.Prefetch(s.depot.Read(depot.FingerprintOf(p.Certificate)), mdm.ReadDevice(e.device), mdm.ReadQueue(e.channel), mdm.ReadWakeup(e.channel))
	if id.UserID != "" {
		tx.Prefetch(mdm.ReadFindDevice(id), mdm.ReadDevice(e.channel))
	}
}
