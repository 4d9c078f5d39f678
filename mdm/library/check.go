package library

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Forecast is what would become of a profile that is sent.
type Forecast struct {
	Total    int // devices asked about
	Accept   int // of them that would take it as it is
	Reduced  int // that would take a part of it
	Verdicts []Verdict
}

// Verdict is the same answer for some devices.
type Verdict struct {
	Devices  []mdm.DeviceID
	Code     string // of the first reason
	Reason   string // a sentence
	Findings []profile.Finding
	// Removed is what the largest part of the profile that these devices take would lack;
	// empty where there is none.
	Removed []profile.Finding
}

// Sentence sums it up: "3 of 40 devices would reject this: com.apple.vpn.managed."
func (f Forecast) Sentence() string {
	no := f.Total - f.Accept
	if no == 0 {
		return fmt.Sprintf("%s would take this.", devices(f.Total))
	}
	why := make(map[string]bool)
	for _, v := range f.Verdicts {
		for _, finding := range v.Findings {
			if finding.Severity == profile.SeverityError {
				why[finding.PayloadType] = true
			}
		}
		if len(v.Findings) == 0 {
			why[strings.TrimSuffix(v.Reason, ".")] = true
		}
	}
	s := fmt.Sprintf("%d of %s would reject this: %s.", no, devices(f.Total), strings.Join(slices.Sorted(maps.Keys(why)), ", "))
	if f.Reduced > 0 {
		s += fmt.Sprintf(" %d would take a part of it.", f.Reduced)
	}
	return s
}

func devices(n int) string {
	if n == 1 {
		return "1 device"
	}
	return fmt.Sprintf("%d devices", n)
}

// Forecast says what would become of a profile on devices, and sends nothing. Errors are as
// of Send.
func (s *Service) Forecast(ctx context.Context, id string, version int, targets Targets) (f Forecast, err error) {
	v, p, err := s.Content(ctx, id, version)
	if err != nil {
		return Forecast{}, err
	}
	var variables []string
	if !v.Literal {
		var problems []profile.Finding
		if variables, problems = p.Variables(s.People.Known); len(problems) > 0 {
			return Forecast{}, &VariablesError{problems}
		}
	}
	byTarget := make(map[string]Verdict) // holds over repeated transactions
	err = s.DB.View(ctx, func(tx storage.Tx) error {
		ids, err := targets.resolve(tx)
		if err != nil {
			return err
		}
		f = Forecast{Total: len(ids)}
		for _, d := range ids {
			tx.Prefetch(mdm.ReadTarget(d))
			if len(variables)+len(v.Certificates) > 0 {
				tx.Prefetch(mdm.ReadDevice(d))
			}
		}
		verdicts := make(map[string]*Verdict)
		for _, d := range ids {
			verdict, err := s.forecast(tx, v, p, d, variables, byTarget)
			if err != nil {
				return err
			}
			if verdict.Code == "" {
				f.Accept++
				continue
			}
			if len(verdict.Removed) > 0 {
				f.Reduced++
			}
			key := fmt.Sprintf("%s %s %d", verdict.Code, verdict.Reason, len(verdict.Findings))
			if known := verdicts[key]; known != nil {
				known.Devices = append(known.Devices, d)
				continue
			}
			verdict.Devices = []mdm.DeviceID{d}
			verdicts[key] = &verdict
		}
		for _, key := range slices.Sorted(maps.Keys(verdicts)) {
			f.Verdicts = append(f.Verdicts, *verdicts[key])
		}
		return nil
	})
	if err != nil {
		return Forecast{}, fmt.Errorf("forecast profile %s: %w", id, err)
	}
	return f, nil
}

// forecast returns the verdict on one device, without Code where it would take the profile.
func (s *Service) forecast(tx storage.Tx, v Version, p *profile.Profile, id mdm.DeviceID, variables []string, byTarget map[string]Verdict) (Verdict, error) {
	target, state, err := mdm.TargetOf(tx, id)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return Verdict{Code: "not_found", Reason: "No device has this id."}, nil
	case err != nil:
		return Verdict{}, err
	case state != mdm.Enrolled:
		return Verdict{Code: "not_enrolled", Reason: "The device is not enrolled."}, nil
	}
	key := mdm.TargetKey(target)
	verdict, ok := byTarget[key]
	if !ok {
		verdict = judge(p, target)
		byTarget[key] = verdict
	}
	if verdict.Code != "" || len(variables)+len(v.Certificates) == 0 {
		return verdict, nil
	}
	d, err := mdm.GetDevice(tx, id)
	if err != nil {
		return Verdict{}, err
	}
	// Without a command nothing is made: it is only asked whether.
	_, err = s.People.Values(tx, d, Wanted{
		Profile: Profile{ID: v.ProfileID, Identifier: p.Identifier, Name: p.DisplayName}, Variables: variables, Certificates: v.Certificates,
	})
	var no *command.Refusal
	if errors.As(err, &no) {
		return Verdict{Code: no.Code, Reason: no.Reason}, nil
	}
	return Verdict{}, err
}

// judge says what a target makes of a profile.
func judge(p *profile.Profile, target command.Target) Verdict {
	t, _ := command.Lookup("InstallProfile")
	var no *command.Refusal
	if errors.As(t.Check(target), &no) {
		return Verdict{Code: no.Code, Reason: no.Reason}
	}
	findings, refused := p.Check(target)
	if !refused {
		return Verdict{}
	}
	v := Verdict{Findings: findings, Code: findings[0].Code, Reason: findings[0].Reason}
	for _, f := range findings {
		if f.Severity == profile.SeverityError {
			v.Code, v.Reason = f.Code, f.Reason
			break
		}
	}
	if part, removed := p.Variant(target); part != nil {
		v.Removed = removed
	}
	return v
}
