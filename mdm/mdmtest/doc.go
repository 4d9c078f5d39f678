// Package mdmtest is a simulated Apple device. It downloads an enrollment
// profile, gets its identity by SCEP, checks in, answers commands, renews its
// identity and goes away, over real HTTP and TLS, as Apple documents it of an
// iPhone, iPad or Mac. Or somebody types their address into it, signs in, and it enrols
// by account. Tests tell stories with it, `gatehouse serve --demo` and
// `gatehouse simulate` run fleets of it, benchmarks prepare requests with it.
//
// It is strict where Apple's clients are strict: what a device would refuse is
// an error here. It encodes as Apple's clients do, with indefinite lengths and
// chunked octet strings.
//
// The whole of a story:
//
//	dev, err := mdmtest.NewDevice(mdmtest.Options{Model: mdmtest.Mac, RootCAs: roots})
//	err = dev.Enroll(ctx, profileURL) // or Install, RequestIdentity, Authenticate, TokenUpdate one by one
//	n, err := dev.Poll(ctx)           // or Idle, Answer or Report one by one
//	n, err = dev.User().Poll(ctx)     // nil without a user channel
//	cred := dev.Credential("…scep")   // what the SCEP payload of a profile brought, after Poll
//	err = dev.Remove(ctx)
//
// A profile that asks the device what it is ("Profile Service") leads Enroll to the one that
// enrolls; [Device.Deliver] goes that way alone.
//
// Account-driven enrollment (User Enrollment, or Device Enrollment: service discovery says
// which) needs to know who signs in:
//
//	person := &mdmtest.Browser{Login: "ana", Password: "…"} // or a PersonFunc around a real browser
//	dev, err := mdmtest.NewDevice(mdmtest.Options{RootCAs: roots, Account: &mdmtest.Account{
//		Identifier: "ana@example.com", Person: person, Reach: func(domain string) string { return serverURL }}})
//	err = dev.EnrollAccount(ctx) // or the steps below
//	seen := person.Visits()      // all requests and pages, to look for leaks
//
//	service, err := dev.Discover(ctx)
//	_, err = dev.PostEnrollment(ctx, service.BaseURL, "") // a *SignInRequired, whose Challenge goes on
//	token, err := dev.SignIn(ctx, challenge)              // or PrepareSignIn, Visit, FinishSignIn, Exchange
//	dev.SetToken(token)
//	profile, err := dev.PostEnrollment(ctx, service.BaseURL, token.Access)
//	err = dev.InstallAccount(ctx, service, profile)       // then RequestIdentity, Authenticate, TokenUpdate
//
// A token that the server no longer takes is refreshed, or the person signs in again,
// unless Account.Manual leaves that to the caller. [Options].Twice repeats steps.
//
// It answers every command that Apple documents as a device of its model, system, supervision
// and enrollment would, keeps what commands change ([Device.LastLock], [Device.AppState],
// [Device.Installed], …), and takes or refuses profiles as its system does. People interfere:
// [Device.InstallProfileByHand], [Device.RemoveProfileByHand], [Device.RemoveAppByHand].
//
// A DeclarativeManagement command has a channel fetch its declarations and report on them:
// [Channel.Declarations], [Channel.Synchronize].
//
// How a device misses what is expected of it says [Options].Conduct: NotNow, errors, sessions
// that break, results that are lost or come twice. A [Fleet] is many devices; a test drives it
// step by step, past a server that dies:
//
//	fleet, err := mdmtest.NewFleet(mdmtest.FleetOptions{N: 1000, Seed: "story", Kind: mdmtest.MixedKinds("story"),
//		ProfileURL: url, Transport: shared, Log: log})
//	err = fleet.Enroll(ctx)   // again, as long as it is not nil
//	did := fleet.Step(ctx)    // a session for each channel; or StepWoken, after Wake
//	stats := fleet.Stats()    // Commands, Acknowledged, NotNow, Errors, Profiles, …
//
// Hostile stories use [SCEPOption], [Device.CheckIn], [Device.PrepareRaw],
// [Device.SetIdentity], [Device.Send] and [Renewal].OnStep; those of clients other
// than Apple's [Device.RenewCredential].
//
// It imports no other package of this module and no MDM, SCEP, PKCS#7 or plist
// library: where both sides share code, both are wrong together.
package mdmtest
