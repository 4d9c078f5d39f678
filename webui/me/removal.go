package me

import (
	"errors"
	"net/http"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// confirm is the frame of a page that asks about a device.
func (m *Me) confirm(r *http.Request, title, what string) (view.MeConfirm, enroll.Own, error) {
	o, err := m.Enroll.MyDevice(r.Context(), caller(r), pathDevice(r))
	if err != nil {
		return view.MeConfirm{}, enroll.Own{}, refuse(err, "")
	}
	path := devicePath(o.ID)
	around, err := m.page(r, title, sectionDevices, path+"/"+what)
	if err != nil {
		return view.MeConfirm{}, enroll.Own{}, err
	}
	return view.MeConfirm{
		Me: around, Action: path + "/" + what, Cancel: view.Link{Label: around.T.Say("me.cancel"), URL: path},
	}, o, nil
}

// mayRemove says why a person may not be asked whether the management of a device shall end.
func mayRemove(o enroll.Own) error {
	switch {
	case !o.Managed():
		return refuse(enroll.ErrEnded, devicePath(o.ID))
	case !o.MayRemove:
		return refuse(enroll.ErrNotYourself, devicePath(o.ID))
	}
	return nil
}

func (m *Me) askRemove(w http.ResponseWriter, r *http.Request) error {
	page, o, err := m.confirm(r, "me.remove.title", "remove")
	if err != nil {
		return err
	}
	if err := mayRemove(o); err != nil {
		return err
	}
	if o.State == mdm.Pending { // it can't be asked
		http.Redirect(w, r, devicePath(o.ID)+"/end", http.StatusSeeOther)
		return nil
	}
	t := page.T
	page.Heading = t.Say("me.remove.heading", "device", deviceName(t, o.Device))
	page.Lead = t.Say("me.remove.lead")
	for _, point := range []string{"access", "installed", "own", "network", "again"} {
		page.Points = append(page.Points, t.Say("me.remove."+point))
	}
	page.Button, page.Danger = t.Say("me.remove.button"), true
	page.InsteadText, page.Instead = t.Say("me.remove.offline"), view.Link{Label: t.Say("me.remove.end"), URL: devicePath(o.ID) + "/end"}
	return m.Pages.Write(w, http.StatusOK, page)
}

func (m *Me) remove(w http.ResponseWriter, r *http.Request) error {
	id := pathDevice(r)
	err := m.Enroll.RemoveMine(r.Context(), caller(r), id)
	switch {
	case errors.Is(err, enroll.ErrCantAsk):
		return refuse(err, devicePath(id)+"/end")
	case errors.Is(err, enroll.ErrEnded), errors.Is(err, enroll.ErrNotYourself):
		return refuse(err, devicePath(id))
	case err != nil:
		return refuse(err, "")
	}
	return seeOther(w, r, devicePath(id), "removal")
}

func (m *Me) askEnd(w http.ResponseWriter, r *http.Request) error {
	page, o, err := m.confirm(r, "me.end.title", "end")
	if err != nil {
		return err
	}
	if err := mayRemove(o); err != nil {
		return err
	}
	t := page.T
	page.Heading = t.Say("me.end.heading", "device", deviceName(t, o.Device))
	page.Lead = t.Say("me.end.lead")
	page.Points = []string{
		t.Say("me.end.trust"), t.Say("me.end.profile", "menu", t.Apple("vpn_device_management", 0)), t.Say("me.end.back"),
	}
	page.Button, page.Danger = t.Say("me.end.button"), true
	return m.Pages.Write(w, http.StatusOK, page)
}

func (m *Me) end(w http.ResponseWriter, r *http.Request) error {
	id := pathDevice(r)
	err := m.Enroll.EndMine(r.Context(), caller(r), id)
	switch {
	case errors.Is(err, enroll.ErrEnded), errors.Is(err, enroll.ErrNotYourself):
		return refuse(err, devicePath(id))
	case err != nil:
		return refuse(err, "")
	}
	return seeOther(w, r, devicePath(id), "ended")
}

// askLost asks about a report, or about its end.
func (m *Me) askLost(w http.ResponseWriter, r *http.Request) error {
	return m.lostForm(w, r, http.StatusOK, "", "")
}

func (m *Me) lostForm(w http.ResponseWriter, r *http.Request, status int, note, problem string) error {
	page, o, err := m.confirm(r, "me.lost.title", "lost")
	if err != nil {
		return err
	}
	t := page.T
	name := deviceName(t, o.Device)
	switch {
	case o.Lost != nil && problem == "":
		page.Action = devicePath(o.ID) + "/found"
		page.Heading, page.Lead = t.Say("me.lost.found.heading", "device", name), t.Say("me.lost.found.lead")
		page.Button = t.Say("me.lost.found.button")
	case !o.Managed():
		return refuse(enroll.ErrEnded, devicePath(o.ID))
	default:
		page.Heading, page.Lead = t.Say("me.lost.report.heading", "device", name), t.Say("me.lost.report.lead")
		if o.Ownership == mdm.Personal {
			page.Points = []string{t.Say("me.lost.report.apple")}
		}
		page.Note = &view.MeField{Label: t.Say("me.lost.report.note"), Value: note, Most: enroll.MaxLostNote}
		page.Button, page.Error = t.Say("me.lost.report.button"), problem
	}
	return m.Pages.Write(w, status, page)
}

func (m *Me) reportLost(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return unreadable(err)
	}
	id, note := pathDevice(r), r.PostForm.Get("note")
	err := m.Enroll.ReportLost(r.Context(), caller(r), id, note)
	var field *enroll.FieldError
	switch {
	case errors.As(err, &field):
		m.refused(r, codeNote)
		texts, err := m.Frame.Texts.For(r)
		if err != nil {
			return err
		}
		return m.lostForm(w, r, http.StatusUnprocessableEntity, note, texts.Say("me.lost.too_long", "most", enroll.MaxLostNote, "code", codeNote))
	case errors.Is(err, enroll.ErrEnded):
		return refuse(err, devicePath(id))
	case err != nil:
		return refuse(err, "")
	}
	return seeOther(w, r, devicePath(id), "lost")
}

func (m *Me) found(w http.ResponseWriter, r *http.Request) error {
	id := pathDevice(r)
	if err := m.Enroll.WithdrawLost(r.Context(), caller(r), id); err != nil {
		return refuse(err, "")
	}
	return seeOther(w, r, devicePath(id), "found")
}
