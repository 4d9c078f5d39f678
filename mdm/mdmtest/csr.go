package mdmtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
)

// Subject is an X.501 name as a SCEP payload spells it: one inner list per RDN,
// each made of pairs of attribute (CN, O, OU, C, L, ST or a dotted identifier)
// and value.
type Subject [][][2]string

// Object identifiers of PKCS #9 and X.509.
const (
	oidChallenge        = "1.2.840.113549.1.9.7"
	oidExtensionRequest = "1.2.840.113549.1.9.14"
	oidKeyUsage         = "2.5.29.15"
	oidSubjectAltName   = "2.5.29.17"
	oidUPN              = "1.3.6.1.4.1.311.20.2.3"
)

// attributeType is the identifier of a name attribute.
func attributeType(name string) string {
	switch name {
	case "CN":
		return "2.5.4.3"
	case "C":
		return "2.5.4.6"
	case "L":
		return "2.5.4.7"
	case "ST":
		return "2.5.4.8"
	case "O":
		return "2.5.4.10"
	case "OU":
		return "2.5.4.11"
	}
	return name
}

func (s Subject) der() ([]byte, error) {
	var rdns [][]byte
	for _, rdn := range s {
		var pairs [][]byte
		for _, pair := range rdn {
			id := oid(attributeType(pair[0]))
			if id == nil {
				return nil, fmt.Errorf("subject: unknown attribute %q", pair[0])
			}
			pairs = append(pairs, der(tagSequence, id, text(pair[1])))
		}
		rdns = append(rdns, sortedSet(tagSet, pairs...))
	}
	return der(tagSequence, rdns...), nil
}

// csr is a PKCS #10 request in the making (RFC 2986), with room for what no
// honest device sends.
type csr struct {
	subject    Subject
	rawSubject []byte        // DER, in place of subject
	key        crypto.Signer // signs, and is the subject's unless public is set
	public     crypto.PublicKey
	digest     crypto.Hash
	challenges [][]byte // DirectoryStrings; one attribute each
	extensions []pkix.Extension
	attributes [][]byte // further attributes, DER
	broken     bool     // spoil the signature
}

// name is the requested subject in DER.
func (c csr) name() ([]byte, error) {
	if c.rawSubject != nil {
		return c.rawSubject, nil
	}
	return c.subject.der()
}

func (c csr) der() ([]byte, error) {
	subject, err := c.name()
	if err != nil {
		return nil, err
	}
	public := c.public
	if public == nil {
		public = c.key.Public()
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	attributes := append([][]byte{}, c.attributes...)
	for _, challenge := range c.challenges {
		attributes = append(attributes, attributeDER(oidChallenge, challenge))
	}
	if len(c.extensions) > 0 {
		var list [][]byte
		for _, e := range c.extensions {
			parts := [][]byte{oid(e.Id.String())}
			if e.Critical {
				parts = append(parts, []byte{0x01, 0x01, 0xFF})
			}
			list = append(list, der(tagSequence, append(parts, der(tagOctets, e.Value))...))
		}
		attributes = append(attributes, attributeDER(oidExtensionRequest, der(tagSequence, list...)))
	}
	info := der(tagSequence, integer(new(big.Int)), subject, spki, sortedSet(tagContext0, attributes...))
	ids, err := digestOf(c.digest)
	if err != nil {
		return nil, err
	}
	h := c.digest.New()
	h.Write(info)
	signature, err := c.key.Sign(rand.Reader, h.Sum(nil), c.digest)
	if err != nil {
		return nil, fmt.Errorf("certificate request: sign: %w", err)
	}
	if c.broken {
		signature[len(signature)/2] ^= 0x40
	}
	var algorithm []byte
	switch c.key.Public().(type) {
	case *rsa.PublicKey:
		algorithm = der(tagSequence, oid(ids.rsa), der(tagNull))
	case *ecdsa.PublicKey:
		algorithm = der(tagSequence, oid(ids.ecdsa))
	default: // Ed25519 and others have no place in SCEP; name what a test may use
		algorithm = der(tagSequence, oid("1.3.101.112"))
	}
	return der(tagSequence, info, algorithm, der(tagBitString, []byte{0}, signature)), nil
}

// keyUsageExtension asks for what the SCEP payload's "Key Usage" names:
// 1 signing, 4 encryption, 5 both. macOS asks for signing when it names nothing
// (PROTOCOL 7.4).
func keyUsageExtension(usage int64) pkix.Extension {
	bits := byte(0)
	if usage&1 != 0 || usage == 0 {
		bits |= 0x80 // digitalSignature
	}
	if usage&4 != 0 {
		bits |= 0x20 // keyEncipherment
	}
	unused := byte(7)
	if bits&0x20 != 0 {
		unused = 5
	}
	return pkix.Extension{Id: []int{2, 5, 29, 15}, Critical: true, Value: der(tagBitString, []byte{unused, bits})}
}

// altNameExtension asks for the payload's SubjectAltName.
func altNameExtension(email, dns, uri []string, upn string) pkix.Extension {
	var names [][]byte
	for _, s := range email {
		names = append(names, der(0x81, []byte(s)))
	}
	for _, s := range dns {
		names = append(names, der(0x82, []byte(s)))
	}
	for _, s := range uri {
		names = append(names, der(0x86, []byte(s)))
	}
	if upn != "" {
		names = append(names, der(tagContext0, oid(oidUPN), der(tagContext0, der(tagUTF8, []byte(upn)))))
	}
	return pkix.Extension{Id: []int{2, 5, 29, 17}, Value: der(tagSequence, names...)}
}
