package enroll_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// pushes is a topic, and what keeps its devices from being woken.
type pushes struct{ trouble string }

func (pushes) Topic(storage.Tx) (string, error)              { return "com.apple.mgmt.External.1", nil }
func (p *pushes) Trouble(storage.Tx, string) (string, error) { return p.trouble, nil }

func TestWhoCanNotBeWokenEnrollsOnlyAsTheSettingsSay(t *testing.T) {
	p := &pushes{trouble: "There is no push certificate."}
	var log bytes.Buffer
	h := houseOn(t, storagetest.Open(t), &clock{time: time.Now().UTC().Truncate(time.Second)}, func(c *enroll.Config) {
		c.Topics, c.Log = p, slog.New(slog.NewTextHandler(&log, nil))
	})
	link := h.link(t, enroll.NewLink{Uses: 10})
	warned := func() int { return strings.Count(log.String(), "can't be woken") }

	for range 3 {
		h.challenge(t, link)
	}
	if n := warned(); n != 1 || !strings.Contains(log.String(), p.trouble) {
		t.Errorf("three profiles in a minute are %d warnings: %s", n, &log)
	}
	h.clock.pass(time.Hour)
	if h.challenge(t, link); warned() != 2 {
		t.Errorf("an hour later there are %d warnings", warned())
	}
	if trouble, err := h.PushTrouble(t.Context()); err != nil || trouble != p.trouble {
		t.Errorf("PushTrouble = %q, %v", trouble, err)
	}

	require := func(yes bool) {
		t.Helper()
		_, err := h.UpdateSettings(context.Background(), func(s *enroll.Settings) error { s.RequirePushCertificate = yes; return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	require(true)
	if _, _, err := h.NewEnrollment(t.Context(), link.Code); !errors.Is(err, enroll.ErrNoPushCertificate) || !strings.Contains(err.Error(), p.trouble) {
		t.Errorf("NewEnrollment = %v", err)
	}
	p.trouble = ""
	h.clock.pass(time.Hour)
	if h.challenge(t, link); warned() != 2 {
		t.Errorf("with a certificate there are %d warnings", warned())
	}
	p.trouble = "It expired."
	require(false)
	h.challenge(t, link)
}
