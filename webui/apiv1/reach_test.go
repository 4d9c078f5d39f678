package apiv1

import (
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// TestEveryRouteSaysWhatIsLeftOfItForWhoIsLimited holds who adds a route to a decision: ofDevice
// and the like, filtered, shared or whole. See reach.
func TestEveryRouteSaysWhatIsLeftOfItForWhoIsLimited(t *testing.T) {
	storagetest.AnyEngine(t)
	for _, rt := range (&API{}).routes() {
		parameter := map[reach]string{ofDevice: "{id}", ofDeviceID: "{device_id}", ofCertificate: "{serial}", ofAttempt: "{id}"}[rt.reach]
		switch {
		case len(rt.scopes) == 0 && rt.reach != undecided:
			t.Errorf("%s is open to everybody: nothing is decided by reach", rt.pattern)
		case len(rt.scopes) > 0 && rt.reach == undecided:
			t.Errorf("%s has no reach: say how it is about devices, for who is limited to groups of them", rt.pattern)
		case !strings.Contains(rt.pattern, parameter):
			t.Errorf("%s is about what %s names, and has no such part", rt.pattern, parameter)
		case strings.Contains(rt.pattern, "/devices/{id}") && rt.reach != ofDevice && rt.reach != whole:
			t.Errorf("%s is about one device", rt.pattern)
		}
	}
}
