package apiv1

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/invite"
	"github.com/gatehouse-mdm/gatehouse/enroll/mail"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/mdm/inventory"
	"github.com/gatehouse-mdm/gatehouse/mdm/wake"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// Letters writes the mail that tests the settings. *letter.Writer is one.
type Letters interface {
	Test(ctx context.Context, to string, o enroll.Organisation) (mail.Message, error)
}

// settingsRequest says what to change of the settings: what is not there stays. Fields
// that are only in answers may be there, so that what was read can be changed and sent back.
type settingsRequest struct {
	Organisation    json.RawMessage `json:"organisation"` // an organisationRequest
	Portal          *bool           `json:"portal"`
	Institutional   json.RawMessage `json:"institutional"` // a wayRequest
	Personal        json.RawMessage `json:"personal"`
	PersonalMethod  *string         `json:"personal_method"`
	AccountDomains  []string        `json:"account_domains"`
	ProfileService  *bool           `json:"profile_service"`
	DeviceSignature *string         `json:"device_signature"`
	SelfRemoval     *string         `json:"self_removal"`
	RequirePush     *bool           `json:"require_push_certificate"`
	Inventory       json.RawMessage `json:"inventory"` // an inventoryRequest
	Push            json.RawMessage `json:"push"`      // a pushRequest
	Retention       json.RawMessage `json:"retention"` // a retentionRequest
	Mail            json.RawMessage `json:"mail"`      // a mailRequest; null: no mail any more
}

type organisationRequest struct {
	Name         *string `json:"name"`
	SupportEmail *string `json:"support_email"`
	SupportPhone *string `json:"support_phone"`
	SupportURL   *string `json:"support_url"`

	LogoURL json.RawMessage `json:"logo_url"`
}

type wayRequest struct {
	Enabled *bool           `json:"enabled"`
	Rights  json.RawMessage `json:"rights"` // a rightsRequest
}

type rightsRequest struct {
	Preset *string `json:"preset"`
	Custom *int    `json:"custom"`

	Bits json.RawMessage `json:"bits"`
	List json.RawMessage `json:"list"`
}

type mailRequest struct {
	Host       *string `json:"host"`
	Port       *int    `json:"port"`
	Encryption *string `json:"encryption"`
	Username   *string `json:"username"`
	Password   *string `json:"password"`
	From       *string `json:"from"`
	ReplyTo    *string `json:"reply_to"`
	Timeout    *string `json:"timeout"`
	PerMinute  *int    `json:"per_minute"`

	HasPassword json.RawMessage `json:"has_password"`
}

type inventoryRequest struct {
	Enabled    *bool   `json:"enabled"`
	Every      *string `json:"every"`
	FirstAfter *string `json:"first_after"`
}

// pushRequest and pushOptions say how long devices are woken.
type pushRequest struct {
	Repeats       *int    `json:"repeats"`
	RepeatAfter   *string `json:"repeat_after"`
	NotNowRepeats *int    `json:"not_now_repeats"`
	SilentAfter   *string `json:"silent_after"`
}

// retentionRequest and retentionOptions say how long things are kept, in days.
type retentionRequest struct {
	Audit    *int `json:"audit_days"`
	Commands *int `json:"commands_days"`
	Devices  *int `json:"devices_days"`
}

type retentionOptions struct {
	Audit    int `json:"audit_days"`
	Commands int `json:"commands_days"`
	Devices  int `json:"devices_days"` // that left; 0: for good
}

// retention is what is in force.
func retention(tx storage.Tx) (retentionOptions, error) {
	events, err := event.GetRetention(tx)
	if err != nil {
		return retentionOptions{}, err
	}
	commands, err := mdm.GetRetention(tx)
	if err != nil {
		return retentionOptions{}, err
	}
	devices, err := enroll.GetRetention(tx)
	return retentionOptions{Audit: events.Days, Commands: commands.Days, Devices: devices.Days}, err
}

// put puts what is asked for in force, and returns what is then.
func (in retentionRequest) put(tx storage.Tx) (retentionOptions, error) {
	now, err := retention(tx)
	if err != nil {
		return now, err
	}
	if in.Audit != nil {
		now.Audit = *in.Audit
		if err := event.PutRetention(tx, event.Retention{Days: now.Audit}); errors.Is(err, event.ErrRetention) {
			return now, invalid("retention.audit_days", err.Error())
		} else if err != nil {
			return now, err
		}
	}
	if in.Commands != nil {
		now.Commands = *in.Commands
		if err := mdm.PutRetention(tx, mdm.Retention{Days: now.Commands}); errors.Is(err, mdm.ErrRetention) {
			return now, invalid("retention.commands_days", err.Error())
		} else if err != nil {
			return now, err
		}
	}
	if in.Devices != nil {
		now.Devices = *in.Devices
		if err := enroll.PutRetention(tx, enroll.Retention{Days: now.Devices}); errors.Is(err, enroll.ErrRetention) {
			return now, invalid("retention.devices_days", err.Error())
		} else if err != nil {
			return now, err
		}
	}
	return now, nil
}

type pushOptions struct {
	Repeats       int    `json:"repeats"`
	RepeatAfter   string `json:"repeat_after"`
	NotNowRepeats int    `json:"not_now_repeats"`
	SilentAfter   string `json:"silent_after"`
}

type settingsJSON struct {
	Organisation    organisationJSON `json:"organisation"`
	Portal          bool             `json:"portal"`
	Institutional   wayJSON          `json:"institutional"`
	Personal        wayJSON          `json:"personal"`
	PersonalMethod  string           `json:"personal_method"`
	AccountDomains  []string         `json:"account_domains"`
	ProfileService  bool             `json:"profile_service"`
	DeviceSignature string           `json:"device_signature"`
	SelfRemoval     string           `json:"self_removal"`
	RequirePush     bool             `json:"require_push_certificate"`
	Inventory       inventoryOptions `json:"inventory"`
	Push            pushOptions      `json:"push"`
	Retention       retentionOptions `json:"retention"`
	Mail            *mailJSON        `json:"mail"` // null: none is sent
}

// inventoryOptions say when devices are asked about themselves.
type inventoryOptions struct {
	Enabled    bool   `json:"enabled"`
	Every      string `json:"every"`
	FirstAfter string `json:"first_after"`
}

type organisationJSON struct {
	Name         string `json:"name"`
	SupportEmail string `json:"support_email"`
	SupportPhone string `json:"support_phone"`
	SupportURL   string `json:"support_url"`
	LogoURL      string `json:"logo_url"` // empty: none
}

type wayJSON struct {
	Enabled bool       `json:"enabled"`
	Rights  rightsJSON `json:"rights"`
}

type rightsJSON struct {
	Preset string      `json:"preset"`
	Custom int         `json:"custom"` // 0 but for the preset custom
	Bits   int         `json:"bits"`   // what profiles have
	List   []rightJSON `json:"list"`   // the same, one by one
}

type rightJSON struct {
	Bit   int    `json:"bit"`
	Right string `json:"right"`
}

// rightsInWords are what each bit of AccessRights lets a server do (PROTOCOL 3.3).
var rightsInWords = []rightJSON{
	{enroll.RightInspectProfiles, "See which configuration profiles are installed"},
	{enroll.RightInstallProfiles, "Install and remove configuration profiles"},
	{enroll.RightLock, "Lock the device and remove its passcode"},
	{enroll.RightErase, "Erase the device"},
	{enroll.RightDeviceInformation, "Read device information, such as name, model, serial number and version"},
	{enroll.RightNetworkInformation, "Read network information, such as phone number and hardware addresses"},
	{enroll.RightInspectProvisioning, "See which provisioning profiles are installed"},
	{enroll.RightInstallProvisioning, "Install and remove provisioning profiles"},
	{enroll.RightInspectApps, "See which apps are installed"},
	{enroll.RightInspectRestrictions, "See which restrictions apply"},
	{enroll.RightSecurityInformation, "Read security information, such as whether there is a passcode"},
	{enroll.RightSettings, "Change settings, such as the device's name"},
	{enroll.RightManageApps, "Install, configure and remove managed apps"},
}

type mailJSON struct {
	Host        string `json:"host"`
	Port        int    `json:"port"`
	Encryption  string `json:"encryption"`
	Username    string `json:"username"`
	HasPassword bool   `json:"has_password"`
	From        string `json:"from"`
	ReplyTo     string `json:"reply_to"`
	Timeout     string `json:"timeout"`
	PerMinute   int    `json:"per_minute"`
}

func (a *API) settings(in enroll.Settings, asking inventory.Settings, waking wake.Settings, m *mail.Settings) settingsJSON {
	out := settingsJSON{
		Organisation: organisationJSON{
			Name: in.Organisation.Name, SupportEmail: in.Organisation.SupportEmail, SupportPhone: in.Organisation.SupportPhone, SupportURL: in.Organisation.SupportURL,
		},
		Portal: in.Portal, Institutional: way(in.Institutional), Personal: way(in.Personal),
		PersonalMethod: string(in.PersonalMethod), AccountDomains: list(in.AccountDomains), ProfileService: in.ProfileService,
		DeviceSignature: string(in.DeviceSignature), SelfRemoval: string(in.SelfRemoval), RequirePush: in.RequirePushCertificate,
		Inventory: inventoryOptions{asking.Enabled, asking.Every.String(), asking.FirstAfter.String()},
		Push:      pushOptions{waking.Repeats, waking.RepeatAfter.String(), waking.NotNowRepeats, waking.SilentAfter.String()},
	}
	if in.Organisation.Logo != "" {
		out.Organisation.LogoURL = a.serverURL.JoinPath("logo", in.Organisation.Logo).String()
	}
	if m != nil {
		out.Mail = &mailJSON{
			Host: m.Host, Port: m.Port, Encryption: string(m.Encryption), Username: m.Username, HasPassword: m.Password != "",
			From: m.From, ReplyTo: m.ReplyTo, Timeout: m.Timeout.String(), PerMinute: m.PerMinute,
		}
	}
	return out
}

func way(in enroll.Way) wayJSON {
	rights := rightsJSON{Preset: string(in.Rights.Preset), Custom: in.Rights.Custom, Bits: in.Rights.Bits(), List: []rightJSON{}}
	for _, r := range rightsInWords {
		if rights.Bits&r.Bit != 0 {
			rights.List = append(rights.List, r)
		}
	}
	return wayJSON{Enabled: in.Enabled, Rights: rights}
}

func (a *API) getSettings(w http.ResponseWriter, r *http.Request) error {
	var in enroll.Settings
	var asking inventory.Settings
	var waking wake.Settings
	var m *mail.Settings
	var kept retentionOptions
	err := a.db.View(r.Context(), func(tx storage.Tx) (err error) {
		if in, err = enroll.GetSettings(tx); err != nil {
			return err
		}
		if asking, err = inventory.GetSettings(tx); err != nil {
			return err
		}
		if waking, err = wake.GetSettings(tx); err != nil {
			return err
		}
		if kept, err = retention(tx); err != nil {
			return err
		}
		m, err = a.mailSettings(tx)
		return err
	})
	if err != nil {
		return err
	}
	out := a.settings(in, asking, waking, m)
	out.Retention = kept
	return webui.WriteJSON(w, http.StatusOK, out)
}

// mailSettings returns nil where none are.
func (a *API) mailSettings(tx storage.Tx) (*mail.Settings, error) {
	m, err := a.mail.GetSettings(tx)
	switch {
	case errors.Is(err, mail.ErrNotConfigured):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &m, nil
}

func (a *API) updateSettings(w http.ResponseWriter, r *http.Request) error {
	var in settingsRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	change, err := in.read()
	if err != nil {
		return err
	}
	var asking inventory.Settings
	var waking wake.Settings
	var m *mail.Settings
	var kept retentionOptions
	now, err := a.enroll.ChangeSettings(r.Context(), func(tx storage.Tx, s *enroll.Settings) (also []event.Change, err error) {
		change.apply(s)
		before, err := a.besides(tx)
		if err != nil {
			return nil, err
		}
		if asking, waking, m, err = a.changeBesides(tx, change); err != nil {
			return nil, err
		}
		if kept, err = change.retention.put(tx); err != nil {
			return nil, err
		}
		after, err := a.besides(tx)
		return event.Changes(before, after), err
	})
	if err != nil {
		return err
	}
	out := a.settings(now, asking, waking, m)
	out.Retention = kept
	return webui.WriteJSON(w, http.StatusOK, out)
}

// besides is what else the settings hold, as the audit log tells of its changes.
func (a *API) besides(tx storage.Tx) (map[string]any, error) {
	asking, err := inventory.GetSettings(tx)
	if err != nil {
		return nil, err
	}
	waking, err := wake.GetSettings(tx)
	if err != nil {
		return nil, err
	}
	m, err := a.mailSettings(tx)
	if err != nil {
		return nil, err
	}
	kept, err := retention(tx)
	if err != nil {
		return nil, err
	}
	all := a.settings(enroll.Settings{}, asking, waking, m)
	out := map[string]any{"inventory": all.Inventory, "push": all.Push, "retention": kept, "mail": all.Mail}
	if m != nil {
		out["mail"] = struct {
			*mailJSON
			HasPassword *bool  `json:"has_password,omitempty"` // not told: the password is
			Password    string `json:"password"`               // whether it differs
		}{mailJSON: all.Mail, Password: string(m.Password)}
	}
	return out, nil
}

// changeBesides changes what the settings hold beside those of enrollment, and returns what
// is in force then.
func (a *API) changeBesides(tx storage.Tx, change settingsChange) (asking inventory.Settings, waking wake.Settings, m *mail.Settings, err error) {
	in := change.settingsRequest
	err = func() error {
		if asking, err = inventory.GetSettings(tx); err != nil {
			return err
		}
		if waking, err = wake.GetSettings(tx); err != nil {
			return err
		}
		if given(in.Inventory) {
			set(&asking.Enabled, change.inventory.Enabled)
			set(&asking.Every, change.every)
			set(&asking.FirstAfter, change.firstAfter)
			if err := inventory.PutSettings(tx, asking); err != nil {
				return err
			}
		}
		if given(in.Push) {
			set(&waking.Repeats, change.push.Repeats)
			set(&waking.RepeatAfter, change.repeatAfter)
			set(&waking.NotNowRepeats, change.push.NotNowRepeats)
			set(&waking.SilentAfter, change.silentAfter)
			if err := wake.PutSettings(tx, waking); err != nil {
				if bad, ok := errors.AsType[*wake.SettingsError](err); ok {
					return invalid("push."+bad.Field, bad.Reason)
				}
				return err
			}
		}
		if m, err = a.mailSettings(tx); err != nil {
			return err
		}
		if in.Mail == nil {
			return nil
		}
		if m, err = change.mailFrom(m); err != nil {
			return err
		}
		if m == nil {
			err = a.mail.RemoveSettings(tx)
		} else if err = a.mail.PutSettings(tx, *m, change.mail.Password != nil); err == nil {
			m, err = a.mailSettings(tx) // with its defaults
		}
		if err != nil {
			return err
		}
		return invite.Resume(tx)
	}()
	return asking, waking, m, err
}

// settingsChange is a settingsRequest as it was read.
type settingsChange struct {
	settingsRequest
	organisation            organisationRequest
	institutional, personal wayRequest
	rights                  [2]rightsRequest // of the two
	mail                    *mailRequest     // nil: no mail any more, if Mail is there
	timeout                 *time.Duration
	inventory               inventoryRequest
	every, firstAfter       *time.Duration
	push                    pushRequest
	repeatAfter             *time.Duration
	silentAfter             *time.Duration
	retention               retentionRequest
}

// read reads the objects in the request, or returns a problem that names all that is wrong.
func (in settingsRequest) read() (c settingsChange, err error) {
	c.settingsRequest = in
	var bad fieldErrors
	if given(in.Organisation) {
		bad.object("organisation", in.Organisation, &c.organisation)
	}
	for i, one := range []struct {
		field string
		raw   json.RawMessage
		way   *wayRequest
	}{{"institutional", in.Institutional, &c.institutional}, {"personal", in.Personal, &c.personal}} {
		if given(one.raw) && bad.object(one.field, one.raw, one.way) && given(one.way.Rights) {
			bad.object(one.field+".rights", one.way.Rights, &c.rights[i])
		}
	}
	if given(in.Inventory) {
		bad.object("inventory", in.Inventory, &c.inventory)
	}
	if given(in.Push) {
		bad.object("push", in.Push, &c.push)
	}
	if given(in.Retention) {
		bad.object("retention", in.Retention, &c.retention)
	}
	for _, one := range []struct {
		field string
		text  *string
		to    **time.Duration
	}{
		{"inventory.every", c.inventory.Every, &c.every}, {"inventory.first_after", c.inventory.FirstAfter, &c.firstAfter},
		{"push.repeat_after", c.push.RepeatAfter, &c.repeatAfter}, {"push.silent_after", c.push.SilentAfter, &c.silentAfter},
	} {
		if one.text == nil {
			continue
		}
		d, err := time.ParseDuration(*one.text)
		if err != nil {
			bad.add(one.field, "must be a duration such as 24h")
		}
		*one.to = &d
	}
	if given(in.Mail) {
		c.mail = &mailRequest{}
		if bad.object("mail", in.Mail, c.mail) && c.mail.Timeout != nil {
			d, err := time.ParseDuration(*c.mail.Timeout)
			if err != nil || d <= 0 {
				bad.add("mail.timeout", "must be a duration such as 30s")
			}
			c.timeout = &d
		}
		for _, n := range []struct {
			field string
			value *int
		}{{"mail.port", c.mail.Port}, {"mail.per_minute", c.mail.PerMinute}} {
			if n.value != nil && *n.value <= 0 { // 0 stands for the default below
				bad.add(n.field, "must be at least 1")
			}
		}
	}
	if len(bad) > 0 {
		return c, invalids(bad)
	}
	return c, nil
}

func (c settingsChange) apply(s *enroll.Settings) {
	set(&s.Organisation.Name, c.organisation.Name)
	set(&s.Organisation.SupportEmail, c.organisation.SupportEmail)
	set(&s.Organisation.SupportPhone, c.organisation.SupportPhone)
	set(&s.Organisation.SupportURL, c.organisation.SupportURL)
	set(&s.Portal, c.Portal)
	set(&s.PersonalMethod, (*enroll.PersonalMethod)(c.PersonalMethod))
	if c.AccountDomains != nil {
		s.AccountDomains = append([]string{}, c.AccountDomains...)
	}
	set(&s.ProfileService, c.ProfileService)
	set(&s.DeviceSignature, (*enroll.SignatureCheck)(c.DeviceSignature))
	set(&s.SelfRemoval, (*enroll.SelfRemoval)(c.SelfRemoval))
	set(&s.RequirePushCertificate, c.RequirePush)
	for i, one := range []struct {
		change wayRequest
		way    *enroll.Way
	}{{c.institutional, &s.Institutional}, {c.personal, &s.Personal}} {
		set(&one.way.Enabled, one.change.Enabled)
		rights := c.rights[i]
		set(&one.way.Rights.Preset, (*enroll.Preset)(rights.Preset))
		if one.way.Rights.Preset != enroll.PresetCustom && rights.Custom == nil {
			one.way.Rights.Custom = 0 // it was for the preset before
		}
		set(&one.way.Rights.Custom, rights.Custom)
	}
}

// mailFrom returns what m, which may be nil, is after the change; nil: no mail any more.
func (c settingsChange) mailFrom(m *mail.Settings) (*mail.Settings, error) {
	if c.mail == nil {
		return nil, nil
	}
	var s mail.Settings
	if m != nil {
		s = *m
	}
	if c.mail.Encryption != nil && mail.Encryption(*c.mail.Encryption) != s.Encryption {
		s.Port = 0 // the usual one, unless told otherwise
	}
	if c.mail.Username != nil && *c.mail.Username == "" {
		s.Password = ""
	}
	set(&s.Host, c.mail.Host)
	set(&s.Port, c.mail.Port)
	set(&s.Encryption, (*mail.Encryption)(c.mail.Encryption))
	set(&s.Username, c.mail.Username)
	set(&s.Password, (*identity.Secret)(c.mail.Password))
	set(&s.From, c.mail.From)
	set(&s.ReplyTo, c.mail.ReplyTo)
	set(&s.Timeout, c.timeout)
	set(&s.PerMinute, c.mail.PerMinute)
	return &s, nil
}

type logoJSON struct {
	URL         string `json:"url"`
	SHA256      string `json:"sha256"`
	ContentType string `json:"content_type"`
	Width       int    `json:"width"`
	Height      int    `json:"height"`
	Size        int    `json:"size"` // bytes
}

func (a *API) putLogo(w http.ResponseWriter, r *http.Request) error {
	content, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	l, _, err := a.enroll.SetLogo(r.Context(), content)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, logoJSON{
		URL: a.serverURL.JoinPath("logo", l.SHA256).String(), SHA256: l.SHA256, ContentType: l.ContentType,
		Width: l.Width, Height: l.Height, Size: len(l.Content),
	})
}

func (a *API) deleteLogo(w http.ResponseWriter, r *http.Request) error {
	if _, err := a.enroll.RemoveLogo(r.Context()); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

type mailTestRequest struct {
	To string `json:"to"`
}

type mailTestJSON struct {
	Delivered bool           `json:"delivered"` // the server has taken the mail
	Steps     []mailStepJSON `json:"steps"`
}

type mailStepJSON struct {
	Step         string `json:"step"`
	OK           bool   `json:"ok"`
	Detail       string `json:"detail"`
	Milliseconds int64  `json:"milliseconds"`
}

// maxMailTest is how long a test may take in all.
const maxMailTest = maxWait

func (a *API) testMail(w http.ResponseWriter, r *http.Request) error {
	var in mailTestRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	if !identity.IsAddress(in.To) {
		return invalid("to", "must be an address such as it@example.com")
	}
	ctx, cancel := context.WithTimeout(r.Context(), maxMailTest)
	defer cancel()
	settings, err := a.mail.Settings(ctx)
	if err != nil {
		return err
	}
	organisation, err := a.enroll.Settings(ctx)
	if err != nil {
		return err
	}
	m, err := a.letters.Test(ctx, in.To, organisation.Organisation)
	if err != nil {
		return err
	}
	results, err := a.mail.Try(ctx, settings, m)
	if err != nil {
		return err
	}
	out := mailTestJSON{Delivered: true, Steps: make([]mailStepJSON, len(results))}
	for i, step := range results {
		out.Steps[i] = mailStepJSON{string(step.Step), step.Err == nil, step.Detail, step.Took.Milliseconds()}
		out.Delivered = out.Delivered && step.Err == nil
	}
	a.log.InfoContext(ctx, "test mail sent", "delivered", out.Delivered, "by", principal(r).String())
	return webui.WriteJSON(w, http.StatusOK, out)
}
