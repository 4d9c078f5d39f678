package apiv1

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

type certificateJSON struct {
	Serial           string     `json:"serial"` // lower-case hexadecimal
	Subject          string     `json:"subject"`
	SANs             []string   `json:"sans"`
	Template         string     `json:"template"`
	DeviceID         string     `json:"device_id"`
	User             string     `json:"user"`
	NotBefore        time.Time  `json:"not_before"`
	NotAfter         time.Time  `json:"not_after"`
	Status           string     `json:"status"` // active, expired or revoked
	RevokedAt        *time.Time `json:"revoked_at"`
	RevocationReason string     `json:"revocation_reason"`
}

func (a *API) listCertificates(w http.ResponseWriter, r *http.Request) error {
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	var out page[certificateJSON]
	err = a.db.View(r.Context(), func(tx storage.Tx) error {
		list, next, err := a.depot.Page(tx, cursor, limit)
		if err != nil {
			return err
		}
		out = page[certificateJSON]{Items: make([]certificateJSON, len(list)), NextCursor: next}
		for i, c := range list {
			if out.Items[i], err = a.certificate(tx, c); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}

func (a *API) getCertificate(w http.ResponseWriter, r *http.Request) error {
	serial, err := pathID(r, "serial")
	if err != nil {
		return err
	}
	var out certificateJSON
	err = a.db.View(r.Context(), func(tx storage.Tx) error {
		c, err := a.depot.BySerial(tx, serialOf(serial))
		if err != nil {
			return err
		}
		out, err = a.certificate(tx, c)
		return err
	})
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}

type revocationRequest struct {
	Reason string `json:"reason"` // by its name in RFC 5280
}

func (a *API) revokeCertificate(w http.ResponseWriter, r *http.Request) error {
	serial, err := pathID(r, "serial")
	if err != nil {
		return err
	}
	var in revocationRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	c, err := a.enroll.RevokeCertificate(r.Context(), serialOf(serial), in.Reason, principal(r).String())
	if errors.Is(err, depot.ErrReason) {
		return invalid("reason", "must be a reason by its name in RFC 5280, 5.3.1, such as keyCompromise, and not certificateHold")
	}
	if err != nil {
		return err
	}
	var out certificateJSON
	err = a.db.View(r.Context(), func(tx storage.Tx) error {
		out, err = a.certificate(tx, c)
		return err
	})
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}

// serialOf reads a serial number as other tools print it: "0A:1B…".
func serialOf(s string) depot.Serial {
	return depot.Serial(strings.TrimLeft(strings.ToLower(strings.ReplaceAll(s, ":", "")), "0"))
}

func (a *API) certificate(tx storage.Tx, c depot.Certificate) (certificateJSON, error) {
	out := certificateJSON{
		Serial: string(c.Serial), Subject: c.Subject, SANs: []string{}, Template: c.Template, DeviceID: c.DeviceID, User: c.User,
		NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(), Status: "active",
		RevokedAt: timestamp(c.RevokedAt), RevocationReason: c.RevocationReason,
	}
	switch {
	case !c.RevokedAt.IsZero():
		out.Status = "revoked"
	case a.now().After(c.NotAfter):
		out.Status = "expired"
	}
	der, err := a.depot.DER(tx, c.Fingerprint)
	if err != nil {
		return certificateJSON{}, err
	}
	cert, err := guard.ParseCertificate(der)
	if err != nil {
		return certificateJSON{}, err
	}
	out.SANs = append(out.SANs, cert.DNSNames...)
	out.SANs = append(out.SANs, cert.EmailAddresses...)
	for _, ip := range cert.IPAddresses {
		out.SANs = append(out.SANs, ip.String())
	}
	for _, uri := range cert.URIs {
		out.SANs = append(out.SANs, uri.String())
	}
	return out, nil
}
