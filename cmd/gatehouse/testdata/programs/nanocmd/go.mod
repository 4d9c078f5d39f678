// The released program that a test of cmd/gatehouse runs, with what it is built of.
module programs/nanocmd

go 1.24

tool github.com/micromdm/nanocmd/cmd/nanocmd

require (
	filippo.io/edwards25519 v1.1.0 // indirect
	github.com/alexedwards/flow v0.0.0-20220806114457-cf11be9e0e03 // indirect
	github.com/go-sql-driver/mysql v1.8.1 // indirect
	github.com/google/btree v1.1.2 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/jessepeterson/mdmcommands v0.0.0-20251210055310-75943edf7c59 // indirect
	github.com/micromdm/nanocmd v0.7.1 // indirect
	github.com/micromdm/nanolib v0.5.2 // indirect
	github.com/micromdm/plist v0.4.0 // indirect
	github.com/peterbourgon/diskv/v3 v3.0.1 // indirect
	github.com/smallstep/pkcs7 v0.2.3 // indirect
)

// NanoCMD uses nothing of v0.4.0 that v0.2.2 lacks, and v0.4.0 is not to be had everywhere.
replace github.com/micromdm/plist => github.com/micromdm/plist v0.2.2
