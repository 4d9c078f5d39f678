package acme

import (
	"fmt"
	"net/netip"
	"strings"
)

// private are domains that no public authority issues for (RFC 2606, 6762, 7686, 8375, and
// ICANN's "internal").
var private = []string{"local", "localhost", "internal", "test", "example", "invalid", "onion", "home.arpa", "lan"}

// CheckDomain says what keeps an authority from issuing for host. Only a directory of one's
// own, directory not "", may know names that are not public.
func CheckDomain(host, directory string) error {
	if _, err := netip.ParseAddr(host); err == nil {
		return fmt.Errorf("%s is an address: ACME needs a DNS name", host)
	}
	labels := strings.Split(host, ".")
	switch {
	case len(host) > 253:
		return fmt.Errorf("%s is too long for a DNS name", host)
	case labels[len(labels)-1] == "localhost":
		return fmt.Errorf("%s means this machine to everybody: ACME needs a DNS name that others can resolve", host)
	case len(labels) == 1:
		return fmt.Errorf("%q has no domain: ACME needs a full DNS name such as mdm.example.com", host)
	}
	for _, label := range labels {
		if !validLabel(label) {
			return fmt.Errorf("%q is no DNS name (one with other letters is written xn--…)", host)
		}
	}
	if directory != "" {
		return nil
	}
	for _, suffix := range private {
		if strings.HasSuffix(host, "."+suffix) {
			return fmt.Errorf("%s is no public name: nobody issues for .%s; name your own authority with --acme-directory", host, suffix)
		}
	}
	return nil
}

// validLabel reports whether label is a host name's (RFC 1123, 2.1), in lower case.
func validLabel(label string) bool {
	for _, c := range []byte(label) {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-':
		default:
			return false
		}
	}
	return label != "" && len(label) <= 63 && label[0] != '-' && label[len(label)-1] != '-'
}
