package apiv1

import (
	"net/http"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

type attemptJSON struct {
	ID        string `json:"id"`
	LinkID    string `json:"link_id"`
	User      string `json:"user"`
	Ownership string `json:"ownership"`
	// By account; null and empty but for an enrollment of that kind.
	EnrollmentMode      *string              `json:"enrollment_mode"` // Apple's word
	ManagedAppleAccount string               `json:"managed_apple_account"`
	Stage               string               `json:"stage"`
	StageAt             map[string]time.Time `json:"stage_at"` // when each stage was reached
	DeviceID            string               `json:"device_id"`
	ErrorCode           string               `json:"error_code"`
}

func attempt(a enroll.Attempt) attemptJSON {
	out := attemptJSON{
		ID: a.ID, LinkID: a.LinkID, User: a.User, Ownership: string(a.Ownership), Stage: string(a.Stage),
		StageAt: make(map[string]time.Time, len(a.StageAt)), DeviceID: string(a.DeviceID), ErrorCode: a.ErrorCode,
	}
	if a.Account != nil {
		out.EnrollmentMode, out.ManagedAppleAccount = enrollmentMode(strings.ToUpper(string(a.Account.Mode))), a.Account.ManagedAppleAccount
	}
	for stage, at := range a.StageAt {
		out.StageAt[string(stage)] = at.UTC()
	}
	return out
}

func (a *API) listAttempts(w http.ResponseWriter, r *http.Request) error {
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	var attempts []enroll.Attempt
	var next string
	err = a.viewScope(r, func(tx storage.Tx, scope *mdm.Scope) (err error) {
		attempts, next, err = reachable(scope, cursor, limit, func(cursor string, limit int) ([]enroll.Attempt, string, error) {
			return enroll.PageAttempts(tx, cursor, limit)
		}, func(a enroll.Attempt) string { return string(a.DeviceID) })
		return err
	})
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(attempts, next, attempt))
}

func (a *API) getAttempt(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	found, err := a.enroll.Attempt(r.Context(), id)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, attempt(found))
}
