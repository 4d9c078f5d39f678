package apiv1_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
)

const accountDrivenPath = "/api/v1/account-driven"

// contracted is what CONTRACT.md shows.
const contracted = `{"domains":[{"domain":"example.com","policy":{"iPhone":"byod","iPad":"byod","Mac":"adde"}}],"method":"apple-as-web"}`

func (h *house) accountDriven(t *testing.T) (all map[string]any) {
	t.Helper()
	h.do(t, exchange{method: "GET", path: accountDrivenPath}).want(t, 200, &all)
	return all
}

func TestAccountDrivenEnrollmentIsReplacedAsAWhole(t *testing.T) {
	h := newHouse(t)
	put := func(body any) (all map[string]any) {
		t.Helper()
		h.do(t, exchange{method: "PUT", path: accountDrivenPath, body: body}).want(t, 200, &all)
		return all
	}
	initial := map[string]any{
		"domains": []any{}, "method": "apple-as-web", "token_idle": "2160h", "token_life": "0s", "access_life": "8h",
		"token_expired": "sign_in", "token_revoked": "sign_in", "user_disabled": "unenroll", "required_app_id": 0.0, "watch_pairing": false, "minimum_os": map[string]any{},
		"base_urls":     map[string]any{"byod": "https://mdm.example.com/enroll/byod", "adde": "https://mdm.example.com/enroll/adde"},
		"discovery_url": "https://mdm.example.com/.well-known/com.apple.remotemanagement",
	}
	if got := h.accountDriven(t); !reflect.DeepEqual(got, initial) {
		t.Errorf("a new server has %v, want %v", got, initial)
	}

	want := maps.Clone(initial)
	want["domains"] = []any{map[string]any{"domain": "example.com", "policy": map[string]any{"iPhone": "byod", "iPad": "byod", "Mac": "adde"}, "message": ""}}
	if got := put(contracted); !reflect.DeepEqual(got, want) {
		t.Errorf("PUT = %v, want %v", got, want)
	}
	if got, err := h.enroll.Discover(context.Background(), "ana@example.com", "Mac"); err != nil || got.Mode != enroll.ModeADDE {
		t.Errorf("it is not in force at once: %+v, %v", got, err)
	}

	all := map[string]any{
		"domains": []any{
			map[string]any{"domain": "Example.com.", "policy": map[string]any{"iPhone": "off", "Mac": "adde"}, "message": " Ask Ana. "},
			map[string]any{"domain": "sub.example.com"},
		},
		"method": "apple-oauth2", "token_idle": "30d", "token_life": "1h30m", "access_life": "5m", "token_expired": "unenroll", "token_revoked": "unenroll",
		"user_disabled": "sign_in", "required_app_id": 361309726, "watch_pairing": true, "minimum_os": map[string]any{"iPhone": "18.2", "Mac": "15"},
	}
	whole := put(all)
	for field, want := range map[string]any{
		"domains": []any{
			map[string]any{"domain": "example.com", "policy": map[string]any{"iPhone": "off", "Mac": "adde"}, "message": "Ask Ana."},
			map[string]any{"domain": "sub.example.com", "policy": map[string]any{}, "message": ""},
		},
		"method": "apple-oauth2", "token_idle": "720h", "token_life": "1h30m0s", "access_life": "5m0s", "token_expired": "unenroll", "token_revoked": "unenroll",
		"user_disabled": "sign_in", "required_app_id": 361309726.0, "watch_pairing": true, "minimum_os": map[string]any{"iPhone": "18.2", "Mac": "15"},
	} {
		if !reflect.DeepEqual(whole[field], want) {
			t.Errorf("%s is %v, want %v", field, whole[field], want)
		}
	}
	// What was read may be sent back, and what is left out has its default.
	if got := put(whole); !reflect.DeepEqual(got, whole) {
		t.Errorf("sent back, it is %v, want %v", got, whole)
	}
	if got := put(`{}`); !reflect.DeepEqual(got, initial) {
		t.Errorf("without anything it is %v, want %v", got, initial)
	}
	put(all)
	nothing := make(map[string]any)
	for field := range initial {
		nothing[field] = nil
	}
	if got := put(nothing); !reflect.DeepEqual(got, initial) {
		t.Errorf("with null for all it is %v, want %v", got, initial)
	}
	if got := put(`{"domains":[{"domain":"example.com","policy":null,"message":null}]}`); !reflect.DeepEqual(got["domains"], []any{map[string]any{"domain": "example.com", "policy": map[string]any{}, "message": ""}}) {
		t.Errorf("domains are %v, want one without a policy", got["domains"])
	}
}

func TestWhatAccountDrivenEnrollmentCanNotBe(t *testing.T) {
	h := newHouse(t)
	h.do(t, exchange{method: "PUT", path: accountDrivenPath, body: contracted}).want(t, 200, nil)
	before := h.accountDriven(t)
	for field, body := range map[string]string{
		"domain":                      `{"domain":[]}`,
		"domains":                     `{"domains":{}}`,
		"domains[0]":                  `{"domains":["example.com"]}`,
		"domains[0].name":             `{"domains":[{"name":"example.com"}]}`,
		"domains[0].domain":           `{"domains":[{"policy":{"iPhone":"byod"}}]}`,
		"domains[1].domain":           `{"domains":[{"domain":"example.com"},{"domain":"EXAMPLE.com."}]}`,
		"domains[1].policy.iPhone":    `{"domains":[{"domain":"a.example"},{"domain":"b.example","policy":{"iPhone":"BYOD"}}]}`,
		"domains[0].policy.iPad":      `{"domains":[{"domain":"example.com","policy":{"iPad":null}}]}`,
		"domains[0].policy.iPod":      `{"domains":[{"domain":"example.com","policy":{"iPod":"byod"}}]}`,
		"domains[0].policy.AppleTV":   `{"domains":[{"domain":"example.com","policy":{"AppleTV":"adde"}}]}`,
		"domains[0].policy":           `{"domains":[{"domain":"example.com","policy":"byod"}]}`,
		"domains[0].message":          `{"domains":[{"domain":"example.com","message":"a\nb"}]}`,
		"method":                      `{"method":"web"}`,
		"token_idle":                  `{"token_idle":"59m"}`,
		"token_life":                  `{"token_life":"soon"}`,
		"access_life":                 `{"access_life":"0s"}`,
		"token_expired":               `{"token_expired":"erase"}`,
		"token_revoked":               `{"token_revoked":""}`,
		"user_disabled":               `{"user_disabled":"ask"}`,
		"required_app_id":             `{"required_app_id":-1}`,
		"minimum_os.iPhone":           `{"minimum_os":{"iPhone":"eighteen"}}`,
		"minimum_os.Mac":              `{"minimum_os":{"Mac":15}}`,
		"minimum_os.Newton":           `{"minimum_os":{"Newton":"2.1"}}`,
		"minimum_os":                  `{"minimum_os":"18"}`,
		"domains[0].policy.\"\"":      `{"domains":[{"domain":"example.com","policy":{"":7}}]}`,
		"domains[0].policy.iPhone ✨️": `{"domains":[{"domain":"example.com","policy":{"iPhone ✨️":"byod"}}]}`,
	} {
		h.do(t, exchange{method: "PUT", path: accountDrivenPath, body: body, wild: true}).wantField(t, field)
	}
	if after := h.accountDriven(t); !reflect.DeepEqual(after, before) {
		t.Errorf("it is %v, want %v", after, before)
	}
	if got, err := h.enroll.Discover(context.Background(), "ana@example.com", "iPhone"); err != nil || got.Mode != enroll.ModeBYOD {
		t.Errorf("a refused change is in force: %+v, %v", got, err)
	}
	p := h.do(t, exchange{method: "PUT", path: accountDrivenPath, body: `{"methods":"apple-as-web"}`, wild: true}).wantProblem(t, 400, "invalid_request")
	if !strings.Contains(p.Detail, `the nearest is "method"`) {
		t.Errorf("the problem is %q, want the nearest name in it", p.Detail)
	}
	p = h.do(t, exchange{method: "PUT", path: accountDrivenPath, body: `{"domains":[{"domain":"example.com","polices":{}}]}`, wild: true}).wantProblem(t, 400, "invalid_request")
	if !strings.Contains(p.Detail, `the nearest is "policy"`) {
		t.Errorf("the problem is %q, want the nearest name in it", p.Detail)
	}
	helpdesk := h.token(t, identity.ScopeHelpdesk)
	h.do(t, exchange{method: "PUT", path: accountDrivenPath, body: `{}`, token: helpdesk}).wantProblem(t, 403, "forbidden")
	h.do(t, exchange{method: "GET", path: accountDrivenPath, token: helpdesk}).want(t, 200, nil)
}

func TestAUserIsMadeToSignInAgain(t *testing.T) {
	h := newHouse(t)
	h.device(t, "phone", func(d *mdm.Device) {
		d.Type, d.AppleID, d.EnrollmentMode = mdm.TypeUser, mdm.AppleID{EnrollmentID: "FB833D84-0001"}, "BYOD"
		d.ManagedAppleAccount = "ana@example.com"
	})
	h.device(t, "channel", func(d *mdm.Device) {
		d.Type, d.ParentID, d.UserID = mdm.TypeUserChannel, "phone", "U1"
	})
	h.device(t, "gone", func(d *mdm.Device) { d.State, d.EnrollmentMode = mdm.Unenrolled, "ADDE" })
	h.device(t, "by-profile", nil)
	again := func(id, token string) exchange {
		t.Helper()
		return h.do(t, exchange{method: "POST", path: "/api/v1/devices/" + id + "/require-sign-in", token: token})
	}
	var d struct {
		ID             string
		State          string
		EnrollmentMode *string `json:"enrollment_mode"`
	}
	again("phone", "").want(t, 202, &d)
	if d.ID != "phone" || d.State != "enrolled" || d.EnrollmentMode == nil || *d.EnrollmentMode != "BYOD" {
		t.Errorf("the device is %+v", d)
	}
	again("by-profile", "").wantProblem(t, 409, "not_by_account")
	again("gone", "").wantProblem(t, 409, "not_enrolled")
	again("channel", "").wantProblem(t, 409, "not_enrolled")
	again("nobody", "").wantProblem(t, 404, "not_found")
	again("phone", h.token(t, identity.ScopeHelpdesk)).wantProblem(t, 403, "forbidden")

	d.EnrollmentMode = new(string)
	h.do(t, exchange{method: "GET", path: "/api/v1/devices/by-profile"}).want(t, 200, &d)
	if d.EnrollmentMode != nil {
		t.Errorf("by profile, enrollment_mode is %q, want null", *d.EnrollmentMode)
	}
}

func TestAttemptsByAccountSaySo(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	h.do(t, exchange{method: "PUT", path: accountDrivenPath, body: contracted}).want(t, 200, nil)
	_, err := h.enroll.EnrollByAccount(ctx, enroll.AccountRequest{Mode: enroll.ModeBYOD, Body: machineInfo(t)})
	asked, ok := errors.AsType[*enroll.SignInRequired](err)
	if !ok {
		t.Fatal(err)
	}
	_, ticket, _ := strings.Cut(asked.Challenge, "/sign-in/")
	ana, err := h.identity.CreateUser(ctx, identity.Local(), identity.NewUser{
		Email: "ana@example.com", Password: "correct horse", ManagedAppleAccount: "ana@appleid.example.com",
	})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := h.enroll.FinishAccountSignIn(ctx, strings.TrimSuffix(ticket, `"`), ana, nil)
	if err != nil {
		t.Fatal(err)
	}
	var a struct {
		ID, User, Stage     string
		Ownership           string
		EnrollmentMode      *string              `json:"enrollment_mode"`
		ManagedAppleAccount string               `json:"managed_apple_account"`
		StageAt             map[string]time.Time `json:"stage_at"`
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/enrollment-attempts/" + signed.Attempt.ID}).want(t, 200, &a)
	if a.EnrollmentMode == nil || *a.EnrollmentMode != "BYOD" || a.ManagedAppleAccount != "ana@appleid.example.com" || a.Stage != "authenticated" || a.Ownership != "personal" {
		raw, _ := json.Marshal(a)
		t.Errorf("the attempt is %s", raw)
	}
}

// machineInfo is what an iPhone posts to enroll.
func machineInfo(t *testing.T) []byte {
	t.Helper()
	ca, err := mdmtest.NewDeviceCA()
	if err != nil {
		t.Fatal(err)
	}
	builtin, err := ca.Issue("phone")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := mdmtest.MarshalPlist(mdmtest.Dict{"PRODUCT": "iPhone17,2", "VERSION": "22C152", "OS_VERSION": "18.2"})
	if err != nil {
		t.Fatal(err)
	}
	body, err := mdmtest.Signature{Certificate: builtin.Certificate, Key: builtin.Key}.Sign(plain)
	if err != nil {
		t.Fatal(err)
	}
	return body
}
