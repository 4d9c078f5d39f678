// Package standin is a push service for simulated devices: it takes pushes over HTTP/2 and
// TLS as Apple's does, from those who show a push certificate that it has made, checks them
// as Apple's documents say, and hands them on.
//
// It is what the program has, and knows no faults but those of a push: apnstest is the one
// for tests, which breaks in every way, and makes its certificates and checks here.
package standin
