package depot

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// Application is a certificate request as a door passes it on to whoever decides on
// issuance, where whoever asks has signed in (an uploaded request) or showed the
// certificate that is to be renewed (EST). The door has checked the request's
// signature and key. What it asks for is in Asked, and is a wish.
type Application struct {
	CSR   *x509.CertificateRequest
	Asked guard.Asked

	Template string // the certificate template that is asked for by name; empty: none was named
	Door     string // by which it came, as in Certificate.Door: "csr" or "est"
	Peer     string // network address that it came from; may be empty
}

// ReadApplication reads a certificate request (PKCS #10) in PEM, DER or base64, and
// says how it was wrapped. Its errors are of type [*FieldError].
func ReadApplication(body []byte) (Application, guard.Armor, error) {
	der, armor, err := guard.UnarmorCSR(body)
	if err != nil {
		return Application{}, "", fieldError(err)
	}
	a, err := readRequest(der)
	if err != nil {
		return Application{}, "", fieldError(err)
	}
	return a, armor, nil
}

func readRequest(der []byte) (a Application, err error) {
	if a.CSR, err = guard.ParseCSR(der, 0); err != nil {
		return Application{}, err
	}
	if err := guard.CheckCSR(a.CSR); err != nil {
		return Application{}, err
	}
	a.Asked, err = guard.AskedBy(a.CSR)
	return a, err
}

// fieldError says of a request that guard refused which field of it is wrong.
func fieldError(err error) error {
	var part *guard.PartError
	switch {
	case errors.As(err, &part):
		return &FieldError{part.Part, part.Reason}
	case errors.Is(err, guard.ErrTooLarge):
		return &FieldError{"csr", "is larger than 64 KiB"}
	case errors.Is(err, guard.ErrKey):
		_, why, _ := strings.Cut(err.Error(), guard.ErrKey.Error()+": ")
		return &FieldError{"public_key", "is not acceptable: " + why + "; RSA of 2048 to 4096 bits, P-256, P-384 and P-521 are"}
	case errors.Is(err, guard.ErrSignature):
		return &FieldError{"signature", "is not right: a request is signed with its own key, by an algorithm that is still safe"}
	}
	return &FieldError{"csr", "is not a certificate request (PKCS #10) that can be read, or has more than 100 names, extensions or attributes"}
}

// FieldError says which field of a certificate request keeps it from being granted:
// "csr" for the whole, "public_key", "signature", "subject" or a part of it such as
// "subject.cn", "san" or a kind of name such as "san.upn", "key_usage",
// "ext_key_usage", "basic_constraints", "extensions", "attributes" or "template". It is
// for whoever sent the request, and tells nothing that they must not know.
type FieldError struct {
	Field  string
	Reason string // "must be the full name of the user"
}

func (e *FieldError) Error() string { return e.Field + " " + e.Reason }

// ErrQuota means that whoever asks has been given, or has tried to get, as many
// certificates as they may for now.
var ErrQuota = errors.New("too many certificate requests")

// QuotaError is an [ErrQuota] that knows when it is worth to ask again.
type QuotaError struct{ RetryAfter time.Duration }

func (e *QuotaError) Error() string {
	return fmt.Sprintf("%v: again in %v", ErrQuota, e.RetryAfter.Round(time.Second))
}

// Unwrap makes it an ErrQuota.
func (e *QuotaError) Unwrap() error { return ErrQuota }

// RetryAfter returns how long to wait after an error that is an [ErrQuota]: a minute
// if it doesn't say.
func RetryAfter(err error) time.Duration {
	var quota *QuotaError
	if errors.As(err, &quota) && quota.RetryAfter > 0 {
		return quota.RetryAfter
	}
	return time.Minute
}
