package attempts

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/frame"
	"github.com/gatehouse-mdm/gatehouse/webui/portal"
)

func TestAdministratorsSeeTheCodesThatPeopleSee(t *testing.T) {
	shown := portal.Refusals()
	for name, of := range troubles {
		if !slices.ContainsFunc(shown, func(r frame.Refusal) bool { return r.Name == name && r.Code == of.Code }) {
			t.Errorf("no page of the portal shows %s for %s", of.Code, name)
		}
		if of.What == "" || of.Tell == "" {
			t.Errorf("%s says nothing", name)
		}
	}
	if got := troubleOf("brand_new"); got.Code == "" || got.What != "The device was refused (brand_new)." {
		t.Errorf("a code that is not known is %+v", got)
	}
}

func TestStepsSayWhereSomebodyIs(t *testing.T) {
	reached := func(stages ...string) map[string]time.Time {
		at := map[string]time.Time{}
		for i, stage := range stages {
			at[stage] = time.Date(2026, 11, 22, 12, i, 0, 0, time.UTC)
		}
		return at
	}
	for name, tt := range map[string]struct {
		attempt attempt
		want    string
	}{
		"at the first page":                     {attempt{Stage: "opened", StageAt: reached("opened")}, "now,neutral,neutral,neutral,neutral,neutral"},
		"a profile without the portal":          {attempt{Stage: "profile_downloaded", StageAt: reached("opened", "profile_downloaded")}, "good,good,now,neutral,neutral,neutral"},
		"done":                                  {attempt{Stage: "enrolled", StageAt: reached("opened", "authenticated", "profile_downloaded", "identity_issued", "checked_in", "enrolled")}, "good,good,good,good,good,good"},
		"failed: what would follow is not said": {attempt{Stage: "failed", ErrorCode: "link_expired", StageAt: reached("opened", "failed")}, "good,bad"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, s := range tt.attempt.Steps() {
				if s.Now {
					got = append(got, "now")
				} else {
					got = append(got, string(s.Tone))
				}
			}
			if strings.Join(got, ",") != tt.want {
				t.Errorf("steps are %q, want %q", got, tt.want)
			}
		})
	}
}
