package apiv1

import (
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// migrationJSON is how far devices of other servers have come.
type migrationJSON struct {
	ServerURL   string             `json:"server_url"` // what their profiles must name
	Waiting     int                `json:"waiting"`
	Arrived     int                `json:"arrived"`
	Authorities []predecessorJSON  `json:"authorities"`
	Profile     *formerProfileJSON `json:"profile"` // of devices that are handed over at /migration; null: nobody said
}

// predecessorJSON is an authority of another server.
type predecessorJSON struct {
	ID          string    `json:"id"` // SHA-256 of the certificate, lower-case hexadecimal
	Subject     string    `json:"subject"`
	NotAfter    time.Time `json:"not_after"`
	AddedAt     time.Time `json:"added_at"`
	AddedBy     string    `json:"added_by"`
	ClaimsUntil time.Time `json:"claims_until"`
}

func predecessor(p depot.Predecessor) predecessorJSON {
	return predecessorJSON{ID: string(p.ID), Subject: p.Subject, NotAfter: p.NotAfter.UTC(), AddedAt: p.AddedAt.UTC(), AddedBy: p.AddedBy, ClaimsUntil: p.ClaimsUntil.UTC()}
}

// formerProfileJSON is what the enrollment profile of another server says.
type formerProfileJSON struct {
	Identifier         string `json:"identifier"`
	AccessRights       int    `json:"access_rights"` // 0: all
	PerUserConnections *bool  `json:"per_user_connections"`
}

func (p formerProfileJSON) former() enroll.FormerProfile {
	return enroll.FormerProfile{Identifier: p.Identifier, DeviceOnly: p.PerUserConnections != nil && !*p.PerUserConnections}
}

func (a *API) getMigration(w http.ResponseWriter, r *http.Request) error {
	m, err := a.enroll.Migration(r.Context())
	if err != nil {
		return err
	}
	out := migrationJSON{ServerURL: a.serverURL.String(), Waiting: m.Waiting, Arrived: m.Arrived, Authorities: make([]predecessorJSON, len(m.Predecessors))}
	for i, p := range m.Predecessors {
		out.Authorities[i] = predecessor(p)
	}
	if m.Profile.Identifier != "" {
		users := !m.Profile.DeviceOnly
		out.Profile = &formerProfileJSON{m.Profile.Identifier, m.AccessRights, &users}
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}

// addPredecessor takes the certificate of another server's authority, in PEM or DER.
func (a *API) addPredecessor(w http.ResponseWriter, r *http.Request) error {
	var claims time.Duration
	if text := r.URL.Query().Get("claims_for"); text != "" {
		var err error
		if claims, err = time.ParseDuration(text); err != nil || claims <= 0 {
			return invalid("claims_for", "must be a duration such as 2160h")
		}
	}
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	p, err := a.enroll.AddPredecessor(r.Context(), data, claims)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusCreated, predecessor(p))
}

func (a *API) deletePredecessor(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	if err := a.enroll.DeletePredecessor(r.Context(), depot.Fingerprint(id)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// putFormerProfile says by what profile devices enrolled that are handed over at /migration.
func (a *API) putFormerProfile(w http.ResponseWriter, r *http.Request) error {
	var in formerProfileJSON
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	if err := a.enroll.SetFormerProfile(r.Context(), in.former(), in.AccessRights); err != nil {
		return err
	}
	return a.getMigration(w, r)
}

type takeOverRequest struct {
	Source  string            `json:"source"`
	DryRun  bool              `json:"dry_run"`
	Profile formerProfileJSON `json:"profile"`
	Devices []formerJSON      `json:"devices"`
}

// formerJSON is a device as another server had it.
type formerJSON struct {
	UDID              string           `json:"udid"`
	EnrollmentID      string           `json:"enrollment_id"`
	SerialNumber      string           `json:"serial_number"`
	DeviceName        string           `json:"device_name"`
	Model             string           `json:"model"`
	ModelName         string           `json:"model_name"`
	ProductName       string           `json:"product_name"`
	OSVersion         string           `json:"os_version"`
	BuildVersion      string           `json:"build_version"`
	IMEI              string           `json:"imei"`
	MEID              string           `json:"meid"`
	Push              formerPushJSON   `json:"push"`
	UnlockToken       []byte           `json:"unlock_token"`
	BootstrapToken    []byte           `json:"bootstrap_token"`
	CertificateSHA256 string           `json:"certificate_sha256"`
	LastSeenAt        *time.Time       `json:"last_seen_at"`
	Blocked           bool             `json:"blocked"`
	Users             []formerUserJSON `json:"users"`
}

type formerPushJSON struct {
	Topic string `json:"topic"`
	Token []byte `json:"token"`
	Magic string `json:"magic"`
}

func (p formerPushJSON) push() mdm.Push {
	return mdm.Push{Topic: p.Topic, Token: p.Token, Magic: p.Magic}
}

type formerUserJSON struct {
	UserID    string         `json:"user_id"`
	ShortName string         `json:"short_name"`
	LongName  string         `json:"long_name"`
	Push      formerPushJSON `json:"push"`
}

func (f formerJSON) former() enroll.Former {
	out := enroll.Former{
		ID: mdm.AppleID{UDID: f.UDID, EnrollmentID: f.EnrollmentID},
		Facts: mdm.Facts{
			SerialNumber: f.SerialNumber, DeviceName: f.DeviceName, Model: f.Model, ModelName: f.ModelName, ProductName: f.ProductName,
			OSVersion: f.OSVersion, BuildVersion: f.BuildVersion, IMEI: f.IMEI, MEID: f.MEID,
		},
		Push: f.Push.push(), UnlockToken: f.UnlockToken, BootstrapToken: f.BootstrapToken,
		Certificate: depot.Fingerprint(f.CertificateSHA256), Blocked: f.Blocked,
	}
	if f.LastSeenAt != nil {
		out.LastSeen = *f.LastSeenAt
	}
	for _, u := range f.Users {
		out.Users = append(out.Users, enroll.FormerUser{UserID: u.UserID, ShortName: u.ShortName, LongName: u.LongName, Push: u.Push.push()})
	}
	return out
}

// takenJSON is what became of a device.
type takenJSON struct {
	UDID         string `json:"udid"`
	EnrollmentID string `json:"enrollment_id"`
	DeviceID     string `json:"device_id"`
	Outcome      string `json:"outcome"`
	Code         string `json:"code"`
	Reason       string `json:"reason"`
}

// takeOver makes devices of another server known, or says what would become of them.
func (a *API) takeOver(w http.ResponseWriter, r *http.Request) error {
	var in takeOverRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	t := enroll.TakeOver{Source: in.Source, DryRun: in.DryRun, Profile: in.Profile.former(), AccessRights: in.Profile.AccessRights}
	for _, f := range in.Devices {
		t.Devices = append(t.Devices, f.former())
	}
	all, err := a.enroll.TakeOver(r.Context(), t)
	if err != nil {
		return err
	}
	items := make([]takenJSON, len(all))
	for i, one := range all {
		items[i] = takenJSON{
			UDID: one.ID.UDID, EnrollmentID: one.ID.EnrollmentID, DeviceID: string(one.Device),
			Outcome: string(one.Outcome), Code: one.Code, Reason: one.Reason,
		}
	}
	return webui.WriteJSON(w, http.StatusOK, struct {
		Items []takenJSON `json:"items"`
	}{items})
}
