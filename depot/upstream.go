package depot

import "errors"

// Errors of authorities elsewhere that requests are passed on to.
var (
	// ErrUpstreamUnavailable means that the other authority can't be reached, or has not
	// decided yet: the same request may be granted later.
	ErrUpstreamUnavailable = errors.New("the other authority is not available")

	// ErrUpstreamRefused means that the other authority has refused, or answers with what
	// must not be believed.
	ErrUpstreamRefused = errors.New("the other authority refuses")
)
