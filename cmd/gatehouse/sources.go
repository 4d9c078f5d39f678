package main

import (
	"log/slog"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity/ldap"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity/oidc"
)

// sourceKinds are the ways in which people can be known elsewhere.
func sourceKinds(log *slog.Logger, now func() time.Time) ([]identity.SourceKind, error) {
	directories, err := ldap.New(ldap.Config{Log: log, Now: now})
	if err != nil {
		return nil, err
	}
	providers, err := oidc.New(now)
	if err != nil {
		return nil, err
	}
	return []identity.SourceKind{directories, providers}, nil
}
