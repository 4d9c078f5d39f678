package standin

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Push is a push that came.
type Push struct {
	Token      []byte
	Magic      string
	Topic      string
	Expiration time.Time // zero for none
	// Problem is the reason that Apple would refuse it for, a key of [Problems].
	Problem string
}

// Problems are the reasons for which a push is refused here, with Apple's status.
var Problems = map[string]int{
	"MethodNotAllowed":   http.StatusMethodNotAllowed,
	"BadPath":            http.StatusNotFound,
	"MissingDeviceToken": http.StatusBadRequest,
	"BadDeviceToken":     http.StatusBadRequest,
	"MissingTopic":       http.StatusBadRequest,
	"TopicDisallowed":    http.StatusBadRequest,
	"InvalidPushType":    http.StatusBadRequest,
	"BadPriority":        http.StatusBadRequest,
	"BadExpirationDate":  http.StatusBadRequest,
	"DuplicateHeaders":   http.StatusBadRequest,
	"PayloadEmpty":       http.StatusBadRequest,
	"PayloadTooLarge":    http.StatusRequestEntityTooLarge,
	"BadPayload":         http.StatusBadRequest, // not Apple's: a payload that is no wake-up of MDM
}

// MaxPayload is Apple's limit, bytes: of a longer body one byte more need be read.
const MaxPayload = 4096

const maxLifetime = 30 * 24 * time.Hour // Apple keeps pushes no longer

// Read checks a request as Apple does ("Sending notification requests to APNs"; PROTOCOL
// 6.2). The path is as it was sent; topic is that of the client's certificate.
func Read(topic, method, path string, header http.Header, body []byte) Push {
	p := Push{Topic: header.Get("apns-topic")}
	problem := func(bad bool, reason string) {
		if bad && p.Problem == "" {
			p.Problem = reason
		}
	}
	for _, values := range header {
		problem(len(values) > 1, "DuplicateHeaders")
	}
	problem(method != http.MethodPost, "MethodNotAllowed")
	token, ok := strings.CutPrefix(path, "/3/device/")
	problem(!ok, "BadPath")
	problem(token == "", "MissingDeviceToken")
	var err error
	p.Token, err = hex.DecodeString(token)
	problem(err != nil, "BadDeviceToken")
	problem(p.Topic == "", "MissingTopic")
	problem(p.Topic != topic, "TopicDisallowed")
	problem(header.Get("apns-push-type") != "mdm", "InvalidPushType")
	problem(header.Get("apns-priority") != "10", "BadPriority")
	seconds, err := strconv.ParseInt(header.Get("apns-expiration"), 10, 64)
	problem(err != nil || seconds < 0, "BadExpirationDate")
	if seconds > 0 {
		p.Expiration = time.Unix(seconds, 0)
		problem(time.Until(p.Expiration) > maxLifetime, "BadExpirationDate")
	}
	problem(len(body) == 0, "PayloadEmpty")
	problem(len(body) > MaxPayload, "PayloadTooLarge")
	p.Magic, ok = magic(body)
	problem(!ok, "BadPayload")
	return p
}

// magic reads {"mdm":"MAGIC"}, which has no other key.
func magic(body []byte) (string, bool) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	var said struct {
		MDM *string `json:"mdm"`
	}
	if d.Decode(&said) != nil || said.MDM == nil || *said.MDM == "" {
		return "", false
	}
	_, err := d.Token()
	return *said.MDM, err == io.EOF
}

// Reason is the body of an answer that refuses a push; at is that of a 410, or zero.
func Reason(reason string, at time.Time) []byte {
	said := struct {
		Reason    string `json:"reason"`
		Timestamp int64  `json:"timestamp,omitempty"` // milliseconds
	}{Reason: reason}
	if !at.IsZero() {
		said.Timestamp = at.UnixMilli()
	}
	body, _ := json.Marshal(said) // of a string and a number: can't fail
	return body
}

// NewID is the apns-id of an answer.
func NewID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return fmt.Sprintf("%X-%X-%X-%X-%X", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
