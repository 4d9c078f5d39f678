package bolt

// Commits is how many transactions were ever written: bbolt numbers them.
func (db *DB) Commits() int {
	tx, err := db.beginTx(false)
	if err != nil {
		panic(err)
	}
	defer func() { _ = tx.Rollback() }()
	return tx.ID()
}

// Waiting is how many callers wait for their turn to write.
func (db *DB) Waiting() int {
	db.mu.Lock()
	defer db.mu.Unlock()
	return len(db.waiting)
}

// SetMaxSize makes commits fail that need a longer file, as a full disk does.
func (db *DB) SetMaxSize(n int) { db.bolt.MaxSize = n }

// Pages is the number of pages in use, and Size how long the file must be for them.
func (db *DB) Pages() int {
	tx, err := db.beginTx(false)
	if err != nil {
		panic(err)
	}
	defer func() { _ = tx.Rollback() }()
	return int(tx.Size()) / db.bolt.Info().PageSize
}

func (db *DB) PageSize() int { return db.bolt.Info().PageSize }

const MaxBatch = maxBatch
