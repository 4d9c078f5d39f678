package mdmtest

import (
	"bytes"
	"slices"
	"testing"
)

// wantError fails the test unless the result is an Error whose chain begins with code.
func wantError(t *testing.T, result Dict, code int64) {
	t.Helper()
	chain, _ := result["ErrorChain"].([]any)
	if result["Status"] != StatusError || len(chain) == 0 || chain[0].(Dict)["ErrorCode"] != code {
		t.Errorf("the result is %v, want the error %d", result, code)
	}
}

func TestAPasscodeIsClearedByItsTokenAlone(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := s.enrolled(Options{})
	wantError(t, s.ask(t, d.Channel(), "ClearPasscode", Dict{"UnlockToken": []byte("guessed")}), 5013)
	if !d.HasPasscode() {
		t.Fatal("a wrong token cleared the passcode")
	}
	wantStatus(t, s.ask(t, d.Channel(), "ClearPasscode", Dict{"UnlockToken": d.UnlockToken()}), StatusAcknowledged)
	info := s.ask(t, d.Channel(), "SecurityInfo", nil)["SecurityInfo"].(Dict)
	if d.HasPasscode() || info["PasscodePresent"] != false {
		t.Errorf("after ClearPasscode, SecurityInfo = %v", info)
	}
}

func TestAPasscodePolicyIsNotedWhenItIsBroken(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := s.enrolled(Options{})
	policy := s.configuration(Dict{"PayloadType": "com.apple.mobiledevice.passwordpolicy", "PayloadVersion": 1, "PayloadIdentifier": "p", "PayloadUUID": "P", "forcePIN": true})
	wantStatus(t, s.install(t, d.Channel(), policy), StatusAcknowledged)
	for _, there := range []bool{true, false} {
		d.SetPasscode(there)
		info := s.ask(t, d.Channel(), "SecurityInfo", nil)["SecurityInfo"].(Dict)
		if info["PasscodeCompliantWithProfiles"] != there {
			t.Errorf("with a passcode: %t, SecurityInfo = %v", there, info)
		}
	}
}

func TestARecoveryLockIsKept(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := s.enrolled(Options{Model: Mac})
	set := func(current, next string) Dict {
		return s.ask(t, d.Channel(), "SetRecoveryLock", Dict{"CurrentPassword": current, "NewPassword": next})
	}
	verified := func(password string) bool {
		return s.ask(t, d.Channel(), "VerifyRecoveryLock", Dict{"Password": password})["PasswordVerified"].(bool)
	}
	wantStatus(t, set("", "first"), StatusAcknowledged)
	wantError(t, set("wrong", "second"), 12010)
	if !verified("first") || verified("second") || d.RecoveryLock() != "first" {
		t.Errorf("the recovery lock is %q, want first", d.RecoveryLock())
	}
	wantStatus(t, set("first", ""), StatusAcknowledged)
	info := s.ask(t, d.Channel(), "SecurityInfo", nil)["SecurityInfo"].(Dict)
	if d.RecoveryLock() != "" || info["IsRecoveryLockEnabled"] != false {
		t.Errorf("a cleared recovery lock is %q, SecurityInfo = %v", d.RecoveryLock(), info)
	}
}

func TestAFileVaultKeyIsRotatedForItsReaderAlone(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := s.enrolled(Options{Model: Mac})
	old := d.RecoveryKey()
	rotate := func(password string) Dict {
		return s.ask(t, d.Channel(), "RotateFileVaultKey", Dict{"KeyType": "personal", "FileVaultUnlock": Dict{"Password": password}, "ReplyEncryptionCertificate": s.ca.Raw})
	}
	wantError(t, rotate("wrong"), 12010)
	if d.RecoveryKey() != old {
		t.Fatal("a wrong password rotated the key")
	}
	sealed := rotate(old)["RotateResult"].(Dict)["EncryptedNewRecoveryKey"].([]byte)
	plain, err := openEnvelope(sealed, s.ca, s.key, true)
	if err != nil {
		t.Fatal(err)
	}
	if string(plain) != d.RecoveryKey() || d.RecoveryKey() == old || bytes.Contains(sealed, plain) {
		t.Errorf("the envelope holds %q, the Mac has %q, and had %q", plain, d.RecoveryKey(), old)
	}
	wantStatus(t, rotate(d.RecoveryKey()), StatusAcknowledged)
	if d.RecoveryKey() == string(plain) || d.RecoveryKey() == old {
		t.Error("the second rotation brought no new key")
	}
}

func TestARecoveryKeyIsEscrowedAsAProfileAsks(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := s.enrolled(Options{Model: Mac})
	escrowed := func() []byte {
		cms, _ := s.ask(t, d.Channel(), "SecurityInfo", nil)["SecurityInfo"].(Dict)["FDE_PersonalRecoveryKeyCMS"].([]byte)
		return cms
	}
	if escrowed() != nil {
		t.Error("a Mac gives its key away unasked")
	}
	escrow, certificate := s.simple("com.apple.security.FDERecoveryKeyEscrow"), s.simple("com.apple.security.pkcs1")
	certificate["PayloadContent"] = s.ca.Raw
	escrow["EncryptCertPayloadUUID"], escrow["Location"] = certificate["PayloadUUID"], "here"
	wantStatus(t, s.install(t, d.Channel(), s.configuration(certificate, escrow)), StatusAcknowledged)
	first := escrowed()
	if again := escrowed(); !bytes.Equal(first, again) {
		t.Error("the same key is another one each time")
	}
	wantStatus(t, s.ask(t, d.Channel(), "RotateFileVaultKey", Dict{"KeyType": "personal", "FileVaultUnlock": Dict{"Password": d.RecoveryKey()}}), StatusAcknowledged)
	plain, err := openEnvelope(escrowed(), s.ca, s.key, true)
	if err != nil || string(plain) != d.RecoveryKey() {
		t.Errorf("escrowed is %q (%v), the Mac has %q", plain, err, d.RecoveryKey())
	}
}

func TestLostModeComesBeforeItsCommands(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := s.enrolled(Options{Supervised: true})
	wantError(t, s.ask(t, d.Channel(), "DeviceLocation", nil), 12067)
	wantStatus(t, s.ask(t, d.Channel(), "EnableLostMode", nil), StatusFormat) // neither message nor number
	wantStatus(t, s.ask(t, d.Channel(), "EnableLostMode", Dict{"Message": "mine"}), StatusAcknowledged)
	info := s.ask(t, d.Channel(), "DeviceInformation", Dict{"Queries": []string{"IsMDMLostModeEnabled"}})["QueryResponses"].(Dict)
	if !d.Lost() || info["IsMDMLostModeEnabled"] != true {
		t.Errorf("in lost mode, DeviceInformation = %v", info)
	}
	wantStatus(t, s.ask(t, d.Channel(), "DeviceLocation", nil), StatusAcknowledged)
	wantStatus(t, s.ask(t, d.Channel(), "DisableLostMode", nil), StatusAcknowledged)
	if d.Lost() {
		t.Error("lost mode stayed")
	}
}

func TestEachSettingIsAnsweredForItself(t *testing.T) {
	t.Parallel()
	items := []any{
		Dict{"Item": "DeviceName", "DeviceName": "Reception"},
		Dict{"Item": "DeviceName"},
		Dict{"Item": "OrganizationInfo", "OrganizationInfo": Dict{"OrganizationName": "Example"}},
		Dict{"Item": "ApplicationConfiguration", "Identifier": "com.example.notes"},
		Dict{"Item": "HostName", "HostName": "mac"},
		Dict{"Item": "Nonsense"},
	}
	for name, tt := range map[string]struct {
		options Options
		want    []int64 // codes, 0: acknowledged
	}{
		"an iPhone":            {Options{}, []int64{29000, 29000, 0, 12038, 28000, 28000}},
		"a supervised iPhone":  {Options{Supervised: true}, []int64{0, 12008, 0, 12038, 28000, 28000}},
		"a personal iPhone":    {Options{UserEnrollment: true}, []int64{28000, 28000, 0, 12038, 28000, 28000}},
		"a Mac":                {Options{Model: Mac}, []int64{0, 12008, 0, 12038, 0, 28000}},
		"an Apple Vision, old": {Options{Model: Vision, OSVersion: "1.2", Supervised: true}, []int64{28000, 28000, 0, 12038, 28000, 28000}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			if tt.options.UserEnrollment {
				s.profile = byod(s.profile)
			}
			d := s.enrolled(tt.options)
			result := s.ask(t, d.Channel(), "Settings", Dict{"Settings": items})
			wantStatus(t, result, StatusAcknowledged)
			var got []int64
			for _, v := range result["Settings"].([]any) {
				code := int64(0)
				if chain, ok := v.(Dict)["ErrorChain"].([]any); ok {
					code = chain[0].(Dict)["ErrorCode"].(int64)
				}
				if (v.(Dict)["Status"] == StatusError) != (code != 0) {
					t.Errorf("item %v", v)
				}
				got = append(got, code)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("codes %v, want %v", got, tt.want)
			}
			info := s.ask(t, d.Channel(), "DeviceInformation", Dict{"Queries": []string{"DeviceName", "OrganizationInfo"}})["QueryResponses"].(Dict)
			name := d.Options().Name
			if tt.want[0] == 0 {
				name = "Reception"
			}
			if info["DeviceName"] != name || d.Name() != name || info["OrganizationInfo"].(Dict)["OrganizationName"] != "Example" {
				t.Errorf("afterwards the device says %v, want the name %s", info, name)
			}
		})
	}
}

func TestAnAppComesStepByStep(t *testing.T) {
	t.Parallel()
	const id = "com.example.crm"
	for name, tt := range map[string]struct {
		options Options
		params  Dict
		want    []string // states: of the answer, then after each session
	}{
		"a supervised device asks nobody":      {Options{Supervised: true}, Dict{"Identifier": id}, []string{"Installing", "Managed", "Managed"}},
		"an unsupervised one asks its user":    {Options{}, Dict{"Identifier": id}, []string{"Prompting", "Installing", "Managed"}},
		"and the user may decline":             {Options{Declines: true}, Dict{"Identifier": id}, []string{"Prompting", "UserRejected", "UserRejected"}},
		"a Mac asks nobody":                    {Options{Model: Mac}, Dict{"Identifier": id, "InstallAsManaged": true}, []string{"Installing", "Managed", "Managed"}},
		"of a manifest":                        {Options{Supervised: true}, Dict{"ManifestURL": "https://example.com/a/" + id + ".plist"}, []string{"Installing", "Managed", "Managed"}},
		"the user's own is taken over":         {Options{Supervised: true}, Dict{"Identifier": "com.example.notes", "ChangeManagementState": "Managed"}, []string{"Managed", "Managed"}},
		"the user's own, who is asked":         {Options{}, Dict{"Identifier": "com.example.notes", "ChangeManagementState": "Managed"}, []string{"PromptingForManagement", "Managed"}},
		"the user's own, who does not give it": {Options{Declines: true}, Dict{"Identifier": "com.example.notes", "ChangeManagementState": "Managed"}, []string{"PromptingForManagement", "ManagementRejected"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			d := s.enrolled(tt.options)
			result := s.ask(t, d.Channel(), "InstallApplication", tt.params)
			wantStatus(t, result, StatusAcknowledged)
			app := result["Identifier"].(string)
			got := []string{result["State"].(string)}
			for range tt.want[1:] {
				list := s.ask(t, d.Channel(), "ManagedApplicationList", nil)["ManagedApplicationList"].(Dict)
				got = append(got, list[app].(Dict)["Status"].(string))
			}
			if !slices.Equal(got, tt.want) || d.AppState(app) != tt.want[len(tt.want)-1] {
				t.Errorf("states %v, then %s, want %v", got, d.AppState(app), tt.want)
			}
		})
	}
}

func TestAppsThatAreNotInstalled(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := s.enrolled(Options{})
	for name, tt := range map[string]struct {
		params Dict
		code   int64 // 0: the command is malformed
	}{
		"without a source":      {Dict{}, 0},
		"with two":              {Dict{"Identifier": "a", "iTunesStoreID": 1}, 0},
		"with flags nobody has": {Dict{"Identifier": "a", "ManagementFlags": 2}, 0},
		"of no App Store":       {Dict{"iTunesStoreID": -1}, 12023},
		"of plain HTTP":         {Dict{"ManifestURL": "http://example.com/a.plist"}, 12034},
		"that the user has":     {Dict{"Identifier": "com.example.notes"}, 12025},
	} {
		result := s.ask(t, d.Channel(), "InstallApplication", tt.params)
		if tt.code == 0 {
			wantStatus(t, result, StatusFormat)
			continue
		}
		wantError(t, result, tt.code)
		if result["RejectionReason"] == nil {
			t.Errorf("%s: no RejectionReason", name)
		}
	}
}

func TestWhatAppsAServerSees(t *testing.T) {
	t.Parallel()
	names := func(result Dict) []string {
		var list []string
		for _, v := range result["InstalledApplicationList"].([]any) {
			list = append(list, v.(Dict)["Identifier"].(string))
		}
		slices.Sort(list)
		return list
	}
	const mine, notes, pages = "com.example.crm", "com.example.notes", "com.apple.Pages"
	for name, tt := range map[string]struct {
		byod   bool
		params Dict
		want   []string
	}{
		"all of a device":           {false, nil, []string{pages, mine, notes}},
		"managed ones":              {false, Dict{"ManagedAppsOnly": true}, []string{mine}},
		"those asked for":           {false, Dict{"Identifiers": []string{notes, "com.example.none"}}, []string{notes}},
		"a person's are not listed": {true, nil, []string{mine}},
		"not even when asked for":   {true, Dict{"Identifiers": []string{notes}, "ManagedAppsOnly": false}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			if tt.byod {
				s.profile = byod(s.profile)
			}
			d := s.enrolled(Options{UserEnrollment: tt.byod})
			s.ask(t, d.Channel(), "InstallApplication", Dict{"Identifier": mine})
			for range 2 { // the user agrees, and it comes
				if _, err := d.Poll(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if got := names(s.ask(t, d.Channel(), "InstalledApplicationList", tt.params)); !slices.Equal(got, tt.want) {
				t.Errorf("apps %v, want %v", got, tt.want)
			}
		})
	}
	s := newServer(t)
	d := s.enrolled(Options{})
	items := s.ask(t, d.Channel(), "InstalledApplicationList", Dict{"Items": []string{"Identifier", "Name"}})["InstalledApplicationList"].([]any)
	if first := items[0].(Dict); len(first) != 2 {
		t.Errorf("asked for two items, got %v", first)
	}
}

func TestAppsGoWithTheEnrollmentWhenTheyAreToldTo(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := s.enrolled(Options{Supervised: true})
	for id, flags := range map[string]int{"com.example.goes": 1, "com.example.stays": 4} {
		s.ask(t, d.Channel(), "InstallApplication", Dict{"Identifier": id, "ManagementFlags": flags})
	}
	if _, err := d.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !d.RemoveAppByHand("com.apple.Pages") || d.RemoveAppByHand("com.example.none") {
		t.Error("RemoveAppByHand does not tell what was there")
	}
	if err := d.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d.AppState("com.example.goes")+d.AppState("com.example.stays") != "" {
		t.Error("an app is managed without an enrollment")
	}
	if d.RemoveAppByHand("com.example.goes") || !d.RemoveAppByHand("com.example.stays") {
		t.Error("the wrong app went with the enrollment")
	}
}

func TestAnErasedDeviceIsNew(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := s.enrolled(Options{Supervised: true})
	s.ask(t, d.Channel(), "Settings", Dict{"Settings": []any{Dict{"Item": "DeviceName", "DeviceName": "Mine"}}})
	if err := d.InstallProfileByHand(t.Context(), s.signed(s.configuration(s.rootPayload()))); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, s.ask(t, d.Channel(), "EraseDevice", nil), StatusAcknowledged)
	if d.State() != Erased || d.Name() != d.Options().Name || len(d.Profiles()) != 0 || d.LastLock() != (Lock{}) {
		t.Errorf("the erased device is %v, called %q, with %d profiles", d.State(), d.Name(), len(d.Profiles()))
	}
	if err := d.Enroll(t.Context(), s.http.URL+"/profile"); err != nil {
		t.Errorf("Enroll of an erased device = %v", err)
	}
}
