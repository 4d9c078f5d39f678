package enroll

import (
	"slices"
	"strings"
)

// DemoDomain is the domain of whom the server's own demo plays, whose devices enroll in a
// mode: a name that nobody has (RFC 2606).
func DemoDomain(mode AccountMode) string {
	if mode == ModeADDE {
		return "work.demo.example"
	}
	return "demo.example"
}

// played says whether an address is of somebody whom the demo plays.
func (s *Service) played(address string) bool {
	_, domain, _ := strings.Cut(strings.ToLower(address), "@")
	return s.demo() && (domain == DemoDomain(ModeBYOD) || domain == DemoDomain(ModeADDE))
}

// withDemo is c with what holds for the demo beside it. It is in no record, so that the
// operator finds there what the operator wrote.
func (s *Service) withDemo(c AccountDriven) AccountDriven {
	if !s.demo() {
		return c
	}
	c.Domains = slices.Clone(c.Domains)
	for _, mode := range []AccountMode{ModeBYOD, ModeADDE} {
		c.Domains = append(c.Domains, AccountDomain{Domain: DemoDomain(mode), Policy: map[ModelFamily]AccountMode{
			"iPhone": mode, "iPad": mode, "Mac": mode, "RealityDevice": mode,
		}})
	}
	return c
}
