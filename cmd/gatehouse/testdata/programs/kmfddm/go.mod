// The released program that a test of cmd/gatehouse runs, with what it is built of.
module programs/kmfddm

go 1.24

tool github.com/jessepeterson/kmfddm/cmd/kmfddm

require (
	filippo.io/edwards25519 v1.1.0 // indirect
	github.com/alexedwards/flow v0.0.0-20220806114457-cf11be9e0e03 // indirect
	github.com/cespare/xxhash v1.1.0 // indirect
	github.com/go-sql-driver/mysql v1.8.1 // indirect
	github.com/google/btree v1.0.0 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/jessepeterson/kmfddm v0.8.3 // indirect
	github.com/micromdm/nanolib v0.5.0 // indirect
	github.com/micromdm/plist v0.2.1 // indirect
	github.com/peterbourgon/diskv/v3 v3.0.1 // indirect
	github.com/valyala/fastjson v1.6.4 // indirect
)
