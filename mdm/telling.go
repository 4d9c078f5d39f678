package mdm

import (
	"cmp"
	"strconv"

	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// ourselves is who did what nobody asked for by name, in the audit log.
const ourselves = "server"

// tellQueued writes into the audit log that somebody has asked devices for something: one
// event, however many they are. What the server asks by itself is not worth one.
func (s *Service) tellQueued(tx storage.Tx, c Command, devices []DeviceID) error {
	if c.Priority == Background {
		return nil
	}
	e := event.Event{
		At: s.now().UTC(), Actor: cmp.Or(c.CreatedBy, ourselves), Action: "command.queued",
		Details: aboutCommand(c.UUID, c.RequestType),
	}
	e.Details["devices"] = strconv.Itoa(len(devices))
	if len(devices) == 1 {
		e.DeviceID = string(devices[0])
	}
	if c.Batch != "" {
		e.Details["batch"] = c.Batch
	}
	return event.Record(tx, e)
}

// tellCancelled writes into the audit log who has cancelled a command, for one device or,
// where that is empty, for all that did not have it.
func (s *Service) tellCancelled(tx storage.Tx, uuid, requestType string, device DeviceID, devices int, by string) error {
	e := event.Event{
		At: s.now().UTC(), Actor: by, Action: "command.cancelled", DeviceID: string(device), Details: aboutCommand(uuid, requestType),
	}
	e.Details["devices"] = strconv.Itoa(devices)
	return event.Record(tx, e)
}

// tellFinished is an [Observer]: it writes into the audit log what became of a command that
// somebody has asked for. What the device answered is not in it, nor how it words an error,
// which may quote what it was sent.
func (s *Service) tellFinished(tx storage.Tx, e Entry) error {
	if e.Priority == Background {
		return nil
	}
	ev := event.Event{
		At: e.FinishedAt, Actor: "device:" + string(e.DeviceID), Action: "command.finished", DeviceID: string(e.DeviceID),
		Details: aboutCommand(e.UUID, e.RequestType),
	}
	ev.Details["state"] = string(e.State)
	switch e.State {
	case Failed:
		ev.Outcome = event.Failed
	case Expired:
		ev.Actor, ev.Outcome, ev.Reason = ourselves, event.Failed, "its time was up"
	case Cancelled:
		ev.Actor = ourselves
	}
	if len(e.ErrorChain) > 0 {
		first := e.ErrorChain[0]
		ev.Details["error_domain"], ev.Details["error_code"] = first.ErrorDomain, strconv.FormatInt(first.ErrorCode, 10)
	}
	if e.SupersededBy != "" {
		ev.Details["superseded_by"] = e.SupersededBy
	}
	return event.Record(tx, ev)
}

func aboutCommand(uuid, requestType string) map[string]string {
	return map[string]string{"command_uuid": uuid, "request_type": requestType}
}
