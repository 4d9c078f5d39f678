// Package checkin is the protocol edge of device management: it reads what
// devices send to the CheckInURL and the ServerURL, finds out by whose
// certificate, and hands it to package enroll. It answers in the statuses that
// devices understand.
//
// NanoMDM's message types, decoding and service interfaces stop here.
package checkin
