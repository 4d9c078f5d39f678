package mdmtest

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestAnIPhoneEnrolsAndAnswers(t *testing.T) {
	s := newServer(t)
	d := s.device(Options{Name: "Ana's iPhone"})
	if err := d.Enroll(t.Context(), s.http.URL+"/profile"); err != nil {
		t.Fatal(err)
	}
	wantEvents(t, s.takeEvents(), "GET profile", "GET GetCACert", "GET GetCACaps", "POST PKIOperation",
		"Authenticate by identity 1", "TokenUpdate by identity 1")
	if got := d.State(); got != Enrolled {
		t.Errorf("State = %v, want enrolled", got)
	}
	for _, kind := range []string{"UDID", "SerialNumber", "IMEI", "OSVersion", "Topic"} {
		if s.checkins[0][kind] == nil {
			t.Errorf("Authenticate lacks %s", kind)
		}
	}
	for _, kind := range []string{"DeviceName", "Model", "ModelName"} {
		if s.checkins[0][kind] != nil {
			t.Errorf("Authenticate of an iPhone has %s, which only a Mac sends", kind)
		}
	}
	if token, _ := s.checkins[1]["UnlockToken"].([]byte); len(token) == 0 {
		t.Error("TokenUpdate has no UnlockToken")
	}

	s.queue("1", "DeviceInformation", Dict{"Queries": []string{"DeviceName", "SerialNumber", "IsAppleSilicon", "Nonsense"}})
	s.queue("2", "Frobnicate", nil)
	s.queue("3", "DeviceInformation", nil)
	if n, err := d.Poll(t.Context()); n != 3 || err != nil {
		t.Fatalf("Poll = %d, %v", n, err)
	}
	wantEvents(t, s.takeEvents(), "Idle  by identity 1", "Acknowledged 1 by identity 1", "Error 2 by identity 1", "CommandFormatError 3 by identity 1")
	answers := s.result("1")["QueryResponses"].(Dict)
	if answers["DeviceName"] != "Ana's iPhone" || answers["SerialNumber"] != d.Options().Serial || len(answers) != 2 {
		t.Errorf("QueryResponses = %v", answers)
	}
	chain := s.result("2")["ErrorChain"].([]any)[0].(Dict)
	if chain["ErrorCode"] != int64(12021) || chain["ErrorDomain"] != "MCMDMErrorDomain" {
		t.Errorf("ErrorChain = %v", chain)
	}
	if got := d.Counters(); got.Acknowledged != 1 || got.Errors != 2 || got.Idles != 1 || got.Failures != 0 || d.LastStatus() != 200 {
		t.Errorf("Counters = %+v, LastStatus = %d", got, d.LastStatus())
	}
}

func TestACertificateRequestIsWhatThePayloadAsks(t *testing.T) {
	s := newServer(t)
	for name, tt := range map[string]struct {
		model Model
		cn    string
		want  string
	}{
		"a Mac expands variables":                   {Mac, "%SerialNumber%-%ComputerName%-%HardwareUUID%", "SERIAL0001-Büro-UDID-1"},
		"an iPhone does not":                        {IPhone, "%SerialNumber%", "%SerialNumber%"},
		"a Mac cuts the name to 64 bytes":           {Mac, strings.Repeat("x", 96), strings.Repeat("x", 64)},
		"an iPhone does not cut":                    {IPhone, strings.Repeat("x", 96), strings.Repeat("x", 96)},
		"a Mac without a name takes the identifier": {Mac, "", "com.example.mdm.scep"},
	} {
		t.Run(name, func(t *testing.T) {
			p := s.enrollmentProfile()
			scep := payload(p, "com.apple.security.scep")["PayloadContent"].(Dict)
			subject := []any{[]any{[]any{"2.5.4.10", "Example & Söhne"}}}
			if tt.cn != "" {
				subject = append(subject, []any{[]any{"CN", tt.cn}})
			}
			scep["Subject"] = subject
			d := s.device(Options{Model: tt.model, Name: "Büro", UDID: "UDID-1", Serial: "SERIAL0001"})
			if err := d.Install(s.signed(p)); err != nil {
				t.Fatal(err)
			}
			client, err := d.SCEP(d.Profile())
			if err != nil {
				t.Fatal(err)
			}
			if err := client.Discover(t.Context()); err != nil {
				t.Fatal(err)
			}
			r, err := d.Request(client, d.Profile())
			if err != nil {
				t.Fatal(err)
			}
			csr, err := x509.ParseCertificateRequest(r.CSR)
			if err != nil {
				t.Fatal(err)
			}
			if csr.Subject.CommonName != tt.want || csr.Subject.Organization[0] != "Example & Söhne" {
				t.Errorf("subject = %v, want CN %q", csr.Subject, tt.want)
			}
			if !slices.Equal(csr.EmailAddresses, []string{"ana@example.com"}) || !slices.Equal(csr.DNSNames, []string{"a.example.com"}) {
				t.Errorf("alternative names = %v, %v", csr.EmailAddresses, csr.DNSNames)
			}
			if csr.SignatureAlgorithm != x509.SHA256WithRSA {
				t.Errorf("signature algorithm = %v", csr.SignatureAlgorithm)
			}
			out := opensslOutput(t, "req", "-noout", "-text", "-verify", "-inform", "DER", "-in", writeFile(t, "csr", r.CSR))
			for _, want := range []string{"challengePassword", "secret ", "Digital Signature, Key Encipherment"} {
				if !strings.Contains(out, want) {
					t.Errorf("openssl does not see %q in\n%s", want, out)
				}
			}
		})
	}
}

func TestAUserEnrollmentNamesNoHardware(t *testing.T) {
	s := newServer(t)
	s.profile = byod(s.profile)
	for _, model := range []Model{IPhone, Mac} {
		t.Run(string(model), func(t *testing.T) {
			s.checkins, s.results = nil, nil
			d := s.enrolled(Options{Model: model, UserEnrollment: true})
			s.queue("1", "DeviceInformation", Dict{"Queries": []string{"DeviceName", "SerialNumber", "UDID", "IMEI", "WiFiMAC"}})
			s.queue("2", "EraseDevice", Dict{"PIN": "123456"})
			if _, err := d.Poll(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, msg := range append(s.checkins, s.results...) {
				if msg["EnrollmentID"] != d.ID() {
					t.Errorf("EnrollmentID = %v, want %s", msg["EnrollmentID"], d.ID())
				}
				for _, key := range []string{"UDID", "SerialNumber", "IMEI", "MEID", "UnlockToken", "UserID"} {
					if msg[key] != nil {
						t.Errorf("%v%v has %s", msg["MessageType"], msg["Status"], key)
					}
				}
			}
			if answers := s.result("1")["QueryResponses"].(Dict); len(answers) != 1 {
				t.Errorf("QueryResponses = %v, want DeviceName alone", answers)
			}
			if got := s.result("2")["Status"]; got != StatusError || d.State() != Enrolled {
				t.Errorf("EraseDevice: %v, and the device is %v", got, d.State())
			}
			first := d.ID()
			if err := d.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := d.Enroll(t.Context(), s.http.URL+"/profile"); err != nil {
				t.Fatal(err)
			}
			if d.ID() == first {
				t.Error("the EnrollmentID of the next enrollment is the same")
			}
		})
	}
}

func TestUserChannel(t *testing.T) {
	for name, tt := range map[string]struct {
		options Options
		change  func(Dict)
		want    bool
	}{
		"a Mac with scope User has one":              {Options{Model: Mac}, func(Dict) {}, true},
		"a Mac with scope System has none":           {Options{Model: Mac}, func(p Dict) { p["PayloadScope"] = "System" }, false},
		"a Mac without a scope has none":             {Options{Model: Mac}, func(p Dict) { delete(p, "PayloadScope") }, false},
		"a Mac whose server takes no users has none": {Options{Model: Mac}, func(p Dict) { delete(payload(p, "com.apple.mdm"), "ServerCapabilities") }, false},
		"an iPhone with scope User has none":         {Options{}, func(Dict) {}, false},
		"a Mac in a User Enrollment has one":         {Options{Model: Mac, UserEnrollment: true}, func(p Dict) { byod(p) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			tt.change(s.profile)
			d := s.enrolled(tt.options)
			user := d.User()
			if (user != nil) != tt.want {
				t.Fatalf("User() = %v", user)
			}
			if user == nil {
				return
			}
			last := s.checkins[len(s.checkins)-1]
			key := "UserID"
			if tt.options.UserEnrollment {
				key = "EnrollmentUserID"
			}
			if last["MessageType"] != "TokenUpdate" || last[key] != user.User().ID || last["UserShortName"] != "ana" || last["NotOnConsole"] != false {
				t.Errorf("the last check-in is %v", last)
			}
			deviceToken, _ := d.Channel().Push()
			if userToken, _ := user.Push(); slices.Equal(userToken, deviceToken) {
				t.Error("both channels have one push token")
			}
		})
	}
}

func TestAResultIsKeptUntilItIsTaken(t *testing.T) {
	s := newServer(t)
	d := s.enrolled(Options{})
	s.queue("1", "ProfileList", nil)
	s.queue("2", "CertificateList", nil)
	fail := true
	s.status = func(kind string) (int, string, string) {
		if kind == StatusAcknowledged && fail {
			return http.StatusServiceUnavailable, "text/plain", "later"
		}
		return 0, "", ""
	}
	var refused *HTTPError
	if _, err := d.Poll(t.Context()); !errors.As(err, &refused) || refused.Status != 503 {
		t.Fatalf("Poll = %v, want 503", err)
	}
	if !d.Channel().WillPoll() {
		t.Error("the device would not come back with its result")
	}
	fail = false
	if _, err := d.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantEvents(t, s.takeEvents(), "Idle  by identity 1", "Acknowledged 1 by identity 1", // refused
		"Acknowledged 1 by identity 1", "Acknowledged 2 by identity 1")
	if len(d.Channel().Pending()) != 0 || d.Channel().WillPoll() {
		t.Error("a result is pending still")
	}
}

func TestNotNowIsOverWhenTheSessionIs(t *testing.T) {
	s := newServer(t)
	busy := true
	d := s.enrolled(Options{Model: Mac, Handler: func(_ context.Context, c *Channel, cmd *Command, own func() Result) Result {
		if busy && cmd.UUID == "1" {
			return Result{Status: StatusNotNow}
		}
		return own()
	}})
	s.queue("1", "SecurityInfo", nil)
	s.queue("2", "ProfileList", nil)
	if n, err := d.Poll(t.Context()); n != 2 || err != nil {
		t.Fatalf("Poll = %d, %v", n, err)
	}
	if d.Channel().WillPoll() {
		t.Error("the device comes back by itself although its last status was not NotNow")
	}
	if n, err := d.Poll(t.Context()); n != 1 || err != nil || !d.Channel().WillPoll() {
		t.Errorf("Poll = %d, %v, WillPoll %t: NotNow was the last status", n, err, d.Channel().WillPoll())
	}
	busy = false
	if n, err := d.Poll(t.Context()); n != 1 || err != nil {
		t.Fatalf("Poll = %d, %v", n, err)
	}
	wantEvents(t, s.takeEvents(), "Idle  by identity 1", "NotNow 1 by identity 1", "Acknowledged 2 by identity 1",
		"Idle  by identity 1", "NotNow 1 by identity 1", "Idle  by identity 1", "Acknowledged 1 by identity 1")
}

func TestACommandThatComesAgainInItsSessionIsAnError(t *testing.T) {
	s := newServer(t)
	d := s.enrolled(Options{})
	s.status = func(kind string) (int, string, string) {
		return 200, "application/xml", `<plist version="1.0"><dict><key>CommandUUID</key><string>1</string><key>Command</key><dict><key>RequestType</key><string>ProfileList</string></dict></dict></plist>`
	}
	if n, err := d.Poll(t.Context()); n != 1 || err == nil {
		t.Errorf("Poll = %d, %v, want an error after the first answer", n, err)
	}
}

func TestWhatRemovesTheEnrollment(t *testing.T) {
	for name, tt := range map[string]struct {
		status            int
		contentType, body string
		want              State
	}{
		"a bare 401":                    {401, "text/plain", "", Removed},
		"unrecognized device in JSON":   {403, "application/json", `{"code":"com.apple.unrecognized.device"}`, Removed},
		"unrecognized device in XML":    {403, "application/xml", `<plist><dict><key>code</key><string>com.apple.unrecognized.device</string></dict></plist>`, Removed},
		"another 403":                   {403, "text/plain", "no", Enrolled},
		"a 403 with another code":       {403, "application/json", `{"code":"com.apple.psso.required"}`, Enrolled},
		"a 400":                         {400, "text/plain", "", Enrolled},
		"a 410":                         {410, "text/plain", "", Enrolled},
		"a 500":                         {500, "text/plain", "", Enrolled},
		"a body that isn't even a list": {403, "application/xml", `nonsense`, Enrolled},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			d := s.enrolled(Options{})
			s.status = func(string) (int, string, string) { return tt.status, tt.contentType, tt.body }
			_, err := d.Poll(t.Context())
			if got := d.State(); got != tt.want || errors.Is(err, ErrRemoved) != (tt.want == Removed) {
				t.Errorf("Poll = %v, and the device is %v, want %v", err, got, tt.want)
			}
			if d.LastStatus() != tt.status {
				t.Errorf("LastStatus = %d", d.LastStatus())
			}
			s.status = nil
			s.takeEvents()
			if _, err := d.Poll(t.Context()); (err != nil) != (tt.want == Removed) {
				t.Errorf("the next Poll = %v", err)
			}
		})
	}
}

func TestAFailedEnrollmentLeavesNothing(t *testing.T) {
	s := newServer(t)
	for _, kind := range []string{"Authenticate", "TokenUpdate"} {
		t.Run(kind, func(t *testing.T) {
			s.status = func(k string) (int, string, string) {
				if k == kind {
					return 500, "text/plain", "down"
				}
				return 0, "", ""
			}
			d := s.device(Options{})
			if err := d.Enroll(t.Context(), s.http.URL+"/profile"); err == nil || d.State() != New {
				t.Errorf("Enroll = %v, and the device is %v", err, d.State())
			}
			s.status = nil
			if err := d.Enroll(t.Context(), s.http.URL+"/profile"); err != nil {
				t.Errorf("the second Enroll = %v", err)
			}
			if err := d.Enroll(t.Context(), s.http.URL+"/profile"); err == nil {
				t.Error("a second MDM profile is installed")
			}
		})
	}
}

func TestRemoval(t *testing.T) {
	for name, tt := range map[string]struct {
		do     func(*testing.T, *server, *Device)
		events []string
		want   State
	}{
		"by the user": {func(t *testing.T, _ *server, d *Device) {
			if err := d.Remove(t.Context()); err != nil {
				t.Error(err)
			}
		}, []string{"CheckOut by identity 1"}, Removed},
		"by the user, while the server is down": {func(t *testing.T, s *server, d *Device) {
			s.status = func(string) (int, string, string) { return 500, "text/plain", "" }
			if err := d.Remove(t.Context()); err == nil {
				t.Error("Remove hides that CheckOut failed")
			}
		}, []string{"CheckOut by identity 1"}, Removed},
		"by nobody's knowledge": {func(_ *testing.T, _ *server, d *Device) { d.Vanish() }, nil, Removed},
		"by the server": {func(t *testing.T, s *server, d *Device) {
			s.queue("1", "RemoveProfile", Dict{"Identifier": "com.example.mdm"})
			s.queue("2", "ProfileList", nil)
			if _, err := d.Poll(t.Context()); err != nil {
				t.Error(err)
			}
		}, []string{"Idle  by identity 1", "CheckOut by identity 1"}, Removed},
		"by EraseDevice": {func(t *testing.T, s *server, d *Device) {
			s.queue("1", "EraseDevice", nil)
			s.queue("2", "ProfileList", nil)
			if _, err := d.Poll(t.Context()); err != nil {
				t.Error(err)
			}
		}, []string{"Idle  by identity 1", "Acknowledged 1 by identity 1"}, Erased},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			d := s.enrolled(Options{})
			tt.do(t, s, d)
			wantEvents(t, s.takeEvents(), tt.events...)
			if got := d.State(); got != tt.want {
				t.Errorf("State = %v, want %v", got, tt.want)
			}
			if _, err := d.Poll(t.Context()); !errors.Is(err, ErrRemoved) {
				t.Errorf("Poll of a removed device = %v", err)
			}
			if len(s.takeEvents()) > 0 {
				t.Error("a removed device polls")
			}
		})
	}
}

func TestCommands(t *testing.T) {
	rights := func(n int) func(Dict) {
		return func(p Dict) { payload(p, "com.apple.mdm")["AccessRights"] = n }
	}
	for name, tt := range map[string]struct {
		options Options
		change  func(Dict)
		request string
		params  Dict
		want    string
		key     string // that the result must have
	}{
		"SecurityInfo of an iPhone":               {Options{}, nil, "SecurityInfo", nil, StatusAcknowledged, "SecurityInfo"},
		"SecurityInfo of a Mac":                   {Options{Model: Mac}, nil, "SecurityInfo", nil, StatusAcknowledged, "SecurityInfo"},
		"SecurityInfo without the right":          {Options{}, rights(16 + 3), "SecurityInfo", nil, StatusError, "ErrorChain"},
		"ProfileList":                             {Options{}, nil, "ProfileList", nil, StatusAcknowledged, "ProfileList"},
		"CertificateList":                         {Options{}, nil, "CertificateList", nil, StatusAcknowledged, "CertificateList"},
		"InstalledApplicationList":                {Options{}, nil, "InstalledApplicationList", nil, StatusAcknowledged, "InstalledApplicationList"},
		"Settings":                                {Options{}, nil, "Settings", Dict{"Settings": []any{Dict{"Item": "DeviceName"}}}, StatusAcknowledged, "Settings"},
		"Settings without items":                  {Options{}, nil, "Settings", nil, StatusFormat, "ErrorChain"},
		"DeviceLock of an iPhone":                 {Options{}, nil, "DeviceLock", Dict{"Message": "lost"}, StatusAcknowledged, "MessageResult"},
		"DeviceLock of a Mac without a PIN":       {Options{Model: Mac}, nil, "DeviceLock", nil, StatusError, "ErrorChain"},
		"DeviceLock of a Mac":                     {Options{Model: Mac}, nil, "DeviceLock", Dict{"PIN": "123456"}, StatusAcknowledged, "Status"},
		"RestartDevice of an unsupervised iPhone": {Options{}, nil, "RestartDevice", nil, StatusError, "ErrorChain"},
		"RestartDevice of a supervised iPhone":    {Options{Supervised: true}, nil, "RestartDevice", nil, StatusAcknowledged, "Status"},
		"RestartDevice of a Mac":                  {Options{Model: Mac}, nil, "RestartDevice", nil, StatusAcknowledged, "Status"},
		"InstallProfile without a payload":        {Options{}, nil, "InstallProfile", nil, StatusFormat, "ErrorChain"},
		"InstallProfile of rubbish":               {Options{}, nil, "InstallProfile", Dict{"Payload": []byte("x")}, StatusError, "ErrorChain"},
		"RemoveProfile of an unknown one":         {Options{}, nil, "RemoveProfile", Dict{"Identifier": "x"}, StatusError, "ErrorChain"},
		"a parameter of the wrong type":           {Options{}, nil, "DeviceInformation", Dict{"Queries": "all"}, StatusFormat, "ErrorChain"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			if tt.change != nil {
				tt.change(s.profile)
			}
			d := s.enrolled(tt.options)
			s.queue("1", tt.request, tt.params)
			if _, err := d.Poll(t.Context()); err != nil {
				t.Fatal(err)
			}
			if r := s.result("1"); r["Status"] != tt.want || r[tt.key] == nil {
				t.Errorf("result = %v, want %s with %s", r, tt.want, tt.key)
			}
		})
	}
}

func TestAnOrdinaryProfileComesAndGoes(t *testing.T) {
	s := newServer(t)
	d := s.enrolled(Options{})
	profile, err := MarshalPlist(Dict{
		"PayloadType": "Configuration", "PayloadVersion": 1, "PayloadIdentifier": "com.example.wifi", "PayloadUUID": "W",
		"PayloadContent": []any{Dict{"PayloadType": "com.apple.wifi.managed", "PayloadVersion": 1, "PayloadIdentifier": "com.example.wifi.1", "PayloadUUID": "W1"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.queue("1", "InstallProfile", Dict{"Payload": profile})
	s.queue("2", "InstallProfile", Dict{"Payload": profile}) // replaces
	s.queue("3", "ProfileList", nil)
	s.queue("4", "RemoveProfile", Dict{"Identifier": "com.example.wifi"})
	s.queue("5", "ProfileList", nil)
	if n, err := d.Poll(t.Context()); n != 5 || err != nil {
		t.Fatalf("Poll = %d, %v", n, err)
	}
	for uuid, want := range map[string]int{"3": 2, "5": 1} {
		if got := len(s.result(uuid)["ProfileList"].([]any)); got != want {
			t.Errorf("ProfileList %s has %d profiles, want %d", uuid, got, want)
		}
	}
}

func TestMessagesAreSignedAsTold(t *testing.T) {
	for name, tt := range map[string]struct {
		sign        SignMode
		signMessage bool
		signer      string
		overTLS     bool
	}{
		"by header, as the profile says": {SignAsTold, true, "identity 1", false},
		"by TLS, as the profile says":    {SignAsTold, false, "identity 1", true},
		"by header in spite of it":       {SignHeader, false, "identity 1", false},
		"by TLS in spite of it":          {SignTLS, true, "identity 1", true},
		"not at all":                     {SignNone, true, "nobody", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			payload(s.profile, "com.apple.mdm")["SignMessage"] = tt.signMessage
			s.enrolled(Options{Sign: tt.sign, Digest: crypto.SHA1})
			if got := s.checkins[0]; got["signer"] != tt.signer || (got["tls"] == true) != tt.overTLS {
				t.Errorf("Authenticate is signed by %v, over TLS %v", got["signer"], got["tls"])
			}
		})
	}
}

func TestADeviceFollowsRedirectsWithItsPut(t *testing.T) {
	s := newServer(t)
	mdm := payload(s.profile, "com.apple.mdm")
	mdm["ServerURL"], mdm["CheckInURL"] = s.http.URL+"/moved/mdm/connect", s.http.URL+"/moved/mdm/checkin"
	d := s.enrolled(Options{})
	if _, err := d.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantEvents(t, s.takeEvents(), "Idle  by identity 1")
}

func TestARootInTheProfileIsTrustedAfterwards(t *testing.T) {
	s := newServer(t)
	profile := s.enrollmentProfile()
	payload(profile, "com.apple.security.root")["PayloadContent"] = s.http.Certificate().Raw
	t.Run("before it, the server is a stranger", func(t *testing.T) {
		d := s.device(Options{RootCAs: x509.NewCertPool()})
		if _, err := d.Download(t.Context(), s.http.URL+"/profile"); err == nil {
			t.Error("Download trusts a server with an unknown root")
		}
	})
	t.Run("after it, the server is known", func(t *testing.T) {
		d := s.device(Options{RootCAs: x509.NewCertPool()})
		if err := d.EnrollProfile(t.Context(), s.signed(profile)); err != nil {
			t.Errorf("EnrollProfile = %v", err)
		}
	})
}

func TestBootstrapTokenAndUserAuthenticate(t *testing.T) {
	s := newServer(t)
	d := s.enrolled(Options{Model: Mac})
	s.answers["GetBootstrapToken"] = Dict{"BootstrapToken": []byte("token")}
	if err := d.SetBootstrapToken(t.Context(), []byte("token")); err != nil {
		t.Error(err)
	}
	if got, err := d.GetBootstrapToken(t.Context()); string(got) != "token" || err != nil {
		t.Errorf("GetBootstrapToken = %q, %v", got, err)
	}
	s.answers["GetBootstrapToken"] = Dict{}
	if got, err := d.GetBootstrapToken(t.Context()); len(got) != 0 || err != nil {
		t.Errorf("GetBootstrapToken = %q, %v, want nothing", got, err)
	}
	s.status = func(string) (int, string, string) { return http.StatusGone, "text/plain", "" }
	var declined *HTTPError
	if _, err := d.UserAuthenticate(t.Context(), "X"); !errors.As(err, &declined) || declined.Status != http.StatusGone || d.State() != Enrolled {
		t.Errorf("UserAuthenticate = %v, and the device is %v", err, d.State())
	}
}

func TestPreparedRequestsCanBeRepeated(t *testing.T) {
	s := newServer(t)
	d := s.enrolled(Options{})
	p, err := d.Channel().Prepare(Result{Status: StatusAcknowledged, CommandUUID: "1"})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		req, err := p.Request(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		resp, err := s.http.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	wantEvents(t, s.takeEvents(), "Acknowledged 1 by identity 1", "Acknowledged 1 by identity 1")
}

func TestKeysOfAPoolDiffer(t *testing.T) {
	pool, err := NewKeyPool(2048)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i := range 15 {
		key, err := pool.Key()
		if err != nil {
			t.Fatal(err)
		}
		if key.N.BitLen() != 2048 || seen[key.N.String()] {
			t.Errorf("key %d has %d bits, seen before: %t", i, key.N.BitLen(), seen[key.N.String()])
		}
		seen[key.N.String()] = true
		sum := crypto.SHA256.New().Sum(nil)
		signature, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum)
		if err != nil || rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, sum, signature) != nil {
			t.Errorf("key %d can't sign: %v", i, err)
		}
	}
	if got := len(pool.primes); got != 6 {
		t.Errorf("15 keys took %d primes, want 6", got)
	}
}

func TestProfilesThatADeviceRefuses(t *testing.T) {
	s := newServer(t)
	mdm := func(change func(Dict)) func(Dict) { return func(p Dict) { change(payload(p, "com.apple.mdm")) } }
	scep := func(change func(Dict)) func(Dict) {
		return func(p Dict) { change(payload(p, "com.apple.security.scep")["PayloadContent"].(Dict)) }
	}
	for name, tt := range map[string]struct {
		rules  Rules
		change func(Dict)
		want   string // part of the error; empty: accepted
	}{
		"a good one":          {Rules{}, func(Dict) {}, ""},
		"another type":        {Rules{}, func(p Dict) { p["PayloadType"] = "Profile Service" }, "PayloadType"},
		"another version":     {Rules{}, func(p Dict) { p["PayloadVersion"] = 2 }, "PayloadVersion"},
		"no identifier":       {Rules{}, func(p Dict) { delete(p, "PayloadIdentifier") }, "PayloadIdentifier"},
		"no payloads":         {Rules{}, func(p Dict) { delete(p, "PayloadContent") }, "empty"},
		"a scope of its own":  {Rules{}, func(p Dict) { p["PayloadScope"] = "Device" }, "PayloadScope"},
		"for a Mac":           {Rules{Model: IPhone}, func(p Dict) { p["TargetDeviceType"] = 5 }, "TargetDeviceType"},
		"for a Mac, on a Mac": {Rules{Model: Mac}, func(p Dict) { p["TargetDeviceType"] = 5 }, ""},
		"two MDM payloads": {Rules{}, func(p Dict) {
			second := maps.Clone(payload(p, "com.apple.mdm"))
			second["PayloadIdentifier"], second["PayloadUUID"] = "2", "2"
			p["PayloadContent"] = append(p["PayloadContent"].([]any), second)
		}, "exactly one"},
		"two payloads of one UUID": {Rules{}, func(p Dict) {
			p["PayloadContent"] = append(p["PayloadContent"].([]any), payload(p, "com.apple.mdm"))
		}, "repeats"},
		"a payload without version":    {Rules{}, mdm(func(d Dict) { delete(d, "PayloadVersion") }), "PayloadVersion"},
		"an identity that isn't there": {Rules{}, mdm(func(d Dict) { d["IdentityCertificateUUID"] = "x" }), "IdentityCertificateUUID"},
		"an identity that is a root": {Rules{}, func(p Dict) {
			payload(p, "com.apple.mdm")["IdentityCertificateUUID"] = payload(p, "com.apple.security.root")["PayloadUUID"]
		}, "com.apple.security.scep"},
		"a foreign topic":                 {Rules{}, mdm(func(d Dict) { d["Topic"] = "com.example" }), "Topic"},
		"plain HTTP":                      {Rules{}, mdm(func(d Dict) { d["ServerURL"] = "http://x/mdm" }), "https"},
		"plain HTTP behind a proxy":       {Rules{PlainHTTP: true}, mdm(func(d Dict) { d["ServerURL"] = "http://x/mdm" }), ""},
		"a plain CheckInURL":              {Rules{}, mdm(func(d Dict) { d["CheckInURL"] = "http://x/mdm" }), "CheckInURL"},
		"no CheckInURL":                   {Rules{}, mdm(func(d Dict) { delete(d, "CheckInURL") }), ""},
		"no rights":                       {Rules{}, mdm(func(d Dict) { delete(d, "AccessRights") }), "AccessRights"},
		"rights beyond all":               {Rules{}, mdm(func(d Dict) { d["AccessRights"] = 8192 }), "AccessRights"},
		"installing without inspecting":   {Rules{}, mdm(func(d Dict) { d["AccessRights"] = 2 }), "needs 1"},
		"rights as text":                  {Rules{}, mdm(func(d Dict) { d["AccessRights"] = "8191" }), "AccessRights"},
		"a mode without an account":       {Rules{UserEnrollment: true}, mdm(func(d Dict) { d["EnrollmentMode"] = "BYOD"; delete(d, "AccessRights") }), "AssignedManagedAppleID"},
		"BYOD":                            {Rules{UserEnrollment: true}, func(p Dict) { byod(p) }, ""},
		"BYOD with rights":                {Rules{UserEnrollment: true}, func(p Dict) { payload(byod(p), "com.apple.mdm")["AccessRights"] = 8191 }, "AccessRights"},
		"BYOD in a device enrollment":     {Rules{}, func(p Dict) { byod(p) }, "EnrollmentMode"},
		"a device's in a User Enrollment": {Rules{UserEnrollment: true}, func(Dict) {}, "EnrollmentMode"},
		"the old key where it is known":   {Rules{UserEnrollment: true, ByProfile: true}, mdm(func(d Dict) { d["ManagedAppleID"] = "x"; delete(d, "AccessRights") }), ""},
		"the old key with rights":         {Rules{UserEnrollment: true, ByProfile: true}, mdm(func(d Dict) { d["ManagedAppleID"] = "x" }), "AccessRights"},
		"the old key for BYOD":            {Rules{}, mdm(func(d Dict) { d["ManagedAppleID"] = "x" }), "ManagedAppleID"},
		"BYOD that can't be removed":      {Rules{UserEnrollment: true}, func(p Dict) { byod(p)["PayloadRemovalDisallowed"] = true }, "PayloadRemovalDisallowed"},
		"BYOD with a forbidden payload":   {Rules{UserEnrollment: true, Model: IPhone}, func(p Dict) { byod(p); payload(p, "com.apple.security.root")["PayloadType"] = "com.apple.dock" }, "forbidden"},
		"the same on a Mac, which skips":  {Rules{UserEnrollment: true, Model: Mac}, func(p Dict) { byod(p); payload(p, "com.apple.security.root")["PayloadType"] = "com.apple.dock" }, ""},
		"a small key":                     {Rules{}, scep(func(d Dict) { d["Keysize"] = 1024 }), "Keysize"},
		"the default key size":            {Rules{}, scep(func(d Dict) { delete(d, "Keysize") }), "Keysize"},
		"a fingerprint in hex":            {Rules{}, scep(func(d Dict) { d["CAFingerprint"] = "aa" }), "CAFingerprint"},
		"KeyUsage without its space":      {Rules{}, scep(func(d Dict) { d["KeyUsage"] = 5 }), "spelling"},
		"an EC key":                       {Rules{}, scep(func(d Dict) { d["Key Type"] = "EC" }), "Key Type"},
		"an odd key usage":                {Rules{}, scep(func(d Dict) { d["Key Usage"] = 2 }), "Key Usage"},
		"all names in one RDN":            {Rules{}, scep(func(d Dict) { d["Subject"] = []any{[]any{[]any{"O", "x"}, []any{"CN", "y"}}} }), "Subject"},
		"SCEP keys beside PayloadContent": {Rules{}, func(p Dict) {
			d := payload(p, "com.apple.security.scep")
			maps.Copy(d, d["PayloadContent"].(Dict))
			delete(d, "PayloadContent")
		}, "URL"},
		"a root that is no certificate": {Rules{}, func(p Dict) { payload(p, "com.apple.security.root")["PayloadContent"] = []byte("x") }, "root"},
		"a root in PEM": {Rules{}, func(p Dict) {
			d := payload(p, "com.apple.security.root")
			d["PayloadType"] = "com.apple.security.pem"
			d["PayloadContent"] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.ca.Raw})
		}, ""},
		"encrypted": {Rules{}, func(p Dict) { p["EncryptedPayloadContent"] = []byte("x") }, "encrypted"},
	} {
		t.Run(name, func(t *testing.T) {
			p := s.enrollmentProfile()
			tt.change(p)
			plain, err := MarshalPlist(p)
			if err != nil {
				t.Fatal(err)
			}
			for form, data := range map[string][]byte{"plain": plain, "signed": s.signed(p)} {
				got, err := ParseProfile(data, tt.rules)
				if tt.want == "" && (err != nil || len(got.Roots) != 1 && tt.rules.Model != Mac) {
					t.Errorf("ParseProfile(%s) = %v, want a profile with its root", form, err)
				}
				if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
					t.Errorf("ParseProfile(%s) = %v, want an error with %q", form, err, tt.want)
				}
			}
		})
	}
	t.Run("a broken signature", func(t *testing.T) {
		data := s.signed(s.enrollmentProfile())
		i := strings.Index(string(data), "Example MDM")
		data[i] = 'e'
		if _, err := ParseProfile(data, Rules{}); err == nil {
			t.Error("ParseProfile accepts it")
		}
	})
}

func TestASessionByHand(t *testing.T) {
	s := newServer(t)
	d := s.enrolled(Options{})
	s.queue("1", "ProfileList", nil)
	cmd, err := d.Idle(t.Context())
	if err != nil || cmd == nil || cmd.UUID != "1" || cmd.RequestType != "ProfileList" {
		t.Fatalf("Idle = %+v, %v", cmd, err)
	}
	s.status = func(string) (int, string, string) { return 500, "text/plain", "" }
	if _, err := d.Report(t.Context(), Result{CommandUUID: "1", Status: StatusAcknowledged}); err == nil {
		t.Fatal("Report hides the 500")
	}
	s.status = nil
	d.Channel().Forget() // the device crashed with its result
	again, err := d.Idle(t.Context())
	if err != nil || again == nil || again.UUID != "1" {
		t.Fatalf("Idle = %+v, %v, want the command again", again, err)
	}
	next, err := d.Report(t.Context(), Result{CommandUUID: "1", Status: StatusError, Keys: Dict{"ErrorChain": []any{}}})
	if err != nil || next != nil {
		t.Errorf("Report = %+v, %v", next, err)
	}
	wantEvents(t, s.takeEvents(), "Idle  by identity 1", "Acknowledged 1 by identity 1", "Idle  by identity 1", "Error 1 by identity 1")
}

func TestMessagesUnderAnotherIdentity(t *testing.T) {
	s := newServer(t)
	victim, thief := s.enrolled(Options{}), s.enrolled(Options{})
	cert, key := thief.Identity()
	victim.SetIdentity(cert, key)
	if _, err := victim.CheckIn(t.Context(), Dict{"MessageType": "CheckOut", "UDID": victim.ID(), "Topic": "x", "Extra": []any{1}}); err != nil {
		t.Fatal(err)
	}
	rubbish, err := victim.PrepareRaw(false, []byte(`<plist version="1.0"><dict><key>Status</key><string>Idle</string></dict></plist>`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := victim.Send(t.Context(), rubbish); err != nil {
		t.Fatal(err)
	}
	wantEvents(t, s.takeEvents(), "CheckOut by identity 2", "Idle  by identity 2")
}

func TestAnswersThatAreNoCommand(t *testing.T) {
	for name, body := range map[string]string{
		"an empty list":            `<plist version="1.0"><dict/></plist>`,
		"a command without UUID":   `<plist version="1.0"><dict><key>Command</key><dict><key>RequestType</key><string>x</string></dict></dict></plist>`,
		"a command without type":   `<plist version="1.0"><dict><key>CommandUUID</key><string>1</string><key>Command</key><dict/></dict></plist>`,
		"a page":                   `<!DOCTYPE html><html></html>`,
		"white space, not nothing": " ",
	} {
		t.Run(name, func(t *testing.T) {
			if cmd, err := parseCommand([]byte(body)); err == nil {
				t.Errorf("parseCommand = %+v, want an error", cmd)
			}
		})
	}
}
