package guard

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
)

// Armor is how bytes are wrapped to travel.
type Armor string

// The armors.
const (
	ArmorNone   Armor = "der"
	ArmorPEM    Armor = "pem"    // RFC 7468
	ArmorBase64 Armor = "base64" // without the lines that make it PEM
)

// UnarmorCSR takes a certificate request out of what it came in, which it finds out
// by looking: PEM, with or without text around it, base64 in either alphabet, padded
// and broken into lines or not, or DER. What it returns may still be anything; what
// can't be a request is a [PartError] that says what to do, of the part "csr".
func UnarmorCSR(body []byte) (der []byte, armor Armor, err error) {
	body = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")) // some editors begin files with it
	switch {
	case len(bytes.TrimSpace(body)) == 0:
		return nil, "", &PartError{"csr", "is missing: send a certificate request (PKCS #10) in PEM or DER"}
	case len(body) > 1 && body[0] == tagSequence && body[1] >= 0x80: // no text begins like that
		return body, ArmorNone, nil
	case bytes.Contains(body, []byte("PRIVATE KEY-----")):
		return nil, "", &PartError{"csr", "came with a private key, which nobody else should ever see: make a new key, and send the request alone"}
	case bytes.Contains(body, []byte("-----BEGIN ")):
		der, err := requestInPEM(body)
		return der, ArmorPEM, err
	}
	text := bytes.Map(func(r rune) rune {
		switch r {
		case ' ', '\t', '\r', '\n':
			return -1
		case '-':
			return '+'
		case '_':
			return '/'
		}
		return r
	}, body)
	der, err = base64.RawStdEncoding.DecodeString(string(bytes.TrimRight(text, "=")))
	if err != nil {
		return nil, "", &PartError{"csr", "is neither PEM nor DER, nor DER in base64"}
	}
	return der, ArmorBase64, nil
}

func requestInPEM(body []byte) ([]byte, error) {
	block, rest := pem.Decode(body)
	if block == nil {
		return nil, &PartError{"csr", "is PEM that can't be read"}
	}
	switch block.Type {
	case "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST":
	case "CERTIFICATE":
		return nil, &PartError{"csr", "is a certificate, not a request for one"}
	default:
		return nil, &PartError{"csr", "is PEM of something else than a CERTIFICATE REQUEST"}
	}
	if more, _ := pem.Decode(rest); more != nil {
		return nil, &PartError{"csr", "must be one: there is more than one block of PEM"}
	}
	return block.Bytes, nil
}
