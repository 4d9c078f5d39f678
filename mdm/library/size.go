package library

import (
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// fits refuses a device whose values make more of a profile than [profile.MaxSize]: it would
// wait for what can't be made. It asks for them before anything is written for the device,
// and only where values can make so much of it.
func (s *Service) fits(tx storage.Tx, d mdm.Device, t *profile.Template, w Wanted) error {
	if t.Largest() <= profile.MaxSize {
		return nil
	}
	w.Command, w.Certificates = "", nil
	values, err := s.People.Values(tx, d, w)
	if err != nil {
		return err
	}
	if size := t.Size(values.Variables); size > profile.MaxSize {
		return &command.Refusal{Code: "profile_too_large", Reason: fmt.Sprintf(
			"The profile would have %d MiB with the values of this device, at most %d.", (size+1<<20-1)>>20, profile.MaxSize>>20)}
	}
	return nil
}
