package main

import (
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// vpn makes a certificate for a user that is on no device, and returns its serial number.
func (c *composed) vpn(t testing.TB, user string) string {
	t.Helper()
	var made struct{ Certificate certificateItem }
	c.api(t, "POST", "/certificates", map[string]any{"template": "vpn", "user": user}, &made)
	return made.Certificate.Serial
}

// wantStatus checks the status of a certificate.
func (c *composed) wantStatus(t testing.TB, what, serial, want string) {
	t.Helper()
	var got certificateItem
	if c.api(t, "GET", "/certificates/"+serial, nil, &got); got.Status != want {
		t.Errorf("%s is %s, want %s", what, got.Status, want)
	}
}

// TestWhoIsRenamedAndDisabledLosesEverything is the story of somebody who has married
// and then leaves.
func TestWhoIsRenamedAndDisabledLosesEverything(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, changes := range map[string][]map[string]any{
		"another address, and later the end": {{"email": "ana.married@example.com"}, {"disabled": true}},
		"both names, and later the end":      {{"username": "married", "email": "ana.married@example.com"}, {"disabled": true}},
		"both at once":                       {{"username": "married", "email": "ana.married@example.com", "disabled": true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newComposed(t, nil)
			user := c.user(t, "ana", "Ana Bee")
			c.wifi(t)
			c.api(t, "POST", "/certificate-templates", map[string]any{"name": "vpn", "subject": "/CN=$FULLNAME"}, nil)
			d, id := c.enrolledFor(t, "ana", mdmtest.Options{})
			onDevice, own := c.wifiSent(t, d.Channel(), id), c.vpn(t, "ana")
			for _, change := range changes {
				c.api(t, "PATCH", "/users/"+user, change, nil)
			}
			c.wantStatus(t, "the user's own certificate", own, "revoked")
			c.wantStatus(t, "the certificate on the user's device", onDevice.Certificate.SerialNumber.Text(16), "revoked")
			must(t, c.db.View(t.Context(), func(tx storage.Tx) error {
				found, err := mdm.GetDevice(tx, id)
				if found.State != mdm.Unenrolled {
					t.Errorf("the user's device is %s", found.State)
				}
				return err
			}))
		})
	}
}

// TestALoginThatIsGivenToAnotherBringsNothing is about two people of one name.
func TestALoginThatIsGivenToAnotherBringsNothing(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	c := newComposed(t, nil)
	c.wifi(t)
	c.api(t, "POST", "/certificate-templates", map[string]any{"name": "vpn", "subject": "/CN=$FULLNAME"}, nil)
	user := c.user(t, "ana", "Ana Bee")
	d, id := c.enrolledFor(t, "ana", mdmtest.Options{})
	own := c.vpn(t, "ana")
	c.api(t, "PATCH", "/users/"+user, map[string]any{"username": "ana.bee", "email": "ana.bee@example.com"}, nil)
	other := c.user(t, "ana", "Ana Cee")

	got := c.wifiSent(t, d.Channel(), id).Certificate
	if got.Subject.CommonName != "Ana Bee" || len(got.EmailAddresses) == 0 || got.EmailAddresses[0] != "ana.bee@example.com" {
		t.Errorf("the device of Ana Bee has a certificate for %s, %v", got.Subject, got.EmailAddresses)
	}
	if item := c.listed(t, got); item.User != "ana.bee@example.com" {
		t.Errorf("it is listed as %q's", item.User)
	}
	for login, want := range map[string]int{"ana": 0, "ana@example.com": 0, "ana.bee": 3} { // with the device's identity
		var list struct{ Items []certificateItem }
		if c.api(t, "GET", "/certificates?user="+login, nil, &list); len(list.Items) != want {
			t.Errorf("%s is said to have %d certificates, want %d: %+v", login, len(list.Items), want, list.Items)
		}
	}
	theirs := c.vpn(t, "ana")
	c.api(t, "PATCH", "/users/"+other, map[string]any{"disabled": true}, nil)
	c.wantStatus(t, "what Ana Cee had", theirs, "revoked")
	c.wantStatus(t, "what Ana Bee has", own, "active")
	if n, err := d.Poll(t.Context()); err != nil {
		t.Errorf("the device of Ana Bee, when Ana Cee is disabled: %d, %v", n, err)
	}
}
