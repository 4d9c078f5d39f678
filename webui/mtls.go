package webui

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// TLSClientCertificate lets [ClientCertificate] return the certificate whose key the
// client proved to have in the TLS handshake, on a listener that asks for one. It
// judges neither who issued it nor its dates. [RealPeer] must run before.
//
// What a trusted proxy shows in its handshake with us is its own certificate, and
// does not count as its client's.
func TLSClientCertificate(log *slog.Logger) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx := r.Context()
			if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && !peerOf(ctx).trusted {
				// Parsed once more, with a look at its key.
				cert, err := guard.ParseCertificate(r.TLS.PeerCertificates[0].Raw)
				if err != nil {
					log.WarnContext(ctx, "client certificate ignored", "request", RequestID(ctx), "err", err)
				} else {
					r = r.WithContext(context.WithValue(ctx, clientCertificateKey{}, cert))
				}
			}
			next.ServeHTTP(w, r)
		})
	}
}
