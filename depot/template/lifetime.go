package template

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

// DefaultRenewBefore is how long before the end of its life a certificate is renewed
// whose template says nothing else, or half its life if that is shorter.
const DefaultRenewBefore = 30 * day

// Span is a length of time as it was written: "8760h", "365d", "1h30m".
type Span string

var errSpan = errors.New(`must be a length of time such as "8760h" or "365d"`)

// Duration returns the length of s.
func (s Span) Duration() (time.Duration, error) {
	if days, ok := strings.CutSuffix(string(s), "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16) // 65535 days fit a Duration
		if err != nil {
			return 0, errSpan
		}
		return time.Duration(n) * day, nil
	}
	d, err := time.ParseDuration(string(s))
	if err != nil || d < 0 {
		return 0, errSpan
	}
	return d, nil
}

func spanOf(d time.Duration) Span {
	if d%time.Hour == 0 {
		return Span(strconv.FormatInt(int64(d/time.Hour), 10) + "h")
	}
	return Span(d.String())
}

// RenewBefore says when certificates are renewed: so long before they end, as a Span or
// as a part of their life, "30%". Empty means DefaultRenewBefore.
type RenewBefore string

var errRenewBefore = errors.New(`must be a length of time such as "720h" or "14d", or a part of the validity, "1%" to "99%"`)

// of returns how long before the end of a life of that length it is time.
func (r RenewBefore) of(life time.Duration) (time.Duration, error) {
	if r == "" {
		return min(DefaultRenewBefore, life/2), nil
	}
	if percent, ok := strings.CutSuffix(string(r), "%"); ok {
		n, err := strconv.ParseUint(percent, 10, 8)
		if err != nil || n < 1 || n > 99 {
			return 0, errRenewBefore
		}
		return life / 100 * time.Duration(n), nil
	}
	d, err := Span(r).Duration()
	if err != nil || d == 0 {
		return 0, errRenewBefore
	}
	return d, nil
}

// ValidFor returns how long a certificate of t is to last: zero if t has not passed
// Check.
func (t Template) ValidFor() time.Duration {
	d, err := t.Validity.Duration()
	if err != nil {
		return 0
	}
	return d
}

// RenewAt returns when a certificate of t with these dates is due for renewal. One
// that was cut short, because it would have outlived its issuer, is due at half its
// life at the latest.
func (t Template) RenewAt(notBefore, notAfter time.Time) time.Time {
	life := notAfter.Sub(notBefore)
	before, err := t.RenewBefore.of(life)
	if err != nil || before >= life {
		before = life / 2
	}
	return notAfter.Add(-before)
}
