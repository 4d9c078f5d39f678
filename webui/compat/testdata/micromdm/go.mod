// MicroMDM as it was released, for the tests of this package.
module github.com/gatehouse-mdm/gatehouse/webui/compat/testdata/micromdm

go 1.26

require (
	github.com/micromdm/micromdm v1.13.1
	github.com/micromdm/plist v0.2.1
)

require (
	github.com/google/uuid v1.6.0 // indirect
	github.com/pkg/errors v0.9.1 // indirect
	google.golang.org/protobuf v1.33.0 // indirect
)
