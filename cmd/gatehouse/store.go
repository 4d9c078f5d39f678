package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/bolt"
	"github.com/gatehouse-mdm/gatehouse/storage/postgres"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
)

// databaseName is the file of bolt: in the data directory.
const databaseName = "gatehouse.db"

// storeURL names a database: bolt: or postgres://… It may hold a password, so it is not printed.
type storeURL string

// String keeps the password out of logs.
func (u storeURL) String() string { return u.describe("") }

// shared reports whether other servers may use the same database.
func (u storeURL) shared() bool { return strings.HasPrefix(string(u), "postgres") }

// check says what is wrong with the URL, without connecting.
func (u storeURL) check() error {
	switch {
	case u == "bolt:":
		return nil
	case u.shared():
		return postgres.Check(string(u))
	}
	return errors.New("must be bolt: or begin with postgres://")
}

// describe names the database for people.
func (u storeURL) describe(dataDir string) string {
	if u.shared() {
		return "PostgreSQL " + postgres.Describe(string(u))
	}
	return filepath.Join(dataDir, databaseName)
}

// openFile opens the database in the data directory.
func (s *state) openFile(ctx context.Context, cfg config, log *slog.Logger) error {
	path := filepath.Join(cfg.dataDir, databaseName)
	_, err := os.Lstat(path)
	s.fresh = errors.Is(err, fs.ErrNotExist)
	if s.fresh {
		// Before the database: what a database without its key holds is lost.
		if err := s.openBox(cfg); err != nil {
			return err
		}
	}
	db, err := bolt.Open(ctx, path, bolt.Options{Log: log})
	if err != nil {
		return err
	}
	err = checkFinished(ctx, db, cfg)
	if err == nil && !s.fresh {
		err = s.openBox(cfg)
	}
	if err != nil {
		return errors.Join(err, db.Close())
	}
	s.db = db
	return nil
}

// migrations lead from what older programs have stored to what this one reads.
var migrations = []storage.Migration{
	{Version: 2, Name: "users are listed and searched by an index", Apply: identity.IndexUsers}, // 1 was half of it
}

// checkFinished refuses a database that holds a part of another one.
func checkFinished(ctx context.Context, db storage.DB, cfg config) error {
	if err := storage.Unfinished(ctx, db); err != nil {
		return fmt.Errorf("%s: %w; run the same gatehouse db copy again to complete it", cfg.store.describe(cfg.dataDir), err)
	}
	return nil
}

// openShared opens a database that other servers may have begun to use.
func (s *state) openShared(ctx context.Context, cfg config, log *slog.Logger) error {
	db, err := postgres.Open(ctx, string(cfg.store), postgres.Options{Log: log})
	if err != nil {
		return err
	}
	err = db.View(ctx, func(tx storage.Tx) error {
		buckets, err := tx.Buckets()
		s.fresh = len(buckets) == 0
		return err
	})
	if err == nil {
		err = checkFinished(ctx, db, cfg)
	}
	if err == nil {
		err = s.openBox(cfg)
	}
	if err != nil {
		return errors.Join(err, db.Close())
	}
	s.db = db
	return nil
}

// openBox loads the key that seals secrets. It is made only for a database that is
// empty: for another one it would be the wrong key.
func (s *state) openBox(cfg config) (err error) {
	if s.fresh {
		s.box, _, err = seal.LoadOrCreate(cfg.secretsKeyFile)
		return err
	}
	s.box, err = seal.Load(cfg.secretsKeyFile)
	switch {
	case !errors.Is(err, fs.ErrNotExist):
		return err
	case cfg.store.shared():
		return fmt.Errorf("%w; secrets in %s are sealed with it: put it back, copy it from the server that made the database, or name it with --secrets-key-file", err, cfg.store.describe(cfg.dataDir))
	}
	return fmt.Errorf("%w; secrets in %s are sealed with it: put it back, or name it with --secrets-key-file", err, cfg.store.describe(cfg.dataDir))
}
