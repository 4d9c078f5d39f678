package compat

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// appleEscrowKeyUnlock is the service that takes Activation Lock off a device by its bypass
// code (Apple, "Creating and using bypass codes").
const appleEscrowKeyUnlock = "https://deviceservices-external.apple.com/deviceservicesworkers/escrowKeyUnlock"

const (
	escrowTimeout   = 30 * time.Second
	maxEscrowAnswer = 1 << 20 // bytes
)

// escrowParams are the service's parameters: those that it wants in the query, and in the
// body, and which of them must be there.
var escrowParams = []struct {
	name             string
	inBody, required bool
}{
	{"serial", false, true},
	{"imei", false, false},
	{"imei2", false, false},
	{"meid", false, false},
	{"productType", false, true},
	{"orgName", true, true},
	{"guid", true, true},
	{"escrowKey", true, true},
}

// unlockEscrowKey asks Apple to take Activation Lock off a device, by the push certificate of
// a topic, and hands on what Apple says.
func (c *Compat) unlockEscrowKey(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return err
		}
		return &refusal{http.StatusBadRequest, "the form can't be read"}
	}
	query, form := url.Values{}, url.Values{}
	for _, p := range escrowParams {
		v := r.PostForm.Get(p.name)
		switch {
		case v == "" && p.required:
			return &refusal{http.StatusBadRequest, "invalid or missing parameters: " + p.name}
		case v == "":
		case p.inBody:
			form.Set(p.name, v)
		default:
			query.Set(p.name, v)
		}
	}
	topic := r.PostForm.Get("topic")
	if topic == "" {
		return &refusal{http.StatusBadRequest, "empty topic"}
	}
	var identity tls.Certificate
	err := c.DB.View(r.Context(), func(tx storage.Tx) (err error) {
		identity, _, err = c.Certificates.TLS(tx, topic)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return noCertificate(topic)
	}
	if err != nil {
		return err
	}

	status, contentType, body, err := c.askApple(r, identity, query, form)
	if note := c.noteUnlock(r, topic, query.Get("serial"), status); note != nil {
		return note
	}
	if err != nil {
		// The error's text has the URL, and that the serial number, but not the code.
		return &refusal{http.StatusInternalServerError, "escrow key unlock: " + err.Error()}
	}
	if contentType != "" {
		w.Header().Set("Content-Type", contentType)
	}
	w.WriteHeader(status)
	_, _ = w.Write(body)
	return nil
}

// askApple sends the request and reads the answer.
func (c *Compat) askApple(r *http.Request, identity tls.Certificate, query, form url.Values) (status int, contentType string, body []byte, err error) {
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{identity}, RootCAs: c.EscrowKeyUnlockRoots},
		TLSHandshakeTimeout: escrowTimeout,
		DisableKeepAlives:   true, // the next one may be for another topic
		ForceAttemptHTTP2:   true,
	}
	client := &http.Client{
		Transport: transport, Timeout: escrowTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, c.EscrowKeyUnlockURL+"?"+query.Encode(), strings.NewReader(form.Encode()))
	if err != nil {
		return 0, "", nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxEscrowAnswer))
	if err != nil {
		return 0, "", nil, fmt.Errorf("read answer: %w", err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), body, nil
}

// noteUnlock has the audit log say who asked for what, and what Apple said: 0 is no answer.
func (c *Compat) noteUnlock(r *http.Request, topic, serial string, status int) error {
	by := principal(r)
	e := event.Event{
		At: c.Now(), Actor: by.String(), Action: "activation_lock.unlock_requested", Peer: by.Peer,
		Details: map[string]string{"topic": topic, "serial_number": serial, "status": strconv.Itoa(status)},
	}
	if status != http.StatusOK {
		e.Outcome = event.Failed
	}
	return c.DB.Update(r.Context(), func(tx storage.Tx) error { return event.Record(tx, e) })
}
