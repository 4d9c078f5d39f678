package apiv1

import (
	"net/http"
	"slices"
	"strconv"
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

// attemptStageJSON is what became of attempts at one stage.
type attemptStageJSON struct {
	Stage     string            `json:"stage"`
	Reached   int               `json:"reached"`
	Waiting   int               `json:"waiting"`
	Failed    int               `json:"failed"`
	LastError *attemptErrorJSON `json:"last_error"` // null: there was none
}

type attemptErrorJSON struct {
	AttemptID string `json:"attempt_id"`
	ErrorCode string `json:"error_code"`
}

type attemptFunnelJSON struct {
	Since  time.Time          `json:"since"`
	More   bool               `json:"more"` // only the newest were counted
	Stages []attemptStageJSON `json:"stages"`
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

// attemptFilter reads what a list of attempts is bounded to.
func attemptFilter(r *http.Request) (f enroll.AttemptFilter, err error) {
	query := r.URL.Query()
	if f.LinkID, err = textOf(query, "link_id"); err != nil {
		return f, err
	}
	if f.User, err = textOf(query, "user"); err != nil {
		return f, err
	}
	f.User = strings.TrimSpace(f.User)
	stage, err := textOf(query, "stage")
	if err != nil {
		return f, err
	}
	if f.Stage = enroll.Stage(stage); stage != "" && !slices.Contains(append(enroll.Stages(), enroll.AttemptFailed), f.Stage) {
		return f, invalid("stage", "must be opened, authenticated, profile_downloaded, identity_issued, checked_in, enrolled or failed")
	}
	if f.Open, err = yesOf(r, "open"); err != nil {
		return f, err
	}
	since, err := textOf(query, "since")
	if err != nil || since == "" {
		return f, err
	}
	if f.Since, err = time.Parse(time.RFC3339, since); err != nil {
		return f, invalid("since", "must be a time such as 2026-12-31T12:00:00Z")
	}
	return f, nil
}

func (a *API) listAttempts(w http.ResponseWriter, r *http.Request) error {
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	filter, err := attemptFilter(r)
	if err != nil {
		return err
	}
	var attempts []enroll.Attempt
	var next string
	err = a.viewScope(r, func(tx storage.Tx, scope *mdm.Scope) (err error) {
		attempts, next, err = reachable(scope, cursor, limit, func(cursor string, limit int) ([]enroll.Attempt, string, error) {
			return enroll.FindAttempts(tx, filter, cursor, limit)
		}, func(a enroll.Attempt) string { return string(a.DeviceID) })
		return err
	})
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(attempts, next, attempt))
}

// maxFunnelDays is how many days attempts are counted of: those that failed are kept so long.
const maxFunnelDays = 30

// countAttempts says how far people came in the last days.
func (a *API) countAttempts(w http.ResponseWriter, r *http.Request) error {
	given, err := textOf(r.URL.Query(), "days")
	if err != nil {
		return err
	}
	days := 7
	if given != "" {
		if days, err = strconv.Atoi(given); err != nil || days < 1 || days > maxFunnelDays {
			return invalid("days", "must be 1 to "+strconv.Itoa(maxFunnelDays))
		}
	}
	var found enroll.Funnel
	err = a.viewScope(r, func(tx storage.Tx, scope *mdm.Scope) (err error) {
		found, err = enroll.CountAttempts(tx, a.now().AddDate(0, 0, -days), func(a enroll.Attempt) (bool, error) {
			return inScope(scope, string(a.DeviceID))
		})
		return err
	})
	if err != nil {
		return err
	}
	out := attemptFunnelJSON{Since: found.Since.UTC(), More: found.More, Stages: make([]attemptStageJSON, len(found.Counts))}
	for i, c := range found.Counts {
		out.Stages[i] = attemptStageJSON{Stage: string(c.Stage), Reached: c.Reached, Waiting: c.Waiting, Failed: c.Failed}
		if c.LastError != nil {
			out.Stages[i].LastError = &attemptErrorJSON{c.LastError.ID, c.LastError.ErrorCode}
		}
	}
	return webui.WriteJSON(w, http.StatusOK, out)
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
