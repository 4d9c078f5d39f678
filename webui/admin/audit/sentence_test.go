package audit

import "testing"

func TestAnEventIsToldWithItsNames(t *testing.T) {
	phone := Event{DeviceID: "d1", DeviceName: "Bea’s iPhone"}
	ana := func(e Event, details ...string) Event {
		e.Actor, e.Outcome = "user:ana@example.com", "ok"
		return with(e, details...)
	}
	for name, tt := range map[string]struct {
		event Event
		text  string
		want  string
	}{
		"what somebody did": {ana(phone), "Somebody blocked a device.", "<bdi>ana@example.com</bdi> blocked <bdi>Bea’s iPhone</bdi>."},
		"what nobody known did": {
			Event{}, "Somebody blocked a device.", "Somebody blocked a device.",
		},
		"what the server did":          {Event{Actor: "server"}, "Somebody blocked a device.", "The server blocked a device."},
		"what a device is":             {phone, "A device is enrolled: commands reach it.", "<bdi>Bea’s iPhone</bdi> is enrolled: commands reach it."},
		"a device that is gone":        {Event{DeviceID: "abcdefghijkl"}, "A device is not managed any more.", "The device abcdefghij… is not managed any more."},
		"another sort of device":       {phone, "A device of another server came and was told to stay there.", "A device of another server came and was told to stay there."},
		"a device with something":      {phone, "A device with an enrollment profile was turned away.", "A device with an enrollment profile was turned away."},
		"a user":                       {ana(Event{User: "bea@example.com"}), "Somebody changed a user.", "<bdi>ana@example.com</bdi> changed the user <bdi>bea@example.com</bdi>."},
		"what is a user’s":             {ana(Event{User: "bea@example.com"}), "Somebody took a user's second factor away, for it to be set up anew.", "<bdi>ana@example.com</bdi> took the user <bdi>bea@example.com</bdi>&#39;s second factor away, for it to be set up anew."},
		"a thing with a name":          {ana(Event{}, "name", `"><script>`), "Somebody deleted a webhook.", "<bdi>ana@example.com</bdi> deleted the webhook “<bdi>&#34;&gt;&lt;script&gt;</bdi>”."},
		"a longer word":                {ana(Event{}, "name", "ci"), "Somebody saw a webhookish thing.", "<bdi>ana@example.com</bdi> saw a webhookish thing."},
		"a certificate":                {phone, "A certificate was issued.", "A certificate of <bdi>Bea’s iPhone</bdi> was issued."},
		"a certificate, and where":     {phone, "A certificate was taken off a device.", "A certificate was taken off <bdi>Bea’s iPhone</bdi>."},
		"somebody or something":        {Event{Actor: "token:ci"}, "Somebody or something asked for a certificate and was refused.", "<bdi>ci</bdi> asked for a certificate and was refused."},
		"an action that nobody knows":  {Event{Action: "tea.made"}, "", "Tea made"},
		"a command to one":             {with(ana(phone, "request_type", "DeviceLock"), "devices", "1").of("command.queued"), "", "<bdi>ana@example.com</bdi> queued <bdi>Device lock</bdi> for <bdi>Bea’s iPhone</bdi>."},
		"a command to many":            {ana(Event{}, "request_type", "DeviceLock", "devices", "12").of("command.queued"), "", "<bdi>ana@example.com</bdi> queued <bdi>Device lock</bdi> for 12 devices."},
		"a command that was done":      {with(phone, "request_type", "DeviceLock", "state", "acknowledged").of("command.finished"), "", "<bdi>Bea’s iPhone</bdi> has carried out <bdi>Device lock</bdi>."},
		"a command that was too late":  {with(phone, "request_type", "DeviceLock", "state", "expired").of("command.finished"), "", "<bdi>Device lock</bdi> expired before <bdi>Bea’s iPhone</bdi> answered."},
		"a command that was no use":    {with(phone, "request_type", "DeviceLock", "state", "cancelled", "superseded_by", "x").of("command.finished"), "", "<bdi>Device lock</bdi> for <bdi>Bea’s iPhone</bdi> gave way to a newer one."},
		"a sign-in":                    {ana(Event{User: "ana@example.com"}).of("user.login"), "", "<bdi>ana@example.com</bdi> signed in, with a password."},
		"a sign-in from somewhere":     {with(Event{User: "ana@example.com", Peer: "192.0.2.1", Outcome: "ok"}, "second_factor", "totp").of("user.login"), "", "<bdi>ana@example.com</bdi> signed in from 192.0.2.1, with a password and a second factor."},
		"a sign-in at a provider":      {with(Event{User: "ana@example.com", Outcome: "ok"}, "provider", "x", "name", "Entra").of("user.login"), "", "<bdi>ana@example.com</bdi> signed in, at <bdi>Entra</bdi>."},
		"a refusal from somewhere":     {Event{User: "ana@example.com", Peer: "192.0.2.1", Outcome: "refused"}.of("user.login"), "", "<bdi>ana@example.com</bdi> wanted to sign in from 192.0.2.1 and was refused."},
		"a sign-in that was refused":   {with(Event{User: "ana@example.com", Outcome: "refused"}, "count", "3").of("user.login"), "", "<bdi>ana@example.com</bdi> wanted to sign in and was refused, 3 times."},
		"a sign-in of nobody known":    {Event{Peer: "192.0.2.1", Outcome: "refused"}.of("user.login"), "", "Somebody at 192.0.2.1 wanted to sign in and was refused."},
		"a second factor that is none": {Event{User: "bea@example.com", Outcome: "refused"}.of("user.second_factor"), "", "<bdi>bea@example.com</bdi> gave a wrong second factor."},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tt.event.Sentence(tt.text); string(got) != tt.want {
				t.Errorf("%s\nwant %s", got, tt.want)
			}
		})
	}
}

func with(e Event, details ...string) Event {
	all := map[string]string{}
	for key, value := range e.Details {
		all[key] = value
	}
	for i := 0; i < len(details); i += 2 {
		all[details[i]] = details[i+1]
	}
	e.Details = all
	return e
}

func (e Event) of(action string) Event {
	e.Action = action
	return e
}
