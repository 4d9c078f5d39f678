package apiv1

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll/business"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// businessJSON is the link to Apple Business Manager or Apple School Manager.
type businessJSON struct {
	State           business.State           `json:"state"`
	Certificate     *businessCertificateJSON `json:"certificate"`      // null: no key was made
	NextCertificate *businessCertificateJSON `json:"next_certificate"` // null: none is to be replaced
	Token           *businessTokenJSON       `json:"token"`            // null: there is none
	Account         *businessAccountJSON     `json:"account"`          // null: Apple has not told
	MAIDTokens      bool                     `json:"maid_tokens"`
	DiscoveryURL    *discoveryURLJSON        `json:"discovery_url"` // null: Apple was not asked yet
	Trouble         *businessTroubleJSON     `json:"trouble"`       // null: there is none
}

type businessCertificateJSON struct {
	PEM      string    `json:"pem"`
	SHA256   string    `json:"sha256"` // lower-case hexadecimal
	NotAfter time.Time `json:"not_after"`
}

type businessTokenJSON struct {
	StoredAt  time.Time `json:"stored_at"`
	ExpiresAt time.Time `json:"expires_at"`
	DaysLeft  int       `json:"days_left"` // whole ones; 0 when it has expired
}

type businessAccountJSON struct {
	ServerUUID string    `json:"server_uuid"`
	ServerName string    `json:"server_name"`
	OrgName    string    `json:"org_name"`
	OrgEmail   string    `json:"org_email"`
	OrgPhone   string    `json:"org_phone"`
	OrgAddress string    `json:"org_address"`
	OrgID      string    `json:"org_id"`
	OrgType    string    `json:"org_type"`
	AdminID    string    `json:"admin_id"`
	ReadAt     time.Time `json:"read_at"`
}

type discoveryURLJSON struct {
	Registered string     `json:"registered"` // empty: nothing is
	Ours       bool       `json:"ours"`
	Expected   string     `json:"expected"`
	UpdatedAt  *time.Time `json:"updated_at"` // by Apple's word
	CheckedAt  time.Time  `json:"checked_at"`
}

type businessTroubleJSON struct {
	Code      string    `json:"code"`
	AppleCode string    `json:"apple_code"` // may be empty
	Detail    string    `json:"detail"`
	Next      string    `json:"next"`
	Since     time.Time `json:"since"`
}

func (a *API) businessLink(l business.Link) businessJSON {
	now := a.now()
	out := businessJSON{
		State: l.State(now), Certificate: businessCertificate(l.Certificate), NextCertificate: businessCertificate(l.Next), MAIDTokens: l.Signs,
	}
	if !l.TokenStored.IsZero() {
		out.Token = &businessTokenJSON{
			StoredAt: l.TokenStored.UTC(), ExpiresAt: l.TokenExpires.UTC(), DaysLeft: int(max(0, l.TokenExpires.Sub(now)) / (24 * time.Hour)),
		}
	}
	if o := l.Account; o != nil {
		out.Account = &businessAccountJSON{
			ServerUUID: o.ServerUUID, ServerName: o.ServerName, OrgName: o.OrgName, OrgEmail: o.OrgEmail, OrgPhone: o.OrgPhone,
			OrgAddress: o.OrgAddress, OrgID: o.OrgID, OrgType: o.OrgType, AdminID: o.AdminID, ReadAt: o.Asked.UTC(),
		}
	}
	if l.Discovery != nil {
		d := a.discoveryURL(*l.Discovery)
		out.DiscoveryURL = &d
	}
	if t := l.Trouble; t != nil {
		out.Trouble = &businessTroubleJSON{
			Code: appleCode(t.Kind), AppleCode: t.Code, Detail: t.Kind.Sentence(), Next: t.Kind.Next(), Since: t.Since.UTC(),
		}
	}
	return out
}

func businessCertificate(cert *x509.Certificate) *businessCertificateJSON {
	if cert == nil {
		return nil
	}
	return &businessCertificateJSON{PEM: string(inPEM(cert.Raw)), SHA256: string(depot.FingerprintOf(cert)), NotAfter: cert.NotAfter.UTC()}
}

func (a *API) discoveryURL(d business.Discovery) discoveryURLJSON {
	return discoveryURLJSON{
		Registered: d.URL, Ours: d.Ours, Expected: a.business.DiscoveryURL(), UpdatedAt: timestamp(d.Updated), CheckedAt: d.Asked.UTC(),
	}
}

// appleCode is the code of the problem that a refusal of Apple's is.
func appleCode(k business.Kind) string { return "apple_" + string(k) }

// ofApple returns the problem that err stands for, and logs what Apple said: the client is
// told what it means.
func (a *API) ofApple(r *http.Request, err error) error {
	var token *business.TokenError
	var refusal *business.AppleError
	switch {
	case errors.As(err, &token):
		return &problem{Problem: webui.Problem{
			Status: http.StatusBadRequest, Code: "server_token_" + string(token.Mistake), Title: strings.TrimSuffix(token.Reason, "."), Detail: token.Next,
		}}
	case errors.As(err, &refusal):
		a.log.WarnContext(r.Context(), "Apple did not do what was asked for", "err", err)
		p := &problem{
			Problem: webui.Problem{
				Status: http.StatusConflict, Code: appleCode(refusal.Kind),
				Title: strings.TrimSuffix(refusal.Kind.Sentence(), "."), Detail: refusal.Kind.Next(),
			},
			retryAfter: refusal.RetryAfter,
		}
		switch refusal.Kind {
		case business.Busy:
			p.Status = http.StatusServiceUnavailable
		case business.Unreachable, business.Unexpected:
			p.Status = http.StatusBadGateway
		}
		if refusal.Code != "" {
			p.Detail += " Apple’s code is " + refusal.Code + "."
		}
		return p
	}
	return err
}

func (a *API) getBusiness(w http.ResponseWriter, r *http.Request) error {
	l, err := a.business.Link(r.Context())
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, a.businessLink(l))
}

// checkBusiness asks Apple whether all is well.
func (a *API) checkBusiness(w http.ResponseWriter, r *http.Request) error {
	l, err := a.business.Check(r.Context())
	if err != nil {
		return a.ofApple(r, err)
	}
	return webui.WriteJSON(w, http.StatusOK, a.businessLink(l))
}

func (a *API) deleteBusiness(w http.ResponseWriter, r *http.Request) error {
	force, err := yesOf(r, "force")
	if err != nil {
		return err
	}
	if err := a.business.Remove(r.Context(), force); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *API) makeBusinessKey(w http.ResponseWriter, r *http.Request) error {
	replace, err := yesOf(r, "replace")
	if err != nil {
		return err
	}
	cert, made, err := a.business.MakeKey(r.Context(), replace)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if made {
		status = http.StatusCreated
	}
	return webui.WriteJSON(w, status, businessCertificate(cert))
}

func (a *API) downloadBusinessCertificate(w http.ResponseWriter, r *http.Request) error {
	cert, err := a.business.Certificate(r.Context())
	if err != nil {
		return err
	}
	webui.SendFile(w, "application/x-pem-file", "gatehouse-apple-business.pem", inPEM(cert.Raw))
	return nil
}

func (a *API) putBusinessToken(w http.ResponseWriter, r *http.Request) error {
	file, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	l, err := a.business.StoreToken(r.Context(), file)
	if err != nil {
		return a.ofApple(r, err)
	}
	return webui.WriteJSON(w, http.StatusOK, a.businessLink(l))
}

func (a *API) getDiscoveryURL(w http.ResponseWriter, r *http.Request) error {
	d, err := a.business.Registered(r.Context())
	if err != nil {
		return a.ofApple(r, err)
	}
	return webui.WriteJSON(w, http.StatusOK, a.discoveryURL(d))
}

func (a *API) putDiscoveryURL(w http.ResponseWriter, r *http.Request) error {
	d, err := a.business.Register(r.Context())
	if err != nil {
		return a.ofApple(r, err)
	}
	return webui.WriteJSON(w, http.StatusOK, a.discoveryURL(d))
}

func (a *API) deleteDiscoveryURL(w http.ResponseWriter, r *http.Request) error {
	if err := a.business.Unregister(r.Context()); err != nil {
		return a.ofApple(r, err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// yesOf reads a parameter that is true or false; false if there is none.
func yesOf(r *http.Request, name string) (bool, error) {
	text, err := textOf(r.URL.Query(), name)
	if err != nil {
		return false, err
	}
	switch text {
	case "true":
		return true, nil
	case "", "false":
		return false, nil
	}
	return false, invalid(name, "must be true or false")
}
