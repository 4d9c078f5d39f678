package devices

import (
	"strings"
	"testing"
	"time"
)

func TestAReasonIsToldOnce(t *testing.T) {
	wait := func(reason string) command { return command{State: "queued", WaitingFor: &waits{Reason: reason}} }
	fail := func(reason string) command { return command{State: "error", Error: reason} }
	for name, tt := range map[string]struct {
		list []command
		told *waits
		want string
	}{
		"of several that wait":        {[]command{wait("Off."), wait("Off."), wait("Locked.")}, nil, "Off. | For the same reason. | Locked."},
		"where the page tells it":     {[]command{wait("Off."), wait("Locked."), wait("Off.")}, &waits{Reason: "Off."}, " | Locked. | "},
		"of several that failed":      {[]command{fail("No rights."), fail("No rights."), fail("Busy.")}, nil, "No rights. | For the same reason. | Busy."},
		"but not across what is done": {[]command{fail("No rights."), {State: "acknowledged", Summary: "2 apps"}, fail("No rights.")}, nil, "No rights. | 2 apps | No rights."},
		"and done is not said twice":  {[]command{{State: "acknowledged", Summary: "Done"}}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			once(tt.list, tt.told)
			var got []string
			for _, c := range tt.list {
				got = append(got, c.StateWords().Hint)
			}
			if got := strings.Join(got, " | "); got != tt.want {
				t.Errorf("the commands say %q, want %q", got, tt.want)
			}
		})
	}
}

func TestStepsTellATimeThatIsNews(t *testing.T) {
	queued := time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)
	soon, later, done := queued.Add(2*time.Second), queued.Add(time.Hour), queued.Add(time.Hour+time.Second)
	var told []string
	for _, s := range (command{State: "error", CreatedAt: queued, PushedAt: &soon, DeliveredAt: &later, FinishedAt: &done}).Steps() {
		if s.At != nil {
			s.Words += s.At.Format(" 15:04")
		}
		told = append(told, s.Words)
	}
	if got, want := strings.Join(told, ", "), "queued 06:00, pushed, delivered 07:00, failed"; got != want {
		t.Errorf("the steps are %q, want %q", got, want)
	}
}
