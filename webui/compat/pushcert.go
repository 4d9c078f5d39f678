package compat

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// pushCertJSON is NanoMDM's PushCertResponse.
type pushCertJSON struct {
	NotAfter time.Time `json:"not_after"`
	Topic    string    `json:"topic"`
}

// getPushCert says which certificate a topic has.
func (c *Compat) getPushCert(w http.ResponseWriter, r *http.Request) error {
	topic := r.URL.Query().Get("topic")
	if topic == "" {
		return &refusal{http.StatusBadRequest, "missing required query parameter: topic"}
	}
	var rec apns.Certificate
	err := c.DB.View(r.Context(), func(tx storage.Tx) (err error) {
		rec, err = c.Certificates.Get(tx, topic)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return noCertificate(topic)
	}
	if err != nil {
		return err
	}
	return writeNano(w, http.StatusOK, pushCertJSON{rec.NotAfter.UTC(), rec.Topic})
}

func noCertificate(topic string) error {
	return &refusal{http.StatusInternalServerError, "retrieve push cert for topic: " + clip(topic) + ": there is none"}
}

// putPushCert keeps a certificate and its key, PEM in one body.
func (c *Compat) putPushCert(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	rec, err := c.keepPushCertificate(r, body)
	if err != nil {
		return err
	}
	return writeNano(w, http.StatusOK, pushCertJSON{rec.NotAfter.UTC(), rec.Topic})
}

// keepPushCertificate puts a certificate in force. What a person can mend is a refusal.
func (c *Compat) keepPushCertificate(r *http.Request, data []byte) (rec apns.Certificate, err error) {
	// Files that were joined without a line between them.
	data = bytes.ReplaceAll(data, []byte("----------"), []byte("-----\n-----"))
	by := principal(r)
	err = c.DB.Update(r.Context(), func(tx storage.Tx) (err error) {
		if rec, err = c.Certificates.Put(tx, data); err != nil {
			return err
		}
		return event.Record(tx, event.Event{
			At: c.Now(), Actor: by.String(), Action: "push_certificate.added", Peer: by.Peer,
			Details: map[string]string{"topic": rec.Topic, "sha256": rec.SHA256},
		})
	})
	if isMistake(err) {
		return apns.Certificate{}, &refusal{http.StatusBadRequest, err.Error()}
	}
	if err != nil {
		return apns.Certificate{}, err
	}
	c.Log.InfoContext(r.Context(), "push certificate kept", "topic", rec.Topic, "not_after", rec.NotAfter, "by", by.String())
	return rec, nil
}

// mistakes are what a person can have got wrong with a push certificate.
var mistakes = []error{
	apns.ErrNoCertificate, apns.ErrNoKey, apns.ErrKeyEncrypted, apns.ErrKeyMismatch, apns.ErrNoTopic, apns.ErrExpired, guard.ErrCertificate,
}

func isMistake(err error) bool {
	return slices.ContainsFunc(mistakes, func(m error) bool { return errors.Is(err, m) })
}

// getMicroPushCertificate answers with the certificate of the first topic, as PEM in base64.
func (c *Compat) getMicroPushCertificate(w http.ResponseWriter, r *http.Request) error {
	var first apns.Certificate
	err := c.DB.View(r.Context(), func(tx storage.Tx) error {
		first = apns.Certificate{}
		for rec, err := range c.Certificates.All(tx) {
			if err != nil {
				return err
			}
			if len(rec.Chain) > 0 && (first.Topic == "" || rec.CreatedAt.Before(first.CreatedAt)) {
				first = rec
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if first.Topic == "" {
		return &refusal{http.StatusNotFound, "get push certificate: there is none"}
	}
	return writeMicro(w, http.StatusOK, struct {
		Cert []byte `json:"cert"`
	}{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: first.Chain[0]})})
}

// putMicroPushCertificate takes a certificate and its key, PEM in base64 each.
func (c *Compat) putMicroPushCertificate(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Cert []byte `json:"cert"`
		Key  []byte `json:"key"`
	}
	if err := readJSON(r, &in); err != nil {
		return err
	}
	if _, err := c.keepPushCertificate(r, bytes.Join([][]byte{in.Cert, in.Key}, []byte("\n"))); err != nil {
		return err
	}
	return writeMicro(w, http.StatusOK, struct{}{})
}
