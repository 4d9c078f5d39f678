package checkin

import (
	"github.com/micromdm/nanomdm/mdm"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// arrives says whether the sender of a message, whom nobody knew, is a device that another
// server had, and is known now. A failure of ours is in the log: the device is a stranger for
// this time, and calls again.
func (h *Handler) arrives(r *mdm.Request, body []byte) bool {
	var m mdm.Enrollment
	if r.Certificate == nil || guard.DecodePlist(body, &m, guard.PlistLimits{Bytes: maxResult}) != nil {
		return false
	}
	id, err := appleID(&m)
	if err != nil {
		return false
	}
	p := sentIn(r).Peer
	p.Certificate, p.Address = r.Certificate, h.address(r.Context())
	arrived, err := h.enroll.Arrive(r.Context(), p, id)
	if err != nil {
		h.log.ErrorContext(r.Context(), "device from another server not taken in, will try again", "err", err)
	}
	return arrived
}
