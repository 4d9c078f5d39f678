package compat

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/storage"
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
	if errors.Is(err, storage.ErrNotFound) || err == nil && len(rec.Chain) == 0 {
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
	kept, err := c.keepPushCertificate(r, body)
	if err != nil {
		return err
	}
	return writeNano(w, http.StatusOK, pushCertJSON{kept.Active.NotAfter.UTC(), kept.Topic})
}

// keepPushCertificate puts a certificate in force. What a person can mend is a refusal.
func (c *Compat) keepPushCertificate(r *http.Request, data []byte) (apns.Standing, error) {
	// Files that were joined without a line between them.
	data = bytes.ReplaceAll(data, []byte("----------"), []byte("-----\n-----"))
	kept, err := c.Keeper.Upload(r.Context(), apns.Upload{File: apns.File{Data: data}})
	var mistake *apns.Mistake
	if errors.As(err, &mistake) {
		return apns.Standing{}, &refusal{http.StatusBadRequest, mistake.Reason + " " + mistake.Next}
	}
	if err != nil {
		return apns.Standing{}, err
	}
	c.Log.InfoContext(r.Context(), "push certificate kept", "topic", kept.Topic, "by", principal(r).String())
	return kept, nil
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
