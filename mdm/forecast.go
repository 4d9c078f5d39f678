package mdm

import (
	"context"
	"errors"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/rehearsal"
)

// Forecast says what would become of c, did somebody queue it now: which of its targets get
// it, and why the others don't. It changes nothing, and nobody waits for it.
func (s *Service) Forecast(ctx context.Context, c NewCommand) (accepted []DeviceID, rejected []Rejection, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		cmd, no, err := s.Queue(rehearsal.On(tx), c)
		accepted, rejected = cmd.Targets, no
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return accepted, rejected, nil
}

// Verdict is how many of some devices may get commands of one type, going by what they are.
type Verdict struct {
	Allowed int
	Refused int
	// Code and Reason are those of the refusal that most of the devices share; empty: none.
	Code, Reason string
}

// Judge says for each of requestTypes how many of ids may get a command of that type,
// whatever its parameters. Those that are not there count for nothing.
func (s *Service) Judge(ctx context.Context, ids []DeviceID, requestTypes []string) (verdicts []Verdict, total int, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		alike := make(map[string]int)
		verdicts, total = make([]Verdict, len(requestTypes)), 0
		for i, id := range ids {
			if i%readChunk == 0 {
				for _, id := range ids[i:min(i+readChunk, len(ids))] {
					tx.Prefetch(ReadTarget(id))
				}
			}
			b, err := tx.Get(eligibilityBucket, []byte(id))
			if errors.Is(err, storage.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			alike[string(b)]++
			total++
		}
		for i, requestType := range requestTypes {
			if verdicts[i], err = judgeAll(requestType, alike); err != nil {
				return err
			}
		}
		return nil
	})
	return verdicts, total, err
}

// judgeAll is the verdict on devices, counted by their encoded eligibility.
func judgeAll(requestType string, alike map[string]int) (v Verdict, err error) {
	type refusal struct{ code, reason string }
	shared := make(map[refusal]int)
	for encoded, n := range alike {
		e, err := decodeEligibility([]byte(encoded))
		if err != nil {
			return Verdict{}, err
		}
		code, reason := e.refuse(requestType)
		if code == "" {
			v.Allowed += n
			continue
		}
		v.Refused += n
		shared[refusal{code, reason}] += n
	}
	most := 0
	for r, n := range shared {
		if n > most || n == most && r.reason < v.Reason {
			most, v.Code, v.Reason = n, r.code, r.reason
		}
	}
	return v, nil
}
