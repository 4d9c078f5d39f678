package checkin_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	gatehouse "github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// large is an answer whose body has a little more than size bytes.
func large(t testing.TB, d *mdmtest.Device, uuid string, size int) mdmtest.Prepared {
	t.Helper()
	return raw(t, d, padded(t, changed(d.IDs(), mdmtest.Dict{"CommandUUID": uuid, "Status": mdmtest.StatusAcknowledged}), size))
}

// padded is the property list of keys and of one string of size bytes.
func padded(t testing.TB, keys mdmtest.Dict, size int) string {
	t.Helper()
	body, err := mdmtest.MarshalPlist(keys)
	must(t, err)
	return strings.Replace(string(body), "<dict>", "<dict><key>Padding</key><string>"+strings.Repeat("x", size)+"</string>", 1)
}

func TestAnAnswerThatIsTooLargeIsGivenUpAfterTheThird(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	for name, answer := range map[string]func(t *testing.T, d *mdmtest.Device) mdmtest.Prepared{
		"too many bytes": func(t *testing.T, d *mdmtest.Device) mdmtest.Prepared { return large(t, d, "x", 8<<20) },
		"too many elements": func(t *testing.T, d *mdmtest.Device) mdmtest.Prepared {
			body, err := mdmtest.MarshalPlist(changed(d.IDs(), mdmtest.Dict{"Status": "Acknowledged"}))
			must(t, err)
			return raw(t, d, strings.Replace(string(body), "<dict>", "<dict><key>L</key><array>"+strings.Repeat("<true/>", 250_000)+"</array>", 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := h.enrolled(t, mdmtest.Options{})
			stranger := h.identified(t, mdmtest.Options{})
			first, second := gatehouse.NewUUID(), gatehouse.NewUUID()
			h.queue(t, d.IDs(), "ProfileList", first, second)
			idle(t, d.Channel())
			p := answer(t, d)

			// Only the device itself may say so.
			unsigned := p
			unsigned.Header = p.Header.Clone()
			unsigned.Header.Del("Mdm-Signature")
			foreign := p
			foreign.Header = p.Header.Clone()
			foreign.Header.Set("Mdm-Signature", large(t, stranger, "x", 1).Header.Get("Mdm-Signature"))
			broken := p
			broken.Body = append(bytes.Clone(p.Body), ' ')
			for range 3 {
				for what, bad := range map[string]mdmtest.Prepared{"unsigned": unsigned, "signed by another": foreign, "changed": broken} {
					if got, body := h.send(t, bad); got < 400 || got >= 500 || got == 401 {
						t.Errorf("%s: %d %q, want refused", what, got, body)
					}
				}
			}
			if e := h.entry(t, first); e.State != gatehouse.Delivered || e.Oversized != 0 {
				t.Fatalf("strangers' answers count: the command is %s after %d", e.State, e.Oversized)
			}

			for range 3 {
				h.wantStatus(t, "the answer", p, 413)
			}
			h.wantState(t, first, gatehouse.Failed)
			if chain := h.entry(t, first).ErrorChain; len(chain) != 1 || !strings.Contains(chain[0].USEnglishDescription, "larger") {
				t.Errorf("the error says %v", chain)
			}
			h.wantStatus(t, "the answer, for the fourth time", p, 200)
			if got := idle(t, d.Channel()); got != second {
				t.Errorf("then comes %q, want %s", got, second)
			}
			h.wantState(t, second, gatehouse.Delivered)
		})
	}
}

func TestBodiesAndTheirLimits(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	d := h.enrolled(t, mdmtest.Options{})
	stranger := h.device(t, mdmtest.Options{})
	must(t, stranger.Install(must2(stranger.Download(t.Context(), h.link(t, "x")))(t)))
	stranger.SetIdentity(selfSigned(t))

	token := func(size int) mdmtest.Prepared {
		magic := mdmtest.Dict{"MessageType": "TokenUpdate", "Topic": "t", "Token": []byte("t"), "PushMagic": "m"}
		return must2(d.PrepareRaw(true, []byte(padded(t, changed(d.IDs(), magic), size))))(t)
	}
	elsewhere := func(p mdmtest.Prepared, url string) mdmtest.Prepared { p.URL = url; return p }
	for name, tt := range map[string]struct {
		p    mdmtest.Prepared
		want int
	}{
		"a check-in of almost 1 MiB":                  {token(1<<20 - 2000), 200},
		"a check-in of more than 1 MiB":               {token(1 << 20), 413},
		"a check-in of 9 MiB":                         {token(9 << 20), 413},
		"a check-in of more at the ServerURL":         {elsewhere(token(1<<20), d.Profile().MDM.ServerURL), 413},
		"a stranger's answer of 1 MiB":                {large(t, stranger, "x", 1<<20), 403},
		"a stranger's answer of 9 MiB":                {large(t, stranger, "x", 9<<20), 413},
		"an answer of almost 8 MiB":                   {large(t, d, "x", 8<<20-2000), 200},
		"an answer of 9 MiB with no command in hand":  {large(t, d, "x", 9<<20), 200},
		"a check-in that says it is one, of 9 MiB":    {elsewhere(token(9<<20), d.Profile().MDM.ServerURL), 413},
		"a string of 8 MiB from a stranger's machine": {elsewhere(mdmtest.Prepared{Method: "PUT", Header: http.Header{}, Body: []byte("<plist><string>" + strings.Repeat("x", 8<<20))}, d.Profile().MDM.ServerURL), 413},
	} {
		t.Run(name, func(t *testing.T) { h.wantStatus(t, name, tt.p, tt.want) })
	}
}

func TestBodiesThatLieAboutThemselves(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	d := h.enrolled(t, mdmtest.Options{})
	p := reporting(t, d, mdmtest.Result{Status: mdmtest.StatusIdle})
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	must2(z.Write(p.Body))(t)
	must(t, z.Close())
	bomb := func() []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		zero := make([]byte, 1<<20)
		for range 12 {
			must2(z.Write(zero))(t)
		}
		must(t, z.Close())
		return b.Bytes()
	}

	chunked := func(body io.Reader, signature string) *http.Request {
		req, err := http.NewRequestWithContext(t.Context(), "PUT", p.URL, struct{ io.Reader }{body})
		must(t, err)
		req.Header = p.Header.Clone()
		req.Header.Set("Mdm-Signature", signature)
		return req
	}
	signature := p.Header.Get("Mdm-Signature")
	if got, _ := h.do(t, chunked(bytes.NewReader(p.Body), signature)); got != 200 {
		t.Errorf("a chunked body: %d, want 200", got)
	}
	if got, _ := h.do(t, chunked(io.LimitReader(zeros{}, 12<<20), signature)); got != 413 && got != 400 {
		t.Errorf("a chunked body without end: %d, want 413 or 400", got)
	}
	for name, body := range map[string][]byte{"gzip": zipped.Bytes(), "a bomb": bomb()} {
		req := chunked(bytes.NewReader(body), signature)
		req.Header.Set("Content-Encoding", "gzip")
		if got, _ := h.do(t, req); got != 400 {
			t.Errorf("%s: %d, want 400: nothing is unpacked", name, got)
		}
	}

	host := strings.TrimPrefix(h.url, "http://")
	for name, tt := range map[string]struct {
		length int
		want   string
	}{
		"Content-Length above the body": {len(p.Body) + 100, "HTTP/1.1 400"},
		"Content-Length below the body": {len(p.Body) - 100, "HTTP/1.1 400"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", host)
			must(t, err)
			defer conn.Close()
			_, err = fmt.Fprintf(conn, "PUT /mdm/connect HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\nMdm-Signature: %s\r\n\r\n%s", host, tt.length, signature, p.Body)
			must(t, err)
			must(t, conn.(*net.TCPConn).CloseWrite())
			status, err := bufio.NewReader(conn).ReadString('\n')
			must(t, err)
			if !strings.HasPrefix(status, tt.want) {
				t.Errorf("%q, want %s", status, tt.want)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// A large body that waits for a slot goes away with its sender, and the slots are
// free again after any outcome.
func TestLargeBodiesWaitTheirTurn(t *testing.T) {
	storagetest.AnyEngine(t)
	const slots = 8
	h := newHouse(t)
	d := h.enrolled(t, mdmtest.Options{})
	p := large(t, d, "x", 1<<20)

	// Eight that send half of it hold the slots.
	ctx, cancel := context.WithCancel(t.Context())
	var holders sync.WaitGroup
	started := make(chan struct{}, slots)
	for range slots {
		holders.Go(func() {
			body := &halting{Reader: bytes.NewReader(p.Body), after: 512 << 10, halted: started, until: ctx.Done()}
			req := httptest.NewRequestWithContext(ctx, p.Method, p.URL, body)
			req.Header = p.Header.Clone()
			h.door.ServeHTTP(httptest.NewRecorder(), req)
		})
	}
	for range slots {
		<-started
	}
	if _, err := d.Poll(t.Context()); err != nil {
		t.Errorf("small bodies wait for the large: %v", err)
	}
	impatient, leave := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer leave()
	req := httptest.NewRequestWithContext(impatient, p.Method, p.URL, bytes.NewReader(p.Body))
	req.Header = p.Header.Clone()
	w := httptest.NewRecorder()
	h.door.ServeHTTP(w, req)
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("one that left while it waited: %d, want 503", w.Code)
	}
	cancel()
	holders.Wait()
	h.wantStatus(t, "a large body when they are gone", p, 200)
}

// halting is a body that comes to a halt after some bytes, and breaks off then.
type halting struct {
	*bytes.Reader
	after  int
	halted chan<- struct{}
	until  <-chan struct{}
	read   int
}

func (b *halting) Read(p []byte) (int, error) {
	if b.read >= b.after {
		select {
		case b.halted <- struct{}{}:
		default:
		}
		<-b.until
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.Reader.Read(p[:min(len(p), 64<<10)])
	b.read += n
	return n, err
}
