// Package webhook tells other servers what happens here: by HTTP, to targets that an
// administrator names.
//
// There are two things to tell of. Events are those of the audit log, as far as
// [event.Publish] lets their fields leave the server; messages are what devices say in
// Apple's protocol, as NanoMDM and MicroMDM tell of them. What is to be told is written
// down in the transaction of the fact, or after the feed of events, and sent from there: at
// least once, to each target in a lane of its own, so that one that hangs costs the others
// nothing.
//
// It knows nothing of the API that manages targets.
package webhook
