package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// SQLSTATEs, from PostgreSQL's documentation, appendix A.
const (
	serializationFailure  = "40001"
	deadlockDetected      = "40P01"
	statementUnknown      = "40003" // statement_completion_unknown
	uniqueViolation       = "23505"
	duplicateTable        = "42P07"
	featureNotSupported   = "0A000"
	undefinedFunction     = "42883"
	invalidPassword       = "28P01"
	invalidAuthorization  = "28000"
	invalidCatalogName    = "3D000"
	invalidSchemaName     = "3F000"
	insufficientPrivilege = "42501"
	undefinedTable        = "42P01"
	readOnlyTransaction   = "25006"
	diskFull              = "53100"
	tooManyConnections    = "53300"
	queryCanceled         = "57014"
	adminShutdown         = "57P01"
	crashShutdown         = "57P02"
	cannotConnectNow      = "57P03"
	idleSession           = "57P05" // idle_session_timeout
	idleTransaction       = "25P03" // idle_in_transaction_session_timeout
	lockNotAvailable      = "55P03"
	classConnection       = "08"
	classDataCorrupted    = "XX001"
	classIndexCorrupted   = "XX002"
)

// state returns the SQLSTATE of a refusal by the server, "" if err is none.
func state(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// conflict reports whether a transaction failed over another one, so that it may
// succeed when it runs again.
func conflict(err error) bool {
	switch state(err) {
	case serializationFailure, deadlockDetected:
		return true
	}
	return false
}

// lost reports whether the connection is gone, or was never there, for a reason that
// another connection may not meet.
func lost(err error) bool {
	for _, own := range []error{context.Canceled, context.DeadlineExceeded, errBusy, errSilent} {
		if errors.Is(err, own) {
			return false
		}
	}
	switch code := state(err); {
	case code == crashShutdown, code == cannotConnectNow, strings.HasPrefix(code, classConnection):
		return true
	case code != "":
		return ended(err)
	}
	return true // no refusal: the connection broke
}

// ended reports whether the server itself ended the session, as it may at any time: what
// was not committed then, never will be. Others than the server, such as a pooler in between,
// may report a lost connection of which they know no more than we would.
func ended(err error) bool {
	switch state(err) {
	case adminShutdown, idleSession, idleTransaction:
		return true
	}
	return false
}

const readOnlyReason = "the database is read-only: it is a standby, or was set so; name the primary in the URL (target_session_attrs=read-write finds it)"

// explain says what went wrong with which database, and what to do. What err wraps says
// what kind of failure it is.
func (db *DB) explain(err error) error {
	var kind error = storage.ErrUnavailable
	reason := ""
	var pg *pgconn.PgError
	var dns *net.DNSError
	var dial *net.OpError
	switch {
	case errors.As(err, &pg):
		reason = strings.TrimSuffix(pg.Message, ".")
		switch pg.Code {
		case invalidPassword:
			reason += "; put the right password into the URL, PGPASSWORD or a password file"
		case invalidCatalogName:
			reason += "; create it with CREATE DATABASE, or name another one in the URL"
		case invalidSchemaName:
			reason += "; create it with CREATE SCHEMA, or name another one as search_path in the URL"
		case insufficientPrivilege:
			reason += "; the user needs CREATE and USAGE on the schema, and its tables"
		case readOnlyTransaction:
			reason = readOnlyReason
		case diskFull:
			reason = "the database's disk is full: " + reason
		case tooManyConnections:
			reason += "; raise max_connections there, or lower pool_max_conns in the URL"
		case queryCanceled, lockNotAvailable:
			reason = "it took too long: " + reason
		case undefinedTable:
			reason += "; the table was removed while the server ran: restore a backup, or start again"
		case classDataCorrupted, classIndexCorrupted:
			kind = storage.ErrCorrupt
		}
		reason += " (SQLSTATE " + pg.Code + ")"
	case errors.As(err, &dial) && dial.Op == "dial" && !errors.As(err, &dns):
		reason = dial.Err.Error() + "; is it running there, and may it be reached from here?"
	case errors.As(err, &dns):
		reason = fmt.Sprintf("the host %q is not known", dns.Name)
	default:
		reason = plainReason(err)
	}
	return &failure{kind: kind, err: err, text: fmt.Sprintf("PostgreSQL %s: %s", db.name, reason)}
}

// plainReason returns why a connection failed, without what describe says anyway. The
// password is in none of pgx's errors but those about the URL.
func plainReason(err error) string {
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		var lines []string
		for line := range strings.Lines(connect.Unwrap().Error()) {
			if line = strings.TrimSpace(line); line != "" {
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, "; ")
	}
	return err.Error()
}

// failure is an error of the database, worded for people.
type failure struct {
	kind error // one of package storage's
	err  error // what pgx said
	text string
}

func (f *failure) Error() string   { return f.kind.Error() + ": " + f.text }
func (f *failure) Unwrap() []error { return []error{f.kind, f.err} }

// uncommitted is the failure of a commit.
func (db *DB) uncommitted(err error, doubt bool) error {
	var f *failure
	explained := db.explain(err)
	if !errors.As(explained, &f) {
		return explained
	}
	f.kind = storage.ErrCommit
	if doubt {
		f.text += "; it broke in the middle of a commit, which may have been kept or not"
	}
	return f
}
