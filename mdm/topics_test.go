package mdm_test

import (
	"maps"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm"
)

func TestDevicesAreCountedByTopic(t *testing.T) {
	const first, second = "com.apple.mgmt.External.1", "com.apple.mgmt.External.2"
	b := newBench(t)
	device := func(id string, change func(*mdm.Device)) {
		t.Helper()
		b.device(t, id, func(d *mdm.Device) {
			d.Push = &mdm.Push{Topic: first, Token: []byte{1}, Magic: "m"}
			change(d)
		})
	}
	as := func(*mdm.Device) {}
	elsewhere := func(d *mdm.Device) { d.Push.Topic = second }
	want := func(want map[string]int) {
		t.Helper()
		got, err := b.Topics(t.Context())
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("Topics = %v, %v, want %v", got, err, want)
		}
	}
	want(map[string]int{})
	device("a", as)
	device("b", as)
	device("c", elsewhere)
	device("gone", func(d *mdm.Device) { d.State = mdm.Unenrolled })
	device("pending", func(d *mdm.Device) { d.State, d.Push = mdm.Pending, nil })
	device("demo", func(d *mdm.Device) { d.Demo = true })
	device("channel", func(d *mdm.Device) { d.ParentID, d.Type = "a", mdm.TypeUserChannel })
	want(map[string]int{first: 2, second: 1})
	device("b", elsewhere)
	device("a", func(d *mdm.Device) { d.State = mdm.Blocked })
	want(map[string]int{second: 2})

	b.update(t, mdm.ForgetRows) // an older program has put devices, and counted none
	want(map[string]int{second: 2})
	if _, err := b.Search(t.Context(), mdm.Query{}, "", 1); err != nil {
		t.Errorf("Search: %v", err)
	}
}
