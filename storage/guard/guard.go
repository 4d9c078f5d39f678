// Package guard decodes what strangers send: XML property lists, CMS messages,
// certificates and certificate requests. It bounds the input before a library
// may look at it, and checks signatures itself, because the libraries behind it
// can be brought to eat all memory, to loop, or to accept what they should not.
//
// It is the only place that decodes with groob/plist, parses with pkcs7 or
// crypto/x509 what is not our own, or asks whether a signature is right; a test
// in this package walks the tree and keeps it so. Encoding is free elsewhere.
//
// It also connects to hosts that an administrator has named, and looks where their
// names lead: see [NewClient].
//
// It knows nothing of devices or users, and judges neither trust, nor dates, nor
// revocation: who a signer is, is for the caller to say. Its errors wrap one of
// the sentinels below and never repeat the input, which may hold secrets.
package guard

import (
	"errors"
	"fmt"
)

var (
	// ErrTooLarge means that the input has more bytes, or a property list more
	// elements, than its limit.
	ErrTooLarge = errors.New("input is too large")

	// ErrPlist means that a property list is malformed or beyond its limits.
	ErrPlist = errors.New("malformed property list")

	// ErrBinaryPlist, an [ErrPlist], means that a property list is well-formed
	// perhaps, but binary. An administrator's tool may have made it: say how to
	// convert it.
	ErrBinaryPlist = fmt.Errorf("%w: it is binary, and only XML is read (convert it with `plutil -convert xml1 FILE`)", ErrPlist)

	// ErrCMS means that a CMS message (RFC 5652) is malformed, beyond its limits,
	// or of a form that no client of ours sends.
	ErrCMS = errors.New("malformed CMS message")

	// ErrCertificate means that a certificate or a certificate request (PKCS #10)
	// is malformed or beyond its limits.
	ErrCertificate = errors.New("malformed certificate or certificate request")

	// ErrKey means that a public key is not one that we work with.
	ErrKey = errors.New("unacceptable public key")

	// ErrSignature means that a signature is not right.
	ErrSignature = errors.New("invalid signature")
)

// refuse turns a panic of a decoding library into an error that wraps kind. It
// is deferred around each call of one. The panic's value is not repeated.
func refuse(kind error, err *error) {
	if recover() != nil {
		*err = fmt.Errorf("%w: the decoder gave up", kind)
	}
}

// within says whether n bytes are within limit, or within def if limit is zero.
func within(n, limit, def int) error {
	if limit == 0 {
		limit = def
	}
	if n > limit {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, n, limit)
	}
	return nil
}
