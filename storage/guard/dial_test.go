package guard_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

func TestAddressesThatAreConnectedTo(t *testing.T) {
	const always, allowed, never = "always", "if private ones are allowed", "never"
	for address, want := range map[string]string{
		"192.0.1.1":                always,
		"17.253.144.10":            always,
		"2a00:1450:4001:800::200e": always,
		"64:ff9b::808:808":         always, // 8.8.8.8 by NAT64
		"2002:808:808::1":          always, // and by 6to4

		"127.0.0.1":          allowed,
		"127.255.0.9":        allowed,
		"::1":                allowed,
		"::ffff:127.0.0.1":   allowed,
		"::7f00:1":           allowed, // 127.0.0.1 as a compatible address
		"64:ff9b::7f00:1":    allowed,
		"2002:a00:1::":       allowed, // 10.0.0.1
		"10.1.2.3":           allowed,
		"100.64.0.1":         allowed,
		"172.31.255.255":     allowed,
		"192.168.0.1":        allowed,
		"fd12:3456::1":       allowed,
		"fec0::1":            allowed,
		"fd20:cf::254":       allowed, // a network of one's own at Google
		"64:ff9b:1::a00:1":   allowed, // 10.0.0.1 by a local NAT64
		"::ffff:192.168.0.1": allowed,

		"0.0.0.0":                  never,
		"0.0.0.1":                  never,
		"::":                       never,
		"169.254.169.254":          never,
		"::ffff:169.254.169.254":   never,
		"64:ff9b::a9fe:a9fe":       never, // the same by NAT64
		"2002:a9fe:a9fe::":         never,
		"fe80::1":                  never,
		"fe80::1%eth0":             never,
		"fd00:ec2::254":            never, // Amazon's metadata over IPv6
		"fd20:ce::254":             never, // Google's
		"fd00:c1::a9fe:a9fe":       never, // Oracle's
		"64:ff9b:1::a9fe:a9fe":     never, // 169.254.169.254 by a local NAT64 of a prefix of 96 bits
		"64:ff9b:1:a9fe:a9:fe00::": never, // and of one of 48
		"64:ff9b:1::6464:64c8":     never, // Alibaba's
		"100.100.100.200":          never,
		"168.63.129.16":            never,
		"224.0.0.1":                never,
		"255.255.255.255":          never,
		"ff02::1":                  never,
		"2001::1":                  never, // Teredo hides one
		"4000::1":                  never, // nobody's yet
	} {
		a := netip.MustParseAddr(address)
		public, private := guard.CheckAddress(a, false), guard.CheckAddress(a, true)
		got := never
		switch {
		case public == nil && private == nil:
			got = always
		case private == nil:
			got = allowed
		}
		if got != want {
			t.Errorf("%s: %s (%v; %v), want %s", address, got, public, private, want)
		}
		for _, err := range []error{public, private} {
			if err != nil && !errors.Is(err, guard.ErrAddress) {
				t.Errorf("%s: %v is no ErrAddress", address, err)
			}
		}
	}
}

func TestAClientForURLsOfOthers(t *testing.T) {
	asked := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if r.URL.Path == "/away" {
			http.Redirect(w, r, "/there", http.StatusFound)
			return
		}
		_, _ = io.WriteString(w, "here")
	}))
	defer srv.Close()
	port := srv.Listener.Addr().String()[strings.LastIndex(srv.Listener.Addr().String(), ":"):]

	for _, host := range []string{"127.0.0.1", "[::ffff:127.0.0.1]", "localhost"} {
		_, err := guard.NewClient(false).Get("http://" + host + port + "/")
		if !errors.Is(err, guard.ErrAddress) {
			t.Errorf("%s: %v, want ErrAddress", host, err)
		}
	}
	for _, host := range []string{"0", "2130706433", "0x7f000001"} { // what some resolvers take for 127.0.0.1
		if resp, err := guard.NewClient(false).Get("http://" + host + port + "/"); err == nil {
			resp.Body.Close()
			t.Errorf("%s was reached", host)
		}
	}
	if asked != 0 {
		t.Errorf("the server was asked %d times", asked)
	}

	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1") // not used
	resp, err := guard.NewClient(true).Get("http://127.0.0.1" + port + "/away")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusFound || asked != 1 {
		t.Errorf("status %d after %d requests, want the redirect itself", resp.StatusCode, asked)
	}

	for _, scheme := range []string{"file:///etc/passwd", "gopher://127.0.0.1/"} {
		var wrong *url.Error
		if _, err := guard.NewClient(true).Get(scheme); !errors.As(err, &wrong) {
			t.Errorf("%s: %v, want an error", scheme, err)
		}
	}
}
