package mdmtest

import (
	"errors"
	"net/http"
	"slices"
	"testing"
)

// renewal queues the enrollment profile again, with a new challenge.
func (s *server) renewal(t *testing.T, uuid string, change func(Dict)) {
	t.Helper()
	p := s.enrollmentProfile()
	if change != nil {
		change(p)
	}
	s.queue(uuid, "InstallProfile", Dict{"Payload": s.signed(p)})
}

func TestRenewal(t *testing.T) {
	for name, tt := range map[string]struct {
		options Options
		want    []string
	}{
		"of an iPhone": {Options{}, []string{
			"Authenticate by identity 2", "TokenUpdate by identity 2", "Acknowledged R by identity 2"}},
		"with the result before TokenUpdate": {Options{Renewal: Renewal{ResultFirst: true}}, []string{
			"Authenticate by identity 2", "Acknowledged R by identity 2", "TokenUpdate by identity 2"}},
		"with the result by the old identity": {Options{Renewal: Renewal{OldIdentityReports: true}}, []string{
			"Authenticate by identity 2", "TokenUpdate by identity 2", "Acknowledged R by identity 1"}},
		"of a Mac and its user": {Options{Model: Mac}, []string{
			"Authenticate by identity 2", "TokenUpdate by identity 2", "user TokenUpdate by identity 2", "Acknowledged R by identity 2"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			d := s.enrolled(tt.options)
			before, _ := d.Identity()
			id := d.ID()
			s.renewal(t, "R", nil)
			if _, err := d.Poll(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := append([]string{"Idle  by identity 1", "GET GetCACert", "GET GetCACaps", "POST PKIOperation"}, tt.want...)
			wantEvents(t, s.takeEvents(), want...)
			after, _ := d.Identity()
			if after.Equal(before) || d.ID() != id || d.State() != Enrolled {
				t.Errorf("the certificate is new: %t, the id is kept: %t, state %v", !after.Equal(before), d.ID() == id, d.State())
			}
			if _, err := d.Poll(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantEvents(t, s.takeEvents(), "Idle  by identity 2")
		})
	}
}

func TestARenewalThatFailsKeepsTheOldIdentity(t *testing.T) {
	change := func(key string, v any) func(Dict) {
		return func(p Dict) { payload(p, "com.apple.mdm")[key] = v }
	}
	failing := func(kind string) func(*server) {
		return func(s *server) {
			s.status = func(k string) (int, string, string) {
				if k == kind {
					return http.StatusServiceUnavailable, "text/plain", ""
				}
				return 0, "", ""
			}
		}
	}
	for name, tt := range map[string]struct {
		profile func(Dict)
		server  func(*server)
	}{
		"because SCEP refuses":               {nil, func(s *server) { s.rep = func(r *certRep) { r.status, r.failInfo = "2", "2" } }},
		"because Authenticate fails":         {nil, failing("Authenticate")},
		"because TokenUpdate fails":          {nil, failing("TokenUpdate")},
		"because ServerURL changes":          {change("ServerURL", "https://other.example.com/mdm"), nil},
		"because Topic changes":              {change("Topic", "com.apple.mgmt.External.other"), nil},
		"because user channels go":           {change("ServerCapabilities", []any{}), nil},
		"because the mode changes":           {func(p Dict) { change("EnrollmentMode", "ADDE")(p); change("AssignedManagedAppleID", "a@b.c")(p) }, nil},
		"because the profile is malformed":   {change("IdentityCertificateUUID", "x"), nil},
		"because it is another MDM's":        {func(p Dict) { p["PayloadIdentifier"] = "com.other" }, nil},
		"because it has no MDM payload left": {func(p Dict) { p["PayloadContent"] = p["PayloadContent"].([]any)[:1] }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			d := s.enrolled(Options{})
			before, _ := d.Identity()
			s.renewal(t, "R", tt.profile)
			if tt.server != nil {
				tt.server(s)
			}
			if _, err := d.Poll(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := s.result("R"); got["Status"] != StatusError || got["signer"] != "identity 1" {
				t.Errorf("the result is %v by %v", got["Status"], got["signer"])
			}
			if after, _ := d.Identity(); !after.Equal(before) || d.State() != Enrolled {
				t.Errorf("the certificate is kept: %t, state %v", after.Equal(before), d.State())
			}
		})
	}
	t.Run("because rights are added", func(t *testing.T) {
		s := newServer(t)
		payload(s.profile, "com.apple.mdm")["AccessRights"] = 3
		d := s.enrolled(Options{})
		s.renewal(t, "R", change("AccessRights", 3+16))
		s.renewal(t, "S", change("AccessRights", 3))
		if _, err := d.Poll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if a, b := s.result("R")["Status"], s.result("S")["Status"]; a != StatusError || b != StatusAcknowledged {
			t.Errorf("with more rights %v, with the same %v", a, b)
		}
	})
}

func TestARenewalCanBeCutAndResumed(t *testing.T) {
	for _, resultFirst := range []bool{false, true} {
		for _, step := range []Step{StepSCEP, StepAuth, StepTokenUpdate, StepUserToken, StepResult} {
			name := "before " + string(step)
			if resultFirst {
				name += ", with the result first"
			}
			t.Run(name, func(t *testing.T) {
				s := newServer(t)
				battery := errors.New("battery is flat")
				cut := true
				d := s.enrolled(Options{Model: Mac, Renewal: Renewal{ResultFirst: resultFirst, OnStep: func(at Step) error {
					if cut && at == step {
						return battery
					}
					return nil
				}}})
				s.renewal(t, "R", nil)
				if _, err := d.Poll(t.Context()); !errors.Is(err, battery) {
					t.Fatalf("Poll = %v, want the cut", err)
				}
				seen := s.takeEvents()
				cut = false
				if _, err := d.ResumeRenewal(t.Context()); err != nil {
					t.Fatalf("ResumeRenewal = %v", err)
				}
				seen = append(seen, s.takeEvents()...)
				want := []string{"Idle  by identity 1", "GET GetCACert", "GET GetCACaps", "POST PKIOperation", "Authenticate by identity 2",
					"TokenUpdate by identity 2", "user TokenUpdate by identity 2", "Acknowledged R by identity 2"}
				if resultFirst {
					want = slices.Insert(want[:7], 5, want[7])
				}
				wantEvents(t, seen, want...)
				if _, err := d.ResumeRenewal(t.Context()); err == nil {
					t.Error("a renewal that is done can be resumed")
				}
				if _, err := d.Poll(t.Context()); err != nil {
					t.Fatal(err)
				}
				wantEvents(t, s.takeEvents(), "Idle  by identity 2")
			})
		}
	}
}

func TestACutRenewalIsReplacedByTheNext(t *testing.T) {
	s := newServer(t)
	cut := true
	d := s.enrolled(Options{Renewal: Renewal{OnStep: func(at Step) error {
		if cut && at == StepTokenUpdate {
			return errors.New("battery is flat")
		}
		return nil
	}}})
	s.renewal(t, "R", nil)
	if _, err := d.Poll(t.Context()); err == nil {
		t.Fatal("the renewal was not cut")
	}
	if _, err := d.CheckIn(t.Context(), Dict{"MessageType": "TokenUpdate", "UDID": d.ID()}); err != nil {
		t.Fatal(err)
	}
	cut = false
	s.takeEvents()
	if n, err := d.Poll(t.Context()); n != 1 || err != nil { // the command comes again
		t.Fatalf("Poll = %d, %v", n, err)
	}
	wantEvents(t, s.takeEvents(), "Idle  by identity 1", "GET GetCACert", "GET GetCACaps", "POST PKIOperation",
		"Authenticate by identity 3", "TokenUpdate by identity 3", "Acknowledged R by identity 3")
}
