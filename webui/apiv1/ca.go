package apiv1

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// authorityJSON is one generation of an authority.
type authorityJSON struct {
	ID         string     `json:"id"`
	Role       string     `json:"role"` // identity, root or payload
	Generation int        `json:"generation"`
	State      string     `json:"state"` // next, active, retiring or retired
	StateSince *time.Time `json:"state_since"`
	Imported   bool       `json:"imported"`
	Subject    string     `json:"subject"`
	Issuer     string     `json:"issuer"`
	Serial     string     `json:"serial"`
	NotBefore  time.Time  `json:"not_before"`
	NotAfter   time.Time  `json:"not_after"`
	SHA256     string     `json:"sha256"` // of the certificate, lower-case hexadecimal
	Key        keyJSON    `json:"key"`
	InForce    *int       `json:"certificates_in_force"` // null for who is limited to groups

	// Where anybody may ask about its certificates, and get its own; empty where the server
	// has no such addresses.
	CRLURL         string `json:"crl_url"`
	OCSPURL        string `json:"ocsp_url"`
	CertificateURL string `json:"certificate_url"`

	Warnings []string `json:"warnings"`
}

type keyJSON struct {
	Type string `json:"type"` // RSA or EC
	Bits int    `json:"bits"`
}

func authority(a enroll.AuthorityStatus) authorityJSON {
	cert := a.Certificate()
	out := authorityJSON{
		ID: a.ID(), Role: a.Name(), Generation: a.Generation(), State: string(a.State()), StateSince: timestamp(a.Since()),
		Imported: a.Imported(), Subject: cert.Subject.String(), Issuer: cert.Issuer.String(), Serial: string(depot.SerialOf(cert)),
		NotBefore: cert.NotBefore.UTC(), NotAfter: cert.NotAfter.UTC(), SHA256: string(depot.FingerprintOf(cert)),
		InForce: &a.InForce, Warnings: []string{},
	}
	out.Key = publicKey(cert)
	out.CRLURL, out.OCSPURL, out.CertificateURL = a.URLs()
	out.Warnings = append(out.Warnings, a.Warnings...)
	return out
}

type rolloverJSON struct {
	Role        string         `json:"role"`
	To          string         `json:"to"`    // ID of the authority
	State       string         `json:"state"` // waiting_for_trust, moving or finished
	PerHour     int            `json:"per_hour"`
	Forced      bool           `json:"forced"`
	StartedAt   time.Time      `json:"started_at"`
	StartedBy   string         `json:"started_by"`
	ActivatedAt *time.Time     `json:"activated_at"`
	FinishedAt  *time.Time     `json:"finished_at"`
	Counts      map[string]int `json:"counts"`     // of devices, by their stage; none when it is finished
	Unfinished  []progressJSON `json:"unfinished"` // the first hundred
}

type progressJSON struct {
	DeviceID string    `json:"device_id"`
	Template string    `json:"template"` // of a payload certificate
	Stage    string    `json:"stage"`
	Since    time.Time `json:"since"`
	Blocker  string    `json:"blocker"`
}

func rolloverProgress(p enroll.Progress) progressJSON {
	return progressJSON{DeviceID: string(p.DeviceID), Template: p.Template, Stage: string(p.Stage), Since: p.Since.UTC(), Blocker: p.Blocker}
}

func progresses(in []enroll.Progress) []progressJSON {
	out := make([]progressJSON, len(in))
	for i, p := range in {
		out[i] = rolloverProgress(p)
	}
	return out
}

func rollover(r enroll.RolloverStatus) rolloverJSON {
	out := rolloverJSON{
		Role: r.Authority, To: r.To, State: "moving", PerHour: r.PerHour, Forced: r.Forced,
		StartedAt: r.StartedAt.UTC(), StartedBy: r.StartedBy, ActivatedAt: timestamp(r.ActivatedAt), FinishedAt: timestamp(r.FinishedAt),
		Counts: map[string]int{}, Unfinished: progresses(r.Unfinished),
	}
	switch {
	case !r.FinishedAt.IsZero():
		out.State = "finished"
	case r.ActivatedAt.IsZero():
		out.State = "waiting_for_trust"
	}
	for stage, n := range r.Counts {
		out.Counts[string(stage)] = n
	}
	return out
}

// getCA shows the authorities, and how far their rollovers are. Who is limited to groups is
// told of no number of certificates or devices.
func (a *API) getCA(w http.ResponseWriter, r *http.Request) error {
	limited := principal(r).Limited()
	all, err := a.enroll.Authorities(r.Context())
	if err != nil {
		return err
	}
	rollovers := a.enroll.Rollovers
	if limited {
		rollovers = a.enroll.LatestRollovers
	}
	moves, err := rollovers(r.Context())
	if err != nil {
		return err
	}
	out := struct {
		Authorities []authorityJSON `json:"authorities"`
		Rollovers   []rolloverJSON  `json:"rollovers"`
	}{make([]authorityJSON, len(all)), make([]rolloverJSON, len(moves))}
	for i, one := range all {
		out.Authorities[i] = authority(one)
		if limited {
			out.Authorities[i].InForce = nil
		}
	}
	for i, one := range moves {
		out.Rollovers[i] = rollover(one)
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}

// answerAuthority answers with one authority. One that was only next and was discarded
// is not there any more.
func (a *API) answerAuthority(w http.ResponseWriter, r *http.Request, status int, one *depot.Authority) error {
	all, err := a.enroll.Authorities(r.Context())
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.ID() == one.ID() {
			return webui.WriteJSON(w, status, authority(s))
		}
	}
	gone := authority(enroll.AuthorityStatus{Authority: one})
	gone.State = string(depot.StateRetired)
	return webui.WriteJSON(w, status, gone)
}

type importRequest struct {
	PEM        string `json:"pem"`    // certificates and key
	PKCS12     []byte `json:"pkcs12"` // base64 of DER
	Passphrase string `json:"passphrase"`
}

// importCA takes over an authority that was somebody else's.
func (a *API) importCA(w http.ResponseWriter, r *http.Request) error {
	role, err := pathID(r, "role")
	if err != nil {
		return err
	}
	var in importRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	data := in.PKCS12
	switch {
	case in.PEM != "" && len(in.PKCS12) > 0:
		return invalid("pkcs12", "must be left out where there is pem")
	case in.PEM == "" && len(in.PKCS12) == 0:
		return invalid("pem", "is missing, and so is pkcs12")
	case in.PEM != "":
		data = []byte(in.PEM)
	}
	got, err := a.enroll.ImportAuthority(r.Context(), role, depot.Import{Data: data, Passphrase: in.Passphrase})
	if err != nil {
		return err
	}
	return a.answerAuthority(w, r, http.StatusCreated, got)
}

type rolloverRequest struct {
	PerHour int  `json:"per_hour"` // 0: the default
	Force   bool `json:"force"`
}

// startRollover replaces an authority by the next one.
func (a *API) startRollover(w http.ResponseWriter, r *http.Request) error {
	role, err := pathID(r, "role")
	if err != nil {
		return err
	}
	var in rolloverRequest
	if r.ContentLength != 0 {
		if _, err := readJSON(r, &in); err != nil {
			return err
		}
	}
	started, lost, err := a.enroll.RollOver(r.Context(), role, enroll.StartRollover{PerHour: in.PerHour, Force: in.Force})
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusAccepted, struct {
		rolloverJSON
		Lost []progressJSON `json:"lost"` // devices that can't speak to this server any more
	}{rollover(enroll.RolloverStatus{Rollover: started}), progresses(lost)})
}

// listProgress shows how far each device is in the latest rollover of an authority.
func (a *API) listProgress(w http.ResponseWriter, r *http.Request) error {
	role, err := pathID(r, "role")
	if err != nil {
		return err
	}
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	list, next, err := a.enroll.Progress(r.Context(), role, cursor, limit)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(list, next, rolloverProgress))
}

type retireRequest struct {
	ID    string `json:"id"`
	Force bool   `json:"force"`
}

// retireCA ends an authority that nothing relies on any more.
func (a *API) retireCA(w http.ResponseWriter, r *http.Request) error {
	role, err := pathID(r, "role")
	if err != nil {
		return err
	}
	var in retireRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	if in.ID == "" {
		return invalid("id", "must be that of an authority that /api/v1/ca lists")
	}
	got, err := a.enroll.RetireAuthority(r.Context(), role, in.ID, enroll.Retirement{Force: in.Force})
	var inUse *enroll.InUseError
	if errors.As(err, &inUse) {
		return authorityInUse(inUse)
	}
	if err != nil {
		return err
	}
	return a.answerAuthority(w, r, http.StatusOK, got)
}

// blockerJSON is something that an authority can't be retired for.
type blockerJSON struct {
	Kind     string         `json:"kind"` // device, enrollment, assignment, certificate, authority or holders
	DeviceID string         `json:"device_id"`
	Template string         `json:"template"`
	Serial   string         `json:"serial"`
	Reason   string         `json:"reason"`
	Count    int            `json:"count,omitempty"`   // of holders: of their certificates
	Serials  []depot.Serial `json:"serials,omitempty"` // of holders: the first hundred
}

func authorityInUse(e *enroll.InUseError) *problem {
	p := &problem{Problem: webui.Problem{
		Status: http.StatusConflict, Code: "ca_in_use", Title: "The authority is still relied on",
		Detail: fmt.Sprintf("%d devices, certificates or authorities rely on it.", e.Total),
	}}
	for _, b := range e.Blockers {
		p.Blockers = append(p.Blockers, blockerJSON{b.Kind, string(b.DeviceID), b.Template, string(b.Serial), b.Reason, b.Count, b.Serials})
	}
	return p
}
