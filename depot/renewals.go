package depot

import (
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Renewals is when certificates of devices are to be renewed, of those that are not revoked.
// Who is renewed in time never comes to an end, so this is what there is to look ahead to.
type Renewals struct {
	From    time.Time // when the first of Weeks begins
	Overdue int       // should have been renewed more than [Overdue] before From
	Due     int       // should be renewed by From, and are not yet
	Weeks   []int     // seven days each
	Later   int
}

// Overdue is how late a renewal may be before somebody should know: devices are switched off
// for a week, and come back.
const Overdue = 14 * 24 * time.Hour

// Renewals counts the certificates that are to be renewed from now on in so many weeks. It
// reads a key of each: of 100,000 in a fiftieth of a second.
func (d *Depot) Renewals(tx storage.Tx, weeks int) (Renewals, error) {
	now := d.now().UTC()
	r := Renewals{From: now, Weeks: make([]int, weeks)}
	until := make([]string, weeks) // keys sort as times do, so none is read as one
	for i := range until {
		until[i] = renewKey(now.AddDate(0, 0, 7*(i+1)))
	}
	overdue, due, week := renewKey(now.Add(-Overdue)), renewKey(now), 0
	for item, err := range tx.Scan(renewBucket, storage.Range{}) {
		if err != nil {
			return Renewals{}, fmt.Errorf("count renewals: %w", err)
		}
		at := string(item.Key[:min(len(item.Key), len(due))])
		for week < weeks && at >= until[week] {
			week++
		}
		switch {
		case at < overdue:
			r.Overdue++
		case at < due:
			r.Due++
		case week < weeks:
			r.Weeks[week]++
		default:
			r.Later++
		}
	}
	return r, nil
}

// renewBucket is that of the index "renew" of [certificates]: its keys begin with a renewKey.
const renewBucket = "certificate.renew"
