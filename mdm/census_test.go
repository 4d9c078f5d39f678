package mdm_test

import (
	"maps"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm"
)

func TestEnrollmentsAreCountedByStateAndType(t *testing.T) {
	b := newBench(t)
	want := func(want map[mdm.Kind]int) {
		t.Helper()
		got, err := b.Census(t.Context())
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("Census = %v, %v, want %v", got, err, want)
		}
	}
	want(map[mdm.Kind]int{})
	device := func(id string, state mdm.State, kind mdm.EnrollmentType) {
		b.device(t, id, func(d *mdm.Device) { d.State, d.Type = state, kind })
	}
	device("a", mdm.Enrolled, mdm.TypeDevice)
	device("b", mdm.Enrolled, mdm.TypeDevice)
	device("c", mdm.Enrolled, mdm.TypeUser)
	device("d", mdm.Unenrolled, mdm.TypeDevice)
	want(map[mdm.Kind]int{{mdm.Enrolled, mdm.TypeDevice}: 2, {mdm.Enrolled, mdm.TypeUser}: 1, {mdm.Unenrolled, mdm.TypeDevice}: 1})
	device("b", mdm.Blocked, mdm.TypeDevice)
	want(map[mdm.Kind]int{{mdm.Enrolled, mdm.TypeDevice}: 1, {mdm.Enrolled, mdm.TypeUser}: 1, {mdm.Unenrolled, mdm.TypeDevice}: 1, {mdm.Blocked, mdm.TypeDevice}: 1})
}
