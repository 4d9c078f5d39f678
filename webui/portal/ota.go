package portal

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/machineinfo"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// Deliverer answers what devices state of themselves. *enroll.Service is one.
type Deliverer interface {
	Deliver(ctx context.Context, token, peer string, body []byte) (profile []byte, err error)
}

// Deliveries answers devices that have a Profile Service payload (PROTOCOL 3.6): from
// Settings and not from a browser, so without cookies and with no page to show. What the
// person should know stands on the status page of their attempt.
type Deliveries struct {
	enroll Deliverer
	log    *slog.Logger
}

// NewDeliveries returns Deliveries, or says what is missing.
func NewDeliveries(d Deliverer, log *slog.Logger) (*Deliveries, error) {
	if d == nil || log == nil {
		return nil, errors.New("portal: deliveries need a Deliverer and a logger")
	}
	return &Deliveries{d, log}, nil
}

// MaxDeliveryBody is how many bytes of a statement are taken, far more than are read.
const MaxDeliveryBody = 1 << 20

// Mount registers the route, in a group that answers errors by Fail.
func (d *Deliveries) Mount(r webui.Router) { r.Handle("POST "+enroll.PathOTA+"{token}", d.deliver) }

func (d *Deliveries) deliver(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	peer := ""
	if addr := webui.Peer(r.Context()); addr.IsValid() {
		peer = addr.String()
	}
	signed, err := d.enroll.Deliver(r.Context(), r.PathValue("token"), peer, body)
	if err != nil {
		return err
	}
	webui.SendFile(w, profile.ContentType, "enroll.mobileconfig", signed)
	return nil
}

// deliveryRefusals are what is wrong with a statement, for who reads the device's log or
// the server's. None is a 401, which starts other protocols (PROTOCOL 2.3).
var deliveryRefusals = []struct {
	err    error
	status int
	code   string
	text   string
}{
	{guard.ErrTooLarge, http.StatusRequestEntityTooLarge, "GH-E301", "What the device sent is too large."},
	{enroll.ErrStatement, http.StatusBadRequest, "GH-E301", "What the device states of itself can't be read, or its signature is wrong."},
	{machineinfo.ErrNotApple, http.StatusForbidden, "GH-E302", "The device does not prove that Apple made it."},
	{enroll.ErrDelivery, http.StatusGone, "GH-E303", "This profile can't be used any more. Download it again from the enrollment page."},
	{enroll.ErrSerialNumber, http.StatusForbidden, "GH-E304", "The enrollment link is for other devices."},
	{enroll.ErrDeviceOwned, http.StatusForbidden, "GH-E305", "The device is enrolled for somebody else."},
	{mdm.ErrBlocked, http.StatusForbidden, "GH-E306", "The device is blocked."},
	{enroll.ErrUserDisabled, http.StatusForbidden, "GH-E106", "The account may not enroll devices."},
	{enroll.ErrOwnershipOff, http.StatusForbidden, "GH-E122", "Devices of this ownership are not enrolled here."},
	{enroll.ErrNoPushCertificate, http.StatusForbidden, "GH-E125", "No device can be enrolled until the organisation has a valid push certificate."},
	{identity.ErrMayNotEnroll, http.StatusForbidden, "GH-E106", "The account may not enroll devices."},
	{enroll.ErrLinkExpired, http.StatusGone, "GH-E102", "The enrollment link has expired."},
	{enroll.ErrLinkUsedUp, http.StatusGone, "GH-E103", "The enrollment link was used already."},
	{enroll.ErrLinkRevoked, http.StatusGone, "GH-E104", "The enrollment link was withdrawn."},
	{enroll.ErrNotReady, http.StatusGone, "GH-E303", "This profile can't be used any more. Download it again from the enrollment page."},
	{storage.ErrUnavailable, http.StatusServiceUnavailable, "GH-E008", "The server is not available right now."},
	{storage.ErrCommit, http.StatusServiceUnavailable, "GH-E008", "The server is not available right now."},
	{storage.ErrClosed, http.StatusServiceUnavailable, "GH-E008", "The server is not available right now."},
	{context.Canceled, http.StatusServiceUnavailable, "GH-E006", "The server did not answer in time."},
	{context.DeadlineExceeded, http.StatusServiceUnavailable, "GH-E006", "The server did not answer in time."},
}

// Fail is the [webui.FailFunc] of the route: a status and one line of text, which is all
// that a device makes something of.
func (d *Deliveries) Fail(w http.ResponseWriter, r *http.Request, err error) {
	w.Header().Set("Cache-Control", "no-store")
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		err = errors.Join(err, guard.ErrTooLarge)
	}
	for _, refusal := range deliveryRefusals {
		if !errors.Is(err, refusal.err) {
			continue
		}
		level := slog.LevelWarn
		if refusal.status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "30")
			if r.Context().Err() == nil {
				level = slog.LevelError // ours to repair, not the device's doing
			}
		}
		d.log.Log(r.Context(), level, "over-the-air delivery refused", "request", webui.RequestID(r.Context()), "status", refusal.status, "code", refusal.code, "err", err)
		http.Error(w, refusal.code+": "+refusal.text, refusal.status)
		return
	}
	d.log.ErrorContext(r.Context(), "over-the-air delivery failed", "request", webui.RequestID(r.Context()), "err", err)
	http.Error(w, "GH-E007: The server failed.", http.StatusInternalServerError)
}
