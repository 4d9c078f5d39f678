package mdmtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// Statuses of a result (PROTOCOL 5.2).
const (
	StatusIdle         = "Idle"
	StatusAcknowledged = "Acknowledged"
	StatusError        = "Error"
	StatusFormat       = "CommandFormatError"
	StatusNotNow       = "NotNow"
)

// Channel is one of the command channels of a device: its own, or a Mac user's.
type Channel struct {
	dev  *Device
	user *User

	session sync.Mutex // one Poll at a time

	declared declaring

	mu      sync.Mutex
	token   []byte
	magic   string
	pending []Result // not taken by the server yet, oldest first
	last    string   // status that was sent last
	sent    bool     // a TokenUpdate was accepted
	conduct conducting
}

func newChannel(d *Device, user *User) (*Channel, error) {
	token, err := readRandom(d.opts.Rand, 32)
	if err != nil {
		return nil, err
	}
	c := &Channel{dev: d, user: user, token: token}
	return c, c.reset()
}

// reset begins a new enrollment: the push token is the device's, the magic is not.
func (c *Channel) reset() error {
	magic, err := newUUID(c.dev.opts.Rand)
	if err != nil {
		return err
	}
	c.declared.reset()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.magic, c.pending, c.last, c.sent = magic, nil, "", false
	return nil
}

// Command is a command as the server sent it.
type Command struct {
	UUID        string
	RequestType string
	Params      Dict // the Command dictionary, RequestType included
	Raw         []byte
}

// Result is what a device answers. An empty Status is silence.
type Result struct {
	CommandUUID string
	Status      string
	Keys        Dict // response keys, ErrorChain included

	as *identity // who signs it, when that isn't the current identity
}

// User is whose channel it is, nil for the device channel.
func (c *Channel) User() *User { return c.user }

// IDs are the keys that name the channel in every message.
func (c *Channel) IDs() Dict {
	ids := c.dev.IDs()
	if c.user == nil {
		return ids
	}
	if c.dev.byod.Load() {
		ids["EnrollmentUserID"] = c.user.ID
	} else {
		ids["UserID"] = c.user.ID
	}
	ids["UserShortName"], ids["UserLongName"] = c.user.ShortName, c.user.LongName
	return ids
}

// Push returns what a push to this channel carries: the token in the path, the
// magic in the body.
func (c *Channel) Push() (token []byte, magic string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.token), c.magic
}

// TokenUpdate sends the channel's push token.
func (c *Channel) TokenUpdate(ctx context.Context) error {
	if c.user == nil {
		return c.dev.TokenUpdate(ctx)
	}
	return c.tokenUpdate(ctx, c.dev.current())
}

func (c *Channel) tokenUpdate(ctx context.Context, id *identity) error {
	token, magic := c.Push()
	keys := Dict{"Token": token, "PushMagic": magic}
	if c.user != nil {
		keys["NotOnConsole"] = false
	} else {
		keys["AwaitingConfiguration"] = c.dev.isAwaiting()
		if c.dev.unlockable() {
			keys["UnlockToken"] = c.dev.UnlockToken()
		}
	}
	_, err := c.dev.checkInAs(ctx, id, c.user != nil, "TokenUpdate", c.IDs(), c.dev.topic(), keys)
	if err == nil {
		c.mu.Lock()
		c.sent = true
		c.mu.Unlock()
	}
	return err
}

// isAnnounced reports whether the server has the channel's push token.
func (c *Channel) isAnnounced() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent
}

// UnlockToken is what ClearPasscode needs from the server; new with each enrollment.
func (d *Device) UnlockToken() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.unlockToken)
}

// Idle asks for work on the device channel; nil means that there is none.
func (d *Device) Idle(ctx context.Context) (*Command, error) { return d.channel.Idle(ctx) }

// Report sends a result on the device channel and returns the next command.
func (d *Device) Report(ctx context.Context, r Result) (*Command, error) {
	return d.channel.Report(ctx, r)
}

// Poll does a whole session on the device channel; see [Channel.Poll].
func (d *Device) Poll(ctx context.Context) (int, error) { return d.channel.Poll(ctx) }

// Idle asks for work; nil means that there is none. Results that the server did
// not take yet go first, in place of Idle.
func (c *Channel) Idle(ctx context.Context) (*Command, error) {
	if len(c.Pending()) > 0 {
		return c.flush(ctx)
	}
	return c.exchange(ctx, Result{Status: StatusIdle})
}

// Report sends a result and returns the next command. The result is kept until
// the server answers 2xx: the next Idle, Report or Poll sends it again first.
func (c *Channel) Report(ctx context.Context, r Result) (*Command, error) {
	c.mu.Lock()
	c.pending = append(c.pending, r)
	c.mu.Unlock()
	return c.flush(ctx)
}

// flush sends what is pending, in order, and returns the command that the last
// answer holds. A command in an earlier answer comes again: it has no result.
func (c *Channel) flush(ctx context.Context) (next *Command, err error) {
	for _, r := range c.Pending() {
		if next, err = c.exchange(ctx, r); err != nil {
			return nil, err
		}
	}
	return next, nil
}

// Pending are the results that wait to be sent again, oldest first.
func (c *Channel) Pending() []Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.pending)
}

// Forget drops the pending results, as a crash would.
func (c *Channel) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending = nil
}

// WillPoll reports that the channel comes back by itself without a push: the
// last status it sent was NotNow (PROTOCOL 5.2), a result waits to be sent, or it is away.
func (c *Channel) WillPoll() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last == StatusNotNow || len(c.pending) > 0 || c.conduct.away > 0
}

// Prepare signs a result, or a poll with Status Idle, and leaves it to the caller
// to send.
func (c *Channel) Prepare(r Result) (Prepared, error) {
	msg := c.IDs()
	maps.Copy(msg, r.Keys)
	msg["Status"] = r.Status
	if r.CommandUUID != "" {
		msg["CommandUUID"] = r.CommandUUID
	}
	body, err := MarshalPlist(msg)
	if err != nil {
		return Prepared{}, err
	}
	id := r.as
	if id == nil {
		id = c.dev.current()
	}
	p, err := c.dev.prepareRaw(id, c.dev.Profile(), false, body)
	return c.dev.bearing(p, c.user != nil), err
}

func (c *Channel) exchange(ctx context.Context, r Result) (*Command, error) {
	p, err := c.Prepare(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.Status, err)
	}
	id := r.as
	if id == nil {
		id = c.dev.current()
	}
	step := StepResult
	if r.Status == StatusIdle {
		step = StepIdle
	}
	reply, err := c.dev.converse(ctx, id, step, c.user != nil, p)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.Status, err)
	}
	c.mu.Lock()
	c.last = r.Status
	c.pending = slices.DeleteFunc(c.pending, func(p Result) bool { return p.CommandUUID == r.CommandUUID })
	c.mu.Unlock()
	switch r.Status {
	case StatusIdle:
		c.dev.count.idles.Add(1)
	case StatusAcknowledged:
		c.dev.count.acknowledged.Add(1)
	case StatusNotNow:
		c.dev.count.notNow.Add(1)
	default:
		c.dev.count.errors.Add(1)
	}
	cmd, err := parseCommand(reply.Body)
	if cmd != nil {
		c.dev.count.commands.Add(1)
	}
	return cmd, err
}

// parseCommand reads the answer to a poll: nothing at all, or one command.
func parseCommand(body []byte) (*Command, error) {
	if len(body) == 0 {
		return nil, nil
	}
	v, err := UnmarshalPlist(body)
	if err != nil {
		return nil, fmt.Errorf("command: %w", err)
	}
	dict, _ := v.(Dict)
	outer := fields{dict: dict}
	cmd := &Command{UUID: outer.required("CommandUUID"), Params: outer.dictionary("Command"), Raw: body}
	inner := fields{dict: cmd.Params}
	cmd.RequestType = inner.required("RequestType")
	if err := errors.Join(outer.err, inner.err); err != nil {
		return nil, fmt.Errorf("command: %w", err)
	}
	return cmd, nil
}

// Poll does a whole session: Idle, then each command until the server has none.
// It returns how many were answered. A server that sends a command again in the
// session in which it took the answer, NotNow included, breaks the protocol:
// that is an error. What [Conduct] breaks off or misses is none.
func (c *Channel) Poll(ctx context.Context) (int, error) {
	c.session.Lock()
	defer c.session.Unlock()
	if s := c.dev.State(); s == Removed || s == Erased {
		return 0, ErrRemoved
	}
	if c.misses() {
		return 0, nil
	}
	if c.user == nil {
		c.dev.goOnWithApps()
	}
	cmd, err := c.Idle(ctx)
	answered := map[string]bool{}
	for n := 0; ; n++ {
		if err != nil || cmd == nil {
			return n, err
		}
		if answered[cmd.UUID] {
			return n, fmt.Errorf("the server sends command %s again in one session", cmd.UUID)
		}
		answered[cmd.UUID] = true
		if cmd, err = c.Answer(ctx, cmd); errors.Is(err, ErrBroken) {
			return n, nil
		}
	}
}
