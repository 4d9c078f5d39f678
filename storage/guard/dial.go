package guard

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// ErrAddress means that a host has an address that must not be connected to for the
// asking of whoever names it.
var ErrAddress = errors.New("address is not reachable from here")

const outboundTime = 10 * time.Second

// NewClient returns an HTTP client for URLs that somebody has configured: another
// authority, a webhook. It looks at each address that a host resolves to at the moment
// of connecting to it, whatever the name was and whatever it resolved to before, and
// refuses those of CheckAddress with an error that wraps [ErrAddress].
//
// A whole exchange, with its answer's body, takes at most 10 seconds. Redirects are
// answers like others: they are not followed. No proxy is used, whatever the environment
// says, because it would do the connecting. The caller bounds the body.
func NewClient(allowPrivate bool) *http.Client {
	dialer := &net.Dialer{
		Timeout: outboundTime,
		Control: func(_, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("%w: it is none", ErrAddress)
			}
			return CheckAddress(at.Addr(), allowPrivate)
		},
	}
	return &http.Client{
		Timeout:       outboundTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:            dialer.DialContext,
			ForceAttemptHTTP2:      true,
			TLSHandshakeTimeout:    outboundTime,
			ResponseHeaderTimeout:  outboundTime,
			IdleConnTimeout:        30 * time.Second,
			MaxIdleConnsPerHost:    2,
			MaxResponseHeaderBytes: 64 << 10,
			DisableCompression:     true, // a limit counts what comes over the wire
		},
	}
}

// Ranges of the registries of special-purpose addresses (RFC 6890) and of multicast.
var (
	// neverDialed are of no use to anybody who has configured them: nothing that is meant
	// to be reached by others answers there. Clouds tell their machines secrets at some.
	neverDialed = prefixes(
		"0.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "224.0.0.0/4", "240.0.0.0/4",
		"100.100.100.200/32", "168.63.129.16/32", // metadata of Alibaba, Azure
		"fd00:ec2::/32", "fd20:ce::/64", "fd00:c1::a9fe:a9fe/128", // and over IPv6 of Amazon, Google, Oracle
		"::/128", "100::/64", "2001::/32", "fe80::/10", "ff00::/8",
	)
	// privateRanges are what an organisation has inside, this machine included.
	privateRanges = prefixes(
		"10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16",
		"192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
		"::1/128", "fc00::/7", "fec0::/10", "2001:db8::/32", "64:ff9b:1::/48",
	)
	// metadata is where clouds tell their machines secrets, over IPv4.
	metadata      = prefixes("169.254.0.0/16", "100.100.100.200/32", "168.63.129.16/32")
	localNAT64    = netip.MustParsePrefix("64:ff9b:1::/48") // RFC 8215
	globalUnicast = netip.MustParsePrefix("2000::/3")
)

func prefixes(texts ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		out[i] = netip.MustParsePrefix(text)
	}
	return out
}

// CheckAddress returns an error that wraps [ErrAddress] if a must not be connected to:
// link-local and metadata addresses, multicast and what is reserved never, this machine
// and private ranges unless allowPrivate. An IPv4 address inside an IPv6 one counts as
// itself.
func CheckAddress(a netip.Addr, allowPrivate bool) error {
	a = embedded(a.WithZone("").Unmap())
	within := func(ranges []netip.Prefix) bool {
		for _, r := range ranges {
			if r.Contains(a) {
				return true
			}
		}
		return false
	}
	private := within(privateRanges)
	switch {
	case !a.IsValid(), within(neverDialed), localNAT64.Contains(a) && leadsToMetadata(a), a.Is6() && !private && !globalUnicast.Contains(a):
		return fmt.Errorf("%w: %s is link-local, reserved or a cloud's metadata service", ErrAddress, a)
	case private && !allowPrivate:
		return fmt.Errorf("%w: %s is private, and private addresses are not allowed here", ErrAddress, a)
	}
	return nil
}

// leadsToMetadata says whether a local NAT64 may translate a to a cloud's metadata service.
// How long its prefix is only the network knows, so that each place where the IPv4 address
// can stand counts (RFC 6052, 2.2).
func leadsToMetadata(a netip.Addr) bool {
	b := a.As16()
	for _, at := range [][4]int{{6, 7, 9, 10}, {7, 9, 10, 11}, {9, 10, 11, 12}, {12, 13, 14, 15}} {
		inside := netip.AddrFrom4([4]byte{b[at[0]], b[at[1]], b[at[2]], b[at[3]]})
		for _, r := range metadata {
			if r.Contains(inside) {
				return true
			}
		}
	}
	return false
}

// embedded returns the IPv4 address that an IPv6 one leads to: by NAT64 (RFC 6052), by
// 6to4 (RFC 3056), or because it is a compatible one (RFC 4291, 2.5.5.1).
func embedded(a netip.Addr) netip.Addr {
	if !a.Is6() {
		return a
	}
	b := a.As16()
	switch {
	case netip.MustParsePrefix("64:ff9b::/96").Contains(a), netip.MustParsePrefix("::/96").Contains(a) && b[12] != 0:
		return netip.AddrFrom4([4]byte(b[12:16]))
	case netip.MustParsePrefix("2002::/16").Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return a
}
