package apiv1

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// serverSummary is the server in numbers. What is about more than the caller's devices is null,
// or an empty list, for who is limited to groups.
type serverSummary struct {
	At       time.Time     `json:"at"`
	Limited  bool          `json:"limited"` // all numbers are of the caller's groups alone
	Devices  devicesInSum  `json:"devices"`
	InFlight inFlightJSON  `json:"in_flight"`
	Days     []dayJSON     `json:"days"`
	Expiries []expiryJSON  `json:"expiries"` // the next to end first
	Renewals *renewalsJSON `json:"renewals"`
	Trouble  []troubleJSON `json:"trouble"` // the worst first
	Setup    *setupJSON    `json:"setup"`
}

type devicesInSum struct {
	Total        int            `json:"total"`    // whatever their state; user channels aside, as in all of these
	ByState      map[string]int `json:"by_state"` // all states
	ByType       map[string]int `json:"by_type"`  // of enrolled ones, as are the rest
	BySystem     []systemJSON   `json:"by_system"`
	OtherSystems int            `json:"other_systems"` // devices with a version that BySystem has no room for
	LastSeen     lastSeenJSON   `json:"last_seen"`
	Simulated    int            `json:"simulated"`
	Lost         int            `json:"lost"`
	DeadTokens   int            `json:"dead_push_tokens"`
}

type systemJSON struct {
	Platform string `json:"platform"` // as the filter of devices has it; empty: unknown
	Version  string `json:"version"`  // empty: unknown
	Devices  int    `json:"devices"`
}

type lastSeenJSON struct {
	Hour   int `json:"hour"` // in the last one
	Day    int `json:"day"`  // before that, in the last day
	Week   int `json:"week"`
	Month  int `json:"month"`
	Longer int `json:"longer"`
	Never  int `json:"never"`
}

type inFlightJSON struct {
	Queued     int  `json:"queued"`
	Delivered  int  `json:"delivered"`
	NotNow     int  `json:"not_now"`
	Background int  `json:"background"` // what the server asks by itself
	More       bool `json:"more"`       // there are more than were counted
}

type dayJSON struct {
	Date         string `json:"date"` // in UTC
	Enrolled     int    `json:"enrolled"`
	Unenrolled   int    `json:"unenrolled"`
	Acknowledged int    `json:"acknowledged"`
	Error        int    `json:"error"`
	Expired      int    `json:"expired"`
	Cancelled    int    `json:"cancelled"`
}

type expiryJSON struct {
	Kind     string    `json:"kind"` // push, tls or authority
	Name     string    `json:"name"` // topic, host, or the authority's common name
	NotAfter time.Time `json:"not_after"`
	Path     string    `json:"path"` // of the administrators' page where it is renewed
}

// renewalsJSON is when certificates of devices are to be renewed: who is renewed in time never
// comes to an end.
type renewalsJSON struct {
	Overdue int        `json:"overdue"` // by two weeks and more
	Due     int        `json:"due"`
	Weeks   []weekJSON `json:"weeks"`
	Later   int        `json:"later"`
}

type weekJSON struct {
	From         time.Time `json:"from"`
	Certificates int       `json:"certificates"`
}

type troubleJSON struct {
	Code     string `json:"code"`
	Severity string `json:"severity"` // error or warning
	Text     string `json:"text"`
	Path     string `json:"path"` // of the administrators' page that helps
}

type setupJSON struct {
	PushCertificate bool `json:"push_certificate"`
	Device          bool `json:"device"`       // one that is not simulated is enrolled
	SecondOwner     bool `json:"second_owner"` // somebody else can let an owner in again
	PublicTLS       bool `json:"public_tls"`   // or there is a proxy that has the certificate
}

// Bounds of a summary.
const (
	summaryDays    = 90
	summaryWeeks   = 52
	summarySystems = 8

	// mostWakeups is how many wake-ups are looked through for dead tokens.
	mostWakeups = 2000
)

// The administrators' pages that help.
const (
	pushPage    = "/admin/settings/push"
	tlsPage     = "/admin/settings/server"
	webhookPage = "/admin/settings/webhooks"
	tokenPage   = "/admin/tokens"
	caPage      = "/admin/certificates/authorities"
	certPage    = "/admin/certificates"
	lostPage    = "/admin/devices?lost=true"
	deadPage    = "/admin/devices?push=token_dead"
)

// counted is what takes its time to count.
type counted struct {
	figures  mdm.Figures
	renewals depot.Renewals
}

// recounts keeps what was counted of many devices for a hundred times as long as it took: of
// 100,000 for some seconds, so that counting never takes more than a hundredth of one
// processor, however many look. Of few, everybody sees what is.
type recounts struct {
	mu  sync.Mutex
	all map[string]recount // by the groups
}

type recount struct {
	counted
	until time.Time
}

const (
	recountFactor = 100
	recountMost   = time.Minute
	recountScopes = 100  // sets of groups that are kept
	recountFrom   = 5000 // enrollments
)

func (c *recounts) get(ctx context.Context, a *API, groups []mdm.GroupID) (counted, error) {
	key := "*"
	if groups != nil {
		key = fmt.Sprint(groups)
	}
	c.mu.Lock()
	defer c.mu.Unlock() // others who ask at the same time wait for the one answer
	started := time.Now()
	if have, ok := c.all[key]; ok && started.Before(have.until) {
		return have.counted, nil
	}
	var now counted
	var err error
	if now.figures, err = a.mdm.Figures(ctx, groups); err != nil {
		return counted{}, err
	}
	if groups == nil {
		err = a.db.View(ctx, func(tx storage.Tx) (err error) {
			now.renewals, err = a.depot.Renewals(tx, summaryWeeks)
			return err
		})
		if err != nil {
			return counted{}, err
		}
	}
	if now.figures.Count(func(mdm.Kind) bool { return true }) < recountFrom {
		delete(c.all, key)
		return now, nil
	}
	if len(c.all) >= recountScopes || c.all == nil {
		c.all = make(map[string]recount)
	}
	c.all[key] = recount{now, started.Add(min(recountMost, recountFactor*time.Since(started)))}
	return now, nil
}

// summarize answers with the server in numbers, and with what needs somebody.
func (a *API) summarize(w http.ResponseWriter, r *http.Request) error {
	ctx, groups := r.Context(), limitOf(principal(r))
	count, err := a.recounts.get(ctx, a, groups)
	if err != nil {
		return err
	}
	out := serverSummary{At: a.now().UTC(), Limited: groups != nil, Devices: devicesOf(count.figures), Expiries: []expiryJSON{}, Trouble: []troubleJSON{}}
	flight, err := a.mdm.InFlight(ctx, groups)
	if err != nil {
		return err
	}
	out.InFlight = inFlightJSON(flight)
	if out.Devices.DeadTokens, err = a.mdm.DeadTokens(ctx, groups, mostWakeups); err != nil {
		return err
	}
	if out.Devices.Lost, err = a.countLost(ctx, groups); err != nil {
		return err
	}
	if groups == nil {
		if err := a.summarizeServer(ctx, &out, count.renewals); err != nil {
			return err
		}
	}
	out.addTrouble(out.Devices.Lost > 0, "devices_lost", "warning", lostPage, "%s reported as lost.", are(out.Devices.Lost, "device"))
	out.addTrouble(out.Devices.DeadTokens > 0, "push_tokens_dead", "warning", deadPage,
		"Apple no longer reaches %s that somebody waits for: management was removed there, or the device was erased.", many(out.Devices.DeadTokens, "device"))
	slices.SortStableFunc(out.Trouble, func(a, b troubleJSON) int { return cmp.Compare(a.Severity, b.Severity) }) // error, warning
	return webui.WriteJSON(w, http.StatusOK, out)
}

func devicesOf(f mdm.Figures) devicesInSum {
	d := devicesInSum{ByState: map[string]int{}, ByType: map[string]int{}, BySystem: []systemJSON{}, LastSeen: lastSeenJSON(f.Seen), Simulated: f.Demo}
	for _, s := range []mdm.State{mdm.Enrolled, mdm.Pending, mdm.Unenrolled, mdm.Blocked} {
		d.ByState[string(s)] = f.Count(func(k mdm.Kind) bool { return k.State == s && k.Type != mdm.TypeUserChannel })
		d.Total += d.ByState[string(s)]
	}
	for _, t := range []mdm.EnrollmentType{mdm.TypeDevice, mdm.TypeUser, mdm.TypeAccountDevice} {
		d.ByType[string(t)] = f.Count(func(k mdm.Kind) bool { return k.State == mdm.Enrolled && k.Type == t })
	}
	for _, s := range f.Systems {
		if len(d.BySystem) == summarySystems {
			d.OtherSystems += s.Devices
			continue
		}
		d.BySystem = append(d.BySystem, systemJSON{string(s.Platform), s.Version, s.Devices})
	}
	return d
}

func (a *API) countLost(ctx context.Context, groups []mdm.GroupID) (n int, err error) {
	err = a.mdm.ViewScope(ctx, groups, func(tx storage.Tx, scope *mdm.Scope) error {
		n = 0
		all, err := enroll.ReportedLost(tx)
		if err != nil {
			return err
		}
		for id := range all {
			in, err := scope.Has(id)
			if err != nil {
				return err
			}
			if in {
				n++
			}
		}
		return nil
	})
	return n, err
}

// summarizeServer adds what is about more than devices.
func (a *API) summarizeServer(ctx context.Context, out *serverSummary, renewals depot.Renewals) error {
	now := a.now()
	var days []event.Day
	err := a.db.View(ctx, func(tx storage.Tx) (err error) {
		days, err = event.Days(tx, now.AddDate(0, 0, 1-summaryDays), now)
		return err
	})
	if err != nil {
		return err
	}
	for _, d := range days {
		out.Days = append(out.Days, dayJSON{
			Date: d.Date, Enrolled: d.Counts[event.CountEnrolled], Unenrolled: d.Counts[event.CountUnenrolled],
			Acknowledged: d.Counts[event.CountAcknowledged], Error: d.Counts[event.CountFailed],
			Expired: d.Counts[event.CountExpired], Cancelled: d.Counts[event.CountCancelled],
		})
	}
	out.Renewals = &renewalsJSON{Overdue: renewals.Overdue, Due: renewals.Due, Weeks: make([]weekJSON, len(renewals.Weeks)), Later: renewals.Later}
	for i, n := range renewals.Weeks {
		out.Renewals.Weeks[i] = weekJSON{renewals.From.AddDate(0, 0, 7*i), n}
	}
	out.addTrouble(renewals.Overdue > 0, "renewals_overdue", "warning", certPage,
		"%s should have been renewed two weeks ago: the devices have not come, or could not renew.", many(renewals.Overdue, "certificate"))

	setup, err := a.summarizePush(ctx, out)
	if err != nil {
		return err
	}
	out.Setup = setup
	for _, authority := range a.depot.Authorities() {
		if authority.State() == depot.StateRetired {
			continue
		}
		end := authority.Certificate().NotAfter
		out.Expiries = append(out.Expiries, expiryJSON{"authority", cmp.Or(authority.Certificate().Subject.CommonName, authority.ID()), end.UTC(), caPage})
		out.ending(end, now, 180*day, 30*day, "authority_expiring", caPage, "The authority "+authority.Certificate().Subject.CommonName)
	}
	publicTLS := true // a proxy's, of which nothing is known here
	if facts := a.server(); len(facts.Certificates) > 0 {
		end := facts.Certificates[0].NotAfter
		publicTLS = facts.Public
		out.Expiries = append(out.Expiries, expiryJSON{"tls", a.serverURL.Hostname(), end.UTC(), tlsPage})
		out.ending(end, now, 14*day, 3*day, "tls_expiring", tlsPage, "The TLS certificate of this server")
	}
	owners, err := a.identity.Owners(ctx)
	if err != nil {
		return err
	}
	ending, err := a.identity.TokensExpiring(ctx, now.Add(14*day))
	if err != nil {
		return err
	}
	expire := "expire"
	if ending == 1 {
		expire = "expires"
	}
	out.addTrouble(ending > 0, "tokens_expiring", "warning", tokenPage, "%s %s in the next 14 days: what uses it is refused then.", many(ending, "API token"), expire)
	setup.Device = out.Devices.ByState[string(mdm.Enrolled)] > out.Devices.Simulated
	setup.SecondOwner, setup.PublicTLS = owners > 1, publicTLS
	slices.SortStableFunc(out.Expiries, func(a, b expiryJSON) int { return a.NotAfter.Compare(b.NotAfter) })
	return a.summarizeWebhooks(ctx, out)
}

// summarizePush adds what can be pushed by, and what is the matter with it.
func (a *API) summarizePush(ctx context.Context, out *serverSummary) (*setupJSON, error) {
	now := a.now()
	push, err := a.push.Overview(ctx)
	if err != nil {
		return nil, err
	}
	setup := &setupJSON{}
	for _, t := range push.Topics {
		if t.Active == nil {
			continue
		}
		setup.PushCertificate = true
		out.Expiries = append(out.Expiries, expiryJSON{"push", t.Topic, t.Active.NotAfter.UTC(), pushPage})
		what := "The push certificate"
		if len(push.Topics) > 1 {
			what += " of topic " + t.Topic
		}
		out.ending(t.Active.NotAfter, now, 60*day, 14*day, "push_certificate_expiring", pushPage, what)
	}
	severity := "warning"
	if out.Devices.ByState[string(mdm.Enrolled)] > out.Devices.Simulated {
		severity = "error"
	}
	out.addTrouble(!setup.PushCertificate, "no_push_certificate", severity, pushPage, "There is no push certificate: commands wait until a device checks in by itself.")
	for _, topic := range slices.Sorted(maps.Keys(push.Lost)) {
		out.addTrouble(setup.PushCertificate, "push_topic_lost", "error", pushPage, "%s", apns.LostSentence(topic, push.Lost[topic]))
	}
	var failing []mdm.Pushing
	err = a.db.View(ctx, func(tx storage.Tx) error {
		failing = nil
		for p, err := range mdm.AllPushing(tx) {
			if err != nil {
				return err
			}
			// What is gone is said above, in better words.
			if p.Trouble != mdm.NoPushTrouble && p.Trouble != mdm.PushCertificateGone {
				failing = append(failing, p)
			}
		}
		return nil
	})
	for _, p := range failing {
		out.addTrouble(true, "push_failing", "error", pushPage, "%s", p.Sentence())
	}
	return setup, err
}

// summarizeWebhooks adds the webhooks that don't work, without naming them: not everybody who
// may read this may read those.
func (a *API) summarizeWebhooks(ctx context.Context, out *serverSummary) error {
	targets, err := a.webhooks.Targets(ctx)
	if err != nil {
		return err
	}
	off, failing, dead := 0, 0, 0
	for _, t := range targets {
		if !t.Enabled {
			if t.DisabledWhy != "" {
				off++
			}
			continue
		}
		st, err := a.webhooks.Standing(ctx, t.ID, 1)
		if errors.Is(err, storage.ErrNotFound) {
			continue // it was deleted meanwhile
		}
		if err != nil {
			return err
		}
		if !st.FailingSince.IsZero() {
			failing++
		} else if st.GivenUp > 0 {
			dead++
		}
	}
	out.addTrouble(off > 0, "webhooks_disabled", "warning", webhookPage, "%s switched off: the other side said that it is gone.", are(off, "webhook"))
	out.addTrouble(failing > 0, "webhooks_failing", "error", webhookPage, "%s not answering as it should.", are(failing, "webhook"))
	out.addTrouble(dead > 0, "webhooks_dead_letters", "warning", webhookPage, "%s with deliveries that were given up.", thereAre(dead, "webhook"))
	return nil
}

const day = 24 * time.Hour

// ending adds what ends before long.
func (s *serverSummary) ending(at, now time.Time, warn, alarm time.Duration, code, path, what string) {
	left := at.Sub(now)
	severity := "warning"
	if left < alarm {
		severity = "error"
	}
	when := "expires in less than a day"
	switch days := int(left / day); {
	case left <= 0:
		when = "has expired"
	case days == 1:
		when = "expires in 1 day"
	case days > 1:
		when = fmt.Sprintf("expires in %d days", days)
	}
	s.addTrouble(left < warn, code, severity, path, "%s %s.", what, when)
}

func (s *serverSummary) addTrouble(is bool, code, severity, path, format string, args ...any) {
	if is {
		s.Trouble = append(s.Trouble, troubleJSON{code, severity, fmt.Sprintf(format, args...), path})
	}
}

// many is "1 device" or "2 devices", are "1 device is", thereAre "There is 1 device".
func many(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func are(n int, what string) string {
	if n == 1 {
		return many(n, what) + " is"
	}
	return many(n, what) + " are"
}

func thereAre(n int, what string) string {
	if n == 1 {
		return "There is " + many(n, what)
	}
	return "There are " + many(n, what)
}
