package apiv1

import (
	"context"
	"fmt"
	"net/http"

	"github.com/gatehouse-mdm/gatehouse/webui"
)

// Demo makes simulated devices, which enrol with this server and answer it, to look around.
type Demo interface {
	// Devices is how many there are, or shall be in a moment.
	Devices() int
	// Refusal says why none can be added or removed on this server, with what to do
	// instead; it is empty where they can.
	Refusal() string
	// Add has n of them enrol, in place of those that there are.
	Add(ctx context.Context, n int) error
	// Remove ends the enrollments of all that there are, and of those of earlier starts.
	Remove(ctx context.Context) error
}

// maxDemoDevices is how many one can have without restarting the server.
const maxDemoDevices = 100

type demoJSON struct {
	Count   int    `json:"count"`
	Refusal string `json:"refusal,omitempty"`
}

func (a *API) getDemo(w http.ResponseWriter, _ *http.Request) error {
	return webui.WriteJSON(w, http.StatusOK, demoJSON{a.demo.Devices(), a.demo.Refusal()})
}

func (a *API) addDemo(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Count int `json:"count"`
	}
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	if in.Count < 1 || in.Count > maxDemoDevices {
		return invalid("count", fmt.Sprintf("must be 1 to %d", maxDemoDevices))
	}
	if err := a.demoPossible(); err != nil {
		return err
	}
	if err := a.demo.Add(r.Context(), in.Count); err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusAccepted, demoJSON{Count: in.Count})
}

func (a *API) removeDemo(w http.ResponseWriter, r *http.Request) error {
	if err := a.demoPossible(); err != nil {
		return err
	}
	if err := a.demo.Remove(r.Context()); err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusAccepted, demoJSON{})
}

func (a *API) demoPossible() error {
	if why := a.demo.Refusal(); why != "" {
		return &problem{Problem: webui.Problem{
			Status: http.StatusConflict, Code: "demo_unavailable", Title: "There are no simulated devices on this server", Detail: why,
		}}
	}
	return nil
}
