// Package enroll is the way from "a person opens a page" to "the first
// TokenUpdate", and back out again. It is the only place that joins a user, a
// device and a certificate: what it knows of who is who comes from its own
// records, never from what a device claims.
//
// It knows nothing of HTTP, plists or CMS; the edges decode those and call here.
package enroll
