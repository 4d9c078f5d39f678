package postgres

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// What a connection is set to unless the URL says otherwise.
var defaults = map[string]string{
	"application_name": "gatehouse",
	// A statement here takes milliseconds; one that takes this long waits for a lock
	// or a disk that will not come.
	"statement_timeout":                   "30s",
	"idle_in_transaction_session_timeout": "60s",
}

// config says where a database is, and how many connections to it there may be.
type config struct {
	*pgconn.Config

	maxConns     int32
	minConns     int32         // even if they are idle
	minIdleConns int32         // ready beside those in use
	lifetime     time.Duration // of a connection, and up to jitter more; 0: without end
	jitter       time.Duration
	idleTime     time.Duration // of connections beyond minConns
	period       time.Duration // between looks at the idle ones
}

// parse reads a connection URL.
func parse(text string) (*config, error) {
	if !strings.HasPrefix(text, "postgres://") && !strings.HasPrefix(text, "postgresql://") {
		return nil, errors.New("a PostgreSQL URL begins with postgres://")
	}
	parsed, err := pgconn.ParseConfig(text)
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL URL: %w", withoutSecrets(err, text))
	}
	config := &config{
		Config: parsed,
		// What waits for a disk or a lock needs no processor, so more than there are
		// processors; a server's usual limit is 100 over all replicas.
		maxConns: int32(max(16, 4*runtime.GOMAXPROCS(0))),
		lifetime: time.Hour,
		idleTime: 5 * time.Minute,
		period:   time.Minute,
	}
	if strings.Contains(hosts(parsed)+parsed.Database, "@") {
		// The first @ ended the password, and what follows would be shown as a host.
		return nil, errors.New("PostgreSQL URL: an @ in a user name or password is written as %40, a / as %2F and a : as %3A")
	}
	if err := config.takeOurs(); err != nil {
		return nil, fmt.Errorf("PostgreSQL URL: %w", withoutSecrets(err, text))
	}
	for name, value := range defaults {
		if _, set := config.RuntimeParams[name]; !set {
			config.RuntimeParams[name] = value
		}
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 5 * time.Second
	}
	return config, nil
}

// takeOurs reads the parameters of the URL that are about the pool. What is left is set at
// the server.
func (c *config) takeOurs() error {
	params := c.RuntimeParams
	for _, p := range []struct {
		name  string
		to    *int32
		least int32
	}{
		{"pool_max_conns", &c.maxConns, 1},
		{"pool_min_conns", &c.minConns, 0},
		{"pool_min_idle_conns", &c.minIdleConns, 0},
	} {
		text, set := params[p.name]
		if !set {
			continue
		}
		delete(params, p.name)
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil || int32(n) < p.least {
			return fmt.Errorf("%s is %q, which is no number from %d on", p.name, text, p.least)
		}
		*p.to = int32(n)
	}
	for _, p := range []struct {
		name  string
		to    *time.Duration
		least time.Duration
	}{
		{"pool_max_conn_lifetime", &c.lifetime, 0},
		{"pool_max_conn_lifetime_jitter", &c.jitter, 0},
		{"pool_max_conn_idle_time", &c.idleTime, 0},
		{"pool_health_check_period", &c.period, time.Millisecond},
		{"pool_ping_timeout", new(time.Duration), 0}, // we don't ping: see acquire
	} {
		text, set := params[p.name]
		if !set {
			continue
		}
		delete(params, p.name)
		d, err := time.ParseDuration(text)
		if err != nil || d < p.least {
			return fmt.Errorf("%s is %q, which is no duration such as 90s or 5m", p.name, text)
		}
		*p.to = d
	}
	// URLs that were made for pgx may have these. Nothing here depends on them.
	for _, name := range []string{"default_query_exec_mode", "statement_cache_capacity", "description_cache_capacity"} {
		delete(params, name)
	}
	return nil
}

// withoutSecrets returns why a URL can't be parsed, without what stands before its @:
// pgconn hides passwords where it understands a URL, which is not so here.
func withoutSecrets(err error, text string) error {
	message := err.Error()
	if _, reason, ok := strings.Cut(message, "`: "); ok { // cannot parse `URL`: why
		message = reason
	}
	_, rest, _ := strings.Cut(text, "://")
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		_, password, _ := strings.Cut(rest[:i], ":")
		plain, _ := url.PathUnescape(password)
		for _, secret := range []string{rest[:i], password, plain} {
			if secret != "" {
				message = strings.ReplaceAll(message, secret, "xxxxx")
			}
		}
	}
	return errors.New(message)
}

// describe names a database for people: who, where and which, without the password.
func describe(c *pgconn.Config) string {
	return fmt.Sprintf("%s@%s/%s", c.User, hosts(c), c.Database)
}

// hosts lists the servers that a URL names, in the order in which they are tried.
func hosts(c *pgconn.Config) string {
	list := []string{hostPort(c.Host, c.Port)}
	for _, f := range c.Fallbacks { // with sslmode=prefer one host is there twice, with TLS and without
		if where := hostPort(f.Host, f.Port); !slices.Contains(list, where) {
			list = append(list, where)
		}
	}
	return strings.Join(list, ",")
}

func hostPort(host string, port uint16) string {
	if strings.HasPrefix(host, "/") { // the directory of a socket
		return host
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// local reports whether the way to a host leads over no network.
func local(host string) bool {
	addr, err := netip.ParseAddr(host)
	return strings.HasPrefix(host, "/") || host == "localhost" || err == nil && addr.IsLoopback()
}

// Check reports whether a URL can be one of a database, without connecting.
func Check(url string) error {
	_, err := parse(url)
	return err
}

// Describe names the database of a URL for people: user@host:port/database, with commas
// between several hosts.
func Describe(url string) string {
	config, err := parse(url)
	if err != nil {
		return "PostgreSQL"
	}
	return describe(config.Config)
}
