package apiv1

import "github.com/gatehouse-mdm/gatehouse/enroll/identity"

// Route is one of the API's, as far as rights go.
type Route struct {
	Pattern string
	Scopes  []identity.Scope // one of them is needed
	Whole   bool             // about the whole server
	One     bool             // about one device, or what a device has
}

// Routes are those that are not open to everybody.
func Routes() (all []Route) {
	for _, rt := range (&API{}).routes() {
		if len(rt.scopes) > 0 {
			one := rt.reach == ofDevice || rt.reach == ofDeviceID || rt.reach == ofCertificate || rt.reach == ofAttempt
			all = append(all, Route{rt.pattern, rt.scopes, rt.reach == whole, one})
		}
	}
	return all
}
