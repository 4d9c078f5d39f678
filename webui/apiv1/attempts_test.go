package apiv1_test

import (
	"fmt"
	"testing"
	"time"
)

type attemptPage struct {
	Items []struct {
		ID      string
		LinkID  string `json:"link_id"`
		User    string
		Stage   string
		StageAt map[string]time.Time `json:"stage_at"`
	}
	NextCursor string `json:"next_cursor"`
}

func TestAttemptsAreListedTheNewestFirst(t *testing.T) {
	h := newHouse(t)
	links := make([]link, 3)
	for i := range links {
		h.do(t, exchange{method: "POST", path: "/api/v1/enrollment-links", body: map[string]any{
			"login": "none", "uses": 9, "user": fmt.Sprintf("Person%d@example.com", i),
		}}).want(t, 201, &links[i])
		for range 2 {
			if _, _, err := h.enroll.NewEnrollment(t.Context(), links[i].Code); err != nil {
				t.Fatal(err)
			}
		}
	}
	h.do(t, exchange{method: "DELETE", path: "/api/v1/enrollment-links/" + links[1].ID}).want(t, 204, nil) // its attempts fail

	for name, tt := range map[string]struct {
		query string
		want  int
	}{
		"all":                       {"", 6},
		"of a link":                 {"&link_id=" + links[2].ID, 2},
		"of no link":                {"&link_id=none", 0},
		"of a user":                 {"&user=person0@EXAMPLE.com", 2},
		"that failed":               {"&stage=failed", 2},
		"that failed, of another":   {"&stage=failed&link_id=" + links[0].ID, 0},
		"that are open":             {"&open=true", 4},
		"begun in the future":       {"&since=" + h.now().Add(time.Hour).UTC().Format(time.RFC3339), 0},
		"of a link, in the future":  {"&link_id=" + links[2].ID + "&since=" + h.now().Add(time.Hour).UTC().Format(time.RFC3339), 0},
		"begun in the last minutes": {"&since=" + h.now().Add(-time.Minute).UTC().Format(time.RFC3339), 6},
	} {
		t.Run(name, func(t *testing.T) {
			seen, next, last := map[string]bool{}, "", ""
			for range 10 {
				var page attemptPage
				h.do(t, exchange{method: "GET", path: "/api/v1/enrollment-attempts?limit=1&cursor=" + next + tt.query}).want(t, 200, &page)
				for _, a := range page.Items {
					at := a.StageAt["opened"].Format(time.RFC3339) + a.ID
					if last != "" && at >= last {
						t.Errorf("%s comes after %s", at, last)
					}
					seen[a.ID], last = true, at
				}
				if next = page.NextCursor; next == "" {
					break
				}
			}
			if len(seen) != tt.want || next != "" {
				t.Errorf("%d attempts, want %d; next %q", len(seen), tt.want, next)
			}
		})
	}
	for _, query := range []string{"stage=gone", "open=perhaps", "since=yesterday"} {
		h.do(t, exchange{method: "GET", path: "/api/v1/enrollment-attempts?" + query, wild: true}).wantProblem(t, 400, "invalid_request")
	}

	var funnel struct {
		More   bool
		Stages []struct {
			Stage                    string
			Reached, Waiting, Failed int
			LastError                *struct {
				AttemptID string `json:"attempt_id"`
				ErrorCode string `json:"error_code"`
			} `json:"last_error"`
		}
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/enrollment-funnel?days=30"}).want(t, 200, &funnel)
	if len(funnel.Stages) != 6 || funnel.More {
		t.Fatalf("the funnel is %+v", funnel)
	}
	for i, want := range [][3]int{{6, 0, 0}, {6, 0, 0}, {6, 4, 2}, {0, 0, 0}, {0, 0, 0}, {0, 0, 0}} {
		s := funnel.Stages[i]
		if got := [3]int{s.Reached, s.Waiting, s.Failed}; got != want {
			t.Errorf("%s: reached, waiting, failed are %v, want %v", s.Stage, got, want)
		}
	}
	if e := funnel.Stages[2].LastError; e == nil || e.ErrorCode != "link_revoked" || e.AttemptID == "" {
		t.Errorf("the last error is %+v", e)
	}
	for _, days := range []string{"0", "31", "x"} {
		h.do(t, exchange{method: "GET", path: "/api/v1/enrollment-funnel?days=" + days, wild: true}).wantProblem(t, 400, "invalid_request")
	}
}
