package enroll_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func withWatches(c *enroll.AccountDriven) { c.WatchPairing = true }

// sentToPhone posts what a Watch is, and returns the security token that it is sent to its
// iPhone with.
func (r *reception) sentToPhone(t testing.TB, info mdmtest.Dict) string {
	t.Helper()
	_, err := r.EnrollWatch(context.Background(), signedBy(t, pretender, info))
	missing, ok := errors.AsType[*enroll.PairingTokenMissing](err)
	if !ok {
		t.Fatalf("the POST of a Watch: %v", err)
	}
	return missing.SecurityToken
}

func aWatch(udid string, more ...mdmtest.Dict) mdmtest.Dict {
	info := mdmtest.Dict{"PRODUCT": "Watch7,1", "VERSION": "22R1", "UDID": udid}
	for _, m := range more {
		info = with(info, m)
	}
	return info
}

// TestAWatchOfAnybodyWritesNothing: before its iPhone has asked for it, a Watch is nobody.
func TestAWatchOfAnybodyWritesNothing(t *testing.T) {
	storagetest.AnyEngine(t)
	r := newReception(t, withWatches)
	before := r.db.updates.Load()
	seen := map[string]bool{}
	for i := range 10 {
		info := aWatch(fmt.Sprint("W-", i), mdmtest.Dict{"PAIRING_TOKEN": []byte("nonsense")})
		seen[r.sentToPhone(t, info)] = true
	}
	if n := r.db.updates.Load() - before; n > 0 {
		t.Errorf("ten requests of a stranger wrote %d times", n)
	}
	if len(seen) != 10 {
		t.Errorf("ten Watches have %d security tokens", len(seen))
	}
}

// TestTheSecurityTokenOfAWatch is for which Watch one is good, and for how long.
func TestTheSecurityTokenOfAWatch(t *testing.T) {
	ctx := context.Background()
	r := newReception(t, withWatches)
	p := r.enrolled(t, "ana@example.com", iphone)
	pairs := func(token, watch string) error {
		_, err := r.GetToken(ctx, enroll.Peer{Certificate: p.cert}, enroll.GetTokenMessage{
			ID: iphone, Service: enroll.ServiceWatchPairing, SecurityToken: token, PhoneUDID: iphone.UDID, WatchUDID: watch,
		})
		return err
	}
	token := r.sentToPhone(t, aWatch("w-1"))
	if !regexp.MustCompile(`^[0-9A-F]{8}-[0-9A-F]{4}-8[0-9A-F]{3}-[89AB][0-9A-F]{3}-[0-9A-F]{12}$`).MatchString(token) {
		t.Errorf("the security token is %s, no UUID of version 8", token)
	}
	must(t, pairs(token, "w-1"))
	must(t, pairs(strings.ToLower(token), "W-1"))
	for name, watch := range map[string]string{token: "w-2", mdm.NewUUID(): "w-1", "": "w-1"} {
		wantErr(t, name+" for "+watch, pairs(name, watch), enroll.ErrBadMessage)
	}
	other := houseOn(t, r.db, r.clock) // another replica knows it, too
	if _, err := other.GetToken(ctx, enroll.Peer{Certificate: p.cert}, enroll.GetTokenMessage{
		ID: iphone, Service: enroll.ServiceWatchPairing, SecurityToken: token, PhoneUDID: iphone.UDID, WatchUDID: "w-1",
	}); err != nil {
		t.Errorf("on another replica: %v", err)
	}
	r.pass(12*time.Minute - time.Second)
	must(t, pairs(token, "w-1"))
	r.pass(3*time.Minute + time.Second)
	wantErr(t, "after a quarter of an hour", pairs(token, "w-1"), enroll.ErrBadMessage)
}

// TestAPairingTokenIsGoodForOneWatchOnce also holds that a Watch which is paired once more,
// a moment later, enrolls by another token.
func TestAPairingTokenIsGoodForOneWatchOnce(t *testing.T) {
	ctx := context.Background()
	r := newReception(t, withWatches)
	p := r.enrolled(t, "ana@example.com", iphone)
	watch := mdm.AppleID{UDID: "00008310-0000000000000001"}
	pair := func() []byte {
		t.Helper()
		return must2(r.GetToken(ctx, enroll.Peer{Certificate: p.cert}, enroll.GetTokenMessage{
			ID: iphone, Service: enroll.ServiceWatchPairing, SecurityToken: r.sentToPhone(t, aWatch(watch.UDID)), PhoneUDID: iphone.UDID, WatchUDID: watch.UDID,
		}))(t)
	}
	post := func(h *house, token []byte) ([]byte, error) {
		return h.EnrollWatch(ctx, signedBy(t, genuine, aWatch(watch.UDID, mdmtest.Dict{"PAIRING_TOKEN": token})))
	}
	for round := range 2 {
		token := pair()
		again := func(h *house) error {
			_, err := post(h, token)
			return err
		}
		a, b := r.atOnce(t, again, again)
		must(t, errors.Join(a, b)) // the second has lost the answer
		if n := len(r.attempts(t)); n != 2+round {
			t.Fatalf("round %d: %d attempts, want one of the iPhone and one for each pairing", round, n)
		}
		signed := must2(post(r.house, token))(t)
		cert := must2(r.IssueIdentity(ctx, request(t, keyring.take(t), challengeIn(t, signed))))(t)
		must(t, r.Authenticate(ctx, enroll.Peer{Certificate: cert}, enroll.AuthenticateMessage{ID: watch, Topic: "x", Facts: mdm.Facts{ProductName: "Watch7,1"}}))
		if _, err := post(r.house, token); err == nil {
			t.Fatalf("round %d: a token that was used gets a profile", round)
		}
		must2(r.Unenroll(ctx, r.device(t, watch).ID))(t)
	}
}
