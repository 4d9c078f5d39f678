package apns

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// Change is what happened to a push certificate, or to a request for one.
type Change struct {
	At           time.Time
	Action       string            // "push_certificate.renewed"
	Topic        string            // may be empty
	AppleAccount string            // as somebody noted; may be empty
	Reason       string            // a sentence; mostly empty
	Details      map[string]string // no secrets

	// Before and After are what was and is known of the topic, or of the vendor certificate, in
	// the words of the API; nil: nothing. Of what changes neither, both are nil.
	Before, After any
}

// Facts are what is known of a topic, in the words of the API. No key is among them.
type Facts struct {
	Topic        string     `json:"topic"`
	AppleAccount string     `json:"apple_account"`
	Default      bool       `json:"default"`
	*PairFacts              // nil: none is pushed by yet
	Ready        *PairFacts `json:"ready"` // nil: none is waiting
}

// PairFacts are what is known of a certificate.
type PairFacts struct {
	NotAfter time.Time `json:"not_after"`
	SHA256   string    `json:"sha256"`
}

// facts returns what is stored of a topic; nil: nothing.
func (k *Keeper) facts(tx storage.Tx, topic string) (*Facts, error) {
	rec, err := certificates.Get(tx, topic)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	first, err := k.certificates.chosen(tx)
	f := &Facts{Topic: topic, AppleAccount: rec.AppleAccount, Default: first == topic}
	if rec.active() {
		f.PairFacts = &PairFacts{rec.NotAfter.UTC(), rec.SHA256}
	}
	if rec.Ready != nil {
		f.Ready = &PairFacts{rec.Ready.NotAfter.UTC(), rec.Ready.SHA256}
	}
	return f, err
}

// KeeperConfig says what a Keeper needs: DB, Certificates, Log and Now.
type KeeperConfig struct {
	DB           storage.DB
	Certificates *Certificates

	// Devices counts devices by the topic that they are woken by; nil: there are none.
	Devices func(context.Context) (map[string]int, error)
	// Known names a certificate of this server's own, as in "this server's identity CA", and
	// is empty for others. It may be nil.
	Known func(*x509.Certificate) string
	// Tell writes down a change, in its transaction. It may be nil.
	Tell func(ctx context.Context, tx storage.Tx, c Change) error

	NewKey func() (*rsa.PrivateKey, error) // of 2048 bits; nil: a new one

	Mdmcert      *url.URL // who signs requests of ByMdmcert; nil: mdmcert.download
	AllowPrivate bool     // lets Mdmcert be in this machine's own network, for tests

	Log *slog.Logger
	Now func() time.Time
}

// Keeper looks after push certificates: from the request, which is made here and signed by
// a vendor, over the certificate that Apple makes of it and its renewals, to the warnings
// that it ends.
type Keeper struct {
	db           storage.DB
	certificates *Certificates
	devices      func(context.Context) (map[string]int, error)
	known        func(*x509.Certificate) string
	told         func(context.Context, storage.Tx, Change) error
	newKey       func() (*rsa.PrivateKey, error)
	mdmcert      *url.URL
	client       *http.Client
	log          *slog.Logger
	now          func() time.Time
}

// NewKeeper returns a Keeper, or says what c lacks.
func NewKeeper(c KeeperConfig) (*Keeper, error) {
	if c.DB == nil || c.Certificates == nil || c.Log == nil || c.Now == nil {
		return nil, errors.New("apns: DB, Certificates, Log and Now are required")
	}
	k := &Keeper{
		db: c.DB, certificates: c.Certificates, devices: c.Devices, known: c.Known, told: c.Tell, newKey: c.NewKey,
		mdmcert: c.Mdmcert, client: guard.NewClient(c.AllowPrivate), log: c.Log, now: c.Now,
	}
	if k.devices == nil {
		k.devices = func(context.Context) (map[string]int, error) { return nil, nil }
	}
	if k.newKey == nil {
		k.newKey = func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) }
	}
	if k.mdmcert == nil {
		k.mdmcert = mdmcertURL()
	}
	return k, nil
}

func (k *Keeper) tell(ctx context.Context, tx storage.Tx, c Change) error {
	if k.told == nil {
		return nil
	}
	c.At = k.now().UTC()
	return k.told(ctx, tx, c)
}

// Upload is a push certificate as somebody uploads it.
type Upload struct {
	File
	// Wait keeps it ready, and the one before in service, until it is activated.
	Wait         bool
	AppleAccount string // empty: as noted before, or with the request
}

// Standing is how it stands with one topic.
type Standing struct {
	Topic        string
	Active       *Held // nil: none is pushed by yet
	Ready        *Held // nil: none is waiting
	AppleAccount string
	Default      bool // profiles name this topic
	Devices      int  // that are woken by it
	Warnings     []string
}

// Held is a push certificate that is here.
type Held struct {
	*x509.Certificate
	SHA256 string // hex
	PutAt  time.Time
}

// DaysLeft is how many whole days it is valid yet; 0 once it has expired.
func (h Held) DaysLeft(now time.Time) int { return int(max(0, h.NotAfter.Sub(now)) / (24 * time.Hour)) }

// held reads a pair; one without a certificate is nil.
func (p Pair) held() (*Held, error) {
	if len(p.Chain) == 0 {
		return nil, nil
	}
	chain, err := parseChain(p.Chain[:1])
	if err != nil {
		return nil, err
	}
	return &Held{Certificate: chain[0], SHA256: p.SHA256, PutAt: p.PutAt}, nil
}

// ErrNothingReady means that no certificate waits to be activated.
var ErrNothingReady = errors.New("no certificate of the topic is ready to be activated")

// InUseError means that devices are woken by a certificate that was to be deleted.
type InUseError struct {
	Topic   string
	Devices int
}

// Error implements error.
func (e *InUseError) Error() string {
	return fmt.Sprintf("%s by the topic %s: without its certificate nobody can wake them", devicesAre(e.Devices), e.Topic)
}

// devicesAre is "1 device is woken" or "12 devices are woken".
func devicesAre(n int) string {
	if n == 1 {
		return "1 device is woken"
	}
	return fmt.Sprintf("%d devices are woken", n)
}

// Upload keeps a push certificate. Where its topic has one, that is renewed; else the topic
// is added. Errors are *Mistake or *FieldError.
func (k *Keeper) Upload(ctx context.Context, u Upload) (Standing, error) {
	u.AppleAccount = strings.TrimSpace(u.AppleAccount)
	if err := checkText("apple_account", u.AppleAccount, maxAccount); err != nil {
		return Standing{}, err
	}
	b, err := readFile(u.File)
	if err != nil {
		return Standing{}, err
	}
	if err := b.check(k.now(), k.known); err != nil {
		return Standing{}, err
	}
	devices, err := k.devices(ctx)
	if err != nil {
		return Standing{}, fmt.Errorf("keep push certificate: %w", err)
	}
	var out Standing
	err = k.db.Update(ctx, func(tx storage.Tx) error {
		before, err := k.facts(tx, userID(b.leaf))
		if err != nil {
			return err
		}
		rec, was, err := k.certificates.put(tx, b, !u.Wait, u.AppleAccount)
		if err != nil {
			return err
		}
		if !was.same {
			action := "push_certificate.renewed"
			switch {
			case u.Wait && rec.Ready != nil:
				action = "push_certificate.uploaded"
			case rec.SHA256 == was.SHA256:
				action = "push_certificate.changed"
			case !was.active():
				action = "push_certificate.added"
			}
			c := changeEvent(rec, action, fingerprint(b.leaf), b.leaf.NotAfter)
			if err := k.tellOf(ctx, tx, c, before); err != nil {
				return err
			}
		}
		if out, err = k.standing(tx, rec, devices); err != nil {
			return err
		}
		out.Warnings = append(out.Warnings, k.warnings(tx, b.leaf, was, devices)...)
		return nil
	})
	if err != nil {
		return Standing{}, fmt.Errorf("keep push certificate: %w", err)
	}
	return out, nil
}

// tellOf tells of a change to a topic that has been stored; before is what was.
func (k *Keeper) tellOf(ctx context.Context, tx storage.Tx, c Change, before *Facts) error {
	after, err := k.facts(tx, c.Topic)
	if err != nil {
		return err
	}
	c.Before, c.After = before, after
	return k.tell(ctx, tx, c)
}

func changeEvent(rec Certificate, action, sha256 string, notAfter time.Time) Change {
	return Change{Action: action, Topic: rec.Topic, AppleAccount: rec.AppleAccount, Details: map[string]string{"sha256": sha256, "not_after": notAfter.UTC().Format(time.RFC3339)}}
}

// warnings are what whoever uploads a certificate should know of it.
func (k *Keeper) warnings(tx storage.Tx, leaf *x509.Certificate, w was, devices map[string]int) (all []string) {
	if !ofApple(leaf) {
		all = append(all, fmt.Sprintf("%s issued the certificate, not Apple: Apple’s push service will not take it.", clip(leaf.Issuer.String())))
	}
	topic := userID(leaf)
	if !w.known {
		for _, other := range sortedTopics(devices) {
			if other == topic {
				continue
			}
			all = append(all, fmt.Sprintf("%s by another topic, %s. This certificate can’t wake them: keep renewing that one, too. To renew a certificate, press Renew at Apple, not Create.", devicesAre(devices[other]), clip(other)))
		}
	}
	if w.active() && leaf.NotAfter.Before(w.NotAfter) {
		all = append(all, fmt.Sprintf("It ends on %s, before the one that was there (%s).", day(leaf.NotAfter), day(w.NotAfter)))
	}
	if w.request != nil && w.request.Renews != "" && w.request.Renews != topic {
		all = append(all, fmt.Sprintf("The request was to renew %s, and Apple made another topic of it: at Apple, press Renew at the certificate that you want to renew, signed in with the Apple Account that it was made with.", clip(w.request.Renews)))
	}
	return all
}

func sortedTopics(devices map[string]int) []string {
	all := make([]string, 0, len(devices))
	for topic, n := range devices {
		if n > 0 {
			all = append(all, topic)
		}
	}
	slices.Sort(all)
	return all
}

// standing is how it stands with the topic of rec.
func (k *Keeper) standing(tx storage.Tx, rec Certificate, devices map[string]int) (s Standing, err error) {
	s = Standing{Topic: rec.Topic, AppleAccount: rec.AppleAccount, Devices: devices[rec.Topic]}
	if s.Active, err = rec.pair().held(); err != nil {
		return Standing{}, err
	}
	if rec.Ready != nil {
		if s.Ready, err = rec.Ready.held(); err != nil {
			return Standing{}, err
		}
	}
	first, err := k.certificates.chosen(tx)
	s.Default = first == rec.Topic
	if s.Active == nil {
		return s, err
	}
	switch left := s.Active.NotAfter.Sub(k.now()); {
	case left <= 0:
		s.Warnings = append(s.Warnings, fmt.Sprintf("It expired on %s: no device of this topic can be woken until it is renewed%s.", day(s.Active.NotAfter), byAccount(rec.AppleAccount)))
	case left <= 30*24*time.Hour:
		s.Warnings = append(s.Warnings, fmt.Sprintf("It ends on %s: renew it at identity.apple.com/pushcert%s; press Renew, not Create.", day(s.Active.NotAfter), byAccount(rec.AppleAccount)))
	}
	return s, err
}

// Overview is how it stands with all topics.
type Overview struct {
	Topics []Standing // in the order of their names
	// Lost are topics that devices are woken by and that have no certificate, with the
	// number of the devices.
	Lost map[string]int
}

// Overview returns how it stands with push certificates.
func (k *Keeper) Overview(ctx context.Context) (o Overview, err error) {
	devices, err := k.devices(ctx)
	if err != nil {
		return Overview{}, fmt.Errorf("push certificates: %w", err)
	}
	err = k.db.View(ctx, func(tx storage.Tx) error {
		o = Overview{Lost: make(map[string]int)}
		for topic, n := range devices {
			if n > 0 {
				o.Lost[topic] = n
			}
		}
		for rec, err := range certificates.All(tx, storage.Range{}) {
			if err != nil {
				return err
			}
			s, err := k.standing(tx, rec, devices)
			if err != nil {
				return err
			}
			o.Topics = append(o.Topics, s)
			if rec.active() {
				delete(o.Lost, rec.Topic)
			}
		}
		return nil
	})
	if err != nil {
		return Overview{}, fmt.Errorf("push certificates: %w", err)
	}
	return o, nil
}

// LostSentence says what to do about devices that are woken by a topic without a certificate.
func LostSentence(topic string, devices int) string {
	if strings.HasPrefix(topic, placeholderPrefix) {
		if devices == 1 {
			return "1 device enrolled before there was a push certificate: it can’t be woken, and has to enroll again."
		}
		return fmt.Sprintf("%d devices enrolled before there was a push certificate: they can’t be woken, and have to enroll again.", devices)
	}
	use := "1 device uses"
	if devices != 1 {
		use = fmt.Sprintf("%d devices use", devices)
	}
	return fmt.Sprintf("%s topic %s: restore that certificate.", use, clip(topic))
}

// Activate has the certificate that is ready for a topic be pushed by. Its error may wrap
// ErrNothingReady or storage.ErrNotFound, or be a *Mistake: Expired.
func (k *Keeper) Activate(ctx context.Context, topic string) (Standing, error) {
	return k.change(ctx, topic, func(tx storage.Tx, rec *Certificate) (action string, err error) {
		p := rec.Ready
		switch {
		case p == nil:
			return "", ErrNothingReady
		case k.now().After(p.NotAfter):
			return "", mistake(Expired, day(p.NotAfter))
		}
		rec.serve(*p, k.now().UTC())
		action = "push_certificate.activated"
		return action, tx.Notify(CertificatesTopic)
	})
}

// TopicChange is what can be said of a topic; nil leaves it.
type TopicChange struct {
	AppleAccount *string
	Default      *bool // true has profiles name it; false is what another topic's true does
}

// Change notes something of a topic. Errors are *FieldError, or wrap storage.ErrNotFound.
func (k *Keeper) Change(ctx context.Context, topic string, c TopicChange) (Standing, error) {
	return k.change(ctx, topic, func(tx storage.Tx, rec *Certificate) (action string, err error) {
		if c.AppleAccount != nil {
			account := strings.TrimSpace(*c.AppleAccount)
			if err := checkText("apple_account", account, maxAccount); err != nil {
				return "", err
			}
			rec.AppleAccount = account
		}
		if c.Default != nil {
			first, err := k.certificates.chosen(tx)
			switch {
			case err != nil:
				return "", err
			case *c.Default && !rec.active():
				return "", &FieldError{"default", "can’t be true while no certificate of the topic is active"}
			case !*c.Default && first == topic:
				return "", &FieldError{"default", "can’t be false: make another topic the default"}
			case *c.Default:
				if err := choose(tx, topic); err != nil {
					return "", err
				}
			}
		}
		action = "push_certificate.changed"
		return action, nil
	})
}

func (k *Keeper) change(ctx context.Context, topic string, change func(storage.Tx, *Certificate) (action string, err error)) (Standing, error) {
	devices, err := k.devices(ctx)
	if err != nil {
		return Standing{}, fmt.Errorf("push certificate of %s: %w", topic, err)
	}
	var out Standing
	err = k.db.Update(ctx, func(tx storage.Tx) error {
		rec, err := certificates.Get(tx, topic)
		if err != nil {
			return err
		}
		before, err := k.facts(tx, topic)
		if err != nil {
			return err
		}
		action, err := change(tx, &rec)
		if err != nil {
			return err
		}
		if err := certificates.Put(tx, rec); err != nil {
			return err
		}
		if err := k.tellOf(ctx, tx, changeEvent(rec, action, rec.SHA256, rec.NotAfter), before); err != nil {
			return err
		}
		out, err = k.standing(tx, rec, devices)
		return err
	})
	if err != nil {
		return Standing{}, fmt.Errorf("push certificate of %s: %w", topic, err)
	}
	return out, nil
}

// Delete forgets the certificates of a topic and their keys. Its error is an *InUseError
// where devices are woken by it, unless force, or wraps storage.ErrNotFound.
func (k *Keeper) Delete(ctx context.Context, topic string, force bool) error {
	devices, err := k.devices(ctx)
	if err != nil {
		return fmt.Errorf("push certificate of %s: %w", topic, err)
	}
	err = k.db.Update(ctx, func(tx storage.Tx) error {
		rec, err := certificates.Get(tx, topic)
		if err != nil {
			return err
		}
		if n := devices[topic]; n > 0 && !force {
			return &InUseError{Topic: topic, Devices: n}
		}
		before, err := k.facts(tx, topic)
		if err != nil {
			return err
		}
		if err := certificates.Delete(tx, topic); err != nil {
			return err
		}
		c := changeEvent(rec, "push_certificate.deleted", rec.SHA256, rec.NotAfter)
		c.Details["devices"] = fmt.Sprint(devices[topic])
		return errors.Join(tx.Notify(CertificatesTopic), k.tellOf(ctx, tx, c, before))
	})
	if err != nil {
		return fmt.Errorf("push certificate of %s: %w", topic, err)
	}
	return nil
}
