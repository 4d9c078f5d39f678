package mdmtest

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
)

// prepare signs body for an MDM URL as id.
func (d *Device) prepare(id *identity, url, contentType string, body []byte) (Prepared, error) {
	p := Prepared{Method: http.MethodPut, URL: url, Body: body, Header: http.Header{
		"Content-Type": {contentType},
		"User-Agent":   {"MDM/1.0"},
	}}
	profile := d.Profile()
	if profile == nil || id == nil {
		return p, ErrNotInstalled
	}
	if d.opts.Sign == SignHeader || d.opts.Sign == SignAsTold && profile.MDM.SignMessage {
		signature, err := Signature{
			Certificate: id.cert, Key: id.key, Digest: d.opts.Digest, Detached: true,
			SigningTime: d.opts.Now(), Encoding: d.opts.Encoding,
		}.Sign(body)
		if err != nil {
			return p, err
		}
		p.Header.Set("Mdm-Signature", base64.StdEncoding.EncodeToString(signature))
	}
	return p, nil
}

// Send sends a prepared request as the device's own, and draws the conclusions
// that a device draws from the status: an account-driven one does not go away over a
// 401 with a challenge, which is a [*SignInRequired].
func (d *Device) Send(ctx context.Context, p Prepared) (*Reply, error) {
	d.mu.Lock()
	id := d.identity
	d.mu.Unlock()
	return d.send(ctx, id, p)
}

func (d *Device) send(ctx context.Context, id *identity, p Prepared) (*Reply, error) {
	client, err := d.clientFor(id)
	if err != nil {
		return nil, err
	}
	req, err := p.Request(ctx)
	if err != nil {
		return nil, err
	}
	d.count.requests.Add(1)
	d.lastStatus.Store(0)
	reply, err := roundTrip(client, req)
	if err != nil {
		if ctx.Err() == nil { // else the device was switched off
			d.count.failures.Add(1)
		}
		return nil, err
	}
	d.lastStatus.Store(int64(reply.Status))
	if err := reply.err(); err != nil {
		d.count.failures.Add(1)
		if reply.Status == http.StatusUnauthorized && d.byAccount() {
			challenge, wrong := ParseChallenge(reply.Header, d.opts.PlainHTTP)
			if wrong == nil {
				return reply, &SignInRequired{Challenge: challenge, Reply: reply}
			}
			err = fmt.Errorf("%w: %w", err, wrong)
		}
		if reply.Status == http.StatusUnauthorized || unrecognized(reply) {
			d.uninstall(Removed)
			return reply, fmt.Errorf("%w: %w", ErrRemoved, err)
		}
		return reply, err
	}
	return reply, nil
}

// unrecognized reports a 403 with com.apple.unrecognized.device (PROTOCOL 2.7).
func unrecognized(r *Reply) bool {
	if r.Status != http.StatusForbidden {
		return false
	}
	return r.errorDict()["code"] == codeUnrecognized
}
