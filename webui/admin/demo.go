package admin

import "context"

// DemoDevices is how many simulated devices a page offers: one of each kind and temper.
const DemoDevices = 5

// Demo is GET /api/v1/demo-devices.
type Demo struct {
	Count   int    `json:"count"`   // that there are, or shall be in a moment
	Refusal string `json:"refusal"` // why none can be added; empty if they can
}

// Offered says whether a page should offer some.
func (d Demo) Offered() bool { return d.Count == 0 && d.Refusal == "" }

// GetDemo returns what there is of simulated devices.
func (d *Desk) GetDemo(ctx context.Context) (demo Demo, err error) {
	err = d.Get(ctx, "/api/v1/demo-devices", nil, &demo)
	return demo, err
}

// OffersDemo says whether who looks may add simulated devices, and there are none.
func (d *Desk) OffersDemo(ctx context.Context) (bool, error) {
	if !d.May(ctx, "POST /api/v1/demo-devices") {
		return false, nil
	}
	demo, err := d.GetDemo(ctx)
	return demo.Offered(), err
}
