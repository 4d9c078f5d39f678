package checkin_test

import (
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// byAccount makes a device and enrolls it in a mode, by the account of ana@example.com.
func (h *house) byAccount(t testing.TB, mode enroll.AccountMode, o mdmtest.Options, product string) *mdmtest.Device {
	t.Helper()
	ctx := t.Context()
	_, err := h.enroll.UpdateAccountDriven(ctx, func(c *enroll.AccountDriven) error {
		c.Domains = []enroll.AccountDomain{{Domain: "example.com", Policy: map[enroll.ModelFamily]enroll.AccountMode{"iPhone": mode, "Mac": mode}}}
		return nil
	})
	must(t, err)
	ca, err := mdmtest.NewDeviceCA()
	must(t, err)
	builtIn, err := ca.Issue(product)
	must(t, err)
	plain, err := mdmtest.MarshalPlist(mdmtest.Dict{"PRODUCT": product, "VERSION": "22C152"})
	must(t, err)
	body, err := mdmtest.Signature{Certificate: builtIn.Certificate, Key: builtIn.Key}.Sign(plain)
	must(t, err)
	_, err = h.enroll.EnrollByAccount(ctx, enroll.AccountRequest{Mode: mode, Body: body})
	asked, ok := errors.AsType[*enroll.SignInRequired](err)
	if !ok {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(asked.Challenge, "/sign-in/")
	ticket, _, _ := strings.Cut(rest, `"`)
	people, err := identity.New(identity.Config{DB: h.db, Log: slog.New(slog.DiscardHandler), Now: h.now, HashMemory: 64})
	must(t, err)
	users, _, err := people.Users(ctx, "", 1)
	must(t, err)
	if len(users) == 0 {
		ana, err := people.CreateUser(ctx, identity.Local(), identity.NewUser{Email: "ana@example.com", ManagedAppleAccount: "ana@appleid.example.com"})
		must(t, err)
		users = append(users, ana)
	}
	ana := users[0]
	back, err := h.enroll.FinishAccountSignIn(ctx, ticket, ana, nil)
	must(t, err)
	to, err := url.Parse(back.Location)
	must(t, err)
	token := to.Query().Get("access-token")
	signed, err := h.enroll.EnrollByAccount(ctx, enroll.AccountRequest{Mode: mode, Body: body, Bearer: token})
	must(t, err)
	o.Account = &mdmtest.Account{Identifier: ana.Username}
	d := h.device(t, o)
	must(t, d.InstallAccount(ctx, &mdmtest.Service{Version: mode.Version(), BaseURL: h.url + mode.Path()}, signed))
	d.SetToken(mdmtest.Token{Access: token})
	must(t, d.RequestIdentity(ctx))
	must(t, d.Authenticate(ctx))
	must(t, d.TokenUpdate(ctx))
	return d
}

// TestDirectoryUsersOfAMacAreDeclined holds that they are also where the Mac was enrolled by
// account: who has never signed in has no token to show.
func TestDirectoryUsersOfAMacAreDeclined(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	d := h.byAccount(t, enroll.ModeADDE, mdmtest.Options{Model: mdmtest.Mac}, "Mac15,3")
	for name, token := range map[string]string{"no token": "", "a token that is none": "Bearer nonsense", "the token of the Mac's user": "Bearer " + d.Token().Access} {
		p := saying(t, d, "UserAuthenticate", mdmtest.Dict{"UserID": "11111111-1111-1111-1111-111111111111", "UserShortName": "dir"})
		p.Header.Del("Authorization")
		if token != "" {
			p.Header.Set("Authorization", token)
		}
		h.wantStatus(t, "UserAuthenticate with "+name, p, http.StatusGone)
	}
	must(t, d.CheckOut(t.Context()))
	h.wantStatus(t, "UserAuthenticate of a Mac that has left", saying(t, d, "UserAuthenticate", mdmtest.Dict{"UserID": "U"}), http.StatusForbidden)
}
