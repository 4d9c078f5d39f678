package main

import (
	"strings"
	"testing"
	"time"
)

func TestWhenATokenIsToExpire(t *testing.T) {
	now := time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		"90d":                  "2027-02-19T09:00:00Z",
		"2w":                   "2026-12-05T09:00:00Z",
		"24h":                  "2026-11-22T09:00:00Z",
		"2026-12-31":           "2027-01-01T00:00:00Z",
		"2026-12-31T12:00:00Z": "2026-12-31T12:00:00Z",
	} {
		if got, err := tokenEnd(text, now); err != nil || got.Format(time.RFC3339) != want {
			t.Errorf("tokenEnd(%q) = %s, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "d", "0d", "-1d", "90", "90 days", "tomorrow", "99999999d", "30501w"} {
		if got, err := tokenEnd(text, now); err == nil || !strings.Contains(err.Error(), "such as 90d") {
			t.Errorf("tokenEnd(%q) = %s, %v; want an error with an example", text, got, err)
		}
	}
}
