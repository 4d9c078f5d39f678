package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/crl"
	"github.com/gatehouse-mdm/gatehouse/depot/ocsp"
	"github.com/gatehouse-mdm/gatehouse/depot/scep"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/account"
	"github.com/gatehouse-mdm/gatehouse/enroll/business"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/invite"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/enroll/mail"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/checkin"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/mdm/inventory"
	"github.com/gatehouse-mdm/gatehouse/mdm/library"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/mdm/wake"
	"github.com/gatehouse-mdm/gatehouse/mdm/webhook"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/webui"
	webaccount "github.com/gatehouse-mdm/gatehouse/webui/account"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/apiv1"
	"github.com/gatehouse-mdm/gatehouse/webui/compat"
	"github.com/gatehouse-mdm/gatehouse/webui/frame"
	"github.com/gatehouse-mdm/gatehouse/webui/letter"
	"github.com/gatehouse-mdm/gatehouse/webui/logtail"
	"github.com/gatehouse-mdm/gatehouse/webui/me"
	"github.com/gatehouse-mdm/gatehouse/webui/portal"
	"github.com/gatehouse-mdm/gatehouse/webui/signin"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
)

// state is what outlives the process: the database, the key that seals secrets in
// it, and the authorities.
type state struct {
	db    storage.DB
	box   *seal.Box
	depot *depot.Depot
	fresh bool // the database was empty
}

// openState opens the data directory, and makes what it lacks. What the depot issues
// names --pki-url, or else serverURL, as the place to ask about it.
func openState(ctx context.Context, cfg config, serverURL *url.URL, log *slog.Logger, now func() time.Time) (s *state, err error) {
	if err := makeDataDir(cfg.dataDir, log); err != nil {
		return nil, err
	}
	s = &state{}
	if cfg.store.shared() {
		err = s.openShared(ctx, cfg, log)
	} else {
		err = s.openFile(ctx, cfg, log)
	}
	if err != nil {
		return nil, err
	}
	defer func(db storage.DB) {
		if err != nil {
			err = errors.Join(err, db.Close())
		}
	}(s.db)
	if err := storage.Migrate(ctx, s.db, now, migrations); err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.store.describe(cfg.dataDir), err)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "gatehouse"
	}
	if cfg.pkiURL != nil {
		serverURL = cfg.pkiURL
	}
	s.depot, err = depot.Open(ctx, depot.Config{
		DB: s.db, Box: s.box, Log: log, Now: now, KeyBits: cfg.caKeyBits, Name: host, URL: serverURL,
		NewKey: cfg.newKey,
	})
	if errors.Is(err, seal.ErrWrongKey) {
		hint := ""
		if cfg.store.shared() {
			hint = "; servers that share a database share the key: copy it from the first one, and name it with --secrets-key-file"
		}
		return nil, fmt.Errorf("%s is not the key that sealed the secrets in %s: %w%s", cfg.secretsKeyFile, cfg.store.describe(cfg.dataDir), err, hint)
	}
	return s, err
}

// makeDataDir makes the data directory, or shuts others out of one that is there.
func makeDataDir(dir string, log *slog.Logger) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("data directory: %s is a file", dir)
	}
	if info.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(dir, 0o700); err != nil {
			return fmt.Errorf("data directory: %s may be read by others, and that can't be changed: %w", dir, err)
		}
		log.Warn("data directory was open to others, now it is ours alone", "path", dir)
	}
	return nil
}

func (s *state) close() error { return s.db.Close() }

// runner works in the background until ctx ends. Its failure stops the server.
type runner struct {
	name string
	run  func(ctx context.Context) error
}

// server is everything that answers requests, and what works beside it.
type server struct {
	handler    http.Handler // for the network
	local      http.Handler // for the Unix socket: whoever calls is the operator
	identity   *identity.Service
	enroll     *enroll.Service
	payloads   *issuance.Service
	devices    *mdm.Service
	demo       *demo // runs once it is told how devices get here
	health     *webui.Health
	metrics    http.Handler // for --metrics-listen
	setupLinks *setupLinks
	pushTopics func(context.Context) (int, error) // how many there are certificates for
	background []runner
}

// compose builds the services upward, from the state to the routes. serverURL is
// what devices and links use; cert is the TLS certificate, nil without TLS.
func compose(ctx context.Context, cfg config, s *state, cert *certificate, serverURL *url.URL, log *slog.Logger, now func() time.Time) (*server, error) {
	ownCA := cfg.tls == tlsOwnCA

	// Domains.
	events, err := event.New(event.Config{DB: s.db, Log: log, Now: now})
	if err != nil {
		return nil, err
	}
	var enrollment *enroll.Service // made below, of what is made here
	kinds, err := sourceKinds(log, now)
	if err != nil {
		return nil, err
	}
	people, err := identity.New(identity.Config{
		DB: s.db, Box: s.box, Kinds: kinds, Log: log, Now: now, Replica: replicaName(cfg), Audit: peopleAudit{events}, HashMemory: cfg.hashMemory,
		OnDisable: func(tx storage.Tx, u identity.User) error { return enrollment.EndUser(tx, u.Logins()...) },
		OnRename: func(tx storage.Tx, gone []string, u identity.User) error {
			return enrollment.RenameUser(tx, gone, u.Login())
		},
	})
	if err != nil {
		return nil, err
	}
	templates, err := template.NewService(template.Config{DB: s.db, Box: s.box, Log: log, Now: now, OnChange: auditTemplate})
	if err != nil {
		return nil, err
	}
	sign := profileSigner(s.depot.Root, cert, nil, now)
	devices, err := mdm.New(mdm.Config{DB: s.db, Box: s.box, Sign: sign, Log: log, Now: now})
	if err != nil {
		return nil, err
	}
	stock, err := inventory.New(inventory.Config{DB: s.db, MDM: devices, Log: log, Now: now})
	if err != nil {
		return nil, err
	}
	pushCertificates, err := apns.NewCertificates(s.box, now)
	if err != nil {
		return nil, err
	}
	webhooks, err := webhook.New(webhook.Config{
		DB: s.db, Box: s.box, ServerURL: serverURL, Release: readBuildInfo().Version, Log: log, Now: now,
	})
	if err != nil {
		return nil, err
	}
	counted, err := newMetrics(ctx, gauges{
		db: s.db, depot: s.depot, devices: devices, cert: cert, url: serverURL, push: pushCertificates, targets: webhooks, log: log, now: now,
	})
	if err != nil {
		return nil, err
	}
	webhooks.CountBy(counted.Delivered)
	pusher, err := apns.NewClient(apns.ClientConfig{
		DB: s.db, Certificates: pushCertificates, URL: cfg.apnsURL, Roots: cfg.apnsRoots, Log: log, Now: now,
	})
	if err != nil {
		return nil, err
	}
	pushKeeper, err := apns.NewKeeper(apns.KeeperConfig{
		DB: s.db, Certificates: pushCertificates, Devices: devices.Topics, Known: ownAuthority(s.depot), Tell: auditPush,
		Mdmcert: cfg.elsewhere.mdmcert, AllowPrivate: cfg.elsewhere.mdmcert != nil, Log: log, Now: now,
	})
	if err != nil {
		return nil, err
	}
	simulated, err := newDemo(ctx, cfg, s, log, now)
	if err != nil {
		return nil, err
	}
	simulated.people, simulated.devices, simulated.real = people, devices, pusher
	waker, err := wake.New(wake.Config{
		DB: s.db, MDM: devices, Pusher: pusher, Demo: simulated, Certificates: pushCertificates, Count: counted.Pushed, Log: log, Now: now,
	})
	if err != nil {
		return nil, err
	}
	devices.WakeBy(waker)
	devices.Observe(countCommand(counted))

	// Use cases.
	otherServers, err := scep.NewClient(scep.ClientConfig{Log: log, Now: now})
	if err != nil {
		return nil, err
	}
	payloads, err := issuance.New(issuance.Config{
		DB: s.db, Depot: s.depot, Templates: templates, MDM: devices, Audit: events,
		Sign: sign, ServerURL: serverURL, Upstream: otherServers, Log: log, Now: now,
	})
	if err != nil {
		return nil, err
	}
	shelf, err := library.New(library.Config{
		DB: s.db, Box: s.box, MDM: devices, Sign: sign, People: payloads, Log: log, Now: now,
		Reserved: func(identifier string) bool { return profile.Reserved(serverURL.Hostname(), identifier) },
	})
	if err != nil {
		return nil, err
	}
	payloads.SendBy(shelf)
	organisation, err := business.New(business.Config{
		DB: s.db, Box: s.box, ServerURL: serverURL, Endpoint: cfg.elsewhere.business, AllowPrivate: cfg.elsewhere.business != nil,
		Release: readBuildInfo().Version, Log: log, Now: now,
	})
	if err != nil {
		return nil, err
	}
	enrollment, err = enroll.New(enroll.Config{
		DB: s.db, Box: s.box, Depot: s.depot, MDM: devices, Topics: pushCertificates, Payloads: payloads, Inventory: stock, Refusals: events, Tokens: organisation, Tap: webhooks,
		Sign:      sign,
		ServerURL: serverURL, IncludeRoot: ownCA, Demo: simulated.On,
		Log: log, Now: now,
	})
	if err != nil {
		return nil, err
	}
	simulated.enroll = enrollment

	// The HTTP edge.
	pages, err := webui.NewPages(log)
	if err != nil {
		return nil, err
	}
	sessions, err := webui.NewSessions(webui.SessionsConfig{
		DB: s.db, Identity: people, Log: log, Now: now,
		Secure: serverURL.Scheme == "https", Fail: pages.Fail,
	})
	if err != nil {
		return nil, err
	}
	health := webui.NewHealth(s.db, now)
	links := &setupLinks{people: people, serverURL: serverURL, dir: cfg.dataDir, log: log}
	build := readBuildInfo()
	site, err := webui.NewSite(webui.SiteConfig{
		Pages: pages, Identity: people, Sessions: sessions, Health: health, ServerURL: serverURL,
		Anchors: s.depot.Anchors, IdentityCA: func() *x509.Certificate { return s.depot.Identity().Certificate() }, OwnCA: ownCA,
		SetupUsed: links.used,
		Version:   build, Release: build.Version,
	})
	if err != nil {
		return nil, err
	}
	texts, err := text.New(text.Config{DB: s.db, Log: log, Now: now, Secure: serverURL.Scheme == "https"})
	if err != nil {
		return nil, err
	}
	around, err := frame.New(frame.Config{Settings: enrollment, Texts: texts, Pages: pages, Log: log, Now: now})
	if err != nil {
		return nil, err
	}
	door, err := portal.New(portal.Config{
		Enroll: enrollment, People: people, Sessions: sessions, Frame: around, Pages: pages,
		ServerURL: serverURL, Log: log, Now: now,
		OwnCA: ownCA, Probe: cfg.probe,
		Root:        func() *x509.Certificate { return s.depot.Root().Certificate() },
		RootProfile: func() ([]byte, error) { return webui.RootProfile(s.depot.Anchors(), serverURL) },
		Verified: func() bool {
			_, _, _, public := publicIdentity(cert, nil, now())
			return public || ownCA // who has come as far as the profile trusts our root
		},
		Ready: func(ctx context.Context) (bool, error) { return anyoneToSignIn(ctx, people) },
	})
	if err != nil {
		return nil, err
	}
	entrance, err := signin.New(signin.Config{
		People: people, Sessions: sessions, Pages: pages, Frame: around, ServerURL: serverURL, Log: log, Now: now,
		Progress: door.SignInProgress,
	})
	if err != nil {
		return nil, err
	}
	deviceSignIns, err := webaccount.New(webaccount.Config{
		Enroll: enrollment, People: people, Sessions: sessions, Frame: around, Pages: pages, Log: log,
	})
	if err != nil {
		return nil, err
	}
	mails, err := mail.New(mail.Config{DB: s.db, Box: s.box, Name: serverURL.Hostname(), Log: log, Now: now})
	if err != nil {
		return nil, err
	}
	mine, err := me.New(me.Config{
		Enroll: enrollment, Issuance: payloads, Identity: people, Sessions: sessions, Frame: around, Pages: pages, Now: now,
	})
	if err != nil {
		return nil, err
	}
	letters, err := letter.New(letter.Config{Texts: texts, ServerURL: serverURL})
	if err != nil {
		return nil, err
	}
	invitations, err := invite.New(invite.Config{DB: s.db, Enroll: enrollment, Mailer: mails, Writer: letters, Log: log, Now: now})
	if err != nil {
		return nil, err
	}
	api, err := apiv1.New(apiv1.Config{
		Business: organisation, Server: serverFacts(cfg, cert, simulated.On, now), Demo: simulated, Tail: cmp.Or(cfg.tail, new(logtail.Tail)),
		Mail: mails, Letters: letters, Invitations: invitations,
		DB: s.db, MDM: devices, Inventory: stock, Enroll: enrollment, Depot: s.depot, Templates: templates, Issuance: payloads, Identity: people, Texts: texts, Library: shelf, Box: s.box, Wake: waker, Webhooks: webhooks, PushCertificates: pushKeeper, Sessions: sessions,
		ServerURL: serverURL, Log: log, Now: now,
	})
	if err != nil {
		return nil, err
	}
	desk, err := admin.New(admin.Config{
		API: api, Assets: pages.Assets(), Pages: pages, ServerURL: serverURL, Log: log, Now: now, Demo: simulated.On,
		LastEvent: func(ctx context.Context) (last uint64, err error) {
			err = s.db.View(ctx, func(tx storage.Tx) (err error) {
				last, err = event.LastSeq(tx)
				return err
			})
			return last, err
		},
	})
	if err != nil {
		return nil, err
	}
	others, err := compat.New(compat.Config{
		DB: s.db, MDM: devices, Enroll: enrollment, Library: shelf, Identity: people, Push: waker,
		Certificates: pushCertificates, Keeper: pushKeeper, Log: log, Now: now,
	})
	if err != nil {
		return nil, err
	}
	declarative, err := cfg.forward.declarativeServer(ctx, log)
	if err != nil {
		return nil, err
	}
	checkins, err := checkin.New(checkin.Config{
		Enroll: enrollment, Declarative: declarative, Count: counted.CheckIn, Log: log,
		ClientCertificate: func(r *http.Request) *x509.Certificate { return webui.ClientCertificate(r.Context()) },
		Peer:              peerName,
	})
	if err != nil {
		return nil, err
	}

	lists, err := crl.New(crl.Config{Depot: s.depot, Log: log, Now: now})
	if err != nil {
		return nil, err
	}
	statuses, err := ocsp.New(ocsp.Config{Depot: s.depot, Log: log, Now: now})
	if err != nil {
		return nil, err
	}

	// Routes. A group says what its routes have in common; the outermost limits
	// come first.
	forPrograms := webui.FailWithProblem(log)
	mux := webui.NewMux(pages.Fail)
	query := webui.PlainQuery(pages.Fail)

	files := mux.Group(webui.Group{BodyLimit: 16 << 10, Timeout: 30 * time.Second, Fail: pages.Fail,
		Use: []webui.Middleware{query, texts.KeepLanguage, sessions.Load}})
	site.Mount(files)
	portal.MountLogo(files, enrollment)

	// What people see who are no administrators. A stream of events has no end to wait for.
	forPeople := mux.Group(webui.Group{BodyLimit: 16 << 10, Timeout: 30 * time.Second, Fail: around.Fail,
		Use: []webui.Middleware{webui.PlainQuery(around.Fail), texts.KeepLanguage, sessions.Load}})
	entrance.Mount(forPeople)
	deviceSignIns.Mount(forPeople)
	mine.Mount(mux.Group(webui.Group{BodyLimit: me.MaxBody, Timeout: 30 * time.Second, Fail: around.Fail,
		Use: []webui.Middleware{webui.PlainQuery(around.Fail), texts.KeepLanguage, sessions.Load, mine.Guard}}))
	door.Mount(forPeople, mux.Group(webui.Group{BodyLimit: 1 << 10, Fail: around.Fail, Use: []webui.Middleware{webui.PlainQuery(around.Fail)}}))
	door.MountPreviews(mux.Group(webui.Group{BodyLimit: 1 << 10, Timeout: 30 * time.Second, Fail: around.Fail,
		Use: []webui.Middleware{webui.PlainQuery(around.Fail), sessions.Load}}))

	if err := mountDesk(mux, desk, sessions, people); err != nil {
		return nil, err
	}

	// Devices send results of any size that the handler itself still has to name:
	// its own limits are lower.
	protocol := mux.Group(webui.Group{BodyLimit: 64 << 20, Timeout: 2 * time.Minute, Fail: forPrograms})
	for _, method := range []string{http.MethodPut, http.MethodPost} {
		protocol.Handle(method+" "+enroll.PathCheckIn, webui.Plain(checkins))
		protocol.Handle(method+" "+enroll.PathConnect, webui.Plain(checkins))
	}

	if err := cfg.forward.mountProxy(mux, enrollment, checkins, serverURL, forPrograms, log); err != nil {
		return nil, err
	}

	accounts, err := account.New(account.Config{Enroll: enrollment, Peer: peerName, Log: log})
	if err != nil {
		return nil, err
	}
	byAccount := mux.Group(webui.Group{BodyLimit: account.MaxBody, Timeout: 30 * time.Second, Fail: accounts.Fail})
	for pattern, h := range accounts.Routes() {
		byAccount.Handle(pattern, webui.Plain(h))
	}

	ota, err := portal.NewDeliveries(enrollment, log)
	if err != nil {
		return nil, err
	}
	ota.Mount(mux.Group(webui.Group{BodyLimit: portal.MaxDeliveryBody, Timeout: 30 * time.Second, Fail: ota.Fail}))

	scepDoors := &scepDoor{db: s.db, depot: s.depot, templates: templates, enrollment: enrollment, issuance: payloads, log: log, now: now}
	scepDoors.mount(mux, door, forPrograms)
	requests := &requestDoors{
		depot: s.depot, people: people, issuance: payloads, events: events, hasTemplate: scepDoors.exists, log: log,
	}
	if err := requests.mount(mux, forPrograms); err != nil {
		return nil, err
	}

	// Whoever meets one of our certificates may ask about it. A list can be long.
	about := mux.Group(webui.Group{BodyLimit: 16 << 10, Timeout: time.Minute, Fail: forPrograms})
	about.Handle(http.MethodGet+" "+depot.PathCRL+"{file}", webui.Plain(lists))
	about.Handle(http.MethodGet+" "+depot.PathIssuer+"{file}", webui.Plain(lists))
	about.Handle(http.MethodPost+" "+depot.PathOCSP, webui.Plain(statuses))
	about.Handle(http.MethodGet+" "+depot.PathOCSP+"/{request}", webui.Plain(statuses))

	api.Mount(mux)
	others.Mount(mux)
	others.MountMigration(mux, enrollment)

	localMux := webui.NewMux(forPrograms)
	api.Mount(localMux)
	mountLocal(localMux.Group(webui.Group{BodyLimit: 64 << 10, Timeout: 30 * time.Second, Fail: forPrograms}), links)

	sameOrigin, err := webui.SameOrigin(serverURL, pages.Fail)
	if err != nil {
		return nil, err
	}
	return &server{
		identity:   people,
		enroll:     enrollment,
		payloads:   payloads,
		devices:    devices,
		demo:       simulated,
		health:     health,
		metrics:    onlyMetrics(counted),
		setupLinks: links,
		pushTopics: func(ctx context.Context) (int, error) { return pushTopics(ctx, s.db, pushCertificates) },

		// Every request passes these, from the first to the last.
		handler: webui.Chain(mux,
			webui.RealPeer(cfg.trustedProxies),
			webui.AssignRequestID,
			webui.AccessLog(log, now),
			webui.Recover(log, pages.Fail),
			health.Watch,
			webui.SecurityHeaders(serverURL),
			webui.TLSClientCertificate(log),
			webui.ClientCertificateHeader(cfg.clientCertHeader, log),
			sameOrigin,
			ocsp.OneSegment,
		),
		local: webui.Chain(localMux,
			webui.RealPeer(nil),
			webui.AssignRequestID,
			webui.AccessLog(log, now),
			webui.Recover(log, forPrograms),
			health.Watch,
			asOperator,
		),
		background: []runner{
			{"certificates", s.depot.Run},
			{"push certificates", pushKeeper.Run},
			{"audit", events.Run},
			{"webhooks", webhooks.Run},
			{"identity", people.Run},
			{"sessions", sessions.Run},
			{"devices", devices.Run},
			{"wake-ups", func(ctx context.Context) error { return errors.Join(waker.Run(ctx), pusher.Close()) }},
			{"inventory", stock.Run},
			{"enrollment", enrollment.Run},
			{"payload certificates", payloads.Run},
			{"invitations", invitations.Run},
			{"apple business", organisation.Run},
			{"api", api.Run},
		},
	}, nil
}

// anyoneToSignIn says whether there is a user, or was when the server was set up.
func anyoneToSignIn(ctx context.Context, people *identity.Service) (bool, error) {
	setup, err := people.SetupState(ctx)
	if err != nil || setup.Done {
		return setup.Done, err
	}
	users, _, err := people.Users(ctx, "", len(demoPeople)+1)
	return slices.ContainsFunc(users, func(u identity.User) bool { return !playedByDemo(u) }), err
}

// replicaName tells this server from others on the database, also after a restart.
func replicaName(cfg config) string {
	host, err := os.Hostname()
	if err != nil {
		host = "gatehouse"
	}
	return host + " " + cfg.listen + " " + cfg.dataDir
}

// pushTopics counts the topics that there are push certificates for.
func pushTopics(ctx context.Context, db storage.DB, certificates *apns.Certificates) (n int, err error) {
	err = db.View(ctx, func(tx storage.Tx) error {
		n = 0
		for _, err := range certificates.All(tx) {
			if err != nil {
				return err
			}
			n++
		}
		return nil
	})
	return n, err
}

// asOperator lets whoever opened the Unix socket act as an owner.
func asOperator(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(identity.WithPrincipal(r.Context(), identity.Local())))
	})
}

// mountLocal registers what only the operator of the machine may ask for.
func mountLocal(r webui.Router, links *setupLinks) {
	r.Handle("POST "+setupLinkPath, func(w http.ResponseWriter, r *http.Request) error {
		link, err := links.make(r.Context())
		if err != nil {
			return err
		}
		return webui.WriteJSON(w, http.StatusCreated, link)
	})
}
