package business

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// MaxTokenFile is the size of a token file in bytes; Apple's have some 3,000.
const MaxTokenFile = 64 << 10

// Mistake is one way in which what was given as a token is none.
type Mistake string

// The mistakes.
const (
	NotAToken        Mistake = "not_a_token"
	CertificateFile  Mistake = "certificate"       // the file that goes to Apple
	ContentToken     Mistake = "content_token"     // of Apps and Books
	OtherCertificate Mistake = "other_certificate" // than those whose keys are here
	Damaged          Mistake = "damaged"
	Incomplete       Mistake = "incomplete"
	TokenExpired     Mistake = "expired"
)

// TokenError says why something can't be the server token, and what to do about it.
type TokenError struct {
	Mistake Mistake
	Reason  string // a sentence
	Next    string // another one
}

func (e *TokenError) Error() string { return "server token: " + e.Reason + " " + e.Next }

const (
	downloadIt = "In Apple Business Manager or Apple School Manager open this server under “Device Management Services” (or “MDM Servers”) and choose “Download Token”."
	uploadIt   = "Upload this server’s certificate there first, then download the token, which is for that certificate alone."
)

func notAToken(reason string) *TokenError {
	return &TokenError{NotAToken, reason, downloadIt + " The file’s name ends in .p7m."}
}

// credentials are what Apple's token file says ("Authenticating for Automated Device
// Enrollment").
type credentials struct {
	ConsumerKey    string    `json:"consumer_key"`
	ConsumerSecret string    `json:"consumer_secret"`
	AccessToken    string    `json:"access_token"`
	AccessSecret   string    `json:"access_secret"`
	Expires        time.Time `json:"access_token_expiry"`
}

// Format writes "[secret]" for every verb.
func (credentials) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[secret]")) }

// id tells tokens apart without telling them.
func (c credentials) id() string {
	sum := sha256.Sum256([]byte(c.ConsumerKey + "\x00" + c.AccessToken + "\x00" + c.AccessSecret))
	return hex.EncodeToString(sum[:])
}

// server tells device management services apart: a token and those that renew it have
// one consumer key.
func (c credentials) server() string {
	sum := sha256.Sum256([]byte(c.ConsumerKey))
	return hex.EncodeToString(sum[:16])
}

// tokenRecord is a token as it is kept.
type tokenRecord struct {
	ID      string    `json:"id"`
	Server  string    `json:"server"`
	Sealed  []byte    `json:"sealed"` // credentials in JSON
	Expires time.Time `json:"expires"`
	Stored  time.Time `json:"stored"`
}

func (s *Service) sealToken(c credentials) (*tokenRecord, error) {
	plain, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	t := &tokenRecord{ID: c.id(), Server: c.server(), Expires: c.Expires.UTC(), Stored: s.now().UTC()}
	t.Sealed = s.box.Seal(t.purpose(), plain)
	return t, nil
}

func (t tokenRecord) purpose() string { return "apple business token " + t.ID }

func (s *Service) openToken(t tokenRecord) (c credentials, err error) {
	plain, err := s.box.Open(t.purpose(), t.Sealed)
	if err != nil {
		return credentials{}, fmt.Errorf("server token: %w", err)
	}
	if err := json.Unmarshal(plain, &c); err != nil {
		return credentials{}, fmt.Errorf("server token: %w", err)
	}
	return c, nil
}

// readToken reads a token as Apple hands it out, encrypted to the certificate of one of
// the pairs, which it returns, or as somebody else has decrypted it, where it returns
// none. Errors are *TokenError, ErrNoKey, or the key's.
func (s *Service) readToken(file []byte, pairs []pair) (credentials, *pair, error) {
	if len(file) > MaxTokenFile {
		return credentials{}, nil, notAToken(fmt.Sprintf("The file has more than %d bytes.", MaxTokenFile))
	}
	cms, plain, err := unwrap(file)
	if err != nil {
		return credentials{}, nil, err
	}
	var of *pair
	if cms != nil {
		if len(pairs) == 0 {
			return credentials{}, nil, ErrNoKey
		}
		if plain, of, err = s.decrypt(cms, pairs); err != nil {
			return credentials{}, nil, err
		}
	}
	c, err := readCredentials(plain)
	if err != nil {
		return credentials{}, nil, err
	}
	if !s.now().Before(c.Expires) {
		return credentials{}, nil, &TokenError{
			TokenExpired, fmt.Sprintf("The token expired on %s.", c.Expires.UTC().Format("2 January 2006")), downloadIt,
		}
	}
	return c, of, nil
}

func (s *Service) decrypt(cms []byte, pairs []pair) ([]byte, *pair, error) {
	for i := range pairs {
		cert, err := pairs[i].certificate()
		if err != nil {
			return nil, nil, err
		}
		key, err := s.open(pairs[i])
		if err != nil {
			return nil, nil, err
		}
		plain, err := guard.DecryptEnveloped(cms, cert, key, MaxTokenFile)
		switch {
		case err == nil:
			return plain, &pairs[i], nil
		case errors.Is(err, guard.ErrNotRecipient):
			continue
		case errors.Is(err, guard.ErrDecrypt):
			return nil, nil, &TokenError{Damaged, "The token is for this server’s certificate, and can’t be decrypted: the file has changed.", downloadIt}
		default:
			return nil, nil, notAToken("The file is not encrypted in the way in which Apple encrypts tokens.")
		}
	}
	return nil, nil, &TokenError{OtherCertificate, "The token was made for another certificate than this server’s.", uploadIt}
}

// unwrap tells what file is: an encrypted token, or one that was decrypted already.
func unwrap(file []byte) (cms, plain []byte, err error) {
	text := bytes.TrimSpace(bytes.TrimPrefix(file, []byte("\xef\xbb\xbf")))
	switch {
	case len(text) == 0:
		return nil, nil, notAToken("The file is empty.")
	case text[0] == '{', bytes.Contains(text, []byte(beginMessage)):
		return nil, text, nil
	case bytes.HasPrefix(file, []byte{0x30}) && !isText(file):
		return file, nil, nil
	case bytes.Contains(text, []byte("-----BEGIN ")):
		return unwrapPEM(text)
	case text[0] == '<':
		return nil, nil, notAToken("This is a web page or a property list, and not a token.")
	}
	// RFC 8551, 3.2: fields of a header, an empty line, base64. Some copies lack the header.
	body := text
	if bytes.IndexByte(firstLine(text), ':') > 0 {
		_, rest, ok := cutEmptyLine(text)
		if !ok {
			return nil, nil, notAToken("The file ends before the token begins.")
		}
		body = rest
	}
	// Lines may have been broken anew on the way here.
	cms, err = base64.StdEncoding.DecodeString(string(withoutSpace(body)))
	switch {
	case err != nil:
		return nil, nil, notAToken("The file is not a token as Apple hands it out.")
	case bytes.HasPrefix(bytes.TrimSpace(cms), []byte("{")):
		return nil, nil, &TokenError{
			ContentToken, "This is a content token, which is for apps and books.",
			"The server token is another one. " + downloadIt,
		}
	}
	return cms, nil, nil
}

func unwrapPEM(text []byte) (cms, plain []byte, err error) {
	block, _ := pem.Decode(text)
	switch {
	case block == nil:
		return nil, nil, notAToken("The file is not a token as Apple hands it out.")
	case block.Type == "PKCS7" || block.Type == "CMS":
		return block.Bytes, nil, nil
	case strings.HasSuffix(block.Type, "CERTIFICATE"):
		return nil, nil, &TokenError{
			CertificateFile, "This is a certificate, as it goes to Apple, and not the token that comes back.", uploadIt,
		}
	case strings.HasSuffix(block.Type, "KEY"):
		return nil, nil, notAToken("This is a key, and not a token. Keep it to yourself.")
	}
	return nil, nil, notAToken("The file is not a token as Apple hands it out.")
}

const (
	beginMessage = "-----BEGIN MESSAGE-----"
	endMessage   = "-----END MESSAGE-----"
)

// readCredentials reads what was in the encryption: a header as of a mail, and JSON
// between two lines. Of the JSON only the object counts.
func readCredentials(plain []byte) (credentials, error) {
	if _, rest, ok := bytes.Cut(plain, []byte(beginMessage)); ok {
		plain, _, _ = bytes.Cut(rest, []byte(endMessage))
	} else if _, rest, ok := cutEmptyLine(plain); ok && !bytes.HasPrefix(bytes.TrimSpace(plain), []byte("{")) {
		plain = rest
	}
	var fields map[string]any
	if err := json.Unmarshal(plain, &fields); err != nil {
		return credentials{}, notAToken("What the file holds is not a server token.")
	}
	text := func(name string) string {
		s, _ := fields[name].(string)
		return strings.TrimSpace(s)
	}
	c := credentials{
		ConsumerKey: text("consumer_key"), ConsumerSecret: text("consumer_secret"),
		AccessToken: text("access_token"), AccessSecret: text("access_secret"),
	}
	for _, name := range []string{"consumer_key", "consumer_secret", "access_token", "access_secret", "access_token_expiry"} {
		switch value := text(name); {
		case value == "":
			return credentials{}, &TokenError{Incomplete, "The token has no " + name + ".", downloadIt}
		case strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }):
			return credentials{}, &TokenError{Damaged, "The token’s " + name + " is not as Apple writes it: the file has changed.", downloadIt}
		}
	}
	var err error
	if c.Expires, err = time.Parse(time.RFC3339, text("access_token_expiry")); err != nil {
		return credentials{}, &TokenError{Incomplete, "The token’s access_token_expiry is not a time.", downloadIt}
	}
	return c, nil
}

func firstLine(text []byte) []byte {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	return line
}

// cutEmptyLine returns what is before and behind the first line without anything on it.
func cutEmptyLine(text []byte) (before, after []byte, ok bool) {
	for at := 0; ; {
		n := bytes.IndexByte(text[at:], '\n')
		if n < 0 {
			return text, nil, false
		}
		if len(bytes.TrimSpace(text[at:at+n])) == 0 {
			return text[:at], text[at+n+1:], true
		}
		at += n + 1
	}
}

func withoutSpace(text []byte) []byte {
	return bytes.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, text)
}

// isText says whether all of b can be printed, as base64 that happens to begin with "0".
func isText(b []byte) bool {
	return !bytes.ContainsFunc(b, func(r rune) bool { return r == unicode.ReplacementChar || r < ' ' && !unicode.IsSpace(r) })
}
