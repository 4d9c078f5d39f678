package apns

import "time"

// Push is one wake-up (Apple: "Sending notification requests to APNs"; PROTOCOL 6.2).
type Push struct {
	Token []byte // binary, of any length
	Magic string // PushMagic of the TokenUpdate that brought the token
}

// Outcome says what became of a push, and so what to do next. There are no others.
type Outcome string

// The outcomes.
const (
	Sent         Outcome = "sent"          // Apple has it; that says nothing about the device
	TokenInvalid Outcome = "token_invalid" // 410: Apple says that the token was dead at [Result.Timestamp]
	Refused      Outcome = "refused"       // Apple does not take it: [Result.Whole] says whether it would take others
	Retry        Outcome = "retry"         // it may go well later: too many, Apple's trouble, the network's
)

// Reasons of ours, in the form of Apple's, for what Apple did not answer.
const (
	ReasonTransport             = "Transport"             // no connection, or it broke
	ReasonStreamReset           = "StreamReset"           // the server broke off this one request
	ReasonTimeout               = "Timeout"               // no answer in time
	ReasonCanceled              = "Canceled"              // the caller, or the end of the program, was faster
	ReasonUnexpected            = "UnexpectedAnswer"      // the status has no reason that can be read
	ReasonServerNotTrusted      = "ServerNotTrusted"      // the certificate of the server is not Apple's: somebody is in between
	ReasonNoCertificate         = "NoCertificate"         // the topic has no push certificate
	ReasonCertificateExpired    = "CertificateExpired"    // it has run out
	ReasonCertificateUnreadable = "CertificateUnreadable" // the database, or the key that seals it, does not give it
	ReasonNoToken               = "NoToken"               // the push has no token or no magic
)

// Result is what became of one push.
type Result struct {
	Outcome Outcome
	Status  int    // HTTP status; 0 when there was no answer
	Reason  string // Apple's word ("BadDeviceToken"), or one of ours in the same form; empty when Sent
	Detail  string // a sentence for a log, of an error without an answer; no secret
	APNsID  string // header apns-id

	Timestamp  time.Time     // of TokenInvalid: when Apple last knew that the token was dead; zero if it did not say
	RetryAfter time.Duration // what a 429 or 503 asked for; 0 for nothing

	// Whole says that this is not about the one device: the certificate, the connection or
	// the service is at fault, so that others of the topic would fare alike.
	Whole bool
	// Ours says that the request itself was wrong: trying again is of no use.
	Ours bool
}
