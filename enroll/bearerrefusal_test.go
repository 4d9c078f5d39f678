package enroll_test

import (
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// TestTokensOfOthersAreInTheAuditLog: SECURITY ENR-16, once each, and nothing ends with it.
func TestTokensOfOthersAreInTheAuditLog(t *testing.T) {
	storagetest.AnyEngine(t)
	r := newReception(t)
	anas := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
	bens := r.come(t, enroll.ModeBYOD, r.ben, anIPhone, mdm.AppleID{EnrollmentID: "FB833D84-0002"})
	refused := func(what string, err, want error, code, user, attempt string, device mdm.DeviceID) {
		t.Helper()
		wantErr(t, what, err, want)
		if len(r.refused) != 1 {
			t.Fatalf("%s: the audit log has %+v", what, r.refused)
		}
		e := r.refused[0]
		if e.Action != "device.refused" || e.Details["code"] != code || e.User != user || e.Details["attempt"] != attempt || e.DeviceID != string(device) || e.Peer != "192.0.2.7" || e.Details["udid"] == "" {
			t.Errorf("%s: the audit log has %+v", what, e)
		}
		r.refused = nil
	}
	r.refused = nil
	refused("Authenticate with another's", bens.authenticate(anas.access), enroll.ErrForeignBearer, "token_foreign", "ben@example.com", bens.attempt, "")
	refused("Authenticate with none", bens.authenticate(""), enroll.ErrNoBearer, "token_missing", "ben@example.com", bens.attempt, "")
	must(t, bens.authenticate(bens.access)) // its attempt goes on
	must(t, bens.tokenUpdate(bens.id, bens.access))
	d := anas.device(t)
	for message, say := range saying {
		refused(message+" with another's", say(anas, anas.id, bens.access), enroll.ErrForeignBearer, "token_foreign", "ana@example.com", anas.attempt, d.ID)
		refused(message+" with none", say(anas, anas.id, ""), enroll.ErrNoBearer, "token_missing", "ana@example.com", anas.attempt, d.ID)
	}
	askedIn(t, anas.poll(anas.id, "nonsense"))
	if len(r.refused) != 0 {
		t.Errorf("a token that has lapsed: the audit log has %+v", r.refused)
	}
	must(t, anas.idle())
}
