// Package mdm manages enrolled devices: what the server knows of each one, what
// it has asked of it, and what the device answered.
//
// Functions that take a [storage.Tx] are steps of a larger transaction: package
// enroll composes them with certificates and people. [Service] is for callers
// that want one thing done. The package knows nothing of HTTP, of certificates,
// or of the database behind [storage.DB].
package mdm
