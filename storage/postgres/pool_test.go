package postgres_test

import (
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/postgrestest"
)

// awaitSessions waits until the database has as many sessions of an application, one of
// which is for news, and returns who they are.
func awaitSessions(t *testing.T, dsn, application string, want int) (pids []int32) {
	t.Helper()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		err := conn.QueryRow(ctx, `select coalesce(array_agg(pid order by pid), '{}') from pg_stat_activity, pg_sleep(0.02)
			where application_name = $1`, application).Scan(&pids)
		if err != nil {
			t.Fatal(err)
		}
		if len(pids) == want {
			return pids
		}
	}
	t.Fatalf("%d sessions, want %d", len(pids), want)
	return nil
}

// TestThePoolKeepsConnectionsAsTheURLSays counts sessions, besides the one for news.
func TestThePoolKeepsConnectionsAsTheURLSays(t *testing.T) {
	for name, tt := range map[string]struct {
		query string
		want  int
		stay  bool // they are the same after a transaction
	}{
		"one after the start":               {"", 1, true},
		"one, whatever else pgx would take": {"&pool_ping_timeout=1s&default_query_exec_mode=exec&statement_cache_capacity=0&description_cache_capacity=0", 1, true},
		"some that are always there":        {"&pool_min_conns=3&pool_max_conn_idle_time=1ms&pool_health_check_period=10ms", 3, true},
		"some that are ready":               {"&pool_min_idle_conns=2", 2, true},
		"no more than there may be":         {"&pool_min_conns=3&pool_max_conns=2", 2, true},
		"none that was idle for long":       {"&pool_max_conn_idle_time=1ms&pool_health_check_period=10ms", 0, false},
		"none that has reached its age":     {"&pool_max_conn_lifetime=1ms&pool_health_check_period=10ms", 0, false},
		"one whose age has no end":          {"&pool_max_conn_lifetime=0s&pool_health_check_period=10ms", 1, true},
		"one that lives as long as it must": {"&pool_max_conn_lifetime=1ms&pool_max_conn_lifetime_jitter=100h&pool_health_check_period=10ms", 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn, application := postgrestest.DSN(t), "pool-"+name
			db := open(t, with(t, dsn, func(u *url.URL) {
				u.RawQuery += "&application_name=" + url.PathEscape(application) + tt.query
			}))
			before := awaitSessions(t, dsn, application, 1+tt.want)
			if err := put(db, "k"); err != nil {
				t.Errorf("Update: %v", err)
			}
			after := awaitSessions(t, dsn, application, 1+tt.want)
			if tt.stay && !slices.Equal(before, after) {
				t.Errorf("sessions %v, then %v", before, after)
			}
		})
	}
}

// TestAConnectionIsReplacedAtItsAge has every transaction meet connections that are too old
// already.
func TestAConnectionIsReplacedAtItsAge(t *testing.T) {
	db := open(t, with(t, postgrestest.DSN(t), func(u *url.URL) { u.RawQuery += "&pool_max_conn_lifetime=1ns&pool_max_conns=1" }))
	for range 5 {
		if err := put(db, "k"); err != nil {
			t.Fatalf("Update: %v", err)
		}
		has(t, db, "k", true)
	}
}
