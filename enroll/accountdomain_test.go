package enroll_test

import (
	"context"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// What people type has the letters of their domain, and a device sends it as it was typed.
func TestADomainWithOtherLettersIsServed(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	for _, spelt := range []string{"xn--bcher-kva.example", "bücher.example"} {
		_, err := h.UpdateAccountDriven(context.Background(), func(c *enroll.AccountDriven) error {
			c.Domains = []enroll.AccountDomain{{Domain: spelt, Policy: map[enroll.ModelFamily]enroll.AccountMode{"iPhone": "byod"}}}
			return nil
		})
		if err != nil {
			t.Errorf("%s can not be decided about: %v", spelt, err)
		}
		if _, err := h.Discover(context.Background(), "ana@bücher.example", "iPhone"); err != nil {
			t.Errorf("%s: %v", spelt, err)
		}
	}
}

// No account has an address behind its @ (wellknown.ParseDomain says so to the same operator).
func TestAnAddressIsNoDomain(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	_, err := h.UpdateAccountDriven(context.Background(), func(c *enroll.AccountDriven) error {
		c.Domains = []enroll.AccountDomain{{Domain: "192.0.2.1"}}
		return nil
	})
	if err == nil {
		t.Error("192.0.2.1 is taken for a domain")
	}
}
