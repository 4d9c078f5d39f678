package webui

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"net/textproto"
	"net/url"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// peer is who sent a request, as far as the network says.
type peer struct {
	addr    netip.Addr // the client's, past trusted proxies; invalid on a Unix socket
	trusted bool       // the connection itself comes from a trusted proxy
	secure  bool       // the client speaks TLS, to us or to a trusted proxy
}

type peerKey struct{}

func peerOf(ctx context.Context) peer {
	p, _ := ctx.Value(peerKey{}).(peer)
	return p
}

// Peer returns the address of the client that sent the request of ctx. Behind a
// trusted proxy it is the one that the proxy names. It is not valid for requests
// over the Unix socket.
func Peer(ctx context.Context) netip.Addr { return peerOf(ctx).addr }

// Secure reports whether the client of ctx speaks TLS, with us or with a trusted
// proxy.
func Secure(ctx context.Context) bool { return peerOf(ctx).secure }

// RealPeer finds out who sends a request. What a proxy says of it in headers
// counts only if the connection comes from one of trusted; from anybody else
// these headers are removed, so that nothing further in can believe them.
func RealPeer(trusted []netip.Prefix) Middleware {
	isTrusted := func(addr netip.Addr) bool {
		for _, prefix := range trusted {
			if prefix.Contains(addr) {
				return true
			}
		}
		return false
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p := peer{secure: r.TLS != nil}
			if at, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
				p.addr = at.Addr().Unmap().WithZone("")
			}
			p.trusted = p.addr.IsValid() && isTrusted(p.addr)
			if p.trusted {
				p.addr = clientBehind(p.addr, r.Header.Values("X-Forwarded-For"), isTrusted)
				if proto := r.Header.Values("X-Forwarded-Proto"); len(proto) == 1 {
					p.secure = strings.EqualFold(strings.TrimSpace(proto[0]), "https")
				}
			} else {
				r.Header.Del(RequestIDHeader)
			}
			for name := range r.Header {
				if strings.HasPrefix(name, "X-Forwarded-") || name == "Forwarded" || name == "X-Real-Ip" {
					delete(r.Header, name)
				}
			}
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), peerKey{}, p)))
		})
	}
}

// clientBehind walks X-Forwarded-For from the right, where our own proxies
// append, to the first address that is none of them. Anything left of that was
// said by the client.
func clientBehind(proxy netip.Addr, forwarded []string, isTrusted func(netip.Addr) bool) netip.Addr {
	hops := strings.Split(strings.Join(forwarded, ","), ",")
	client := proxy
	for i := len(hops) - 1; i >= 0; i-- {
		hop := strings.TrimSpace(hops[i])
		addr, err := netip.ParseAddr(strings.Trim(hop, "[]"))
		if err != nil {
			at, errPort := netip.ParseAddrPort(hop)
			if errPort != nil {
				return client // not an address: what is left of it can't be trusted
			}
			addr = at.Addr()
		}
		client = addr.Unmap().WithZone("")
		if !isTrusted(client) {
			return client
		}
	}
	return client
}

type clientCertificateKey struct{}

// ClientCertificate returns the certificate whose key the client of ctx proved to
// have, in the TLS handshake with us or, as a trusted proxy says, with the proxy; or
// nil. See [TLSClientCertificate] and [ClientCertificateHeader].
func ClientCertificate(ctx context.Context) *x509.Certificate {
	cert, _ := ctx.Value(clientCertificateKey{}).(*x509.Certificate)
	return cert
}

// ClientCertificateHeader reads the header in which a trusted proxy passes the
// client certificate that it verified: RFC 9440 (":base64 of the DER:"), or PEM,
// escaped as in a URL. [RealPeer] must run before.
//
// A certificate is no secret, so from anybody else the header proves nothing. It
// is removed then, and so is every spelling that a server further in could read
// as the same name; doubled, it is removed even from a trusted proxy, because one
// of the two may be the client's.
func ClientCertificateHeader(name string, log *slog.Logger) Middleware {
	name = textproto.CanonicalMIMEHeaderKey(name)
	plain := strings.ReplaceAll(strings.ToLower(name), "_", "-")
	return func(next http.Handler) http.Handler {
		if name == "" {
			return next
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			values := r.Header.Values(name)
			for key := range r.Header {
				if strings.ReplaceAll(strings.ToLower(key), "_", "-") == plain {
					delete(r.Header, key)
				}
			}
			ctx := r.Context()
			if peerOf(ctx).trusted && len(values) > 0 && values[0] != "" {
				cert, err := parseClientCertificate(values)
				if err != nil {
					log.WarnContext(ctx, "client certificate header ignored", "request", RequestID(ctx), "err", err)
				} else {
					r = r.WithContext(context.WithValue(ctx, clientCertificateKey{}, cert))
				}
			}
			next.ServeHTTP(w, r)
		})
	}
}

// maxCertificateHeader bounds the header's value: several times the largest
// client certificate with the keys that we accept.
const maxCertificateHeader = 16 << 10

func parseClientCertificate(values []string) (*x509.Certificate, error) {
	if len(values) != 1 {
		return nil, errors.New("sent more than once")
	}
	value := strings.TrimSpace(values[0])
	if len(value) > maxCertificateHeader {
		return nil, errors.New("too long")
	}
	// RFC 9440, 2.1: a Byte Sequence of RFC 8941, the DER in base64 between colons.
	if inner, ok := strings.CutPrefix(value, ":"); ok {
		inner, ok = strings.CutSuffix(inner, ":")
		if !ok {
			return nil, errors.New("no closing colon")
		}
		der, err := base64.StdEncoding.DecodeString(inner)
		if err != nil {
			return nil, errors.New("not base64 between the colons")
		}
		return guard.ParseCertificate(der)
	}
	// nginx's $ssl_client_escaped_cert, and what others do like it. PathUnescape,
	// because a + in base64 is a +.
	text, err := url.PathUnescape(value)
	if err != nil {
		return nil, errors.New("neither RFC 9440 nor URL-escaped PEM")
	}
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("neither RFC 9440 nor URL-escaped PEM")
	}
	if more, _ := pem.Decode(rest); more != nil {
		return nil, errors.New("more than one certificate")
	}
	return guard.ParseCertificate(block.Bytes)
}
