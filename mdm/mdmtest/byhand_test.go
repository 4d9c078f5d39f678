package mdmtest

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// simple is a payload without keys of its own.
func (s *server) simple(kind string) Dict {
	return Dict{"PayloadType": kind, "PayloadVersion": 1, "PayloadIdentifier": "com.example." + kind, "PayloadUUID": s.uuid()}
}

func TestWhichPayloadsADeviceTakes(t *testing.T) {
	t.Parallel()
	const dock, lock, mail, filter, tcc, own, wifi = "com.apple.dock", "com.apple.app.lock", "com.apple.mail.managed", "com.apple.webcontent-filter",
		"com.apple.TCC.configuration-profile-policy", "com.example.preferences", "com.apple.wifi.managed"
	for name, tt := range map[string]struct {
		rules Rules
		kind  string
		want  error
	}{
		"Wi-Fi on an iPhone":                     {Rules{}, wifi, nil},
		"Wi-Fi on a personal iPhone":             {Rules{UserEnrollment: true}, wifi, nil},
		"a Mac's on an iPhone":                   {Rules{}, dock, errForeign},
		"a Mac's on a Mac":                       {Rules{Model: Mac}, dock, nil},
		"forbidden on a personal iPhone":         {Rules{UserEnrollment: true}, "com.apple.vpn.managed", errForbidden},
		"forbidden on a personal Mac":            {Rules{Model: Mac, UserEnrollment: true}, dock, errForbidden},
		"supervised on an iPhone":                {Rules{}, lock, errSupervised},
		"supervised on a supervised iPhone":      {Rules{Supervised: true}, lock, nil},
		"supervised on an Apple TV":              {Rules{Model: AppleTV}, lock, errSupervised},
		"an iPhone's on a Mac":                   {Rules{Model: Mac}, lock, errForeign},
		"mail on a Mac":                          {Rules{Model: Mac}, mail, errOtherScope},
		"mail of a Mac's user":                   {Rules{Model: Mac, User: true}, mail, nil},
		"a system's on a Mac's user":             {Rules{Model: Mac, User: true}, filter, errOtherScope},
		"privacy on a Mac":                       {Rules{Model: Mac}, tcc, nil},
		"privacy on a Mac that is not approved":  {Rules{Model: Mac, Unapproved: true}, tcc, errUnapproved},
		"privacy by hand":                        {Rules{Model: Mac, ByHand: true}, tcc, errOwnersOnly},
		"an app's own on an iPhone":              {Rules{}, own, nil},
		"an app's own on a personal iPhone":      {Rules{UserEnrollment: true}, own, errForbidden},
		"one that is newer than the system":      {Rules{OSVersion: "13.0"}, "com.apple.relay.managed", errForeign},
		"the same on a newer system":             {Rules{OSVersion: "17.0"}, "com.apple.relay.managed", nil},
		"one that is gone from the system":       {Rules{Model: Mac, OSVersion: "27.0"}, "com.apple.SoftwareUpdate", errForeign},
		"the same on an older system":            {Rules{Model: Mac, OSVersion: "26.1"}, "com.apple.SoftwareUpdate", nil},
		"declarations":                           {Rules{}, "com.apple.declarations", errDeclaration},
		"a type of several uses, one of a user":  {Rules{Model: Mac, User: true}, "com.apple.MCX", nil},
		"a type of several uses, of the system":  {Rules{Model: Mac}, "com.apple.MCX", nil},
		"only on a headset, where it is not yet": {Rules{Model: Vision, OSVersion: "1.1"}, "com.apple.airprint", errForeign},
	} {
		if got := tt.rules.accept(tt.kind); tt.want == nil && got != nil || tt.want != nil && !errors.Is(got, tt.want) {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

func TestARefusedPayloadIsNamedWithItsCode(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := s.enrolled(Options{})
	result := s.install(t, d.Channel(), s.configuration(s.rootPayload(), s.simple("com.apple.app.lock")))
	wantError(t, result, 4001)
	cause := result["ErrorChain"].([]any)[1].(Dict)
	if cause["ErrorCode"] != int64(4025) || !strings.Contains(cause["USEnglishDescription"].(string), "com.apple.app.lock") {
		t.Errorf("the cause is %v, want 4025 with the payload's type", cause)
	}
	if len(d.Profiles()) != 0 {
		t.Error("the rest of the profile was installed")
	}
}

func TestADeviceDoesWithoutWhatIsForOtherSystems(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := s.enrolled(Options{})
	wantStatus(t, s.install(t, d.Channel(), s.configuration(s.simple("com.apple.dock"), s.simple("com.apple.wifi.managed"))), StatusAcknowledged)
	if p := d.Installed("com.example.wifi"); len(p.Payloads) != 1 || p.Payloads[0]["PayloadType"] != "com.apple.wifi.managed" {
		t.Errorf("the device has %v, want Wi-Fi alone", p.Payloads)
	}
	wantError(t, s.install(t, d.Channel(), s.configuration(s.simple("com.apple.dock"))), 4001)
	if p := d.Installed("com.example.wifi"); p == nil || len(p.Payloads) != 1 {
		t.Error("a profile of which nothing is left replaced another")
	}
}

func TestAPersonChangesProfilesByHand(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := s.enrolled(Options{Supervised: true})
	profile := func(identifier string, change Dict) Dict {
		p := s.configuration(s.simple("com.apple.wifi.managed"))
		p["PayloadIdentifier"] = identifier
		for key, v := range change {
			p[key] = v
		}
		return p
	}
	wantStatus(t, s.install(t, d.Channel(), profile("com.example.a", nil)), StatusAcknowledged)
	wantStatus(t, s.install(t, d.Channel(), profile("com.example.fixed", Dict{"PayloadRemovalDisallowed": true})), StatusAcknowledged)

	if err := d.InstallProfileByHand(t.Context(), s.signed(profile("com.example.own", nil))); err != nil {
		t.Fatal(err)
	}
	if err := d.InstallProfileByHand(t.Context(), s.signed(profile("com.example.a", nil))); err == nil {
		t.Error("a profile of MDM was replaced by hand")
	}
	list := func(params Dict) (ids []string, managed []any) {
		for _, v := range s.ask(t, d.Channel(), "ProfileList", params)["ProfileList"].([]any) {
			ids, managed = append(ids, v.(Dict)["PayloadIdentifier"].(string)), append(managed, v.(Dict)["IsManaged"])
		}
		return ids, managed
	}
	ids, managed := list(nil)
	if want := []string{"com.example.mdm", "com.example.a", "com.example.fixed", "com.example.own"}; !slices.Equal(ids, want) || !slices.Equal(managed, []any{true, true, true, false}) {
		t.Errorf("ProfileList has %v, managed %v, want %v, the last not managed", ids, managed, want)
	}
	if ids, _ := list(Dict{"ManagedOnly": true}); slices.Contains(ids, "com.example.own") {
		t.Errorf("among the managed profiles are %v", ids)
	}
	wantError(t, s.ask(t, d.Channel(), "RemoveProfile", Dict{"Identifier": "com.example.own"}), 12013)
	wantError(t, s.ask(t, d.Channel(), "RemoveProfile", Dict{"Identifier": "com.example.none"}), 12075)

	for identifier, want := range map[string]error{"com.example.a": nil, "com.example.fixed": ErrFixed, "com.example.none": ErrNoProfile, "com.example.own": nil} {
		if err := d.RemoveProfileByHand(t.Context(), identifier); !errors.Is(err, want) {
			t.Errorf("RemoveProfileByHand(%s) = %v, want %v", identifier, err, want)
		}
	}
	if ids, _ := list(nil); !slices.Equal(ids, []string{"com.example.mdm", "com.example.fixed"}) {
		t.Errorf("afterwards there are %v", ids)
	}
	s.takeEvents()
	if err := d.RemoveProfileByHand(t.Context(), "com.example.mdm"); err != nil || d.State() != Removed || len(d.Profiles()) != 0 {
		t.Errorf("without the enrollment's profile: %v, %v, %d profiles", err, d.State(), len(d.Profiles()))
	}
	wantEvents(t, s.takeEvents(), "CheckOut by identity 1")
}

func TestAPersonsOwnProfilesAreNotTheServers(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.profile = byod(s.profile)
	d := s.enrolled(Options{UserEnrollment: true})
	vpn := s.configuration(s.simple("com.apple.vpn.managed"), s.rootPayload())
	vpn["PayloadIdentifier"] = "com.example.own"
	if err := d.InstallProfileByHand(t.Context(), s.signed(vpn)); err != nil {
		t.Fatal(err) // the enrollment forbids it to the server only
	}
	if ids := identifiers(s.ask(t, d.Channel(), "ProfileList", nil)); slices.Contains(ids, "com.example.own") {
		t.Errorf("the server sees %v", ids)
	}
	if inKeychain(s.ask(t, d.Channel(), "CertificateList", nil), s.ca, false) {
		for _, p := range d.Profile().Certificates {
			if p.Equal(s.ca) {
				return // the enrollment's own profile brought it, too
			}
		}
		t.Error("the server sees the person's certificate")
	}
}

func TestWhatCannotBeInstalledByHand(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := s.device(Options{Model: Mac})
	for name, profile := range map[string]Dict{
		"an enrollment profile":       s.profile,
		"one that only MDM may bring": s.configuration(s.simple("com.apple.TCC.configuration-profile-policy")),
		"one without payloads":        s.configuration(),
	} {
		if err := d.InstallProfileByHand(t.Context(), s.signed(profile)); err == nil {
			t.Errorf("%s was installed", name)
		}
	}
	if err := d.InstallProfileByHand(t.Context(), []byte("rubbish")); err == nil {
		t.Error("rubbish was installed")
	}
	if err := d.InstallProfileByHand(t.Context(), s.signed(s.configuration(s.rootPayload()))); err != nil || d.Installed("com.example.wifi") == nil {
		t.Errorf("before any enrollment: %v", err)
	}
}

func TestAManagedProfileReplacesOneByHand(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := s.enrolled(Options{})
	first, second := s.configuration(s.rootPayload()), s.configuration(s.rootPayload())
	if err := d.InstallProfileByHand(t.Context(), s.signed(first)); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, s.install(t, d.Channel(), second), StatusAcknowledged)
	if n := len(d.Profiles()); n != 1 || d.Installed("com.example.wifi").UUID != second["PayloadUUID"] {
		t.Errorf("%d profiles, want the second alone", n)
	}
	wantStatus(t, s.ask(t, d.Channel(), "RemoveProfile", Dict{"Identifier": "com.example.wifi"}), StatusAcknowledged)
}
