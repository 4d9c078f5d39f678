package postgres

import (
	"context"
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

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// What a connection is set to unless the URL says otherwise.
var defaults = map[string]string{
	"application_name": "gatehouse",
	// A statement here takes milliseconds; one that takes this long waits for a lock
	// or a disk that will not come.
	"statement_timeout":                   "30s",
	"idle_in_transaction_session_timeout": "60s",
}

// parse reads a connection URL.
func parse(text string) (*pgxpool.Config, error) {
	if !strings.HasPrefix(text, "postgres://") && !strings.HasPrefix(text, "postgresql://") {
		return nil, errors.New("a PostgreSQL URL begins with postgres://")
	}
	config, err := pgxpool.ParseConfig(text)
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL URL: %w", withoutSecrets(err, text))
	}
	if strings.Contains(hosts(config.ConnConfig)+config.ConnConfig.Database, "@") {
		// The first @ ended the password, and what follows would be shown as a host.
		return nil, errors.New("PostgreSQL URL: an @ in a user name or password is written as %40, a / as %2F and a : as %3A")
	}
	params := config.ConnConfig.RuntimeParams
	for name, value := range defaults {
		if _, set := params[name]; !set {
			params[name] = value
		}
	}
	if !strings.Contains(text, "pool_max_conns=") {
		// What waits for a disk or a lock needs no processor, so more than there are
		// processors; a server's usual limit is 100 over all replicas.
		config.MaxConns = int32(max(16, 4*runtime.GOMAXPROCS(0)))
	}
	if !strings.Contains(text, "pool_max_conn_idle_time=") {
		config.MaxConnIdleTime = 5 * time.Minute
	}
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	// A connection that broke is found out by using it, and then the transaction runs
	// on another: asking first would cost a round trip.
	config.ShouldPing = func(_ context.Context, _ pgxpool.ShouldPingParams) bool { return false }
	return config, nil
}

// withoutSecrets returns why a URL can't be parsed, without what stands before its @:
// pgx hides passwords where it understands a URL, which is not so here.
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
func describe(c *pgx.ConnConfig) string {
	return fmt.Sprintf("%s@%s/%s", c.User, hosts(c), c.Database)
}

// hosts lists the servers that a URL names, in the order in which they are tried.
func hosts(c *pgx.ConnConfig) string {
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
	return describe(config.ConnConfig)
}
