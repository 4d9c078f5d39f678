package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// TestAScriptEnrolsByAccount follows Apple's documents with curl, openssl and strongSwan.
func TestAScriptEnrolsByAccount(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	for _, name := range []string{"sh", "curl", "openssl", "pki"} {
		tool(t, name)
	}
	c := newComposed(t, nil)
	c.member(t, "ana")
	for _, method := range methods {
		c.decides(t, method)
		for version, family := range map[string]string{mdmtest.VersionBYOD: "iPhone", mdmtest.VersionADDE: "iPad"} {
			t.Run(version+" by "+method, func(t *testing.T) {
				cmd := exec.CommandContext(t.Context(), "sh", "testdata/account-driven.sh")
				cmd.Env = append(os.Environ(), "SERVER="+c.url, "IDENTIFIER=ana@example.com", "LOGIN=ana@example.com", "PASSWORD="+anaPassword,
					"FAMILY="+family, "VERSION="+version, "METHOD="+method)
				out, err := cmd.CombinedOutput()
				if strings.Contains(string(out), "no capable fetcher found") {
					missing(t, "strongSwan's curl plugin is not installed")
				}
				if err != nil || !strings.HasSuffix(string(out), "ok: removed\n") {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
	}
}
