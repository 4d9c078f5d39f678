package me

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// signsIn says whether a device's user can be made to sign in on it again: it was enrolled by
// account, and does not leave for that.
func (m *Me) signsIn(ctx context.Context, o enroll.Own) (bool, error) {
	if o.EnrollmentMode == "" || !o.Managed() {
		return false, nil
	}
	c, err := m.Enroll.AccountDriven(ctx)
	return c.TokenRevoked == enroll.AfterSignIn, err
}

// signInRequired says whether a device's user was made to sign in again, lately.
func signInRequired(o enroll.Own) bool {
	return slices.ContainsFunc(o.Events, func(e event.Event) bool { return e.Action == "device.sign_in_required" })
}

func (m *Me) askSignIn(w http.ResponseWriter, r *http.Request) error {
	page, o, err := m.confirm(r, "me.sign_in.title", "sign-in")
	if err != nil {
		return err
	}
	switch may, err := m.signsIn(r.Context(), o); {
	case err != nil:
		return err
	case !o.Managed():
		return refuse(enroll.ErrEnded, devicePath(o.ID))
	case !may:
		return refuse(storage.ErrNotFound, devicePath(o.ID))
	}
	t := page.T
	page.Heading = t.Say("me.sign_in.heading", "device", deviceName(t, o.Device))
	page.Lead = t.Say("me.sign_in.lead")
	until := t.Say("me.sign_in.until")
	if isMac(o.Device) {
		until = t.Say("me.sign_in.until.mac") // only its users show tokens (PROTOCOL 2.6)
	}
	page.Points = []string{until, t.Say("me.sign_in.keeps")}
	page.Button = t.Say("me.sign_in.button")
	return m.Pages.Write(w, http.StatusOK, page)
}

func (m *Me) requireSignIn(w http.ResponseWriter, r *http.Request) error {
	o, err := m.Enroll.MyDevice(r.Context(), caller(r), pathDevice(r))
	if err != nil {
		return refuse(err, "")
	}
	may, err := m.signsIn(r.Context(), o)
	if err == nil && may {
		_, err = m.Enroll.RequireSignIn(r.Context(), o.ID)
	}
	switch {
	case !o.Managed(), errors.Is(err, mdm.ErrNotEnrolled):
		return refuse(enroll.ErrEnded, devicePath(o.ID))
	case err != nil:
		return err
	case !may:
		return refuse(storage.ErrNotFound, devicePath(o.ID))
	}
	return seeOther(w, r, devicePath(o.ID), "sign_in")
}

// isMac says that d is a Mac, as far as is known.
func isMac(d mdm.Device) bool {
	return command.PlatformOf(cmp.Or(d.ProductName, d.Model)) == command.MacOS
}
