package main

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// mentions returns how many records say something of any of words, by their buckets.
func (c *composed) mentions(t testing.TB, words ...string) map[string]int {
	t.Helper()
	var all map[string]int
	must(t, c.db.View(t.Context(), func(tx storage.Tx) error {
		all = make(map[string]int)
		names, err := tx.Buckets()
		if err != nil {
			return err
		}
		for _, bucket := range names {
			for item, err := range tx.Scan(bucket, storage.Range{}) {
				if err != nil {
					return err
				}
				record := string(item.Key) + " " + string(item.Value)
				if slices.ContainsFunc(words, func(word string) bool { return strings.Contains(record, word) }) {
					all[bucket]++
				}
			}
		}
		return nil
	}))
	return all
}

// staysAfterDeletion says of a bucket whether it may name a device whose record was deleted:
// what was decided and issued stays, what the device and people said does not.
func staysAfterDeletion(bucket string) bool {
	for _, of := range []string{
		"event.", "certificate", "enrollment_attempts", "enrollment_links", "issuances", "revocation", "crl",
		"issuance.challenges", // that were spent, which expire
		"mdm.deleted",         // for an hour, that there was a deletion
	} {
		if strings.HasPrefix(bucket, of) {
			return true
		}
	}
	return bucket == "commands" // that other devices got, too
}

// TestDeletedDevice lets a Mac of which everything is known leave, and deletes its record:
// nothing is left of it but what others are told it by, and it may come again.
func TestDeletedDevice(t *testing.T) {
	t.Parallel()
	c := newComposed(t, nil)
	ana := identity.User{ID: c.user(t, "ana", "Ana"), Username: "ana", Email: "ana@example.com"}.Principal()
	c.wifi(t)
	mac, id := c.enrolledFor(t, "ana", mdmtest.Options{Model: mdmtest.Mac})
	other, otherID := c.enrolledFor(t, "ana", mdmtest.Options{Model: mdmtest.Mac})
	user := mac.User()
	must(t, user.TokenUpdate(t.Context()))
	var channel mdm.DeviceID
	must(t, c.db.View(t.Context(), func(tx storage.Tx) error {
		for ch, err := range mdm.UserChannels(tx, id) {
			if err != nil {
				return err
			}
			channel = ch.ID
		}
		return nil
	}))
	if channel == "" {
		t.Fatal("the Mac has no user")
	}

	c.wifiSent(t, mac.Channel(), id)
	c.sendWiFi(t, string(id), "Office")
	c.ordered(t, string(id), "DeviceLock", map[string]any{"params": map[string]any{"PIN": "482913"}, "confirm": true})
	c.ordered(t, string(id), "DeviceInformation", nil)
	c.ordered(t, string(channel), "ProfileList", nil)
	var shared struct {
		UUID string `json:"command_uuid"`
	}
	c.api(t, "POST", "/commands", map[string]any{"request_type": "SecurityInfo", "device_ids": []mdm.DeviceID{id, otherID}}, &shared)
	polled(t, mac, other)
	_, err := user.Poll(t.Context())
	must(t, err)
	must(t, mac.SetBootstrapToken(t.Context(), []byte("a token")))
	c.ordered(t, string(id), "ProfileList", nil) // never fetched
	c.api(t, "PATCH", "/devices/"+string(id), map[string]any{"note": "in the lobby"}, nil)
	var group struct{ ID string }
	c.api(t, "POST", "/groups", map[string]any{"name": "Lobby"}, &group)
	c.api(t, "PUT", "/groups/"+group.ID+"/devices", map[string]any{"device_ids": []mdm.DeviceID{id, otherID}}, nil)
	must(t, c.enroll.ReportLost(t.Context(), ana, id, "on the train"))
	c.api(t, "PATCH", "/settings", map[string]any{"self_removal": "all"}, nil)
	must(t, c.enroll.RemoveMine(t.Context(), ana, id))
	checkOut, err := mac.PrepareCheckIn(mdmtest.Dict{"MessageType": "CheckOut", "UDID": mac.ID(), "Topic": mac.Profile().MDM.Topic})
	must(t, err)

	if err := c.enroll.Delete(t.Context(), id); !errors.Is(err, mdm.ErrEnrolled) {
		t.Fatalf("deleted while it is enrolled: %v", err)
	}
	c.api(t, "POST", "/devices/"+string(id)+"/unenroll", nil, nil)
	poll, err := mac.Channel().Prepare(mdmtest.Result{Status: mdmtest.StatusIdle})
	must(t, err)
	ended := c.send(t, poll)
	was := c.mentions(t, string(id))
	for _, bucket := range []string{
		"command_history", "device_attributes", "device_eligibility", "device_escrow", "device_group_members", "device_rows", "device_secrets", "devices", "enroll.lost",
		"enroll.removals", "inventory", "issuance.assignments", "mdm.notes", "profile_installations",
	} {
		if was[bucket] == 0 {
			t.Errorf("%s says nothing of the Mac: it proves nothing that it does not later", bucket)
		}
	}
	c.api(t, "DELETE", "/devices/"+string(id), nil, nil)

	left := c.mentions(t, string(id), string(channel), mac.ID())
	for bucket, n := range left {
		if !staysAfterDeletion(bucket) {
			t.Errorf("%d records of %s are left", n, bucket)
		}
	}
	if left["commands"] != 1 {
		t.Errorf("%d commands are left, want the one that another Mac got, too", left["commands"])
	}

	// Nothing that lists what stays falls over it.
	for _, path := range []string{"/commands", "/certificates", "/enrollment-attempts", "/audit", "/devices", "/groups/" + group.ID + "/devices", "/summary", "/batches", "/commands/" + shared.UUID} {
		c.api(t, "GET", path, nil, &struct{}{})
	}
	if got := c.send(t, poll); got.Status != ended.Status || string(got.Body) != string(ended.Body) {
		t.Errorf("the Mac that has not heard of it is answered %d %s, and was before %d %s", got.Status, got.Body, ended.Status, ended.Body)
	}
	if got := c.send(t, checkOut); got.Status != http.StatusOK {
		t.Errorf("its CheckOut is answered %d %s", got.Status, got.Body)
	}
	mac.Vanish()
	l, err := c.enroll.CreateLink(context.Background(), enroll.NewLink{Login: enroll.LoginNone, User: "ana@example.com", Uses: 1})
	must(t, err)
	must(t, mac.Enroll(t.Context(), c.url+"/enroll/l/"+l.Code+"/profile"))
	if again := c.idOf(t, mac); again == "" || again == string(id) {
		t.Errorf("it came again as %q, and was %q", again, id)
	}
}

// TestDeletedBeforeItCame deletes the record of a device that another server had handed over.
func TestDeletedBeforeItCame(t *testing.T) {
	t.Parallel()
	c := newComposed(t, nil)
	must(t, c.enroll.SetFormerProfile(t.Context(), enroll.FormerProfile{Identifier: "com.example.enroll"}, 0))
	must(t, c.enroll.HandedOver(t.Context(), enroll.HandOver{Message: "Authenticate", ID: mdm.AppleID{UDID: "UDID-HANDED-OVER"}}))
	var list struct{ Items []struct{ ID string } }
	c.api(t, "GET", "/devices", nil, &list)
	id := list.Items[0].ID
	c.api(t, "POST", "/devices/"+id+"/unenroll", nil, nil)
	if c.mentions(t, id)["enroll.arrival"] == 0 {
		t.Fatal("it is not awaited")
	}
	c.api(t, "DELETE", "/devices/"+id, nil, nil)
	for bucket := range c.mentions(t, id, "UDID-HANDED-OVER") {
		if !staysAfterDeletion(bucket) {
			t.Errorf("a record of %s is left", bucket)
		}
	}
}
