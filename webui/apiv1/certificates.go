package apiv1

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

type certificateJSON struct {
	Serial           string     `json:"serial"` // lower-case hexadecimal; of an external authority as depot.ExternalSerial says
	Fingerprint      string     `json:"fingerprint"`
	Subject          string     `json:"subject"`
	SANs             []string   `json:"sans"`
	Template         string     `json:"template"`
	DeviceID         string     `json:"device_id"`
	DeviceName       string     `json:"device_name"` // empty where the device has none, or is not here any more
	User             string     `json:"user"`
	Authority        string     `json:"authority"` // identity, root, payload or external
	Issuer           string     `json:"issuer"`    // ID of the authority
	Door             string     `json:"door"`
	Requester        string     `json:"requester"`
	Replaces         string     `json:"replaces"` // serial number
	IssuedAt         time.Time  `json:"issued_at"`
	NotBefore        time.Time  `json:"not_before"`
	NotAfter         time.Time  `json:"not_after"`
	Status           string     `json:"status"` // active, expired or revoked
	RevokedAt        *time.Time `json:"revoked_at"`
	RevocationReason string     `json:"revocation_reason"`
	RevocationNote   string     `json:"revocation_note"` // what remains to be done, if anything
}

func (a *API) certificate(tx storage.Tx, c depot.Certificate) (certificateJSON, error) {
	names, err := a.depot.Names(tx, c)
	if err != nil {
		return certificateJSON{}, err
	}
	note := ""
	if !c.RevokedAt.IsZero() {
		note = c.RevocationNote()
	}
	device, err := deviceName(tx, mdm.DeviceID(c.DeviceID))
	if err != nil {
		return certificateJSON{}, err
	}
	return certificateJSON{
		Serial: string(c.Serial), Fingerprint: string(c.Fingerprint), Subject: c.Subject, SANs: list(names),
		Template: c.Template, DeviceID: c.DeviceID, DeviceName: device, User: c.User,
		Authority: c.Authority, Issuer: a.depot.IssuerID(c), Door: c.Door, Requester: c.Requester, Replaces: string(c.Replaces),
		IssuedAt: c.IssuedAt.UTC(), NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(),
		Status: string(c.Status(a.now())), RevokedAt: timestamp(c.RevokedAt), RevocationReason: c.RevocationReason, RevocationNote: note,
	}, nil
}

// deviceName is what a device is called, empty if it is not here.
func deviceName(tx storage.Tx, id mdm.DeviceID) (string, error) {
	if id == "" {
		return "", nil
	}
	d, err := mdm.GetDevice(tx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return "", nil
	}
	return cmp.Or(d.DeviceName, d.SerialNumber), err
}

func (a *API) listCertificates(w http.ResponseWriter, r *http.Request) error {
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	filter, err := certificateFilterOf(r.URL.Query())
	if err != nil {
		return err
	}
	var out page[certificateJSON]
	err = a.viewScope(r, func(tx storage.Tx, scope *mdm.Scope) error {
		f := filter
		if len(f.Users) == 1 {
			u, err := identity.UserByLogin(tx, f.Users[0])
			if err != nil && !errors.Is(err, storage.ErrNotFound) {
				return err
			}
			if err == nil {
				f.Users = u.Logins()
			}
		}
		found, next, err := reachable(scope, cursor, limit, func(cursor string, limit int) ([]depot.Certificate, string, error) {
			return a.depot.Search(tx, f, cursor, limit)
		}, func(c depot.Certificate) string { return c.DeviceID })
		if err != nil {
			return err
		}
		for _, c := range found {
			tx.Prefetch(mdm.ReadDevice(mdm.DeviceID(c.DeviceID)))
		}
		out = page[certificateJSON]{Items: make([]certificateJSON, len(found)), NextCursor: next}
		for i, c := range found {
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

// certificateFilterOf reads the parameters that say which certificates are wanted.
func certificateFilterOf(query url.Values) (f depot.Filter, err error) {
	user, status, after, before := "", "", "", ""
	for _, p := range []struct {
		name string
		to   *string
	}{
		{"text", &f.Text}, {"device_id", &f.DeviceID}, {"user", &user}, {"template", &f.Template}, {"authority", &f.Authority},
		{"door", &f.Door}, {"status", &status}, {"expires_after", &after}, {"expires_before", &before},
	} {
		if *p.to, err = textOf(query, p.name); err != nil {
			return depot.Filter{}, err
		}
	}
	if user != "" {
		f.Users = []string{user}
	}
	switch f.Status = depot.Status(status); f.Status {
	case "", depot.Active, depot.Expired, depot.Revoked:
	default:
		return depot.Filter{}, invalid("status", "must be active, expired or revoked")
	}
	if f.ExpiresAfter, err = timeOf("expires_after", after); err != nil {
		return depot.Filter{}, err
	}
	f.ExpiresBefore, err = timeOf("expires_before", before)
	return f, err
}

func (a *API) getCertificate(w http.ResponseWriter, r *http.Request) error {
	serial, err := pathID(r, "serial")
	if err != nil {
		return err
	}
	var out certificateDetails
	err = a.db.View(r.Context(), func(tx storage.Tx) error {
		c, err := a.depot.BySerial(tx, serialOf(serial))
		if err != nil {
			return err
		}
		out = detailsOf(nil)
		if out.certificateJSON, err = a.certificate(tx, c); err != nil {
			return err
		}
		der, err := a.depot.DER(tx, c.Fingerprint)
		if errors.Is(err, storage.ErrNotFound) {
			return nil // it is known by its record alone
		}
		if err != nil {
			return err
		}
		cert, err := guard.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("%w: certificate %s", storage.ErrCorrupt, c.Fingerprint)
		}
		listed := out.certificateJSON
		out = detailsOf(cert)
		out.certificateJSON = listed
		return nil
	})
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}

// certificateDetails is a certificate with what only itself says.
type certificateDetails struct {
	certificateJSON
	IssuerSubject      string   `json:"issuer_subject"`
	Key                *keyJSON `json:"key"` // null where the certificate itself is not here
	SignatureAlgorithm string   `json:"signature_algorithm"`
	KeyUsage           []string `json:"key_usage"` // names of RFC 5280, 4.2.1.3
	ExtKeyUsage        []string `json:"ext_key_usage"`
	CRLURLs            []string `json:"crl_urls"`
	OCSPURLs           []string `json:"ocsp_urls"`
}

// detailsOf reads a certificate; nil has none to tell.
func detailsOf(cert *x509.Certificate) certificateDetails {
	out := certificateDetails{KeyUsage: []string{}, ExtKeyUsage: []string{}, CRLURLs: []string{}, OCSPURLs: []string{}}
	if cert == nil {
		return out
	}
	key := publicKey(cert)
	out.IssuerSubject, out.Key, out.SignatureAlgorithm = cert.Issuer.String(), &key, cert.SignatureAlgorithm.String()
	out.CRLURLs, out.OCSPURLs = list(cert.CRLDistributionPoints), list(cert.OCSPServer)
	for i, name := range []string{
		"digitalSignature", "contentCommitment", "keyEncipherment", "dataEncipherment", "keyAgreement", "keyCertSign", "cRLSign", "encipherOnly", "decipherOnly",
	} {
		if cert.KeyUsage&(1<<i) != 0 {
			out.KeyUsage = append(out.KeyUsage, name)
		}
	}
	for _, usage := range cert.ExtKeyUsage {
		out.ExtKeyUsage = append(out.ExtKeyUsage, template.PurposeName(usage.OID().String()))
	}
	for _, oid := range cert.UnknownExtKeyUsage {
		out.ExtKeyUsage = append(out.ExtKeyUsage, template.PurposeName(oid.String()))
	}
	return out
}

// publicKey says what kind of key a certificate is for.
func publicKey(cert *x509.Certificate) keyJSON {
	switch key := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		return keyJSON{"RSA", key.N.BitLen()}
	case *ecdsa.PublicKey:
		return keyJSON{"EC", key.Curve.Params().BitSize}
	}
	return keyJSON{cert.PublicKeyAlgorithm.String(), 0}
}

// downloadCertificate sends a certificate as a file.
func (a *API) downloadCertificate(w http.ResponseWriter, r *http.Request) error {
	serial, err := pathID(r, "serial")
	if err != nil {
		return err
	}
	format, err := textOf(r.URL.Query(), "format")
	if err != nil {
		return err
	}
	if format != "" && format != "pem" && format != "der" {
		return invalid("format", "must be pem or der")
	}
	var rec depot.Certificate
	var der []byte
	err = a.db.View(r.Context(), func(tx storage.Tx) (err error) {
		if rec, err = a.depot.BySerial(tx, serialOf(serial)); err != nil {
			return err
		}
		der, err = a.depot.DER(tx, rec.Fingerprint)
		return err
	})
	if err != nil {
		return err
	}
	if format == "der" {
		webui.SendFile(w, "application/pkix-cert", string(rec.Serial)+".cer", der) // RFC 2585, 4
		return nil
	}
	webui.SendFile(w, "application/x-pem-file", string(rec.Serial)+".pem", inPEM(der))
	return nil
}

// inPEM writes certificates one after the other.
func inPEM(ders ...[]byte) (text []byte) {
	for _, der := range ders {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return text
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

// soon is how far ahead the summary looks.
const soon = 30 * 24 * time.Hour

type certificateCounts struct {
	Total           int `json:"total"`
	Active          int `json:"active"`
	Expired         int `json:"expired"`
	Revoked         int `json:"revoked"`
	ExpiringIn30d   int `json:"expiring_in_30d"` // of those that are active
	IssuedInLast24h int `json:"issued_in_last_24h"`
	IssuedInLast30d int `json:"issued_in_last_30d"`
}

type summaryJSON struct {
	certificateCounts
	Templates   []templateCounts `json:"templates"`
	Assignments assignmentCounts `json:"assignments"`
	Identities  struct {
		Stuck int `json:"stuck"`
	} `json:"identities"`
}

type templateCounts struct {
	Template string `json:"template"`
	certificateCounts
}

type assignmentCounts struct {
	Pending   int `json:"pending"`
	Installed int `json:"installed"`
	Renewing  int `json:"renewing"`
	Failing   int `json:"failing"`
	Ended     int `json:"ended"`
	Stuck     int `json:"stuck"`
}

func countsOf(n depot.Counts) certificateCounts {
	return certificateCounts{
		Total: n.Total, Active: n.Active, Expired: n.Expired, Revoked: n.Revoked, ExpiringIn30d: n.Expiring,
		IssuedInLast24h: n.IssuedLastDay, IssuedInLast30d: n.IssuedLast30Days,
	}
}

// summarizeCertificates counts everything: a matter of a second where there are 100,000.
func (a *API) summarizeCertificates(w http.ResponseWriter, r *http.Request) error {
	var out summaryJSON
	err := a.db.View(r.Context(), func(tx storage.Tx) error {
		out = summaryJSON{Templates: []templateCounts{}}
		all, byTemplate, err := a.depot.Count(tx, soon)
		if err != nil {
			return err
		}
		out.certificateCounts = countsOf(all)
		for _, name := range slices.Sorted(maps.Keys(byTemplate)) {
			out.Templates = append(out.Templates, templateCounts{name, countsOf(byTemplate[name])})
		}
		assigned, err := a.issuance.Count(tx)
		if err != nil {
			return err
		}
		out.Assignments = assignmentCounts{
			Pending: assigned.ByState[issuance.Pending], Installed: assigned.ByState[issuance.Installed], Renewing: assigned.ByState[issuance.Renewing],
			Failing: assigned.ByState[issuance.Failing], Ended: assigned.ByState[issuance.Ended], Stuck: assigned.Stuck,
		}
		out.Identities.Stuck, err = a.enroll.CountOverdue(tx)
		return err
	})
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}
