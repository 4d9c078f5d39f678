package checkin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/micromdm/nanomdm/mdm"
	"github.com/micromdm/nanomdm/service"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	gatehouse "github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// Service answers NanoMDM's check-in and command messages from package enroll.
type Service struct {
	enroll  *enroll.Service
	address func(context.Context) string // that a request came from
	log     *slog.Logger

	declarative DeclarativeServer // nil: not offered
	asking      chan struct{}     // one for each question that it has
}

var _ service.CheckinAndCommandService = (*Service)(nil)

// errNotOffered is what messages get whose feature this server does not announce.
var errNotOffered = errors.New("the server does not offer this")

type sentKey struct{}

// sent is a message and who sent it, as NanoMDM's request carries it.
type sent struct {
	enroll.Peer
	release func() // gives back what a large body keeps others from; it may be called again
}

// request is what NanoMDM's services take.
func (m sent) request(ctx context.Context) *mdm.Request {
	return mdm.NewRequestWithContext(context.WithValue(ctx, sentKey{}, m), m.Certificate)
}

func sentIn(r *mdm.Request) sent {
	m, _ := r.Context().Value(sentKey{}).(sent)
	return m
}

// peer is who sent r.
func (s *Service) peer(r *mdm.Request) enroll.Peer {
	p := sentIn(r).Peer
	p.Certificate, p.Address = r.Certificate, s.address(r.Context())
	return p
}

// appleID reads who a message is from. The keys of a User Enrollment and those
// of any other are never mixed in one message (PROTOCOL 4.1), and an empty one
// counts as absent.
func appleID(e *mdm.Enrollment) (gatehouse.AppleID, error) {
	id := gatehouse.AppleID{UDID: e.UDID, EnrollmentID: e.EnrollmentID}
	switch {
	case id.EnrollmentID == "" && id.UDID != "" && e.EnrollmentUserID != "", id.UDID == "" && e.UserID != "":
		return id, fmt.Errorf("%w: a User Enrollment's identifiers are mixed with a device's", enroll.ErrBadMessage)
	case e.UserID == mdm.SharediPadUserID:
		if e.UserShortName == "" {
			return id, fmt.Errorf("%w: a Shared iPad's user has no UserShortName", enroll.ErrBadMessage)
		}
		id.UserID = e.UserShortName
	case id.EnrollmentID == "":
		id.UserID = e.UserID
	default:
		id.UserID = e.EnrollmentUserID
	}
	return id, nil
}

// Authenticate implements service.Checkin.
func (s *Service) Authenticate(r *mdm.Request, m *mdm.Authenticate) error {
	id, err := appleID(&m.Enrollment)
	if err != nil {
		return err
	}
	// What a device tells of itself beyond NanoMDM's type (Apple: Authenticate).
	var facts struct {
		SerialNumber, DeviceName, Model, ModelName, ProductName, OSVersion, BuildVersion, IMEI, MEID string
	}
	if err := guard.DecodePlist(m.Raw, &facts, guard.PlistLimits{Bytes: maxCheckIn}); err != nil {
		return err
	}
	return s.enroll.Authenticate(r.Context(), s.peer(r), enroll.AuthenticateMessage{
		ID: id, Topic: m.Topic,
		Facts: gatehouse.Facts{
			SerialNumber: facts.SerialNumber, DeviceName: facts.DeviceName, Model: facts.Model, ModelName: facts.ModelName,
			ProductName: facts.ProductName, OSVersion: facts.OSVersion, BuildVersion: facts.BuildVersion, IMEI: facts.IMEI, MEID: facts.MEID,
		},
	})
}

// TokenUpdate implements service.Checkin.
func (s *Service) TokenUpdate(r *mdm.Request, m *mdm.TokenUpdate) error {
	id, err := appleID(&m.Enrollment)
	if err != nil {
		return err
	}
	return s.enroll.TokenUpdate(r.Context(), s.peer(r), enroll.TokenUpdateMessage{
		ID:          id,
		Push:        gatehouse.Push{Topic: m.Topic, Token: m.Token, Magic: m.PushMagic},
		UnlockToken: m.UnlockToken, UserShortName: m.UserShortName, UserLongName: m.UserLongName,
	})
}

// CheckOut implements service.Checkin.
func (s *Service) CheckOut(r *mdm.Request, m *mdm.CheckOut) error {
	id, err := appleID(&m.Enrollment)
	if err != nil {
		return err
	}
	return s.enroll.CheckOut(r.Context(), s.peer(r), id)
}

// SetBootstrapToken implements service.Checkin.
func (s *Service) SetBootstrapToken(r *mdm.Request, m *mdm.SetBootstrapToken) error {
	id, err := appleID(&m.Enrollment)
	if err != nil {
		return err
	}
	return s.enroll.SetBootstrapToken(r.Context(), s.peer(r), id, m.BootstrapToken.BootstrapToken)
}

// GetBootstrapToken implements service.Checkin. Without one the value is empty
// (PROTOCOL 4.2).
func (s *Service) GetBootstrapToken(r *mdm.Request, m *mdm.GetBootstrapToken) (*mdm.BootstrapToken, error) {
	id, err := appleID(&m.Enrollment)
	if err != nil {
		return nil, err
	}
	token, err := s.enroll.GetBootstrapToken(r.Context(), s.peer(r), id)
	if err != nil {
		return nil, err
	}
	return &mdm.BootstrapToken{BootstrapToken: token}, nil
}

// UserAuthenticate implements service.UserAuthenticate: it declines to manage a
// directory user for this login, which is the one case for 410 (PROTOCOL 4.2). Who is not
// managed signs in nowhere, so no access token is asked for.
func (s *Service) UserAuthenticate(r *mdm.Request, m *mdm.UserAuthenticate) ([]byte, error) {
	id, err := appleID(&m.Enrollment)
	if err != nil {
		return nil, err
	}
	if err := s.enroll.UserAuthenticate(r.Context(), s.peer(r), id); err != nil {
		return nil, err
	}
	return nil, service.NewHTTPStatusError(http.StatusGone, errors.New("directory users are not managed"))
}

// GetToken implements service.GetToken.
func (s *Service) GetToken(r *mdm.Request, m *mdm.GetToken) (*mdm.GetTokenResponse, error) {
	id, err := appleID(&m.Enrollment)
	if err != nil {
		return nil, err
	}
	message := enroll.GetTokenMessage{ID: id, Service: m.TokenServiceType}
	if p := m.TokenParameters; p != nil {
		message.SecurityToken, message.PhoneUDID, message.WatchUDID = p.SecurityToken, p.PhoneUDID, p.WatchUDID
	}
	data, err := s.enroll.GetToken(r.Context(), s.peer(r), message)
	if err != nil {
		return nil, err
	}
	return &mdm.GetTokenResponse{TokenData: data}, nil
}

// refuse answers a message that only a known device learns more about.
func (s *Service) refuse(r *mdm.Request, e *mdm.Enrollment) error {
	id, err := appleID(e)
	if err != nil {
		return err
	}
	if err := s.enroll.Identify(r.Context(), s.peer(r), id); err != nil {
		return err
	}
	return errNotOffered
}

// statuses are the words with which a device reports (PROTOCOL 5.2).
var statuses = map[string]gatehouse.CommandState{
	"Acknowledged":       gatehouse.Acknowledged,
	"Error":              gatehouse.Failed,
	"CommandFormatError": gatehouse.Failed,
	"NotNow":             gatehouse.NotNow,
}

const statusIdle = "Idle"

// CommandAndReportResults implements service.CommandAndReportResults. Of the
// command that it returns only Raw is set.
func (s *Service) CommandAndReportResults(r *mdm.Request, m *mdm.CommandResults) (*mdm.Command, error) {
	id, err := appleID(&m.Enrollment)
	if err != nil {
		return nil, err
	}
	msg := enroll.ConnectMessage{ID: id, Idle: m.Status == statusIdle, Status: m.Status}
	if !msg.Idle {
		if msg.Report, err = report(m); errors.Is(err, errNotKept) {
			s.log.WarnContext(r.Context(), "answer not kept", "command", msg.Report.CommandUUID, "err", err)
		} else if err != nil {
			return nil, err
		}
	}
	plist, err := s.enroll.Connect(r.Context(), s.peer(r), msg)
	if err != nil || plist == nil {
		return nil, err
	}
	return &mdm.Command{Raw: plist}, nil
}

// maxCommandUUID bounds the name of a command: it goes into the log.
const maxCommandUUID = 255

// maxKept is the length of a decoded answer that still fits in a record, in bytes.
const maxKept = storage.MaxValue - 1<<20

// errNotKept means that an answer could be read but for its keys: what the device
// says of its command counts, what else it says is lost.
var errNotKept = errors.New("the answer can't be read or is too large to keep")

// report reads what a device says of a command. With errNotKept the report is
// good, but for its Result.
func report(m *mdm.CommandResults) (gatehouse.Report, error) {
	state, ok := statuses[m.Status]
	if !ok {
		return gatehouse.Report{}, fmt.Errorf("%w: unknown Status", enroll.ErrBadMessage)
	}
	if len(m.CommandUUID) > maxCommandUUID {
		return gatehouse.Report{}, fmt.Errorf("%w: CommandUUID is too long", enroll.ErrBadMessage)
	}
	r := gatehouse.Report{CommandUUID: m.CommandUUID, State: state}
	if state == gatehouse.NotNow {
		return r, nil // there is nothing more to tell
	}
	lim := guard.PlistLimits{Bytes: 2 * maxResult}
	result, err := command.DecodeResult(m.Raw, lim)
	if err != nil {
		return r, fmt.Errorf("%w: %w", errNotKept, err)
	}
	if bytes.Contains(m.Raw, []byte("ErrorChain")) {
		if r.ErrorChain, err = command.DecodeErrorChain(m.Raw, lim); err != nil {
			return r, fmt.Errorf("%w: %w", errNotKept, err)
		}
	}
	if r.Entrusted, err = command.DecodeEntrusted(m.Raw, lim); err != nil {
		return r, fmt.Errorf("%w: %w", errNotKept, err)
	}
	if len(result) > maxKept {
		return r, fmt.Errorf("%w: %d bytes", errNotKept, len(result))
	}
	if string(result) != "{}" {
		r.Result = json.RawMessage(result)
	}
	return r, nil
}
