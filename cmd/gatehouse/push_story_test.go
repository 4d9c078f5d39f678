package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns/apnstest"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
)

const storyTopic = "com.apple.mgmt.External.story"

// woken is a server with a push certificate and devices that come only when they are pushed.
type woken struct {
	*serverProcess
	apple   *apnstest.Server
	devices []*mdmtest.Device
	ids     []string // theirs, in the same order
	byToken map[string]*mdmtest.Device

	mu     sync.Mutex
	pushed map[string]int // by token, what Apple took
	work   sync.WaitGroup
	polled chan struct{} // holds a value when a device has come since the last one was taken
}

// newWoken starts a server process, an APNs and n devices.
func newWoken(t *testing.T, n int) *woken {
	t.Helper()
	apple, err := apnstest.New(apnstest.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, apple.Close()) })
	ca := filepath.Join(t.TempDir(), "apns-ca.pem")
	must(t, os.WriteFile(ca, apple.CAPEM(), 0o600))
	s := newProcess(t, "", "--apns-url", apple.URL(), "--apns-ca", ca)
	s.start(t)
	w := &woken{serverProcess: s, apple: apple, byToken: make(map[string]*mdmtest.Device), pushed: make(map[string]int), polled: make(chan struct{}, 1)}
	w.putCertificate(t)
	w.devices = s.enrolled(t, n)
	ids, err := s.idsByUDID()
	must(t, err)
	for _, d := range w.devices {
		token, _ := d.Channel().Push()
		w.byToken[string(token)] = d
		w.ids = append(w.ids, ids[d.Options().UDID])
	}
	t.Cleanup(w.work.Wait)
	return w
}

// putCertificate gives the server a new push certificate of the topic, and returns its
// SHA-256.
func (w *woken) putCertificate(t *testing.T) string {
	t.Helper()
	pem, err := w.apple.Certificate(storyTopic)
	must(t, err)
	var out struct{ Topic, SHA256 string }
	w.api(t, "PUT", "/push-certificates", pem, &out)
	if out.Topic != storyTopic {
		t.Fatalf("the certificate's topic is %q", out.Topic)
	}
	return out.SHA256
}

// takes has Apple take a push, and its device come.
func (w *woken) takes(r apnstest.Received) apnstest.Answer {
	w.mu.Lock()
	w.pushed[string(r.Token)]++
	w.mu.Unlock()
	d := w.byToken[string(r.Token)]
	if d == nil {
		return apnstest.Answer{Status: 400, Reason: "BadDeviceToken"}
	}
	if _, magic := d.Channel().Push(); magic != r.Magic {
		return apnstest.Answer{Status: 500, Reason: "InternalServerError"} // and the test fails
	}
	w.work.Go(func() {
		_, _ = d.Poll(context.Background()) // of a server that was killed: it comes when it is pushed again
		select {
		case w.polled <- struct{}{}:
		default:
		}
	})
	return apnstest.Answer{}
}

// ask queues a DeviceInformation for all devices and returns its UUID.
func (w *woken) ask(t *testing.T) string {
	t.Helper()
	var c struct {
		CommandUUID string `json:"command_uuid"`
	}
	w.api(t, "POST", "/commands", map[string]any{"request_type": "DeviceInformation", "device_ids": w.ids}, &c)
	return c.CommandUUID
}

// acknowledged waits until all devices have answered a command.
func (w *woken) acknowledged(t *testing.T, uuid string) {
	t.Helper()
	timeout := time.After(2 * time.Minute)
	for {
		var c struct {
			Devices []struct {
				DeviceID string `json:"device_id"`
				State    string
			}
		}
		w.api(t, "GET", "/commands/"+uuid, nil, &c)
		left := ""
		for _, d := range c.Devices {
			if d.State != "acknowledged" {
				left = fmt.Sprintf("%s is %s", d.DeviceID, d.State)
			}
		}
		if left == "" && len(c.Devices) == len(w.ids) {
			return
		}
		select {
		case <-w.polled:
		case <-timeout:
			t.Fatalf("of %d devices %s\n%s", len(c.Devices), left, w.out)
		}
	}
}

// most checks that no device was pushed more often than so.
func (w *woken) most(t *testing.T, n int) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for token, times := range w.pushed {
		if times > n {
			t.Errorf("device %s was pushed %d times, want %d at most", w.byToken[token].Options().UDID, times, n)
		}
	}
	if len(w.pushed) != len(w.devices) {
		t.Errorf("%d of %d devices were pushed", len(w.pushed), len(w.devices))
	}
}

func TestDevicesComeBecauseTheyArePushed(t *testing.T) {
	t.Parallel()
	w := newWoken(t, 20)
	w.apple.Handle(w.takes)
	w.acknowledged(t, w.ask(t))
	w.acknowledged(t, w.ask(t))
	w.most(t, 4) // two commands
	if stats := w.apple.Stats(); stats.Connections != 1 {
		t.Errorf("%d connections, want one", stats.Connections)
	}
}

// TestAKilledServerOwesItsPushes kills the server after it has promised to wake devices, once
// before Apple has heard of any, once while Apple has them all and has not answered.
func TestAKilledServerOwesItsPushes(t *testing.T) {
	t.Parallel()
	w := newWoken(t, 20)
	w.apple.Handle(func(apnstest.Received) apnstest.Answer { return apnstest.Answer{Hang: true} })
	first := w.ask(t)
	w.kill(t)
	before := w.apple.Stats().Pushes
	w.start(t)
	must(t, w.apple.Until(t.Context(), func(s apnstest.Stats) bool { return s.Pushes > before }))
	w.kill(t)
	w.apple.Handle(w.takes)
	w.start(t)
	w.acknowledged(t, first)
	w.most(t, 2)
}

// TestACertificateIsChangedWhileDevicesArePushed has Apple revoke a push certificate in the
// middle of a batch.
func TestACertificateIsChangedWhileDevicesArePushed(t *testing.T) {
	t.Parallel()
	w := newWoken(t, 120)
	old := w.putCertificate(t)
	reached, half := make(chan struct{}), 0
	var revoked bool
	var mu sync.Mutex
	w.apple.Handle(func(r apnstest.Received) apnstest.Answer {
		mu.Lock()
		defer mu.Unlock()
		if r.Certificate == old {
			if half++; half == len(w.devices)/2 {
				revoked = true
				close(reached)
			}
			if revoked {
				return apnstest.Answer{Status: 403, Reason: "BadCertificate"}
			}
		}
		return w.takes(r)
	})
	uuid := w.ask(t)
	select {
	case <-reached:
	case <-time.After(time.Minute):
		t.Fatal("Apple was not asked")
	}
	w.apple.RefuseCertificate(old)
	if renewed := w.putCertificate(t); renewed == old {
		t.Fatal("the certificate is the old one")
	}
	w.acknowledged(t, uuid)
	w.most(t, 2)
}

// TestAppleIsAwayForAWhile has Apple break every connection, and then come back.
func TestAppleIsAwayForAWhile(t *testing.T) {
	t.Parallel()
	w := newWoken(t, 40)
	var mu sync.Mutex
	tries := 0
	w.apple.Handle(func(r apnstest.Received) apnstest.Answer {
		mu.Lock()
		defer mu.Unlock()
		if tries++; tries <= 6 && tries%2 == 0 {
			return apnstest.Answer{Close: true}
		} else if tries <= 6 {
			return apnstest.Answer{Status: 503, Reason: "ServiceUnavailable"}
		}
		return w.takes(r)
	})
	w.acknowledged(t, w.ask(t))
	w.most(t, 2)
}
