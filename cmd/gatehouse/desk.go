package main

import (
	"context"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/admin/accountdriven"
	"github.com/gatehouse-mdm/gatehouse/webui/admin/attempts"
	deskaudit "github.com/gatehouse-mdm/gatehouse/webui/admin/audit"
	"github.com/gatehouse-mdm/gatehouse/webui/admin/business"
	"github.com/gatehouse-mdm/gatehouse/webui/admin/certificates"
	deskcommands "github.com/gatehouse-mdm/gatehouse/webui/admin/commands"
	"github.com/gatehouse-mdm/gatehouse/webui/admin/devices"
	"github.com/gatehouse-mdm/gatehouse/webui/admin/enrollment"
	"github.com/gatehouse-mdm/gatehouse/webui/admin/home"
	deskpeople "github.com/gatehouse-mdm/gatehouse/webui/admin/people"
	"github.com/gatehouse-mdm/gatehouse/webui/admin/portaltexts"
	"github.com/gatehouse-mdm/gatehouse/webui/admin/profiles"
	adminsettings "github.com/gatehouse-mdm/gatehouse/webui/admin/settings"
)

// mountDesk registers the administrators' pages, each section with its own.
func mountDesk(mux *webui.Mux, desk *admin.Desk, sessions *webui.Sessions, people *identity.Service) error {
	group := func(limit int64, timeout time.Duration) webui.Router {
		return mux.Group(webui.Group{BodyLimit: limit, Timeout: timeout, Fail: desk.Fail,
			Use: []webui.Middleware{sessions.Load, webui.PlainQuery(desk.Fail), desk.Guard}})
	}
	// Pages that send something to all devices, and those that ask Apple or a mail server,
	// may take their time.
	pages, uploads := group(1<<20, 2*time.Minute), group(2*profile.MaxSize, 2*time.Minute) // in base64 a profile is larger
	desk.Mount(pages)
	desk.MountLive(group(1<<10, 0)) // a stream has no end to wait for
	for _, section := range []func(*admin.Desk) (admin.Section, error){
		func(d *admin.Desk) (admin.Section, error) { return home.New(d) },
		func(d *admin.Desk) (admin.Section, error) { return devices.New(d) },
		func(d *admin.Desk) (admin.Section, error) { return deskpeople.New(d) },
		func(d *admin.Desk) (admin.Section, error) { return deskaudit.New(d) },
		func(d *admin.Desk) (admin.Section, error) { return profiles.New(d) },
		func(d *admin.Desk) (admin.Section, error) { return certificates.New(d) },
		func(d *admin.Desk) (admin.Section, error) { return deskcommands.New(d) },
		func(d *admin.Desk) (admin.Section, error) { return adminsettings.New(d, signInBy(people, sessions)) },
		func(d *admin.Desk) (admin.Section, error) { return enrollment.New(d) },
		func(d *admin.Desk) (admin.Section, error) { return attempts.New(d) },
		func(d *admin.Desk) (admin.Section, error) { return accountdriven.New(d) },
		func(d *admin.Desk) (admin.Section, error) { return business.New(d) },
		func(d *admin.Desk) (admin.Section, error) { return portaltexts.New(d) },
	} {
		s, err := section(desk)
		if err != nil {
			return err
		}
		s.Mount(pages, uploads)
	}
	return nil
}

// signInBy signs in who has just got an account, as the form of the login would.
func signInBy(people *identity.Service, sessions *webui.Sessions) adminsettings.SignIn {
	return func(ctx context.Context, login, password, peer string) error {
		in, err := people.Login(ctx, login, password, peer)
		if err != nil {
			return err
		}
		return sessions.StartUser(ctx, in.User)
	}
}
