package main

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
)

// BenchmarkAcknowledgementsBesideAWebhook counts acknowledged commands while nobody listens,
// while a webhook hears of all of them, and while there is one that hangs beside it: it
// should cost no more than one that takes what it is sent.
func BenchmarkAcknowledgementsBesideAWebhook(b *testing.B) {
	over := make(chan struct{})
	hang := func(http.ResponseWriter, *http.Request) { <-over }
	take := func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }
	b.Cleanup(func() { close(over) })
	for name, receive := range map[string]http.HandlerFunc{"none": nil, "takes": take, "hangs": hang} {
		b.Run("webhook="+name, func(b *testing.B) {
			onEngines(b, func(b *testing.B, on benchStore) {
				s := startProcess(b, on.dir)
				devices := s.enrolled(b, benchDevices)
				byUDID, err := s.idsByUDID()
				if err != nil {
					b.Fatal(err)
				}
				if receive != nil {
					srv := httptest.NewServer(receive)
					b.Cleanup(srv.CloseClientConnections) // its handlers end with the benchmark
					s.api(b, "POST", "/webhooks", map[string]any{"name": name, "url": srv.URL, "allow_private": true, "events": []string{"mdm."}}, nil)
				}
				ids := slices.Collect(maps.Values(byUDID))
				acks := acknowledgements(b, s.http, benchClients, devices, func(uuid string) error { return s.enqueue(uuid, ids) })
				on.measured(b, s.cmd.Process.Pid, benchClients, len(acks), func(i int) error {
					_, err := send(s.http, acks[i])
					return err
				})
				for r := range benchRounds {
					s.assertAcknowledged(b, benchCommand(r), len(devices))
				}
			})
		})
	}
}
