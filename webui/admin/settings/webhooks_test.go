package settings

import (
	"testing"
	"time"
)

func TestWhenADeliveryIsSentNext(t *testing.T) {
	now := time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)
	at := func(d time.Duration) *time.Time { at := now.Add(d); return &at }
	on := hook{Enabled: true}
	rests := on
	rests.Health.PausedUntil = at(10 * time.Minute)
	for name, tt := range map[string]struct {
		hook hook
		next *time.Time // as the delivery has it
		want string
	}{
		"it is due":                     {on, at(-time.Minute), "Now, or after those before it"},
		"it is to be tried later":       {on, at(5 * time.Minute), "in 5 min"},
		"the webhook rests until then":  {rests, at(-time.Minute), "in 10 min"},
		"it is for later than the rest": {rests, at(30 * time.Minute), "in 30 min"},
		"the webhook is off":            {hook{}, at(-time.Minute), "Once the webhook is switched on"},
	} {
		next := tt.hook.next(delivered{State: "pending", NextAttemptAt: tt.next}, now)
		got := next.Why
		if next.At != nil {
			got += next.At.Ago()
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
	if got := on.next(delivered{State: "delivered"}, now); got.At != nil || got.Why != "" {
		t.Errorf("what was delivered is sent again: %+v", got)
	}
}
