package webhook

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// topicConnect is the topic of polls and of answers to commands.
const topicConnect = "mdm.Connect"

// statusIdle is that of a poll that answers nothing.
const statusIdle = "Idle"

// messageTopics are the topics of NanoMDM's schema.
var messageTopics = []string{
	"mdm.Authenticate", "mdm.TokenUpdate", "mdm.CheckOut", "mdm.UserAuthenticate", "mdm.SetBootstrapToken", "mdm.GetBootstrapToken",
	topicConnect, "mdm.DeclarativeManagement", "mdm.GetToken",
}

// aboutMessages says that a filter, or a topic, is of messages rather than of events.
func aboutMessages(filter string) bool { return strings.HasPrefix(filter, "mdm.") }

// checkFilters returns the filters of a target in order, or says which one finds nothing.
func checkFilters(format Format, raw bool, filters []string) ([]string, error) {
	if len(filters) > maxFilters {
		return nil, wrong("events", "must be at most %d", maxFilters)
	}
	if len(filters) == 0 {
		return nil, nil
	}
	for i, filter := range filters {
		field := fmt.Sprintf("events[%d]", i)
		begins := func(topic string) bool { return strings.HasPrefix(topic, filter) }
		switch {
		case filter == "" || len(filter) > 100 || strings.Trim(filter, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_.") != "":
			return nil, wrong(field, "must be the beginning of a topic, such as device. or mdm.TokenUpdate")
		case format == NanoMDM && !slices.ContainsFunc(messageTopics, begins):
			return nil, wrong(field, "finds nothing in the format nanomdm, whose topics are %s", strings.Join(messageTopics, ", "))
		case aboutMessages(filter) && !slices.ContainsFunc(messageTopics, begins):
			return nil, wrong(field, "finds nothing: the topics are %s", strings.Join(messageTopics, ", "))
		case format == CloudEvents && aboutMessages(filter) && !raw:
			return nil, wrong(field, "needs raw_payloads: messages of devices are sent in this format only with their content")
		case !aboutMessages(filter) && format == CloudEvents && !slices.ContainsFunc(event.Types(), func(t event.Type) bool { return begins(t.Action) }):
			return nil, wrong(field, "finds nothing: /api/v1/event-types lists what there is")
		}
	}
	sorted := slices.Clone(filters)
	slices.Sort(sorted)
	return slices.Compact(sorted), nil
}

// interest is what one target wants to hear.
type interest struct {
	ID        string         `json:"id"`
	Format    Format         `json:"format"`
	Events    []string       `json:"events,omitempty"`
	DeviceIDs []mdm.DeviceID `json:"device_ids,omitempty"`
	Raw       bool           `json:"raw,omitempty"`
	FromSeq   uint64         `json:"from_seq,omitempty"`
}

// interests are those of all targets that are on. Every change of a target writes them
// anew, so that one record says what is to be written down for whom; the two kinds are
// apart, because messages are many.
type interests struct {
	Of      string     `json:"of"`
	Targets []interest `json:"targets"`
}

const (
	ofMessages = "messages"
	ofEvents   = "events"
)

var wanted = storage.NewCollection("webhook.interest", 1, func(i interests) string { return i.Of })

func interested(tx storage.Tx, of string) ([]interest, error) {
	i, err := wanted.Get(tx, of)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	return i.Targets, err
}

func putInterests(tx storage.Tx, all []Target) error {
	messages, events := interests{Of: ofMessages}, interests{Of: ofEvents}
	for _, t := range all {
		if !t.Enabled {
			continue
		}
		i := interest{ID: t.ID, Format: t.Format, Events: t.Events, DeviceIDs: t.DeviceIDs, Raw: t.RawPayloads, FromSeq: t.FromSeq}
		if t.Format == NanoMDM || t.RawPayloads && slices.ContainsFunc(t.Events, aboutMessages) {
			messages.Targets = append(messages.Targets, i)
		}
		if t.Format == CloudEvents && (len(t.Events) == 0 || slices.ContainsFunc(t.Events, func(f string) bool { return !aboutMessages(f) })) {
			events.Targets = append(events.Targets, i)
		}
	}
	return errors.Join(wanted.Put(tx, messages), wanted.Put(tx, events))
}

// hears says whether the target hears of messages of that topic and status. Polls come as
// often as devices care to ask: a filter has to name their topic in full.
func (i interest) hears(topic, status string) bool {
	if len(i.Events) == 0 {
		return i.Format == NanoMDM
	}
	return slices.ContainsFunc(i.Events, func(filter string) bool {
		if status == statusIdle {
			return filter == topic
		}
		return (i.Format == NanoMDM || aboutMessages(filter)) && strings.HasPrefix(topic, filter)
	})
}

// learns says whether the target is told of an event.
func (i interest) learns(e event.Sequenced) bool {
	return e.Seq > i.FromSeq && i.about(mdm.DeviceID(e.DeviceID)) &&
		(len(i.Events) == 0 || slices.ContainsFunc(i.Events, func(filter string) bool { return strings.HasPrefix(e.Action, filter) }))
}

// about says whether what is about these devices passes.
func (i interest) about(ids ...mdm.DeviceID) bool {
	return len(i.DeviceIDs) == 0 || slices.ContainsFunc(ids, func(id mdm.DeviceID) bool { return id != "" && slices.Contains(i.DeviceIDs, id) })
}
