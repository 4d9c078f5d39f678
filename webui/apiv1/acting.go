package apiv1

import (
	"context"
	"net/http"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// actingKey is in the context of requests that [API.As] passes on: who acts. Nothing that
// comes over the network can set it.
type actingKey struct{}

// As serves the API to who has proved otherwise than by a token to be p: the routes, the
// checks and the answers are those of the network. The administrators' pages are a client
// of it, so that nothing can be done there that the API would refuse.
func (a *API) As(p identity.Principal) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.within.ServeHTTP(w, r.WithContext(context.WithValue(webui.Within(r.Context()), actingKey{}, p)))
	})
}

// May reports whether p may use the route with a pattern, as "POST /api/v1/commands". It
// panics where there is no such route: a page asks for what its author has misspelled.
func (a *API) May(p identity.Principal, pattern string) bool {
	rt, ok := a.mounted[pattern]
	if !ok {
		panic("apiv1: no route " + pattern)
	}
	return len(rt.scopes) == 0 || allowed(p, rt.scopes) && rt.reach.open(p)
}

// mountWithin makes the routes that As serves. Their limits are those of the largest: each
// page has a limit of its own.
func (a *API) mountWithin() {
	mux := webui.NewMux(a.Fail)
	group := mux.Group(webui.Group{BodyLimit: max(maxCommandBody, profile.MaxSize), Fail: a.Fail})
	a.mounted = make(map[string]route)
	for _, rt := range a.routes() {
		group.Handle(rt.pattern, a.guarded(rt))
		a.mounted[rt.pattern] = rt
	}
	a.within = mux
}
