package depot

import (
	"cmp"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
)

// State is where an authority is in its life: next → active → retiring → retired.
// There is exactly one active authority of each name.
type State string

// The states.
const (
	StateNext     State = "next"     // made or imported; issues nothing yet
	StateActive   State = "active"   // issues certificates
	StateRetiring State = "retiring" // issues nothing; devices still speak to it by SCEP, and rely on it
	StateRetired  State = "retired"  // nobody is to rely on it; it only tells what it has revoked
)

// settleTime is how long an authority must have been retiring before it can be retired:
// much longer than any transaction lasts that still took it for the active one, so that
// what was issued is on record by then.
const settleTime = time.Minute

// Errors of the changes of generations.
var (
	ErrNextExists    = errors.New("there is a next authority already")
	ErrNotRetirable  = errors.New("only an authority that is next or retiring can be retired")
	ErrNotSettled    = errors.New("the authority issued certificates less than a minute ago")
	ErrAuthorityHere = errors.New("an authority with this key identifier is here already")
)

// role is what an authority is for.
type role struct {
	name, commonName string
	pathLen          int
}

// roles are in the order in which they are made.
func roles() []role {
	return []role{
		{identityName, "Gatehouse Identity CA", 0},
		{rootName, "Gatehouse CA", 1}, // the issuer of payload certificates is below it
		{payloadName, "Gatehouse Issuing CA", 0},
	}
}

func roleOf(name string) (role, error) {
	for _, r := range roles() {
		if r.name == name {
			return r, nil
		}
	}
	return role{}, fmt.Errorf("authority %q: %w", name, storage.ErrNotFound)
}

// authorityRecord is an authority as it is stored. Of the first generation, which may
// be older than the others' fields, Generation and State may be missing.
type authorityRecord struct {
	Name        string    `json:"name"`
	Generation  int       `json:"generation,omitempty"`
	State       State     `json:"state,omitempty"`
	Since       time.Time `json:"since,omitzero"` // of State
	Imported    bool      `json:"imported,omitempty"`
	Certificate []byte    `json:"certificate"`     // DER
	Above       [][]byte  `json:"above,omitempty"` // DER, of those above an imported one
	Key         []byte    `json:"key"`             // as the key store keeps it
}

// authorities are of version 2 since there are generations: a program that does not know
// of them would issue by whichever it read last.
var authorities = storage.NewCollection("authority", 2, func(a authorityRecord) string {
	return authorityKey(a.Name, a.Generation)
})

// authorityKey is the same as before there were generations for the first of them.
func authorityKey(name string, generation int) string {
	if generation <= 1 {
		return name
	}
	return name + "." + strconv.Itoa(generation)
}

func (a *Authority) recordKey() string { return authorityKey(a.name, a.generation) }

// authoritiesTopic is notified when an authority is there, or in another state.
const authoritiesTopic = "depot.authorities"

// keyring is the authorities at one moment. It is replaced, never changed.
type keyring struct {
	active map[string]*Authority // by name
	first  map[string]*Authority // the first generation, by name
	byID   map[string]*Authority
	sorted []*Authority // by name; the active one first, then the latest first
}

func newKeyring(all ...*Authority) *keyring {
	k := &keyring{active: map[string]*Authority{}, first: map[string]*Authority{}, byID: map[string]*Authority{}, sorted: slices.Clone(all)}
	for _, a := range all {
		k.byID[a.id] = a
		if a.state == StateActive {
			k.active[a.name] = a
		}
		if a.generation == 1 {
			k.first[a.name] = a
		}
	}
	rank := func(a *Authority) int {
		if a.state == StateActive {
			return 0
		}
		return 1
	}
	slices.SortFunc(k.sorted, func(a, b *Authority) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(rank(a), rank(b)), cmp.Compare(b.generation, a.generation))
	})
	return k
}

// Generations returns all authorities of a name, the active one first, then the latest
// first.
func (d *Depot) Generations(name string) (list []*Authority) {
	for _, a := range d.keys.Load().sorted {
		if a.name == name {
			list = append(list, a)
		}
	}
	return list
}

// InUse returns the authorities of a name that may be spoken to, the active one first:
// all but those that are retired.
func (d *Depot) InUse(name string) []*Authority {
	return slices.DeleteFunc(d.Generations(name), func(a *Authority) bool { return a.state == StateRetired })
}

// Next returns the authority that waits to take the place of the active one of a name,
// nil if there is none.
func (d *Depot) Next(name string) *Authority {
	for _, a := range d.Generations(name) {
		if a.state == StateNext {
			return a
		}
	}
	return nil
}

// Roots returns the certificates of the organisation roots that devices are to trust
// the server by: the active one first, then those that come or go.
func (d *Depot) Roots() (roots []*x509.Certificate) {
	for _, a := range d.InUse(rootName) {
		roots = append(roots, a.cert)
	}
	return roots
}

// Anchors returns Roots, and behind them the roots above imported issuers of payload
// certificates: everything that a certificate of ours may chain to.
func (d *Depot) Anchors() []*x509.Certificate {
	anchors := d.Roots()
	for _, a := range d.InUse(payloadName) {
		chain := a.Chain()
		if root := chain[len(chain)-1]; !slices.ContainsFunc(anchors, root.Equal) {
			anchors = append(anchors, root)
		}
	}
	return anchors
}

// openAuthorities loads the authorities and makes those that are missing: all of
// them in an empty database, and the issuer of payload certificates in one that an
// earlier version made. Of several processes that make them at once, one stores
// them, and all use those.
func (d *Depot) openAuthorities(ctx context.Context) error {
	var found []*Authority
	err := d.db.View(ctx, func(tx storage.Tx) (err error) {
		found, err = d.loadAuthorities(tx)
		return err
	})
	if err != nil {
		return err
	}
	made, err := d.makeAuthorities(newKeyring(found...))
	if err != nil {
		return err
	}
	if len(made) == 0 {
		d.keys.Store(newKeyring(found...))
		return nil
	}
	return d.db.Update(ctx, func(tx storage.Tx) error {
		d.created = false
		found, err := d.loadAuthorities(tx)
		if err != nil {
			return err
		}
		have := newKeyring(found...)
		for _, a := range made {
			if have.active[a.name] != nil {
				continue
			}
			if root := have.active[rootName]; a.name == payloadName && root != nil && !a.above[0].Equal(root.cert) {
				return errors.New("another process has just made the authorities; start again")
			}
			if err := d.createAuthority(tx, a); err != nil {
				return err
			}
			found = append(found, a)
			d.created = d.created || a.name == rootName
		}
		d.keys.Store(newKeyring(found...))
		return nil
	})
}

// makeAuthorities makes the authorities that have lacks. Their keys take a while
// each, and are made at the same time.
func (d *Depot) makeAuthorities(have *keyring) (made []*Authority, err error) {
	keys := map[string]*rsa.PrivateKey{}
	var work errgroup.Group
	var mu sync.Mutex
	for _, r := range roles() {
		if have.active[r.name] != nil {
			continue
		}
		work.Go(func() error {
			key, err := d.newKey(r.name, d.keyBits)
			if err != nil {
				return fmt.Errorf("make key of %s authority: %w", r.name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			keys[r.name] = key
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		return nil, err
	}
	root := have.active[rootName]
	for _, r := range roles() {
		key := keys[r.name]
		if key == nil {
			continue
		}
		a, err := d.makeAuthority(r, 1, key, root)
		if err != nil {
			return nil, err
		}
		if a.name == rootName {
			root = a
		}
		made = append(made, a)
	}
	return made, nil
}

// makeAuthority makes one generation of an authority. root is who a payload authority
// is below.
func (d *Depot) makeAuthority(r role, generation int, key crypto.Signer, root *Authority) (*Authority, error) {
	what := r.commonName
	if generation > 1 {
		what += " G" + strconv.Itoa(generation)
	}
	if r.name != payloadName {
		root = nil
	}
	a, err := newAuthority(r.name, commonName(what, d.name), r.pathLen, key, root, d.now().UTC())
	if err != nil {
		return nil, fmt.Errorf("make %s authority: %w", r.name, err)
	}
	a.generation, a.urls = generation, d.urls
	return a, nil
}

// loadAuthorities reads the authorities that there are. Those that the keyring has are
// not opened again.
func (d *Depot) loadAuthorities(tx storage.Tx) (found []*Authority, err error) {
	known := map[string]*Authority{}
	if k := d.keys.Load(); k != nil {
		known = k.byID
	}
	var records []authorityRecord
	for rec, err := range authorities.All(tx, storage.Range{}) {
		if err != nil {
			return nil, err
		}
		a, err := d.openAuthority(rec, known)
		if err != nil {
			return nil, err
		}
		found, records = append(found, a), append(records, rec)
	}
	have := newKeyring(found...)
	if len(found) > 0 && (have.active[identityName] == nil || have.active[rootName] == nil) {
		// Making the missing one anew would cut off whoever trusts the old one.
		return nil, fmt.Errorf("%w: one of two authorities is missing", storage.ErrCorrupt)
	}
	for i, a := range found {
		if a.above != nil || isRoot(a.cert) {
			continue
		}
		if a.above, err = chainAbove(records[i], a, found); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// isRoot says whether cert is one that was signed by its own key.
func isRoot(cert *x509.Certificate) bool {
	return slices.Equal(cert.RawSubject, cert.RawIssuer) && guard.CheckIssued(cert, cert) == nil
}

// chainAbove returns the certificates above an authority: those that were imported
// with it, or the root of ours that issued it.
func chainAbove(rec authorityRecord, a *Authority, all []*Authority) (above []*x509.Certificate, err error) {
	for _, der := range rec.Above {
		cert, err := guard.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("%w: certificate above authority %s", storage.ErrCorrupt, rec.Name)
		}
		above = append(above, cert)
	}
	if len(above) > 0 {
		return above, nil
	}
	for _, root := range all {
		if root.name == rootName && guard.CheckIssued(a.cert, root.cert) == nil {
			return []*x509.Certificate{root.cert}, nil
		}
	}
	return nil, fmt.Errorf("%w: the %s authority is not the root's", storage.ErrCorrupt, rec.Name)
}

// keyStore keeps the private keys of authorities. What is stored in a record is for the
// store alone to understand: the key itself, sealed, or the name by which a security
// module or a key management service knows it.
type keyStore interface {
	// keep returns what to store of a key in its authority's record.
	keep(rec authorityRecord, key crypto.Signer) ([]byte, error)

	// open returns the key of a record.
	open(rec authorityRecord) (crypto.Signer, error)
}

// sealedKeys keeps keys in the database, sealed (PKCS #8).
type sealedKeys struct{ box *seal.Box }

// purpose binds a sealed key to its certificate: neither can be exchanged alone.
func (sealedKeys) purpose(r authorityRecord) string {
	return fmt.Sprintf("key of authority %s %x", r.Name, sha256.Sum256(r.Certificate))
}

func (s sealedKeys) keep(rec authorityRecord, key crypto.Signer) ([]byte, error) {
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return s.box.Seal(s.purpose(rec), pkcs8), nil
}

func (s sealedKeys) open(rec authorityRecord) (crypto.Signer, error) {
	pkcs8, err := s.box.Open(s.purpose(rec), rec.Key)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return nil, fmt.Errorf("%w: key of authority %s", storage.ErrCorrupt, rec.Name)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%w: key of authority %s signs nothing", storage.ErrCorrupt, rec.Name)
	}
	return signer, nil
}

// createAuthority stores a new authority.
func (d *Depot) createAuthority(tx storage.Tx, a *Authority) (err error) {
	rec := authorityRecord{
		Name: a.name, Generation: a.generation, State: a.state, Since: a.since, Imported: a.imported, Certificate: a.cert.Raw,
	}
	if a.imported {
		for _, cert := range a.above {
			rec.Above = append(rec.Above, cert.Raw)
		}
	}
	if rec.Key, err = d.store.keep(rec, a.key); err != nil {
		return err
	}
	if err := authorities.Create(tx, rec); err != nil {
		return err
	}
	return tx.Notify(authoritiesTopic)
}

func (d *Depot) openAuthority(rec authorityRecord, known map[string]*Authority) (*Authority, error) {
	rec.Generation, rec.State = max(rec.Generation, 1), cmp.Or(rec.State, StateActive)
	cert, err := guard.ParseCertificate(rec.Certificate)
	if err != nil || len(cert.SubjectKeyId) < 8 {
		return nil, fmt.Errorf("%w: certificate of authority %s", storage.ErrCorrupt, rec.Name)
	}
	if a := known[authorityID(cert)]; a != nil && a.cert.Equal(cert) && a.name == rec.Name {
		if a.state == rec.State && a.since.Equal(rec.Since) {
			return a, nil
		}
		changed := *a
		changed.state, changed.since = rec.State, rec.Since
		return &changed, nil
	}
	signer, err := d.store.open(rec)
	if err != nil {
		return nil, err
	}
	if public, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(signer.Public()) {
		return nil, fmt.Errorf("%w: certificate of authority %s is not of its key", storage.ErrCorrupt, rec.Name)
	}
	return &Authority{
		name: rec.Name, id: authorityID(cert), generation: rec.Generation, state: rec.State, since: rec.Since,
		imported: rec.Imported, cert: cert, key: signer, urls: d.urls,
	}, nil
}

// Reload reads the authorities again. [Depot.Run] does so by itself when another process
// has changed them; whoever changes one here calls it when the transaction has committed.
func (d *Depot) Reload(ctx context.Context) error {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	var found []*Authority
	err := d.db.View(ctx, func(tx storage.Tx) (err error) {
		found, err = d.loadAuthorities(tx)
		return err
	})
	if err != nil {
		return fmt.Errorf("reload authorities: %w", err)
	}
	d.keys.Store(newKeyring(found...))
	return nil
}

// reloadEvery is how often authorities are read again without news, which may get lost.
const reloadEvery = time.Minute

// follow reloads the authorities when they have changed, until ctx ends.
func (d *Depot) follow(ctx context.Context) {
	changed, stop := d.db.Watch(authoritiesTopic)
	defer stop()
	again := time.NewTimer(0) // something may have changed since they were read
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-again.C:
		}
		wait := reloadEvery
		before := d.keys.Load()
		if err := d.Reload(ctx); err != nil && ctx.Err() == nil {
			d.log.WarnContext(ctx, "authorities not read, will try again", "err", err)
			wait = time.Second
		}
		for name, a := range d.keys.Load().active {
			if was := before.active[name]; was == nil || was.id != a.id {
				d.log.InfoContext(ctx, "another authority is in force", "authority", name, "id", a.id)
			}
		}
		again.Reset(wait)
	}
}

// Also is what else belongs into the transaction that stores an authority, such as an
// entry in the audit log.
type Also func(tx storage.Tx, a *Authority) error

// Generate makes the next authority of a name, with a new key of the size that the
// depot was opened with. It issues nothing before [Depot.Activate]. If there is one
// already the error wraps [ErrNextExists]. also may be nil.
func (d *Depot) Generate(ctx context.Context, name string, also Also) (*Authority, error) {
	r, err := roleOf(name)
	if err != nil {
		return nil, err
	}
	generation, err := d.nextGeneration(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("generate %s authority: %w", name, err)
	}
	key, err := d.newKey(authorityKey(name, generation), d.keyBits)
	if err != nil {
		return nil, fmt.Errorf("generate %s authority: %w", name, err)
	}
	a, err := d.makeAuthority(r, generation, key, d.Root())
	if err != nil {
		return nil, err
	}
	if err := d.add(ctx, a, also); err != nil {
		return nil, fmt.Errorf("generate %s authority: %w", name, err)
	}
	return d.Authority(a.id), nil
}

// nextGeneration returns the number that the next authority of a name gets.
func (d *Depot) nextGeneration(ctx context.Context, name string) (int, error) {
	if err := d.Reload(ctx); err != nil {
		return 0, err
	}
	highest := 0
	for _, a := range d.Generations(name) {
		if a.state == StateNext {
			return 0, ErrNextExists
		}
		highest = max(highest, a.generation)
	}
	return highest + 1, nil
}

// add stores a as the next authority of its name.
func (d *Depot) add(ctx context.Context, a *Authority, also Also) error {
	a.state, a.since = StateNext, d.now().UTC()
	err := d.db.Update(ctx, func(tx storage.Tx) error {
		for rec, err := range authorities.All(tx, storage.Range{}) {
			if err != nil {
				return err
			}
			cert, err := guard.ParseCertificate(rec.Certificate)
			if err != nil {
				return err
			}
			if authorityID(cert) == a.id {
				return ErrAuthorityHere
			}
		}
		// Of two at once, both want this number.
		if err := d.createAuthority(tx, a); errors.Is(err, storage.ErrExists) {
			return ErrNextExists
		} else if err != nil || also == nil {
			return err
		}
		return also(tx, a)
	})
	if err != nil {
		return err
	}
	return d.Reload(ctx)
}

// Await refuses what is to wait for an authority that is not next any more. Whoever gives
// one up that is being waited for writes the same record, and so does this: of two at
// once, the second sees what the first did. The error wraps storage.ErrNotFound.
func (d *Depot) Await(tx storage.Tx, id string) error {
	a := d.Authority(id)
	if a == nil {
		return fmt.Errorf("next authority %s: %w", id, storage.ErrNotFound)
	}
	rec, err := authorities.Get(tx, a.recordKey())
	if err != nil {
		return err
	}
	if rec.State != StateNext || !slices.Equal(rec.Certificate, a.cert.Raw) {
		return fmt.Errorf("next authority %s: %w", id, storage.ErrNotFound)
	}
	return authorities.Put(tx, rec)
}

// Activate puts the next authority with an ID in the place of the active one of its
// name, which is retiring from then on. [Depot.Reload] is to follow the commit. The error
// wraps storage.ErrNotFound if no authority with this ID is next, and [ErrAuthorityExpired].
func (d *Depot) Activate(tx storage.Tx, id string) error {
	var next *authorityRecord
	actives := map[string]*authorityRecord{} // by name
	for rec, err := range authorities.All(tx, storage.Range{}) {
		if err != nil {
			return err
		}
		cert, err := guard.ParseCertificate(rec.Certificate)
		switch {
		case err != nil:
			return err
		case cmp.Or(rec.State, StateActive) == StateActive:
			actives[rec.Name] = &rec
		case authorityID(cert) != id || rec.State != StateNext:
		case !d.now().Before(cert.NotAfter):
			return fmt.Errorf("activate authority: %w", ErrAuthorityExpired)
		default:
			next = &rec
		}
	}
	if next == nil {
		return fmt.Errorf("next authority %s: %w", id, storage.ErrNotFound)
	}
	active := actives[next.Name]
	if active == nil {
		return fmt.Errorf("%w: no %s authority is active", storage.ErrCorrupt, next.Name)
	}
	now := d.now().UTC()
	// Whoever activates another one writes the record of the active one, too.
	active.State, active.Since = StateRetiring, now
	next.State, next.Since = StateActive, now
	for _, rec := range []*authorityRecord{active, next} {
		if err := authorities.Put(tx, *rec); err != nil {
			return err
		}
	}
	if next.Name == rootName {
		if err := tx.Notify(tlsTopic); err != nil {
			return err
		}
	}
	return tx.Notify(authoritiesTopic)
}

// Retire ends an authority: whoever relies on it must have been looked for before. What
// it has revoked is still told; one that is only next has revoked nothing, and is
// forgotten. [Depot.Reload] is to follow the commit. The error wraps storage.ErrNotFound,
// [ErrNotRetirable] or [ErrNotSettled].
func (d *Depot) Retire(tx storage.Tx, id string) error {
	a := d.Authority(id)
	if a == nil {
		return fmt.Errorf("authority %s: %w", id, storage.ErrNotFound)
	}
	rec, err := authorities.Get(tx, a.recordKey())
	if err != nil {
		return err
	}
	switch rec.State {
	case StateRetired:
		return nil
	case StateNext:
		if err := authorities.Delete(tx, a.recordKey()); err != nil {
			return err
		}
		return tx.Notify(authoritiesTopic)
	case StateRetiring:
		if d.now().Before(rec.Since.Add(settleTime)) {
			return ErrNotSettled
		}
	default:
		return ErrNotRetirable
	}
	rec.State, rec.Since = StateRetired, d.now().UTC()
	if err := authorities.Put(tx, rec); err != nil {
		return err
	}
	return tx.Notify(authoritiesTopic)
}

// mayRecord refuses what an authority signed that is not active any more, which
// another process may know before this one does: asking again will find the new one.
func mayRecord(tx storage.Tx, a *Authority) error {
	rec, err := authorities.Get(tx, a.recordKey())
	if err != nil {
		return err
	}
	if cmp.Or(rec.State, StateActive) != StateActive {
		return fmt.Errorf("%w: %w", storage.ErrUnavailable, ErrNotActive)
	}
	return nil
}

// CountInForce counts the certificates that are neither revoked nor expired, by the ID
// of their authority. Those of OCSP signers don't count. It reads all records.
func (d *Depot) CountInForce(tx storage.Tx) (map[string]int, error) {
	counts := map[string]int{}
	for c, err := range d.InForce(tx, "") {
		if err != nil {
			return nil, err
		}
		counts[c.Issuer]++
	}
	return counts, nil
}
