package enroll

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
)

// Discovery is the answer of service discovery: where and how a device enrolls.
type Discovery struct {
	Mode    AccountMode
	BaseURL string
}

// DiscoveryError means that a device does not enroll here. It says nothing of whether there
// is such an account: only domain and family decide.
type DiscoveryError struct {
	Reason  string // a sentence for the log, on the device and here
	Message string // for the person who holds the device
}

func (e *DiscoveryError) Error() string { return "service discovery refused: " + e.Reason }

// refusalMessage is what people read where the operator has written nothing.
const refusalMessage = "This account can’t be used to enroll this device. Ask your IT department how to set it up."

// Discover says how a device enrolls whose user has typed identifier (Apple, "Discover
// Authentication Servers"; PROTOCOL 1). Its error is a *DiscoveryError or the store's.
//
// A redirect on the way may have lost what the device told: the answer is given all the same
// where there is only one that it can be.
func (s *Service) Discover(ctx context.Context, identifier string, family ModelFamily) (Discovery, error) {
	c, err := s.AccountDriven(ctx)
	if err != nil {
		return Discovery{}, err
	}
	if s.played(identifier) {
		c = s.withDemo(c)
	}
	mode, refused := c.discover(identifier, family)
	if refused != nil {
		return Discovery{}, refused
	}
	return Discovery{Mode: mode, BaseURL: s.serverURL.JoinPath(mode.Path()).String()}, nil
}

func (c AccountDriven) discover(identifier string, family ModelFamily) (AccountMode, *DiscoveryError) {
	domains := c.Domains
	switch at := strings.LastIndexByte(identifier, '@'); {
	case at >= 0:
		d := c.domain(identifier[at+1:])
		if d == nil {
			return "", &DiscoveryError{"the domain is not enrolled here", refusalMessage}
		}
		domains = []AccountDomain{*d}
	case identifier != "":
		return "", &DiscoveryError{"user-identifier is not an address", refusalMessage}
	}
	var modes []AccountMode
	message := refusalMessage
	for _, d := range domains {
		if d.Message != "" && len(domains) == 1 {
			message = d.Message
		}
		if family != "" {
			modes = append(modes, d.Policy[family])
			continue
		}
		modes = slices.AppendSeq(modes, maps.Values(d.Policy))
	}
	modes = slices.DeleteFunc(modes, func(m AccountMode) bool { return m != ModeBYOD && m != ModeADDE })
	slices.Sort(modes)
	switch modes = slices.Compact(modes); {
	case len(modes) == 1:
		return modes[0], nil
	case len(modes) > 1:
		return "", &DiscoveryError{"the query is missing user-identifier or model-family: the redirect to this server must keep it", message}
	case family != "":
		return "", &DiscoveryError{"devices of the model family " + string(family) + " are not enrolled by account here", message}
	}
	return "", &DiscoveryError{"no device is enrolled by account here", message}
}

// LeadsHere returns how a device of a family enrolls on which somebody types account;
// empty: it does not.
func (s *Service) LeadsHere(ctx context.Context, account string, family ModelFamily) (AccountMode, error) {
	if !strings.Contains(account, "@") {
		return "", nil
	}
	d, err := s.Discover(ctx, account, family)
	if _, refused := errors.AsType[*DiscoveryError](err); refused {
		return "", nil
	}
	return d.Mode, err
}
