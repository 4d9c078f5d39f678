package apnstest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/gatehouse-mdm/gatehouse/apns/standin"
)

// conn is one connection of a client. What is read belongs to run's goroutine; each push is
// answered by one of its own.
type conn struct {
	server *Server
	tls    *tls.Conn
	tcp    net.Conn
	number int
	topic  string // of the client's certificate
	print  string // its SHA-256

	in      *bufio.Reader
	framer  *http2.Framer
	reading map[uint32]*stream // that are not complete
	unread  uint32             // bytes of data whose window was not given back
	ended   chan struct{}

	mu      sync.Mutex // of all below, and of writing
	out     *bufio.Writer
	block   bytes.Buffer
	encoder *hpack.Encoder
	open    map[uint32]*stream // not answered yet
	last    uint32             // the last stream that the client opened
	leaving bool               // after a GOAWAY: closed once open is empty
	limit   uint32             // after a GOAWAY: streams above are not looked at
	window  int64              // for data to the client
	initial int64              // window of a new stream
	room    *sync.Cond         // there is more window, or a stream or the connection has ended
}

// stream is one push.
type stream struct {
	id     uint32
	fields []hpack.HeaderField
	body   []byte
	window int64
}

func newConn(s *Server, tc *tls.Conn, tcp net.Conn, number int, topic, print string) *conn {
	c := &conn{
		server: s, tls: tc, tcp: tcp, number: number, topic: topic, print: print,
		in: bufio.NewReaderSize(tc, 32<<10), out: bufio.NewWriterSize(tc, 32<<10),
		reading: make(map[uint32]*stream), open: make(map[uint32]*stream),
		ended: make(chan struct{}), window: 65535, initial: 65535,
	}
	c.framer = http2.NewFramer(c.out, c.in)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.framer.MaxHeaderListSize = 64 << 10
	c.encoder = hpack.NewEncoder(&c.block)
	c.room = sync.NewCond(&c.mu)
	return c
}

// run reads until the connection ends.
func (c *conn) run(maxStreams uint32) error {
	var pushes sync.WaitGroup
	defer pushes.Wait()
	defer func() {
		c.mu.Lock()
		for id := range c.open {
			c.forget(id)
		}
		c.open = nil
		c.room.Broadcast()
		c.mu.Unlock()
		close(c.ended)
	}()
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.in, preface); err != nil {
		return err
	}
	if string(preface) != http2.ClientPreface {
		return errors.New("no HTTP/2 preface")
	}
	c.settings(maxStreams)
	for {
		frame, err := c.framer.ReadFrame()
		var broken http2.StreamError
		switch {
		case errors.As(err, &broken):
			c.write(func() error { return c.framer.WriteRSTStream(broken.StreamID, broken.Code) })
			continue
		case err != nil:
			return err
		}
		done, err := c.frame(frame)
		if err != nil {
			return err
		}
		if done != nil {
			pushes.Go(func() { c.push(done) })
		}
	}
}

// frame takes one frame, and returns the push that it makes complete.
func (c *conn) frame(frame http2.Frame) (*stream, error) {
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		return nil, c.settingsOf(f)
	case *http2.PingFrame:
		if f.IsAck() {
			return nil, nil
		}
		return nil, c.write(func() error { return c.framer.WritePing(true, f.Data) })
	case *http2.WindowUpdateFrame:
		c.mu.Lock()
		defer c.mu.Unlock()
		if s := c.open[f.StreamID]; s != nil {
			s.window += int64(f.Increment)
		} else if f.StreamID == 0 {
			c.window += int64(f.Increment)
		}
		c.room.Broadcast()
	case *http2.RSTStreamFrame:
		delete(c.reading, f.StreamID)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.forget(f.StreamID)
	case *http2.MetaHeadersFrame:
		s := &stream{id: f.StreamID, fields: f.Fields}
		if !c.begin(s) {
			return nil, nil
		}
		if f.StreamEnded() {
			return s, nil
		}
		c.reading[s.id] = s
	case *http2.DataFrame:
		if err := c.giveBack(uint32(f.Length)); err != nil {
			return nil, err
		}
		s := c.reading[f.StreamID]
		if s == nil {
			return nil, nil
		}
		s.body = append(s.body, f.Data()[:min(len(f.Data()), standin.MaxPayload+1-len(s.body))]...)
		if f.StreamEnded() {
			delete(c.reading, s.id)
			return s, nil
		}
	}
	return nil, nil
}

// begin counts a stream, unless it is none that is looked at.
func (c *conn) begin(s *stream) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leaving && s.id > c.limit {
		return false
	}
	s.window = c.initial
	c.last = s.id
	c.open[s.id] = s
	n := len(c.open)
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	c.server.stats.Streams++
	c.server.stats.MostStreams = max(c.server.stats.MostStreams, n)
	return true
}

// forget ends a stream. c.mu is held.
func (c *conn) forget(id uint32) {
	if c.open[id] == nil {
		return
	}
	delete(c.open, id)
	c.server.mu.Lock()
	c.server.stats.Streams--
	c.server.mu.Unlock()
	c.room.Broadcast()
	if c.leaving && len(c.open) == 0 {
		c.hangUp()
	}
}

// giveBack lets the client send as much data again as it has sent.
func (c *conn) giveBack(n uint32) error {
	if c.unread += n; c.unread < 16<<10 {
		return nil
	}
	n, c.unread = c.unread, 0
	return c.write(func() error { return c.framer.WriteWindowUpdate(0, n) })
}

// settings tells the client how many streams it may have.
func (c *conn) settings(maxStreams uint32) error {
	return c.write(func() error {
		return c.framer.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: maxStreams})
	})
}

func (c *conn) settingsOf(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	c.mu.Lock()
	if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
		for _, s := range c.open {
			s.window += int64(v) - c.initial
		}
		c.initial = int64(v)
	}
	if v, ok := f.Value(http2.SettingHeaderTableSize); ok {
		c.encoder.SetMaxDynamicTableSizeLimit(min(v, 4096))
	}
	c.room.Broadcast()
	c.mu.Unlock()
	return c.write(c.framer.WriteSettingsAck)
}

// write has frames written and sends them.
func (c *conn) write(frames func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := frames(); err != nil {
		return err
	}
	return c.out.Flush()
}

// abort resets the TCP connection.
func (c *conn) abort() {
	if t, ok := c.tcp.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	c.tcp.Close()
}

// hangUp ends the connection such that the client reads all that was written: it closes its
// own side then. c.mu is held.
func (c *conn) hangUp() {
	c.out.Flush()
	c.tls.CloseWrite()
	if t, ok := c.tcp.(*net.TCPConn); ok {
		t.CloseWrite()
	}
	c.tcp.SetReadDeadline(time.Now().Add(5 * time.Second))
}

// all are the streams that there are.
const all = ^uint32(0)

// goAway has the connection end; last is the last stream that is looked at.
func (c *conn) goAway(g GoAway, last uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last = min(last, c.last)
	c.leaving, c.limit = true, last
	c.framer.WriteGoAway(last, http2.ErrCode(g.Code), []byte(g.Debug))
	for id := range c.open {
		if id > last {
			c.forget(id)
		}
	}
	if g.Close || len(c.open) == 0 {
		c.hangUp()
		return
	}
	c.out.Flush()
}

// push answers one.
func (c *conn) push(s *stream) {
	r := c.read(s)
	a := c.server.receive(r)
	if a.Delay > 0 {
		timer := time.NewTimer(a.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.ended:
			return
		}
	}
	switch {
	case a.Hang:
		return
	case a.Reset != 0:
		c.reset(s, a.Reset)
		return
	case a.GoAway != nil && (a.GoAway.Unhandled || a.GoAway.Close):
		last := all
		if a.GoAway.Unhandled {
			last = s.id - 1
		}
		c.goAway(*a.GoAway, last)
		return
	case a.GoAway != nil:
		c.goAway(*a.GoAway, all)
	case a.Close:
		c.abort()
		return
	}
	if err := c.answer(s, a); err != nil {
		c.server.log.Debug("answer not written", "connection", c.number, "err", err)
		c.abort()
	}
}

func (c *conn) reset(s *stream, code uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[s.id] == nil {
		return
	}
	c.framer.WriteRSTStream(s.id, http2.ErrCode(code))
	c.out.Flush()
	c.forget(s.id)
}

// answer writes the response to a push, unless the client has given it up.
func (c *conn) answer(s *stream, a Answer) error {
	status := a.Status
	if status == 0 {
		status = http.StatusOK
	}
	body := a.Body
	if body == nil && a.Reason != "" {
		body = standin.Reason(a.Reason, a.Timestamp)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[s.id] == nil {
		return nil
	}
	c.block.Reset()
	c.field(":status", strconv.Itoa(status))
	c.field("apns-id", standin.NewID())
	for name, value := range a.Header {
		c.field(strings.ToLower(name), value)
	}
	size := int64(len(body)) + a.Padding
	err := c.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: s.id, BlockFragment: c.block.Bytes(), EndHeaders: true, EndStream: size == 0 && !a.Truncate,
	})
	for err == nil && size > 0 {
		for c.open[s.id] != nil && min(s.window, c.window) <= 0 {
			if err := c.out.Flush(); err != nil {
				return err
			}
			c.room.Wait()
		}
		if c.open[s.id] == nil {
			return nil
		}
		n := min(size, s.window, c.window, 16<<10)
		chunk := bytes.Repeat([]byte(" "), int(n))
		body = body[copy(chunk, body):]
		size -= n
		s.window -= n
		c.window -= n
		err = c.framer.WriteData(s.id, size == 0 && !a.Truncate, chunk)
	}
	if err == nil && a.Truncate {
		err = c.framer.WriteRSTStream(s.id, http2.ErrCodeInternal)
	}
	if err == nil {
		err = c.out.Flush()
	}
	c.forget(s.id)
	return err
}

func (c *conn) field(name, value string) {
	c.encoder.WriteField(hpack.HeaderField{Name: name, Value: value})
}

// read checks a push.
func (c *conn) read(s *stream) Received {
	header := make(http.Header, len(s.fields))
	var method, path string
	for _, f := range s.fields {
		switch {
		case f.Name == ":method":
			method = f.Value
		case f.Name == ":path":
			path = f.Value
		case !f.IsPseudo():
			header.Add(f.Name, f.Value)
		}
	}
	return Received{
		Push:       standin.Read(c.topic, method, path, header, s.body),
		Connection: c.number, Certificate: c.print,
	}
}
