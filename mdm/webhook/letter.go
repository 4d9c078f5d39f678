package webhook

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
)

// letter is what is kept of a delivery until it is taken: one of both.
type letter struct {
	Event   json.RawMessage `json:"event,omitempty"` // a CloudEvent, as it is sent
	Message *told           `json:"message,omitempty"`
}

// told is a message of a device, and what a target of either format says of it.
type told struct {
	ID          string    `json:"id"`
	Topic       string    `json:"topic"`
	At          time.Time `json:"at"`
	DeviceID    string    `json:"device_id,omitempty"` // ours
	UDID        string    `json:"udid,omitempty"`
	Enrollment  string    `json:"enrollment_id,omitempty"`
	IDs         idsJSON   `json:"ids"`
	Status      string    `json:"status,omitempty"`
	CommandUUID string    `json:"command_uuid,omitempty"`
	RequestType string    `json:"request_type,omitempty"`
	Tally       *int      `json:"tally,omitempty"`

	Raw []byte `json:"raw"`
	// Whole is a Raw that says more than the reduced form does.
	Whole bool `json:"whole,omitempty"`
	// Unread is a Raw as the device sent it: it is large, so what must not leave is taken out
	// when it is sent, and not while the device waits.
	Unread bool `json:"unread,omitempty"`
}

// idsJSON are the names by which NanoMDM knows an enrollment.
type idsJSON struct {
	ID       string `json:"id"`
	Type     string `json:"type"`
	ParentID string `json:"parent_id,omitempty"`
}

// Content types of requests.
const (
	typeNanoMDM    = "application/json; charset=utf-8"
	typeCloudEvent = "application/cloudevents+json; charset=utf-8"
)

// body returns what is sent to a target of that format. raw says whether it is to get raw
// payloads now, whatever it was when the letter was written.
func (s *Service) body(l letter, format Format, raw bool) (body []byte, contentType string, err error) {
	switch {
	case l.Message == nil:
		return l.Event, typeCloudEvent, nil
	case format == NanoMDM:
		body, err = json.Marshal(l.Message.nanoMDM(raw))
		return body, typeNanoMDM, err
	}
	body, err = json.Marshal(s.messageEvent(l.Message, raw))
	return body, typeCloudEvent, err
}

// The body of NanoMDM's webhook (its service/webhook/event.json), which is that of MicroMDM
// with more topics.
type nanoEvent struct {
	Topic       string           `json:"topic"`
	EventID     string           `json:"event_id,omitempty"`
	CreatedAt   time.Time        `json:"created_at"`
	Acknowledge *nanoAcknowledge `json:"acknowledge_event,omitempty"`
	CheckIn     *nanoCheckIn     `json:"checkin_event,omitempty"`
}

type nanoAcknowledge struct {
	IDs          idsJSON `json:"ids"`
	UDID         string  `json:"udid,omitempty"`
	EnrollmentID string  `json:"enrollment_id,omitempty"`
	Status       string  `json:"status"`
	CommandUUID  string  `json:"command_uuid,omitempty"`
	RawPayload   []byte  `json:"raw_payload"`
}

type nanoCheckIn struct {
	IDs              idsJSON `json:"ids"`
	UDID             string  `json:"udid,omitempty"`
	EnrollmentID     string  `json:"enrollment_id,omitempty"`
	TokenUpdateTally *int    `json:"token_update_tally,omitempty"`
	RawPayload       []byte  `json:"raw_payload"`
}

// payload returns the property list that may leave the server, whole only if raw is set.
func (t *told) payload(raw bool) []byte {
	if t.Whole && !raw {
		return t.reducedOf(t.Raw, topicOf(t.Raw))
	}
	if !t.Unread {
		return t.Raw
	}
	if clean, ok := withoutSecrets(t.Raw); ok {
		return clean
	}
	return t.reduced(nil)
}

func (t *told) nanoMDM(raw bool) nanoEvent {
	e := nanoEvent{Topic: t.Topic, EventID: t.ID, CreatedAt: t.At}
	if t.Topic == topicConnect {
		e.Acknowledge = &nanoAcknowledge{t.IDs, t.UDID, t.Enrollment, t.Status, t.CommandUUID, t.payload(raw)}
	} else {
		e.CheckIn = &nanoCheckIn{t.IDs, t.UDID, t.Enrollment, t.Tally, t.payload(raw)}
	}
	return e
}

// cloudEvent is an event in the JSON format of CloudEvents 1.0.
type cloudEvent struct {
	SpecVersion string    `json:"specversion"`
	ID          string    `json:"id"`
	Source      string    `json:"source"`
	Type        string    `json:"type"`
	Subject     string    `json:"subject,omitempty"`
	Time        time.Time `json:"time"`
	ContentType string    `json:"datacontenttype"`
	Sequence    string    `json:"sequence,omitempty"` // the extension of that name: sorts as the feed does
	Data        any       `json:"data"`
}

// typePrefix begins the types of our CloudEvents; the action or topic follows.
const typePrefix = "gatehouse."

func (s *Service) cloudEvent(id, kind, subject string, at time.Time, data any) cloudEvent {
	return cloudEvent{
		SpecVersion: "1.0", ID: id, Source: s.serverURL.String(), Type: typePrefix + kind, Subject: subject, Time: at.UTC(),
		ContentType: "application/json", Data: data,
	}
}

// eventLetter is what a target is told of an event: of its fields, those that
// [event.Publish] lists.
func (s *Service) eventLetter(e event.Sequenced) (letter, error) {
	fields, _ := event.Publish(e.Event)
	out := s.cloudEvent(e.ID, e.Action, e.DeviceID, e.At, fields)
	if _, listed := fields["device_id"]; !listed {
		out.Subject = ""
	}
	out.Sequence = fmt.Sprintf("%020d", e.Seq)
	body, err := json.Marshal(out)
	if err != nil {
		return letter{}, fmt.Errorf("webhook: encode %s: %w", e.Action, err)
	}
	return letter{Event: body}, nil
}

// messageData is what a CloudEvent says of a message.
type messageData struct {
	DeviceID     string  `json:"device_id,omitempty"`
	IDs          idsJSON `json:"ids"`
	UDID         string  `json:"udid,omitempty"`
	EnrollmentID string  `json:"enrollment_id,omitempty"`
	Status       string  `json:"status,omitempty"`
	CommandUUID  string  `json:"command_uuid,omitempty"`
	RequestType  string  `json:"request_type,omitempty"`
	Tally        *int    `json:"token_update_tally,omitempty"`
	RawPayload   []byte  `json:"raw_payload"`
}

func (s *Service) messageEvent(t *told, raw bool) cloudEvent {
	return s.cloudEvent(t.ID, t.Topic, t.DeviceID, t.At, messageData{
		t.DeviceID, t.IDs, t.UDID, t.Enrollment, t.Status, t.CommandUUID, t.RequestType, t.Tally, t.payload(raw),
	})
}

// testLetter is something to try a target with: a poll of a device that does not exist, or
// an event of a type of its own.
func (s *Service) testLetter(format Format, at time.Time) (letter, error) {
	id := newID(at)
	if format == NanoMDM {
		const udid = "gatehouse-webhook-test"
		t := &told{ID: id, Topic: topicConnect, At: at, UDID: udid, IDs: idsJSON{ID: udid, Type: "Device"}, Status: statusIdle}
		t.Raw = t.reduced(nil)
		return letter{Message: t}, nil
	}
	body, err := json.Marshal(s.cloudEvent(id, "webhook.test", "", at, map[string]any{"action": "webhook.test"}))
	return letter{Event: body}, err
}

// what a message's device is called, in NanoMDM's words for the types of enrollments.
func idsOf(m mdm.Message, sharedIPad bool) idsJSON {
	a := m.Device.AppleID
	device, kind := a.UDID, "Device"
	if a.UDID == "" {
		device, kind = a.EnrollmentID, "User Enrollment (Device)"
	}
	if a.UserID == "" {
		return idsJSON{ID: device, Type: kind}
	}
	switch {
	case a.UDID == "":
		kind = "User Enrollment"
	case sharedIPad:
		kind = "Shared iPad"
	default:
		kind = "User"
	}
	return idsJSON{ID: device + ":" + a.UserID, Type: kind, ParentID: device}
}
