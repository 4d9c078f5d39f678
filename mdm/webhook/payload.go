package webhook

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/internal/plistxml"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// payloadLimits are those of the messages that the server takes.
var payloadLimits = guard.PlistLimits{Bytes: 8 << 20}

// sharedIPadUserID is the UserID of all users of a Shared iPad.
const sharedIPadUserID = "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"

// reduced returns a property list in place of the one that the device sent, for targets that
// get no raw payloads: receivers can read it as they are used to, and it holds what says who
// speaks of what, and nothing else. chain is the ErrorChain of a command that failed.
func (t *told) reduced(chain []command.ChainedError) []byte {
	d := make(map[string]any)
	put := func(key, value string) {
		if value != "" && plistxml.Carries(value) {
			d[key] = value
		}
	}
	put("UDID", t.UDID)
	put("EnrollmentID", t.Enrollment)
	if user, ok := strings.CutPrefix(t.IDs.ID, t.IDs.ParentID+":"); ok && t.IDs.ParentID != "" {
		switch {
		case t.IDs.Type == "Shared iPad":
			put("UserID", sharedIPadUserID)
			put("UserShortName", user)
		case t.UDID == "":
			put("EnrollmentUserID", user)
		default:
			put("UserID", user)
		}
	}
	if t.Topic != topicConnect {
		put("MessageType", strings.TrimPrefix(t.Topic, "mdm."))
	} else {
		put("Status", t.Status)
		put("CommandUUID", t.CommandUUID)
		put("RequestType", t.RequestType)
		if links := errorChain(chain); len(links) > 0 {
			d["ErrorChain"] = links
		}
	}
	raw, err := plistxml.Marshal(d)
	if err != nil {
		return nil // of texts that it can carry
	}
	return raw
}

// reducedOf is reduced, of what the device sent; topic is its push topic.
func (t *told) reducedOf(raw []byte, topic string) []byte {
	var chain []command.ChainedError
	if t.Topic == topicConnect && t.Status != statusIdle && bytes.Contains(raw, []byte("ErrorChain")) {
		chain, _ = command.DecodeErrorChain(raw, payloadLimits) // of what can't be read, there is none
	}
	reduced := t.reduced(chain)
	if t.Topic == "mdm.Authenticate" || t.Topic == "mdm.TokenUpdate" {
		return withTopic(reduced, topic)
	}
	return reduced
}

// topicOf returns the push topic that a message names.
func topicOf(raw []byte) string {
	d, _ := dictionary(raw)
	topic, _ := d["Topic"].(string)
	return topic
}

// errorChain returns the codes of an ErrorChain. How the device words an error is left out,
// as that may quote what it was sent.
func errorChain(chain []command.ChainedError) (links []any) {
	for _, e := range chain {
		link := map[string]any{"ErrorCode": e.ErrorCode}
		if e.ErrorDomain != "" && plistxml.Carries(e.ErrorDomain) {
			link["ErrorDomain"] = e.ErrorDomain
		}
		links = append(links, link)
	}
	return links
}

// withTopic returns a reduced property list with the push topic of m, which two messages have.
func withTopic(reduced []byte, topic string) []byte {
	d, ok := dictionary(reduced)
	if !ok || topic == "" || !plistxml.Carries(topic) {
		return reduced
	}
	d["Topic"] = topic
	raw, err := plistxml.Marshal(d)
	if err != nil {
		return reduced
	}
	return raw
}

func dictionary(raw []byte) (map[string]any, bool) {
	v, err := guard.ReadPlist(raw, payloadLimits)
	if err != nil {
		return nil, false
	}
	d, ok := v.(map[string]any)
	return d, ok
}

// withoutSecrets returns what a device sent with secrets emptied. It is not ok if it can't be
// read or written again.
func withoutSecrets(raw []byte) (clean []byte, ok bool) {
	d, ok := dictionary(raw)
	if !ok {
		return nil, false
	}
	empty(d, false)
	clean, err := plistxml.Marshal(d)
	return clean, err == nil
}

// secretEnds are what the keys of secrets end in, in lower case: those that package command
// keeps out of what it decodes, those of check-ins, and how devices word errors, which may
// quote what they were sent. What stands in the value of such a key is a secret, too.
var secretEnds = []string{
	"password", "passwordhash", "passcode", "bypasscode", "redemptioncode",
	"recoverykey", "recoverykeycms", "challenge", "token", "secret", "apikey", "privatekey",
	"digestresponse", "tokendata", "localizeddescription", "usenglishdescription",
}

func isSecret(key string) bool {
	key = strings.ToLower(key)
	if key == "pin" {
		return true
	}
	for _, end := range secretEnds {
		if strings.HasSuffix(key, end) {
			return true
		}
	}
	return false
}

// empty empties the secrets in v, and returns what stands in its place. Booleans say only
// that there is one, and a TokenUpdate's Token, where Apple finds the device, lets nobody in
// who has not the push certificate.
func empty(v any, secret bool) any {
	switch v := v.(type) {
	case map[string]any:
		push := v["MessageType"] == "TokenUpdate"
		for key, value := range v {
			v[key] = empty(value, secret || isSecret(key) && !(push && key == "Token"))
		}
		return v
	case []any:
		for i, value := range v {
			v[i] = empty(value, secret)
		}
		return v
	}
	if !secret {
		return v
	}
	switch v.(type) {
	case string:
		return ""
	case []byte:
		return []byte{}
	case int64, uint64:
		return int64(0)
	case float64:
		return 0.0
	case time.Time:
		return time.Unix(0, 0).UTC()
	}
	return v
}

// ownTypes are commands whose answers name apps and profiles, which in a User Enrollment may
// be the person's own: only the reports of package inventory can tell them apart.
var ownTypes = map[string]bool{"InstalledApplicationList": true, "ManagedApplicationList": true, "ProfileList": true, "CertificateList": true}

// ofPerson returns what a User Enrollment sent as the server itself keeps it: an answer
// without what Apple does not document or forbids to ask for there, a check-in without what
// would tell devices apart. It is not ok if nobody can say what that is.
func ofPerson(raw []byte, m mdm.Message) (clean []byte, ok bool) {
	d, ok := dictionary(raw)
	if !ok {
		return nil, false
	}
	if m.Topic != topicConnect {
		onlyKeys(d, checkInKeys)
	} else if m.Status == statusIdle {
		onlyKeys(d, protocolKeys)
	} else {
		if m.RequestType == "" || ownTypes[m.RequestType] {
			return nil, false
		}
		decoded, err := command.DecodeResult(raw, payloadLimits)
		if err != nil {
			return nil, false
		}
		about := m.Device
		if m.Parent.ID != "" {
			about = m.Parent
		}
		platform := command.PlatformOf(about.ProductName)
		if platform == "" {
			platform = command.PlatformOf(about.Model)
		}
		kept, err := command.WithoutPersonal(m.RequestType, platform, decoded)
		if err != nil {
			return nil, false
		}
		var allowed map[string]any
		if kept != nil {
			if err := json.Unmarshal(kept, &allowed); err != nil {
				return nil, false
			}
		}
		for key, value := range d {
			if protocolKeys[key] && (key == "ErrorChain" || !nested(value)) {
				continue
			}
			if _, ok := allowed[key]; !ok {
				delete(d, key)
				continue
			}
			d[key] = prune(value, allowed[key])
		}
	}
	empty(d, false)
	clean, err := plistxml.Marshal(d)
	return clean, err == nil
}

// protocolKeys belong to the exchange, not to the answer.
var protocolKeys = map[string]bool{
	"EnrollmentID": true, "EnrollmentUserID": true, "UserID": true, "UserShortName": true, "NotOnConsole": true,
	"CommandUUID": true, "RequestType": true, "Status": true, "ErrorChain": true,
}

// checkInKeys are what Apple documents of the check-ins of a User Enrollment, without what
// would tell devices apart: names and identifiers, the device's among them in what it asks a
// token for, and the reports of declarative management, of which only who reads them knows
// what they hold.
var checkInKeys = map[string]bool{
	"MessageType": true, "EnrollmentID": true, "EnrollmentUserID": true, "UserID": true, "UserShortName": true, "UserLongName": true,
	"NotOnConsole": true, "Topic": true, "Token": true, "PushMagic": true, "AwaitingConfiguration": true,
	"BuildVersion": true, "OSVersion": true, "ProductName": true, "Model": true, "ModelName": true,
	"Endpoint": true, "TokenServiceType": true, "BootstrapToken": true, "DigestResponse": true, "AuthToken": true,
}

// onlyKeys leaves in d what these keys name, each with one value.
func onlyKeys(d map[string]any, keys map[string]bool) {
	for key, value := range d {
		if !keys[key] || nested(value) {
			delete(d, key)
		}
	}
}

// nested says that v holds other values.
func nested(v any) bool {
	switch v.(type) {
	case map[string]any, []any:
		return true
	}
	return false
}

// prune returns v with only the keys that allowed has in the same places.
func prune(v, allowed any) any {
	switch v := v.(type) {
	case map[string]any:
		a, _ := allowed.(map[string]any)
		for key, value := range v {
			inside, ok := a[key]
			if !ok {
				delete(v, key)
				continue
			}
			v[key] = prune(value, inside)
		}
	case []any:
		a, _ := allowed.([]any)
		if len(a) != len(v) {
			return []any{}
		}
		for i := range v {
			v[i] = prune(v[i], a[i])
		}
	}
	return v
}
