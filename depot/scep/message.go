package scep

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/smallstep/scep"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// Attributes of a pkiMessage (RFC 8894, 3.2.1).
var (
	oidMessageType    = asn1.ObjectIdentifier{2, 16, 840, 1, 113733, 1, 9, 2}
	oidPKIStatus      = asn1.ObjectIdentifier{2, 16, 840, 1, 113733, 1, 9, 3}
	oidFailInfo       = asn1.ObjectIdentifier{2, 16, 840, 1, 113733, 1, 9, 4}
	oidSenderNonce    = asn1.ObjectIdentifier{2, 16, 840, 1, 113733, 1, 9, 5}
	oidRecipientNonce = asn1.ObjectIdentifier{2, 16, 840, 1, 113733, 1, 9, 6}
	oidTransactionID  = asn1.ObjectIdentifier{2, 16, 840, 1, 113733, 1, 9, 7}

	// oidChallengePassword is PKCS #9's attribute of a request (RFC 2985, 5.4.1).
	oidChallengePassword = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}
)

const (
	maxTransactionID = 128 // bytes; Apple's has 40
	maxNonce         = 64  // bytes; RFC 8894 wants 16
	maxChallenge     = 255 // characters, of PKCS #9's upper bound
)

// message is a pkiMessage whose signature is right.
type message struct {
	messageType   string // as sent: scep.MessageType panics when one that it does not know is printed, and panics again when that panic is
	transactionID string
	senderNonce   []byte
	signature     guard.Signature
	peer          string

	authority *depot.Authority // that it was encrypted to
	envelope  guard.Envelope
	cipher    contentCipher // of envelope, once it was opened
}

// parseMessage reads a request and checks its signature.
func parseMessage(raw []byte) (*message, error) {
	sig, err := guard.VerifyAttached(raw, maxMessage)
	if err != nil {
		return nil, err
	}
	m := &message{signature: sig}
	if m.messageType, err = printable(sig.Attributes, oidMessageType); err != nil {
		return nil, fmt.Errorf("messageType: %w", err)
	}
	if m.transactionID, err = printable(sig.Attributes, oidTransactionID); err != nil {
		return nil, fmt.Errorf("transactionID: %w", err)
	}
	if m.senderNonce, err = octets(sig.Attributes, oidSenderNonce); err != nil {
		return nil, fmt.Errorf("senderNonce: %w", err)
	}
	return m, nil
}

// printable reads an attribute that is a short PrintableString. Some clients call
// the same characters something else.
func printable(attrs []guard.Attribute, oid asn1.ObjectIdentifier) (string, error) {
	value, ok, err := guard.One(attrs, oid)
	if err != nil {
		return "", err
	}
	var s cryptobyte.String
	var tag cbasn1.Tag
	in := cryptobyte.String(value)
	if !ok || !in.ReadAnyASN1(&s, &tag) || !in.Empty() {
		return "", errors.New("missing")
	}
	switch tag {
	case cbasn1.PrintableString, cbasn1.UTF8String, cbasn1.IA5String:
	default:
		return "", errors.New("not a string")
	}
	if len(s) == 0 || len(s) > maxTransactionID {
		return "", fmt.Errorf("%d bytes, not 1 to %d", len(s), maxTransactionID)
	}
	for _, c := range s {
		if !isPrintable(c) {
			return "", errors.New("a character that a PrintableString does not have")
		}
	}
	return string(s), nil
}

// isPrintable says whether c is of ASN.1's PrintableString (X.680, 41.4).
func isPrintable(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(" '()+,-./:=?", c) >= 0
}

func octets(attrs []guard.Attribute, oid asn1.ObjectIdentifier) ([]byte, error) {
	value, ok, err := guard.One(attrs, oid)
	if err != nil {
		return nil, err
	}
	var s cryptobyte.String
	in := cryptobyte.String(value)
	if !ok || !in.ReadASN1(&s, cbasn1.OCTET_STRING) || !in.Empty() {
		return nil, errors.New("missing")
	}
	if len(s) == 0 || len(s) > maxNonce {
		return nil, fmt.Errorf("%d bytes, not 1 to %d", len(s), maxNonce)
	}
	return s, nil
}

// admit refuses a message by what its sender signed in the clear, before the
// authority's key is used on it.
func (s *Service) admit(m *message) error {
	switch m.messageType {
	case string(scep.PKCSReq), string(scep.RenewalReq):
	default:
		return fmt.Errorf("message type %q", m.messageType)
	}
	if m.signature.Others > 0 {
		return fmt.Errorf("%d certificates beside the signer's", m.signature.Others)
	}
	// The certificate goes back encrypted to the signer, which takes RSA.
	if _, ok := m.signature.Certificate.PublicKey.(*rsa.PublicKey); !ok {
		return errors.New("the signer's key is not RSA")
	}
	return nil
}

// request decrypts and checks the certificate request in m.
func (s *Service) request(m *message) (depot.Request, error) {
	der, cipher := open(m)
	csr, err := guard.ParseCSR(der, maxMessage)
	if err != nil {
		return depot.Request{}, fmt.Errorf("decrypted request: %w", err)
	}
	m.cipher = cipher
	if err := guard.CheckCSR(csr); err != nil {
		return depot.Request{}, err
	}
	if key, ok := csr.PublicKey.(*rsa.PublicKey); !ok || s.ours(key) {
		return depot.Request{}, errors.New("the request's key is not RSA, or ours")
	}
	attrs, err := guard.CSRAttributes(csr)
	if err != nil {
		return depot.Request{}, err
	}
	challenge, err := challengePassword(attrs)
	if err != nil {
		return depot.Request{}, fmt.Errorf("challengePassword: %w", err)
	}
	r := depot.Request{
		TransactionID: m.transactionID,
		Challenge:     challenge,
		CSR:           csr,
		Signer:        m.signature.Certificate,
		Renewal:       m.messageType == string(scep.RenewalReq),
		Peer:          m.peer,
	}
	if err := s.checkSigner(r); err != nil {
		return depot.Request{}, err
	}
	return r, nil
}

// checkSigner refuses a request that neither the key it is for has signed (RFC
// 8894, 2.3) nor a certificate of ours. Apple's clients say PKCSReq in both cases,
// so that the message type tells nothing but that a renewal must be the latter.
// Whether a certificate of ours is still good for a renewal is the issuer's to
// judge, which has its record.
func (s *Service) checkSigner(r depot.Request) error {
	var claims error
	for _, a := range slices.Concat(s.authorities, s.retired) {
		if !bytes.Equal(r.Signer.RawIssuer, a.Certificate().RawSubject) {
			continue
		}
		if claims = guard.CheckIssued(r.Signer, a.Certificate()); claims == nil {
			return nil
		}
	}
	if claims != nil {
		return fmt.Errorf("the signer's certificate claims to be ours: %w", claims)
	}
	if r.Renewal {
		return errors.New("a renewal that no certificate of ours has signed")
	}
	if !sameKey(r.Signer.PublicKey, r.CSR.PublicKey) && !throwaway(r) {
		return errors.New("the signer's key is not the one of the request")
	}
	return nil
}

// ours says whether key is that of an authority.
func (s *Service) ours(key *rsa.PublicKey) bool {
	return slices.ContainsFunc(s.authorities, func(a *depot.Authority) bool { return key.Equal(a.Certificate().PublicKey) })
}

// throwawayName is the subject under which mdmb, the field's open device simulator,
// signs a first request with a key made for that one message.
const throwawayName = "SCEP SIGNER"

// throwaway lets such a request pass. RFC 8894, 2.3, asks for the request's own key
// with a SHOULD, and nothing hangs on it here: the request proves its key by its
// own signature, and its right to a certificate by the challenge inside the
// envelope. Whoever has that could sign with the right key as well; the strict
// rule is kept for everybody else because a client that breaks it is likely broken.
func throwaway(r depot.Request) bool {
	return r.Challenge != "" && r.Signer.Subject.CommonName == throwawayName && bytes.Equal(r.Signer.RawSubject, r.Signer.RawIssuer)
}

func sameKey(a, b any) bool {
	switch a := a.(type) {
	case *rsa.PublicKey:
		return a.Equal(b)
	case *ecdsa.PublicKey:
		return a.Equal(b)
	}
	return false
}

// challengePassword reads the attribute of that name, empty if there is none. It
// is a DirectoryString (RFC 2985, 5.4.1), or by habit an IA5String.
func challengePassword(attrs []guard.Attribute) (string, error) {
	value, ok, err := guard.One(attrs, oidChallengePassword)
	if err != nil || !ok {
		return "", err
	}
	var raw cryptobyte.String
	var tag cbasn1.Tag
	in := cryptobyte.String(value)
	if !in.ReadAnyASN1(&raw, &tag) || !in.Empty() {
		return "", errors.New("malformed")
	}
	text, err := directoryString(tag, raw)
	if err != nil {
		return "", err
	}
	if n := utf8.RuneCountInString(text); n == 0 || n > maxChallenge {
		return "", fmt.Errorf("%d characters, not 1 to %d", n, maxChallenge)
	}
	return text, nil
}

// bmpString is the tag of UTF-16 in two bytes a character, big-endian.
const bmpString = cbasn1.Tag(30)

func directoryString(tag cbasn1.Tag, raw []byte) (string, error) {
	switch tag {
	case cbasn1.PrintableString, cbasn1.IA5String, cbasn1.T61String:
		for _, c := range raw {
			if c >= utf8.RuneSelf {
				return "", errors.New("not ASCII")
			}
		}
		return string(raw), nil
	case cbasn1.UTF8String:
		if !utf8.Valid(raw) {
			return "", errors.New("not UTF-8")
		}
		return string(raw), nil
	case bmpString:
		if len(raw)%2 != 0 {
			return "", errors.New("half a character")
		}
		units := make([]uint16, 0, len(raw)/2)
		for ; len(raw) > 0; raw = raw[2:] {
			units = append(units, uint16(raw[0])<<8|uint16(raw[1]))
		}
		return string(utf16.Decode(units)), nil
	}
	return "", errors.New("not a string")
}
