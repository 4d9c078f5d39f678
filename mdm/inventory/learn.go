package inventory

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// learn takes over what a device has answered. It is an [mdm.Observer]: it runs in the
// transaction in which e became final. What can't be understood is no error, since the device
// would send it for ever.
func (s *Service) learn(tx storage.Tx, e mdm.Entry) error {
	if !IsSource(e.RequestType) || e.State == mdm.Cancelled {
		return nil
	}
	source := Source(e.RequestType)
	tx.Prefetch(records.Read(recordKey(e.DeviceID, source)), mdm.ReadDevice(e.DeviceID))
	switch {
	case source == DeviceInformation:
		tx.Prefetch(mdm.ReadAttributes(e.DeviceID))
	case source.IsList() && e.Identifier != identifier:
		tx.Prefetch(mdm.ReadPayload(e)...)
	}
	r, err := getRecord(tx, e.DeviceID, source)
	if err != nil {
		return err
	}
	switch e.State {
	case mdm.Failed:
		return r.fail(tx, e, FailedByDevice, command.Sentence(e.RequestType, e.ErrorChain))
	case mdm.Expired:
		if e.CreatedAt.Before(r.Answer.AnsweredAt) {
			return nil // a later question was answered meanwhile
		}
		return r.fail(tx, e, FailedByTime, "The device did not come for the question before its time was up.")
	case mdm.Acknowledged:
		return s.learnAnswer(tx, r, e)
	}
	return nil
}

// fail notes that a refresh came to nothing. The last good answer stays.
func (r record) fail(tx storage.Tx, e mdm.Entry, code, reason string) error {
	r.Failure = &Failure{Code: code, Reason: reason, CommandUUID: e.UUID, AskedAt: e.CreatedAt, At: e.FinishedAt, ErrorChain: e.ErrorChain}
	return r.put(tx)
}

func (s *Service) learnAnswer(tx storage.Tx, r record, e mdm.Entry) error {
	d, err := mdm.GetDevice(tx, e.DeviceID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	ours := e.Identifier == identifier
	if !ours && r.Source.IsList() {
		params, err := s.mdm.Asked(tx, e)
		if errors.Is(err, command.ErrRaw) || err == nil && !whole(d, r.Source, params) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	if minimal(d) && e.Result != nil {
		if e.Result, err = screened(tx, e); err != nil {
			return err
		}
		if ours && r.Source.IsList() {
			if err := mdm.KeepResult(tx, e); err != nil {
				return err
			}
		}
	}
	answer, ok := decode(e.Result)
	if !ok {
		return r.fail(tx, e, FailedByNonsense, "The device’s answer could not be understood.")
	}
	var changes []Change
	switch r.Source {
	case DeviceInformation:
		changes, err = r.learnInformation(tx, &d, e, answer)
	case SecurityInfo:
		changes, err = r.learnSecurity(tx, &d, e, answer)
	default:
		changes, err = r.learnList(tx, e, answer)
	}
	if err != nil {
		return err
	}
	if minimal(d) && !r.Source.IsList() {
		changes = withoutIdentifiers(changes)
	}
	if err := putChanges(tx, e, changes, s.now()); err != nil {
		return err
	}
	if ours && e.Priority == mdm.Background {
		// It stands in the inventory. The history would grow by it every day.
		return mdm.ForgetResult(tx, e)
	}
	return nil
}

// accept makes e's answer the last good one.
func (r *record) accept(tx storage.Tx, e mdm.Entry) error {
	r.Answer = Origin{CommandUUID: e.UUID, AskedAt: e.CreatedAt, AnsweredAt: e.FinishedAt}
	r.Failure = nil
	return r.put(tx)
}

func tooLarge(n int) string {
	return fmt.Sprintf("The device’s answer comes to %d bytes: at most %d are kept.", n, maxValue)
}

func (r *record) learnInformation(tx storage.Tx, d *mdm.Device, e mdm.Entry, answer map[string]any) ([]Change, error) {
	told, ok := answer["QueryResponses"].(map[string]any)
	if !ok {
		return nil, r.fail(tx, e, FailedByNonsense, "The device’s answer could not be understood.")
	}
	before, err := mdm.Attributes(tx, d.ID)
	if err != nil {
		return nil, err
	}
	if len(before)+len(told) > maxFacts {
		return nil, r.fail(tx, e, FailedBySize, fmt.Sprintf("The device’s answer has %d facts: at most %d are kept.", len(told), maxFacts))
	}
	err = mdm.LearnInformation(tx, d, e.Result)
	if errors.Is(err, mdm.ErrTooLarge) {
		return nil, r.fail(tx, e, FailedBySize, tooLarge(len(e.Result)))
	}
	if err != nil {
		return nil, err
	}
	older := make(map[string]Origin)
	for name := range before {
		if _, again := told[name]; again {
			continue
		}
		origin, known := r.Older[name]
		if !known {
			origin = r.Answer // zero for what was kept before origins were
		}
		older[name] = origin
	}
	r.Older = older
	after, err := mdm.Attributes(tx, d.ID)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(after, func(name string, _ any) bool { _, now := told[name]; return !now })
	return compareFacts(before, after), r.accept(tx, e)
}

func (r *record) learnSecurity(tx storage.Tx, d *mdm.Device, e mdm.Entry, answer map[string]any) ([]Change, error) {
	told, ok := answer[string(SecurityInfo)].(map[string]any)
	if !ok {
		return nil, r.fail(tx, e, FailedByNonsense, "The device’s answer could not be understood.")
	}
	if err := mdm.LearnSecurity(tx, d, e.Result); err != nil {
		return nil, err
	}
	value, err := json.Marshal(told)
	if err != nil {
		return nil, fmt.Errorf("inventory of %s: %w", d.ID, err)
	}
	if len(value) > maxValue {
		return nil, r.fail(tx, e, FailedBySize, tooLarge(len(value)))
	}
	before, _ := decode(r.Value)
	r.Value = value
	return compareFacts(before, told), r.accept(tx, e)
}

func (r *record) learnList(tx storage.Tx, e mdm.Entry, answer map[string]any) ([]Change, error) {
	list, ok := readList(r.Source, answer)
	if !ok {
		return nil, r.fail(tx, e, FailedByNonsense, "The device’s answer could not be understood.")
	}
	value, err := json.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("inventory of %s: %w", e.DeviceID, err)
	}
	if len(value) > maxValue {
		return nil, r.fail(tx, e, FailedBySize, tooLarge(len(value)))
	}
	before := *r
	r.Value = value
	var changes []Change
	if before.known() {
		changes = compareLists(before, *r)
	}
	return changes, r.accept(tx, e)
}
