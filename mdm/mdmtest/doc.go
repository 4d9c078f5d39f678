// Package mdmtest is a simulated Apple device. It downloads an enrollment
// profile, gets its identity by SCEP, checks in, answers commands, renews its
// identity and goes away, over real HTTP and TLS, as Apple documents it of an
// iPhone, iPad or Mac. Tests tell stories with it, `gatehouse serve --demo` and
// `gatehouse simulate` run fleets of it, benchmarks prepare requests with it.
//
// It is strict where Apple's clients are strict: what a device would refuse is
// an error here. It encodes as Apple's clients do, with indefinite lengths and
// chunked octet strings.
//
// It imports no other package of this module and no MDM, SCEP, PKCS#7 or plist
// library: where both sides share code, both are wrong together.
package mdmtest
