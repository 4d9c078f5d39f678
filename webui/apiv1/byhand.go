package apiv1

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// orderRequest asks for a certificate by hand.
type orderRequest struct {
	Template   string          `json:"template"`
	DeviceID   mdm.DeviceID    `json:"device_id"`
	User       string          `json:"user"`
	Subject    json.RawMessage `json:"subject"` // as in a template, without variables
	SANs       json.RawMessage `json:"sans"`    // a sansRequest
	CSR        string          `json:"csr"`     // PEM, or DER in base64; empty: a key is made
	Format     string          `json:"format"`  // of the key and the certificate: pkcs12 or pem
	Password   string          `json:"password"`
	Encryption string          `json:"encryption"` // of the PKCS #12 file: compatible or modern
}

// deliveryJSON is a certificate that was made by hand. What was not asked for is empty.
type deliveryJSON struct {
	Certificate certificateJSON `json:"certificate"`
	PEM         string          `json:"pem"`
	Chain       string          `json:"chain"` // PEM: who issued it, up to the root
	PKCS12      []byte          `json:"pkcs12"`
	Password    string          `json:"password"`    // of the PKCS #12 file, if it was made here
	PrivateKey  string          `json:"private_key"` // PKCS #8 in PEM
}

const (
	formatPKCS12 = "pkcs12"
	formatPEM    = "pem"
)

// createCertificate makes a certificate by hand. A key that is made here is in the answer
// and nowhere else.
func (a *API) createCertificate(w http.ResponseWriter, r *http.Request) error {
	var in orderRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	order, err := in.order()
	if err != nil {
		return err
	}
	preview, err := flag(r.URL.Query(), "preview")
	if err != nil {
		return err
	}
	if preview {
		return a.previewCertificate(w, r, order)
	}
	order.Peer = principal(r).Peer
	made, err := a.issuance.IssueByHand(r.Context(), principal(r), order)
	if err != nil {
		return err
	}
	out := deliveryJSON{PEM: string(inPEM(made.Certificate.Raw)), PKCS12: []byte{}}
	for _, above := range made.Chain {
		out.Chain += string(inPEM(above.Raw))
	}
	switch {
	case made.Key == nil:
	case in.Format == formatPEM:
		pkcs8, err := x509.MarshalPKCS8PrivateKey(made.Key)
		if err != nil {
			return err
		}
		out.PrivateKey = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	default:
		password := in.Password
		if password == "" {
			password = rand.Text()
			out.Password = password
		}
		if out.PKCS12, err = depot.EncodePKCS12(made.Key, made.Certificate, made.Chain, password, depot.Protection(in.Encryption)); err != nil {
			return err
		}
	}
	err = a.db.View(r.Context(), func(tx storage.Tx) error {
		rec, err := a.depot.Get(tx, depot.FingerprintOf(made.Certificate))
		if err != nil {
			return err
		}
		out.Certificate, err = a.certificate(tx, rec)
		return err
	})
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/certificates/"+out.Certificate.Serial)
	return webui.WriteJSON(w, http.StatusCreated, out)
}

// orderPreviewJSON is what a certificate would be like.
type orderPreviewJSON struct {
	Subject     string    `json:"subject"`
	SANs        sansJSON  `json:"sans"`
	KeyUsage    []string  `json:"key_usage"`
	ExtKeyUsage []string  `json:"ext_key_usage"`
	NotAfter    time.Time `json:"not_after"` // if it is issued now
}

// previewCertificate says what an order would come to. It makes nothing.
func (a *API) previewCertificate(w http.ResponseWriter, r *http.Request, order issuance.Order) error {
	c, err := a.issuance.PreviewByHand(r.Context(), principal(r), order)
	if err != nil {
		return err
	}
	var subject pkix.RDNSequence
	if _, err := asn1.Unmarshal(c.RawSubject, &subject); err != nil {
		return fmt.Errorf("subject of a preview: %w", err)
	}
	uses := detailsOf(&x509.Certificate{KeyUsage: c.KeyUsage, ExtKeyUsage: c.ExtKeyUsage, UnknownExtKeyUsage: c.ExtKeyUsageOIDs})
	return webui.WriteJSON(w, http.StatusOK, orderPreviewJSON{
		Subject: subject.String(),
		SANs: sansJSON{
			RFC822Name: list(c.EmailAddresses), DNSName: list(c.DNSNames), UniformResourceIdentifier: list(c.URIs),
			NTPrincipalName: strings.Join(c.UserPrincipalNames, " "),
		},
		KeyUsage: uses.KeyUsage, ExtKeyUsage: uses.ExtKeyUsage, NotAfter: c.NotAfter.UTC(),
	})
}

// order reads what in asks for, and sets what it leaves open to its default.
func (in *orderRequest) order() (issuance.Order, error) {
	var bad fieldErrors
	order := issuance.Order{Template: in.Template, DeviceID: in.DeviceID, User: in.User, SANs: bad.sans(in.SANs)}
	if in.Template == "" {
		bad.add("template", "is required")
	}
	if given(in.Subject) {
		order.Subject = bad.subject(in.Subject)
	}
	if in.CSR != "" {
		application, _, err := depot.ReadApplication([]byte(in.CSR))
		var field *depot.FieldError
		switch {
		case errors.As(err, &field):
			bad.add("csr"+strings.TrimPrefix("."+field.Field, ".csr"), field.Reason)
		case err != nil:
			return issuance.Order{}, err
		}
		order.CSR = &application
	}
	bad.file(in)
	if len(bad) > 0 {
		return issuance.Order{}, invalids(bad)
	}
	return order, nil
}

// file checks in what form the key is to be given away.
func (e *fieldErrors) file(in *orderRequest) {
	if in.Format == "" {
		in.Format = formatPKCS12
		if in.CSR != "" {
			in.Format = formatPEM
		}
	}
	switch in.Format {
	case formatPEM:
		if in.Password != "" {
			e.add("password", `is for a PKCS #12 file: set format to "pkcs12"`)
		}
		if in.Encryption != "" {
			e.add("encryption", `is for a PKCS #12 file: set format to "pkcs12"`)
		}
		return
	case formatPKCS12:
		if in.CSR != "" {
			e.add("format", `must be "pem" with a csr: a PKCS #12 file takes the key, which is not here`)
		}
	default:
		e.add("format", `must be "pkcs12" or "pem"`)
	}
	switch depot.Protection(in.Encryption) {
	case "":
		in.Encryption = string(depot.Compatible)
	case depot.Compatible, depot.Modern:
	default:
		e.add("encryption", `must be "compatible" or "modern"`)
	}
	switch {
	case in.Password == "":
	case utf8.RuneCountInString(in.Password) < 8 || len(in.Password) > 128:
		e.add("password", "must have at least 8 characters, and at most 128 bytes")
	case strings.ContainsFunc(in.Password, func(r rune) bool { return unicode.IsControl(r) || r > 0xffff }):
		e.add("password", "must have no control characters, and none that PKCS #12 can't hold, such as emoji")
	}
}
