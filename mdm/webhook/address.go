package webhook

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// Resolver finds the addresses of a host. *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

const (
	maxURL     = 2048 // bytes
	lookupTime = 5 * time.Second
)

// checkURL says what is wrong with the URL of a target. Where its host leads now is looked
// at for whoever types it in; what counts is where it leads when it is connected to. A host
// that can't be found may come up yet.
func (s *Service) checkURL(ctx context.Context, raw string, allowPrivate bool) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case raw == "":
		return nil, wrong("url", "is required")
	case len(raw) > maxURL:
		return nil, wrong("url", "must have at most %d bytes", maxURL)
	case err != nil:
		return nil, wrong("url", "is no URL such as https://example.com/webhook")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, wrong("url", "must begin with https://")
	case u.User != nil:
		return nil, wrong("url", "must not hold a user name or password: put them into headers, as Authorization")
	case u.Hostname() == "":
		return nil, wrong("url", "names no host")
	case u.Fragment != "":
		return nil, wrong("url", "must not have a fragment (#…)")
	case u.Scheme == "http" && !allowPrivate:
		return nil, wrong("url", "must begin with https://; http is only for private addresses, with allow_private")
	}
	host := u.Hostname()
	addresses, err := s.addresses(ctx, host)
	switch {
	case numeric(host) && err != nil:
		return nil, wrong("url", "has a host that is neither a name nor an address as it is usually written")
	case err != nil:
		return u, nil
	}
	for _, a := range addresses {
		if err := guard.CheckAddress(a, allowPrivate); err != nil {
			if !allowPrivate && guard.CheckAddress(a, true) == nil {
				return nil, wrong("url", "leads to the private address %s; allow_private allows that", a.Unmap())
			}
			return nil, wrong("url", "leads to %s, which no webhook may be sent to: it is link-local, reserved or a cloud's metadata service", a.Unmap())
		}
		if u.Scheme == "http" && guard.CheckAddress(a, false) == nil {
			return nil, wrong("url", "must begin with https://: %s is a public address", a.Unmap())
		}
	}
	return u, nil
}

// errPublicHTTP means that what was to be sent without TLS would leave the private network.
var errPublicHTTP = errors.New("http is only for private addresses, and this host has a public one: use https")

// checkPlain is for a URL without TLS, right before something is sent there.
func (s *Service) checkPlain(ctx context.Context, u *url.URL) error {
	addresses, err := s.addresses(ctx, u.Hostname())
	if err != nil {
		return err
	}
	for _, a := range addresses {
		if guard.CheckAddress(a, false) == nil {
			return errPublicHTTP
		}
	}
	return nil
}

func (s *Service) addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	if numeric(host) {
		return nil, errors.New("no address")
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	return s.resolver.LookupNetIP(ctx, "ip", host)
}

// numeric says that some programs would take host for an IPv4 address, in whatever form:
// its last label is a number (WHATWG URL, "ends in a number").
func numeric(host string) bool {
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	last := strings.ToLower(labels[len(labels)-1])
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return last != "" && strings.Trim(last, "0123456789") == ""
}

// sameOrigin says that both URLs lead to the same server.
func sameOrigin(before string, now *url.URL) bool {
	u, err := url.Parse(before)
	return err == nil && u.Scheme == now.Scheme && strings.EqualFold(u.Host, now.Host)
}

// compile-time check: the system's resolver will do.
var _ Resolver = (*net.Resolver)(nil)
