package apns

import "fmt"

// Kind is a kind of mistake that a person makes with a file for push certificates.
type Kind string

// The kinds.
const (
	Empty            Kind = "empty"
	TooLarge         Kind = "too_large"
	NotReadable      Kind = "not_readable"
	WebPage          Kind = "web_page"
	IsProfile        Kind = "is_profile"
	IsRequest        Kind = "is_request"
	IsRequestFile    Kind = "is_request_file"
	IsMailedFile     Kind = "is_mailed_file"
	IsVendor         Kind = "is_vendor_certificate"
	IsOwnAuthority   Kind = "is_own_authority"
	IsAuthority      Kind = "is_authority"
	IsApp            Kind = "is_app_certificate"
	IsSandbox        Kind = "is_sandbox_certificate"
	NoCertificate    Kind = "no_certificate"
	NoKey            Kind = "no_key"
	NoTopic          Kind = "no_topic"
	KeyUnreadable    Kind = "key_unreadable"
	KeyEncrypted     Kind = "key_encrypted"
	WrongPassword    Kind = "wrong_password"
	KeyMismatch      Kind = "key_mismatch"
	KeyType          Kind = "key_type"
	SeveralCertified Kind = "several_certificates"
	SeveralKeys      Kind = "several_keys"
	Expired          Kind = "expired"
	NotYetValid      Kind = "not_yet_valid"

	NotVendor     Kind = "not_vendor_certificate"
	ChainMissing  Kind = "chain_incomplete"
	NoVendor      Kind = "no_vendor_certificate"
	VendorExpired Kind = "vendor_certificate_expired"
	NotMailed     Kind = "not_mailed_file"
	OtherRequest  Kind = "other_request"
)

// Mistake says what is wrong with a file, in sentences for the person who has it.
type Mistake struct {
	Kind   Kind
	Reason string // what the matter is
	Next   string // what to do about it
}

// Error implements error.
func (m *Mistake) Error() string { return m.Reason }

// Is lets errors.Is compare kinds.
func (m *Mistake) Is(target error) bool {
	other, ok := target.(*Mistake)
	return ok && other.Kind == m.Kind
}

// mistake returns the mistake of a kind; args are for the verbs in its reason.
func mistake(k Kind, args ...any) *Mistake {
	text := mistakes[k]
	return &Mistake{Kind: k, Reason: fmt.Sprintf(text.reason, args...), Next: text.next}
}

const (
	fromApple = "Upload the certificate that Apple’s Push Certificates Portal gave you (MDM_…_Certificate.pem), with the private key of its request where that was not made here."
	unlocked  = "Upload it again with its password, or decrypt it before: openssl pkcs8 -in KEY -out PLAIN."
)

var mistakes = map[Kind]struct{ reason, next string }{
	Empty:            {"The file is empty.", fromApple},
	TooLarge:         {"The file is larger than any with a certificate and its key, or more work to decrypt than any program asks for.", fromApple},
	NotReadable:      {"There is neither a certificate nor a private key in the file that can be read.", fromApple + " PEM, DER and PKCS #12 are read."},
	WebPage:          {"The file is a web page.", "Sign in at identity.apple.com/pushcert, press Download at the certificate, and upload the file that comes."},
	IsProfile:        {"The file is a configuration profile, not a certificate.", fromApple},
	IsRequest:        {"The file is a certificate signing request: Apple has not made a certificate of it yet.", "Have it signed by an MDM vendor, upload what comes of that at identity.apple.com/pushcert, and upload here what Apple gives you."},
	IsRequestFile:    {"The file is the request for Apple, not the certificate.", "Upload it at identity.apple.com/pushcert, and here what Apple gives you for it."},
	IsMailedFile:     {"The file is encrypted, as mdmcert.download mails it.", "Hand it to the request that it answers (gatehouse pushcert mdmcert ID FILE): it becomes the request for Apple."},
	IsVendor:         {"The certificate is an MDM vendor’s, which signs requests for push certificates (%s).", "Keep it as the vendor certificate (gatehouse pushcert vendor), make a request with it, and upload here what Apple gives you for that."},
	IsOwnAuthority:   {"This is %s, not a push certificate.", fromApple},
	IsAuthority:      {"The certificate is an authority’s (%s), not a push certificate.", fromApple},
	IsApp:            {"The certificate is an app’s push certificate: its topic %s is an app’s, not one that devices use.", "A push certificate for device management comes from identity.apple.com/pushcert; its topic begins with com.apple.mgmt."},
	IsSandbox:        {"The certificate is for developing an app, by Apple’s sandbox (%s), which pushes to no managed device.", "A push certificate for device management comes from identity.apple.com/pushcert; its topic begins with com.apple.mgmt."},
	NoCertificate:    {"There is a private key in the file, and no certificate.", "Add the certificate that Apple’s Push Certificates Portal gave you."},
	NoKey:            {"The private key is missing: there is only a certificate, and its key was not made here.", "Add the private key of the request that Apple made it for. Where that is lost, make a new request here and renew the certificate at Apple with it."},
	NoTopic:          {"The certificate has no push topic, so it is no push certificate (%s).", fromApple},
	KeyUnreadable:    {"The private key can’t be read.", "It may be cut off, or of a format that is not known here: convert it with openssl pkcs8 -topk8 -nocrypt -in KEY -out PLAIN."},
	KeyEncrypted:     {"The private key is encrypted, and its password is missing.", unlocked},
	WrongPassword:    {"The password is wrong, or the file is damaged.", unlocked},
	KeyMismatch:      {"The private key does not belong to the certificate.", "Find the key of the request that Apple made this certificate for; each request has its own."},
	KeyType:          {"The key is none that push certificates have: %s.", "Make a request with an RSA key of 2048 bits, as gatehouse pushcert csr does, and renew the certificate at Apple with it."},
	SeveralCertified: {"There are several certificates in the file, and none of them issued the others: %s.", "Upload them one by one."},
	SeveralKeys:      {"There are several private keys in the file.", "Leave only the certificate’s own."},
	Expired:          {"The certificate expired on %s.", "Renew it at identity.apple.com/pushcert, with the same Apple Account and the button Renew, so that its topic stays."},
	NotYetValid:      {"The certificate is not valid before %s.", "Look at this server’s clock."},

	NotVendor:     {"The certificate is %s, not an MDM vendor’s.", "The certificate comes from Apple’s developer account, as MDM CSR; a push certificate goes to gatehouse pushcert upload."},
	ChainMissing:  {"The certificate that issued %q is missing.", "Apple wants the whole chain: the vendor’s certificate, Apple Worldwide Developer Relations (www.apple.com/certificateauthority/AppleWWDRCAG3.cer) and Apple Root CA (www.apple.com/appleca/AppleIncRootCertificate.cer)."},
	NoVendor:      {"There is no vendor certificate to sign the request with.", "Upload it first (gatehouse pushcert vendor), or let somebody else sign: kinds csr and mdmcert."},
	VendorExpired: {"The vendor certificate expired on %s.", "Make a new one in Apple’s developer account, and upload that."},
	NotMailed:     {"The file is not what mdmcert.download mails: hexadecimal digits, a PKCS #7 message inside.", "Upload the attachment of its mail as it is."},
	OtherRequest:  {"The file answers another request than this one.", "Upload it to the request that it was mailed for: each has a key of its own."},
}
