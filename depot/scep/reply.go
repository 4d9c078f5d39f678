package scep

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"

	"github.com/smallstep/pkcs7"
	"github.com/smallstep/scep"
)

// certRep is what a reply says.
type certRep struct {
	status   scep.PKIStatus
	failInfo scep.FailInfo // for FAILURE
	content  []byte        // for SUCCESS; else there is none
}

// reply signs a CertRep (RFC 8894, 3.3.2) with the very certificate that
// the request was encrypted to, which is also the only one in it. Each attribute is there
// once; the strings are PrintableStrings, which Apple's clients insist on.
func reply(m *message, rep certRep) ([]byte, error) {
	nonce := make([]byte, 16)
	rand.Read(nonce) // never fails
	attrs := []pkcs7.Attribute{
		{Type: oidMessageType, Value: printableString(string(scep.CertRep))},
		{Type: oidPKIStatus, Value: printableString(string(rep.status))},
		{Type: oidTransactionID, Value: printableString(m.transactionID)},
		{Type: oidRecipientNonce, Value: m.senderNonce},
		{Type: oidSenderNonce, Value: nonce},
	}
	if rep.status == scep.FAILURE {
		attrs = append(attrs, pkcs7.Attribute{Type: oidFailInfo, Value: printableString(string(rep.failInfo))})
	}

	der, err := sign(rep.content, m.authority.Certificate(), m.authority.Signer(), attrs)
	if err != nil {
		return nil, fmt.Errorf("build reply: %w", err)
	}
	return der, nil
}

// sign returns a SignedData of content, by the owner of cert, which is the only
// certificate in it.
func sign(content []byte, cert *x509.Certificate, key crypto.Signer, attrs []pkcs7.Attribute) ([]byte, error) {
	sd, err := pkcs7.NewSignedData(content)
	if err != nil {
		return nil, err
	}
	sd.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	if err := sd.AddSigner(cert, key, pkcs7.SignerInfoConfig{ExtraSignedAttributes: attrs}); err != nil {
		return nil, err
	}
	// The key's algorithm alone, as OpenSSL writes it, and not with the digest's: both are
	// allowed (RFC 3370, 3.2), and strongSwan 5.9 reads only this one.
	info := &sd.GetSignedData().SignerInfos[0]
	if _, ok := key.Public().(*rsa.PublicKey); ok {
		info.DigestEncryptionAlgorithm = pkix.AlgorithmIdentifier{Algorithm: pkcs7.OIDEncryptionAlgorithmRSA, Parameters: asn1.NullRawValue}
	}
	if content == nil {
		sd.Detach() // no content, rather than an empty one
	}
	return sd.Finish()
}

func printableString(s string) asn1.RawValue {
	return asn1.RawValue{Tag: asn1.TagPrintableString, Bytes: []byte(s)}
}
