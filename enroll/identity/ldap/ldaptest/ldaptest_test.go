package ldaptest

import (
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestTheDirectoryStarts(t *testing.T) {
	storagetest.AnyEngine(t)
	began := time.Now()
	s := Open(t)
	t.Logf("ready after %v at %s and %s", time.Since(began).Round(time.Millisecond), s.URL, s.TLSURL)
	s.Add(t, "guest", map[string][]string{"employeeNumber": {"1"}})
	s.Set(t, "guest", "employeeNumber", "2")
	s.Join(t, "guest", "staff")
	s.Delete(t, "guest")
}
