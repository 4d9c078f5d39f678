package enroll_test

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"maps"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/machineinfo"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// reception is a house where people sign in on their devices.
type reception struct {
	*house
	db       *counted
	people   *identity.Service
	ana, ben identity.User
}

// counted is a store that counts the transactions that may write.
type counted struct {
	storage.DB
	updates atomic.Int64
	broken  atomic.Int64 // the read, counted from 1, that fails with those behind it; 0: none
}

func (c *counted) View(ctx context.Context, fn func(storage.Tx) error) error {
	if n := c.broken.Load(); n == 1 {
		return storage.ErrUnavailable
	} else if n > 1 {
		c.broken.Store(n - 1)
	}
	return c.DB.View(ctx, fn)
}

func (c *counted) Update(ctx context.Context, fn func(storage.Tx) error) error {
	c.updates.Add(1)
	return c.DB.Update(ctx, fn)
}

// newReception has ana and ben, and takes the devices of example.com: Macs by ADDE, the
// others by BYOD, and Apple Vision by either.
func newReception(t testing.TB, change ...func(*enroll.AccountDriven)) *reception {
	t.Helper()
	keyring.reset()
	pinned := machineinfo.Pin(must2(apple())(t).Certificate)
	r := &reception{db: &counted{DB: storagetest.Open(t)}}
	r.house = houseOn(t, r.db, &clock{time: time.Now().UTC().Truncate(time.Second)}, func(c *enroll.Config) { c.DeviceCAs = &pinned })
	r.people = must2(identity.New(identity.Config{
		DB: r.db, Log: slog.New(slog.DiscardHandler), Now: r.now, HashMemory: 64,
		OnDisable: func(tx storage.Tx, u identity.User) error { return r.EndUser(tx, u.Logins()...) },
		OnRename: func(tx storage.Tx, gone []string, u identity.User) error {
			return r.RenameUser(tx, gone, u.Login())
		},
	}))(t)
	r.ana = r.employ(t, "ana")
	r.ben = r.employ(t, "ben")
	r.policy(t, func(c *enroll.AccountDriven) {
		c.Domains = []enroll.AccountDomain{
			{Domain: "example.com", Policy: map[enroll.ModelFamily]enroll.AccountMode{
				"iPhone": enroll.ModeBYOD, "iPad": enroll.ModeBYOD, "Mac": enroll.ModeADDE, "RealityDevice": enroll.ModeBYOD,
			}},
			{Domain: "fleet.example.com", Policy: map[enroll.ModelFamily]enroll.AccountMode{
				"iPhone": enroll.ModeADDE, "Mac": enroll.ModeBYOD, "RealityDevice": enroll.ModeADDE,
			}},
		}
		for _, fn := range change {
			fn(c)
		}
	})
	return r
}

// byOAuth is for newReception.
func byOAuth(c *enroll.AccountDriven) { c.Method = enroll.MethodOAuth2 }

// employ makes a user with a Managed Apple Account.
func (r *reception) employ(t testing.TB, name string) identity.User {
	t.Helper()
	return must2(r.people.CreateUser(context.Background(), identity.Local(), identity.NewUser{
		Username: name, Email: name + "@example.com", ManagedAppleAccount: name + "@appleid.example.com",
	}))(t)
}

func (r *reception) change(t testing.TB, u identity.User, c identity.UserChange) identity.User {
	t.Helper()
	return must2(r.people.UpdateUser(context.Background(), identity.Local(), u.ID, c))(t)
}

func (r *reception) policy(t testing.TB, change func(*enroll.AccountDriven)) {
	t.Helper()
	_, err := r.UpdateAccountDriven(context.Background(), func(c *enroll.AccountDriven) error {
		change(c)
		return nil
	})
	must(t, err)
}

func (r *reception) set(t testing.TB, change func(*enroll.Settings)) {
	t.Helper()
	_, err := r.UpdateSettings(context.Background(), func(s *enroll.Settings) error {
		change(s)
		return nil
	})
	must(t, err)
}

// What devices state of themselves. Those for User Enrollment have no UDID to tell.
var (
	anIPhone = mdmtest.Dict{"LANGUAGE": "de", "PRODUCT": "iPhone17,2", "VERSION": "22C152", "OS_VERSION": "18.2"}
	anIPad   = mdmtest.Dict{"PRODUCT": "iPad16,3", "VERSION": "22C152", "OS_VERSION": "18.2"}
	aVision  = mdmtest.Dict{"PRODUCT": "RealityDevice14,1", "VERSION": "22N840", "OS_VERSION": "2.2"}
	aMac     = mdmtest.Dict{"PRODUCT": "Mac15,3", "VERSION": "24C101", "OS_VERSION": "15.2"}
)

// with returns a copy of what a device states, with more in it.
func with(info mdmtest.Dict, more mdmtest.Dict) mdmtest.Dict {
	info = maps.Clone(info)
	maps.Copy(info, more)
	return info
}

// The built-in identities of a device by Apple, and of one that only pretends to be.
var (
	genuine = sync.OnceValues(func() (*mdmtest.BuiltIn, error) {
		ca, err := apple()
		if err != nil {
			return nil, err
		}
		return ca.Issue("genuine")
	})
	pretender = sync.OnceValues(func() (*mdmtest.BuiltIn, error) {
		ca, err := impostor()
		if err != nil {
			return nil, err
		}
		return ca.Issue("pretender")
	})
)

// signedBy is what a device posts, by its built-in identity, changed as a test likes.
func signedBy(t testing.TB, as func() (*mdmtest.BuiltIn, error), content any, change ...func(*mdmtest.Signature)) []byte {
	t.Helper()
	builtin := must2(as())(t)
	plain, ok := content.([]byte)
	if !ok {
		plain = must2(mdmtest.MarshalPlist(content))(t)
	}
	s := mdmtest.Signature{Certificate: builtin.Certificate, Key: builtin.Key}
	for _, fn := range change {
		fn(&s)
	}
	return must2(s.Sign(plain))(t)
}

// post is the enrollment POST of a genuine device.
func (r *reception) post(t testing.TB, mode enroll.AccountMode, bearer string, info mdmtest.Dict) ([]byte, error) {
	t.Helper()
	return r.EnrollByAccount(context.Background(), enroll.AccountRequest{Mode: mode, Bearer: bearer, Body: signedBy(t, genuine, info), Peer: "192.0.2.7"})
}

// asked is a challenge as PROTOCOL 2.3 and 2.5 have it.
type asked struct {
	params map[string]string
	order  []string
	ticket string // the end of the address where the person signs in
}

var challengeParam = regexp.MustCompile(`^([a-z-]+)="([^"\\]*)"$`)

// askedIn reads the challenge in err, which must be one.
func askedIn(t testing.TB, err error) asked {
	t.Helper()
	required, ok := errors.AsType[*enroll.SignInRequired](err)
	if !ok {
		t.Fatalf("%v, want a challenge", err)
	}
	rest, ok := strings.CutPrefix(required.Challenge, "Bearer ")
	if !ok {
		t.Fatalf("the challenge is %s", required.Challenge)
	}
	a := asked{params: map[string]string{}}
	for part := range strings.SplitSeq(rest, ", ") {
		m := challengeParam.FindStringSubmatch(part)
		if m == nil {
			t.Fatalf("the challenge is %s, in which %s is no parameter", required.Challenge, part)
		}
		a.params[m[1]], a.order = m[2], append(a.order, m[1])
	}
	address := a.params["url"] + a.params["authorization-url"]
	a.ticket = address[strings.LastIndexByte(address, '/')+1:]
	return a
}

// ask posts what a device is, and returns where its user is to sign in.
func (r *reception) ask(t testing.TB, mode enroll.AccountMode, info mdmtest.Dict) asked {
	t.Helper()
	_, err := r.post(t, mode, "", info)
	return askedIn(t, err)
}

// signIn ends the sign-in of a ticket, by whichever method it is for.
func (r *reception) signIn(ticket string, u identity.User) (url.Values, enroll.Attempt, error) {
	ctx := context.Background()
	in, err := r.AccountSignIn(ctx, ticket)
	if err != nil {
		return nil, enroll.Attempt{}, err
	}
	var o *enroll.AuthorizationRequest
	if in.Method == enroll.MethodOAuth2 {
		o = &enroll.AuthorizationRequest{RedirectURI: enroll.OAuthRedirectURI, State: "s1"}
	}
	h, err := r.FinishAccountSignIn(ctx, ticket, u, o)
	if err != nil {
		return nil, enroll.Attempt{}, err
	}
	to, err := url.Parse(h.Location)
	return to.Query(), h.Attempt, err
}

// tokens are what a device has of a sign-in.
type tokens struct{ access, refresh string }

// granted signs somebody in, and returns what their device has then.
func (r *reception) granted(t testing.TB, ticket string, u identity.User) (tokens, enroll.Attempt) {
	t.Helper()
	values, a, err := r.signIn(ticket, u)
	must(t, err)
	if code := values.Get("code"); code != "" {
		got, err := r.exchange(code)
		must(t, err)
		return got, a
	}
	return tokens{access: values.Get("access-token")}, a
}

func (r *reception) exchange(code string) (tokens, error) {
	answer, err := r.IssueTokens(context.Background(), enroll.TokenRequest{
		GrantType: "authorization_code", Code: code, RedirectURI: enroll.OAuthRedirectURI, ClientID: enroll.OAuthClientID,
	})
	return tokens{answer.AccessToken, answer.RefreshToken}, err
}

func (r *reception) refresh(token string) (tokens, error) {
	answer, err := r.IssueTokens(context.Background(), enroll.TokenRequest{
		GrantType: "refresh_token", RefreshToken: token, ClientID: enroll.OAuthClientID,
	})
	return tokens{answer.AccessToken, answer.RefreshToken}, err
}

// guest is a device that enrolled by account.
type guest struct {
	r    *reception
	mode enroll.AccountMode
	info mdmtest.Dict
	id   mdm.AppleID
	cert *x509.Certificate
	tokens
	attempt string
}

// come signs u in on a device, and gets that device its identity.
func (r *reception) come(t testing.TB, mode enroll.AccountMode, u identity.User, info mdmtest.Dict, id mdm.AppleID) *guest {
	t.Helper()
	if id.UDID != "" {
		info = with(info, mdmtest.Dict{"UDID": id.UDID, "SERIAL": "C02" + id.UDID})
	}
	g := &guest{r: r, mode: mode, info: info, id: id}
	var a enroll.Attempt
	g.tokens, a = r.granted(t, r.ask(t, mode, info).ticket, u)
	g.attempt = a.ID
	signed, err := r.post(t, mode, g.access, info)
	must(t, err)
	g.cert = must2(r.IssueIdentity(context.Background(), request(t, keyring.take(t), challengeIn(t, signed))))(t)
	return g
}

// enrolledBy is come to its end.
func (r *reception) enrolledBy(t testing.TB, mode enroll.AccountMode, u identity.User, info mdmtest.Dict, id mdm.AppleID) *guest {
	t.Helper()
	g := r.come(t, mode, u, info, id)
	must(t, g.authenticate(g.usual(false)))
	must(t, g.tokenUpdate(g.id, g.usual(false)))
	return g
}

// usual is the token that the system sends by itself: a Mac's none but for its users.
func (g *guest) usual(userChannel bool) string {
	if strings.HasPrefix(g.info["PRODUCT"].(string), "Mac") && !userChannel {
		return ""
	}
	return g.access
}

func (g *guest) peer(bearer string) enroll.Peer {
	return enroll.Peer{Certificate: g.cert, Bearer: bearer, Address: "192.0.2.7"}
}

func (g *guest) authenticate(bearer string) error {
	return g.r.Authenticate(context.Background(), g.peer(bearer), enroll.AuthenticateMessage{
		ID: g.id, Topic: "com.apple.mgmt.External.0000", Facts: mdm.Facts{ProductName: g.info["PRODUCT"].(string), OSVersion: "18.2"},
	})
}

func (g *guest) tokenUpdate(id mdm.AppleID, bearer string) error {
	return g.r.TokenUpdate(context.Background(), g.peer(bearer), enroll.TokenUpdateMessage{
		ID: id, Push: mdm.Push{Topic: "com.apple.mgmt.External.0000", Token: []byte{1, 2, 3}, Magic: "magic"},
	})
}

func (g *guest) poll(id mdm.AppleID, bearer string) error {
	_, err := g.r.Connect(context.Background(), g.peer(bearer), enroll.ConnectMessage{ID: id, Idle: true})
	return err
}

// idle is the poll of its device channel as the system sends it.
func (g *guest) idle() error { return g.poll(g.id, g.usual(false)) }

func (g *guest) device(t testing.TB) mdm.Device { return g.r.device(t, g.id) }

// authorizations are all there are.
func (r *reception) authorizations(t testing.TB) []enroll.Authorization {
	t.Helper()
	return must2(r.Authorizations(context.Background()))(t)
}

func (r *reception) attempts(t testing.TB) []enroll.Attempt {
	t.Helper()
	page, _, err := r.Attempts(context.Background(), "", 100)
	must(t, err)
	return page
}
