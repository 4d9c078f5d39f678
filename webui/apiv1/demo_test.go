package apiv1_test

import (
	"context"
	"testing"
)

// demo is that of the house: the one that makes devices is with the program.
type demo struct {
	devices int
	refusal string
}

func (d *demo) Devices() int                       { return d.devices }
func (d *demo) Refusal() string                    { return d.refusal }
func (d *demo) Add(_ context.Context, n int) error { d.devices = n; return nil }
func (d *demo) Remove(context.Context) error       { d.devices = 0; return nil }

func TestSimulatedDevices(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	const path = "/api/v1/demo-devices"
	type answer struct {
		Count   int
		Refusal string
	}
	count := func(want int) {
		t.Helper()
		var got answer
		h.do(t, exchange{method: "GET", path: path}).want(t, 200, &got)
		if got.Count != want || h.demo.devices != want {
			t.Errorf("there are %d devices, and the API tells of %d, want %d", h.demo.devices, got.Count, want)
		}
	}
	count(0)
	for _, body := range []string{`{}`, `{"count":0}`, `{"count":-1}`, `{"count":101}`} {
		h.do(t, exchange{method: "POST", path: path, body: body, wild: true}).wantField(t, "count")
	}
	count(0)
	h.do(t, exchange{method: "POST", path: path, body: `{"count":3}`}).want(t, 202, nil)
	count(3)
	h.do(t, exchange{method: "DELETE", path: path}).want(t, 202, nil)
	count(0)

	h.demo.refusal = "Several servers share this database."
	var got answer
	h.do(t, exchange{method: "GET", path: path}).want(t, 200, &got)
	if got.Refusal != h.demo.refusal {
		t.Errorf("the reason is %q", got.Refusal)
	}
	h.do(t, exchange{method: "POST", path: path, body: `{"count":3}`}).wantProblem(t, 409, "demo_unavailable")
	h.do(t, exchange{method: "DELETE", path: path}).wantProblem(t, 409, "demo_unavailable")
	count(0)
}
