// Package apnstest is Apple's push service on loopback: a server that speaks HTTP/2 over
// TLS, demands a push certificate, checks what it is sent as Apple's documents say, and
// answers as it is told: with any status and reason, late, never, or by breaking the
// connection in one of several ways. It also makes the push certificates that it accepts.
//
// It imports nothing of the client under test. Only tests use it.
package apnstest
