package depot

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// Status is what a certificate is worth at some time.
type Status string

// The statuses.
const (
	Active  Status = "active"
	Expired Status = "expired"
	Revoked Status = "revoked" // also after its end
)

// Status returns the status of c at a time.
func (c Certificate) Status(now time.Time) Status {
	switch {
	case !c.RevokedAt.IsZero():
		return Revoked
	case now.After(c.NotAfter):
		return Expired
	}
	return Active
}

// Filter says which certificates are wanted: those that meet all of it. The zero
// Filter is all certificates.
type Filter struct {
	// Text is a part of the subject, of an alternative name, of the serial number
	// (with colons or without), of the user or of the device's ID, in any case.
	Text string

	DeviceID  string
	Users     []string // one of these, in any case
	Template  string
	Authority string // its name or its ID
	Door      string
	Status    Status

	ExpiresAfter  time.Time
	ExpiresBefore time.Time // exclusive
}

const (
	defaultFound = 100

	// maxLooked is how many certificates are looked at for one page. Where few match,
	// pages come out short, or even empty, before the end.
	maxLooked = 10_000
)

// Search returns up to limit certificates (100 if limit is not positive) by their
// fingerprints, and the cursor of the next page, which is "" at the end. A page may hold
// fewer, even none, without being the last. The error wraps [storage.ErrBadCursor] when
// cursor is no page's.
func (d *Depot) Search(tx storage.Tx, f Filter, cursor string, limit int) (list []Certificate, next string, err error) {
	if limit <= 0 {
		limit = defaultFound
	}
	if cursor != "" && !isFingerprint(cursor) {
		return nil, "", fmt.Errorf("search certificates: %w", storage.ErrBadCursor)
	}
	now := d.now()
	f = f.normal()
	looked, last := 0, ""
	for c, err := range f.scan(tx, cursor, d.maxLooked) {
		if err != nil {
			return nil, "", fmt.Errorf("search certificates: %w", err)
		}
		if len(list) == limit || looked == d.maxLooked {
			return list, last, nil
		}
		looked, last = looked+1, string(c.Fingerprint)
		ok, err := d.matches(tx, f, c, now)
		if err != nil {
			return nil, "", fmt.Errorf("search certificates: %w", err)
		}
		if ok {
			list = append(list, c)
		}
	}
	return list, "", nil
}

// isFingerprint says whether a cursor is one of ours: the last fingerprint of a page.
func isFingerprint(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

func (f Filter) normal() Filter {
	f.Text = strings.ToLower(strings.TrimSpace(f.Text))
	f.Users = slices.Clone(f.Users)
	for i, user := range f.Users {
		f.Users[i] = userKey(user)
	}
	return f
}

// scan yields the certificates after a cursor that f may want: those of its device, of
// which there are few, or at most looked and one more of all.
func (f Filter) scan(tx storage.Tx, cursor string, looked int) iter.Seq2[Certificate, error] {
	if f.DeviceID == "" {
		r := storage.Range{Limit: looked + 1} // one more says whether a page follows
		if cursor != "" {
			r.Start = append([]byte(cursor), 0)
		}
		return certificates.All(tx, r)
	}
	return func(yield func(Certificate, error) bool) {
		for c, err := range certificates.Lookup(tx, "device", f.DeviceID) {
			if err == nil && string(c.Fingerprint) <= cursor {
				continue
			}
			if !yield(c, err) || err != nil {
				return
			}
		}
	}
}

func (d *Depot) matches(tx storage.Tx, f Filter, c Certificate, now time.Time) (bool, error) {
	switch {
	case f.Template != "" && c.Template != f.Template,
		f.Door != "" && c.Door != f.Door,
		f.Authority != "" && c.Authority != f.Authority && d.issuerOf(c) != f.Authority,
		f.Status != "" && c.Status(now) != f.Status,
		len(f.Users) > 0 && !slices.Contains(f.Users, userKey(c.User)),
		!f.ExpiresAfter.IsZero() && !c.NotAfter.After(f.ExpiresAfter),
		!f.ExpiresBefore.IsZero() && !c.NotAfter.Before(f.ExpiresBefore):
		return false, nil
	case f.Text == "", c.mentions(f.Text):
		return true, nil
	}
	names, err := d.Names(tx, c)
	return slices.ContainsFunc(names, func(name string) bool { return strings.Contains(strings.ToLower(name), f.Text) }), err
}

// mentions says whether c has text, which is in lower case, in what names it but its
// alternative names.
func (c Certificate) mentions(text string) bool {
	for _, s := range []string{c.Subject, c.User, c.DeviceID} {
		if strings.Contains(strings.ToLower(s), text) {
			return true
		}
	}
	digits := strings.ReplaceAll(text, ":", "")
	if digits == "" || strings.Trim(digits, "0123456789abcdef") != "" {
		return false
	}
	// Other tools print a whole number of bytes.
	return strings.Contains(string(c.Serial), digits) || strings.HasPrefix("0"+string(c.Serial), digits)
}

// Names returns the alternative names of a certificate. Records of before they were
// recorded leave them to the certificate itself, as they do with the issuer's ID.
func (d *Depot) Names(tx storage.Tx, c Certificate) ([]string, error) {
	if c.Issuer != "" || c.foreign() || len(c.SANs) > 0 {
		return c.SANs, nil
	}
	der, err := d.DER(tx, c.Fingerprint)
	if err != nil {
		return nil, err
	}
	cert, err := guard.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%w: certificate %s", storage.ErrCorrupt, c.Fingerprint)
	}
	return AlternativeNames(cert), nil
}

// IssuerID returns the ID of the authority that issued a certificate, empty if it is
// none of ours.
func (d *Depot) IssuerID(c Certificate) string { return d.issuerOf(c) }

// Counts is how many certificates there are of a kind.
type Counts struct {
	Total, Active, Expired, Revoked int
	Expiring                        int // of those that are active: within the time that was asked for
	IssuedLastDay, IssuedLast30Days int
}

func (n *Counts) add(c tally, now time.Time, expiring time.Duration) {
	n.Total++
	switch (Certificate{NotAfter: c.NotAfter, RevokedAt: c.RevokedAt}).Status(now) {
	case Active:
		n.Active++
		if c.NotAfter.Before(now.Add(expiring)) {
			n.Expiring++
		}
	case Expired:
		n.Expired++
	case Revoked:
		n.Revoked++
	}
	if c.IssuedAt.After(now.Add(-24 * time.Hour)) {
		n.IssuedLastDay++
	}
	if c.IssuedAt.After(now.Add(-30 * 24 * time.Hour)) {
		n.IssuedLast30Days++
	}
}

// tally is what counting needs of a Certificate's record, and nothing is ever written
// as one: reading the rest would take as long again.
type tally struct {
	Template  string    `json:"template"`
	IssuedAt  time.Time `json:"issued_at"`
	NotAfter  time.Time `json:"not_after"`
	RevokedAt time.Time `json:"revoked_at"`
}

var tallies = storage.NewCollection("certificate", 1, func(tally) string { return "" })

// Count counts all certificates, and those of each template. It reads every record: of
// 100,000 in less than a second.
func (d *Depot) Count(tx storage.Tx, expiring time.Duration) (all Counts, byTemplate map[string]Counts, err error) {
	now := d.now()
	byTemplate = map[string]Counts{}
	for c, err := range tallies.All(tx, storage.Range{}) {
		if err != nil {
			return Counts{}, nil, fmt.Errorf("count certificates: %w", err)
		}
		all.add(c, now, expiring)
		n := byTemplate[c.Template]
		n.add(c, now, expiring)
		byTemplate[c.Template] = n
	}
	return all, byTemplate, nil
}
