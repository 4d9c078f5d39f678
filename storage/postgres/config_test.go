package postgres_test

import (
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage/postgres"
)

// TestURLs holds which URLs are taken, and what people are shown of them.
func TestURLs(t *testing.T) {
	t.Setenv("PGHOST", "")
	t.Setenv("PGPORT", "")
	for name, tt := range map[string]struct{ url, want string }{
		"one host":                      {"postgres://gatehouse:secret@db.example.com/mdm?sslmode=verify-full", "gatehouse@db.example.com:5432/mdm"},
		"one host, with TLS or without": {"postgres://gatehouse@db.example.com/mdm", "gatehouse@db.example.com:5432/mdm"},
		"several hosts": {
			"postgres://gatehouse:secret@db1.example.com,db2.example.com:6432/mdm?target_session_attrs=read-write",
			"gatehouse@db1.example.com:5432,db2.example.com:6432/mdm",
		},
		"an IPv6 address":    {"postgresql://gatehouse@[::1]:5433/mdm", "gatehouse@[::1]:5433/mdm"},
		"a socket":           {"postgres://gatehouse@/mdm?host=/run/postgresql", "gatehouse@/run/postgresql/mdm"},
		"an escaped @":       {"postgres://gatehouse:p%40ss@db.example.com/mdm", "gatehouse@db.example.com:5432/mdm"},
		"an @ not escaped":   {"postgres://gatehouse:p@ss@db.example.com/mdm", ""},
		"a / not escaped":    {"postgres://gatehouse:p/ss@db.example.com/mdm", ""},
		"a / behind a digit": {"postgres://gatehouse:1/ss@db.example.com/mdm", ""},
		"another scheme":     {"mysql://gatehouse:secret@db.example.com/mdm", ""},
		"numbers and times of the pool": {
			"postgres://gatehouse@db.example.com/mdm?pool_max_conns=8&pool_min_conns=1&pool_min_idle_conns=2&pool_max_conn_lifetime=1h30m&" +
				"pool_max_conn_lifetime_jitter=5m&pool_max_conn_idle_time=0s&pool_health_check_period=10s&pool_ping_timeout=1s",
			"gatehouse@db.example.com:5432/mdm",
		},
		"no connections":            {"postgres://gatehouse:secret@db.example.com/mdm?pool_max_conns=0", ""},
		"too many connections":      {"postgres://gatehouse:secret@db.example.com/mdm?pool_max_conns=3000000000", ""},
		"fewer than no connections": {"postgres://gatehouse:secret@db.example.com/mdm?pool_min_conns=-1", ""},
		"a time without a unit":     {"postgres://gatehouse:secret@db.example.com/mdm?pool_max_conn_idle_time=90", ""},
		"no time between two looks": {"postgres://gatehouse:secret@db.example.com/mdm?pool_health_check_period=0s", ""},
		"a bad sslmode":             {"postgres://gatehouse:secret@db.example.com/mdm?sslmode=always", ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := postgres.Check(tt.url)
			if (err == nil) != (tt.want != "") {
				t.Fatalf("Check(%q) = %v", tt.url, err)
			}
			if err != nil {
				for _, secret := range []string{"secret", "ss@", "1/"} {
					if strings.Contains(err.Error(), secret) {
						t.Errorf("Check(%q) shows a part of the password: %v", tt.url, err)
					}
				}
				return
			}
			if got := postgres.Describe(tt.url); got != tt.want {
				t.Errorf("Describe(%q) = %q, want %q", tt.url, got, tt.want)
			}
		})
	}
}
