package webhook

import (
	"context"
	"encoding/json"
	"net/url"
	"sync"

	"github.com/gatehouse-mdm/gatehouse/mdm"
)

// Settle does once what Run does all the time, until nothing is left to be done now.
func (s *Service) Settle(ctx context.Context) error {
	if err := s.fanOut(ctx); err != nil {
		return err
	}
	all, err := s.Targets(ctx)
	if err != nil {
		return err
	}
	for _, t := range all {
		kept, _ := walks.LoadOrStore(t.ID, new(walk))
		w := kept.(*walk)
		for t.Enabled {
			claimed, _, err := s.claim(ctx, t.ID, w, laneWidth)
			if err != nil {
				return err
			}
			if len(claimed) == 0 {
				break
			}
			for _, c := range claimed {
				s.deliver(ctx, c)
			}
		}
	}
	return nil
}

// walks stand for those of lanes, which go on from one Settle to the next: by target, whose IDs
// no two tests share.
var walks sync.Map

// ClaimAll takes what can go now and sends nothing, as a process that dies.
func (s *Service) ClaimAll(ctx context.Context, target string) (n int, err error) {
	claimed, _, err := s.claim(ctx, target, new(walk), laneWidth)
	return len(claimed), err
}

// SendAll sends what can go now and dies before it writes down what came of it.
func (s *Service) SendAll(ctx context.Context, target string) error {
	claimed, _, err := s.claim(ctx, target, new(walk), laneWidth)
	for _, c := range claimed {
		if _, err := s.sendClaimed(ctx, c); err != nil {
			return err
		}
	}
	return err
}

// Bound and Sweep are the jobs of these names.
func (s *Service) Bound(ctx context.Context) error { return s.bound(ctx) }

func (s *Service) Sweep(ctx context.Context) error { return s.sweep(ctx) }

const (
	ClaimTime = claimTime
	GiveUp    = giveUp
	KeepDone  = keepDone
)

// Body is what a target would be sent of a message.
func Body(m mdm.Message, format Format, raw bool) (body []byte, contentType string) {
	s := &Service{serverURL: &url.URL{Scheme: "https", Host: "mdm.example.com"}}
	kept, err := json.Marshal(letter{Message: tell(newID(m.At), m, raw)})
	if err != nil {
		panic(err)
	}
	var l letter
	if err := json.Unmarshal(kept, &l); err != nil {
		panic(err)
	}
	if body, contentType, err = s.body(l, format, raw); err != nil {
		panic(err)
	}
	return body, contentType
}
