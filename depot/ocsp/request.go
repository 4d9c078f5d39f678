package ocsp

import (
	"crypto"
	_ "crypto/sha1" // clients name issuers by it: RFC 5019, 2.1.1
	_ "crypto/sha256"
	_ "crypto/sha512"
	"encoding/asn1"
	"errors"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/gatehouse-mdm/gatehouse/depot"
)

const (
	// maxRequest bounds a request, in bytes. One about one certificate has about 100.
	maxRequest = 4 << 10

	// maxCertIDs is how many certificates one request may ask about.
	maxCertIDs = 16

	// maxNonce is the longest nonce that a request may carry (RFC 9654, 2.1).
	maxNonce = 128

	// maxSerial is the longest serial number, in octets (RFC 5280, 4.1.2.2).
	maxSerial = 20
)

// errMalformed means that a request can't be read.
var errMalformed = errors.New("malformed OCSP request")

var oidNonce = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2} // RFC 9654, 2.1

// hashes are the algorithms by which requests name issuers.
var hashes = map[string]crypto.Hash{
	"1.3.14.3.2.26":          crypto.SHA1,
	"2.16.840.1.101.3.4.2.1": crypto.SHA256,
	"2.16.840.1.101.3.4.2.2": crypto.SHA384,
	"2.16.840.1.101.3.4.2.3": crypto.SHA512,
}

// issuerID names an authority as requests do: by hashes of its name and of its key.
type issuerID struct {
	hash      crypto.Hash // zero for one that we don't know
	name, key string
}

// certID is one certificate that a request asks about (RFC 6960, 4.1.1).
type certID struct {
	raw    string // DER, which the answer repeats byte for byte
	issuer issuerID
	serial depot.Serial // empty for a number that no certificate can have
}

// request is what a client wants to know.
type request struct {
	certIDs []certID // at least one
	nonce   []byte   // nil if there was none
}

// Tags within an OCSPRequest (RFC 6960, 4.1.1).
var (
	tag0 = cbasn1.Tag(0).ContextSpecific().Constructed()
	tag1 = cbasn1.Tag(1).ContextSpecific().Constructed()
	tag2 = cbasn1.Tag(2).ContextSpecific().Constructed()
)

// parseRequest reads an OCSPRequest in DER. A signature is not looked at: everybody
// gets the same answers.
func parseRequest(der []byte) (r request, err error) {
	if len(der) > maxRequest {
		return request{}, errMalformed
	}
	var whole, tbs, list, skipped cryptobyte.String
	in := cryptobyte.String(der)
	if !in.ReadASN1(&whole, cbasn1.SEQUENCE) || !in.Empty() ||
		!whole.ReadASN1(&tbs, cbasn1.SEQUENCE) ||
		!whole.SkipOptionalASN1(tag0) || !whole.Empty() { // optionalSignature
		return request{}, errMalformed
	}
	var version int64
	if !tbs.ReadOptionalASN1Integer(&version, tag0, int64(0)) || version != 0 || // v1
		!tbs.SkipOptionalASN1(tag1) || // requestorName
		!tbs.ReadASN1(&list, cbasn1.SEQUENCE) {
		return request{}, errMalformed
	}
	for !list.Empty() {
		if len(r.certIDs) == maxCertIDs {
			return request{}, errMalformed
		}
		var one cryptobyte.String
		if !list.ReadASN1(&one, cbasn1.SEQUENCE) {
			return request{}, errMalformed
		}
		id, ok := readCertID(&one)
		if !ok {
			return request{}, errMalformed
		}
		if _, ok := readExtensions(&one, tag0, nil); !ok || !one.Empty() {
			return request{}, errMalformed
		}
		r.certIDs = append(r.certIDs, id)
	}
	extensions, ok := readExtensions(&tbs, tag2, oidNonce)
	if !ok || !tbs.Empty() || len(r.certIDs) == 0 {
		return request{}, errMalformed
	}
	if extensions != nil {
		nonce := cryptobyte.String(extensions)
		if !nonce.ReadASN1(&skipped, cbasn1.OCTET_STRING) || !nonce.Empty() || len(skipped) == 0 || len(skipped) > maxNonce {
			return request{}, errMalformed
		}
		r.nonce = skipped
	}
	return r, nil
}

func readCertID(in *cryptobyte.String) (id certID, ok bool) {
	var raw, body, algorithm, name, key, serial cryptobyte.String
	var oid asn1.ObjectIdentifier
	if !in.ReadASN1Element(&raw, cbasn1.SEQUENCE) {
		return certID{}, false
	}
	element := raw
	if !element.ReadASN1(&body, cbasn1.SEQUENCE) ||
		!body.ReadASN1(&algorithm, cbasn1.SEQUENCE) ||
		!algorithm.ReadASN1ObjectIdentifier(&oid) ||
		!algorithm.SkipOptionalASN1(cbasn1.NULL) || !algorithm.Empty() ||
		!body.ReadASN1(&name, cbasn1.OCTET_STRING) ||
		!body.ReadASN1(&key, cbasn1.OCTET_STRING) ||
		!body.ReadASN1(&serial, cbasn1.INTEGER) || len(serial) == 0 || !body.Empty() {
		return certID{}, false
	}
	id = certID{raw: string(raw), issuer: issuerID{hashes[oid.String()], string(name), string(key)}}
	if negative := serial[0]&0x80 != 0; !negative && len(serial) <= maxSerial {
		id.serial = depot.Serial(new(big.Int).SetBytes(serial).Text(16))
	}
	return id, true
}

// readExtensions reads the extensions under tag, if there are any, and returns the
// value of the one that is wanted, nil if it is not there. One that is critical and
// not wanted is refused (RFC 6960, 4.4), as is one that is wanted and comes twice.
func readExtensions(in *cryptobyte.String, tag cbasn1.Tag, wanted asn1.ObjectIdentifier) (value []byte, ok bool) {
	var outer, list cryptobyte.String
	var present bool
	if !in.ReadOptionalASN1(&outer, &present, tag) {
		return nil, false
	}
	if !present {
		return nil, true
	}
	if !outer.ReadASN1(&list, cbasn1.SEQUENCE) || !outer.Empty() {
		return nil, false
	}
	for !list.Empty() {
		var one, content cryptobyte.String
		var oid asn1.ObjectIdentifier
		critical := false
		if !list.ReadASN1(&one, cbasn1.SEQUENCE) ||
			!one.ReadASN1ObjectIdentifier(&oid) ||
			one.PeekASN1Tag(cbasn1.BOOLEAN) && !one.ReadASN1Boolean(&critical) ||
			!one.ReadASN1(&content, cbasn1.OCTET_STRING) || !one.Empty() {
			return nil, false
		}
		switch {
		case wanted != nil && oid.Equal(wanted):
			if value != nil {
				return nil, false
			}
			value = append([]byte{}, content...) // not nil, also if it is empty
		case critical:
			return nil, false
		}
	}
	return value, true
}
