package mdmtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

const (
	checkInType = "application/x-apple-aspen-mdm-checkin"
	commandType = "application/x-apple-aspen-mdm; charset=UTF-8"
)

// CheckIn sends any message to the CheckInURL, exactly as given: tests may add
// and leave out what they like. IDs and MessageType are the caller's.
func (d *Device) CheckIn(ctx context.Context, msg Dict) (*Reply, error) {
	p, err := d.PrepareCheckIn(msg)
	if err != nil {
		return nil, err
	}
	return d.Send(ctx, p)
}

// PrepareCheckIn signs a check-in message and leaves it to the caller to send.
func (d *Device) PrepareCheckIn(msg Dict) (Prepared, error) {
	body, err := MarshalPlist(msg)
	if err != nil {
		return Prepared{}, err
	}
	p, err := d.PrepareRaw(true, body)
	return d.bearing(p, msg["UserID"] != nil || msg["EnrollmentUserID"] != nil), err
}

// PrepareRaw signs any bytes, for the CheckInURL or else the ServerURL: what a
// hostile device might send under a good signature. A token goes along as on the
// device channel.
func (d *Device) PrepareRaw(checkIn bool, body []byte) (Prepared, error) {
	d.mu.Lock()
	id, profile := d.identity, d.profile
	d.mu.Unlock()
	p, err := d.prepareRaw(id, profile, checkIn, body)
	return d.bearing(p, false), err
}

func (d *Device) prepareRaw(id *identity, profile *Profile, checkIn bool, body []byte) (Prepared, error) {
	switch {
	case profile == nil || id == nil:
		return Prepared{}, ErrNotInstalled
	case checkIn:
		return d.prepare(id, profile.MDM.CheckInURL, checkInType, body)
	}
	return d.prepare(id, profile.MDM.ServerURL, commandType, body)
}

// checkIn sends a message of an honest device on the device channel.
func (d *Device) checkIn(ctx context.Context, id *identity, kind string, keys ...Dict) (*Reply, error) {
	return d.checkInAs(ctx, id, false, kind, keys...)
}

func (d *Device) checkInAs(ctx context.Context, id *identity, user bool, kind string, keys ...Dict) (*Reply, error) {
	msg := Dict{"MessageType": kind}
	for _, k := range keys {
		for key, v := range k {
			msg[key] = v
		}
	}
	body, err := MarshalPlist(msg)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	p, err := d.prepareRaw(id, d.Profile(), true, body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	reply, err := d.converse(ctx, id, Step(kind), user, d.bearing(p, user))
	if err != nil {
		return reply, fmt.Errorf("%s: %w", kind, err)
	}
	return reply, nil
}

func (d *Device) current() *identity {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.identity
}

// Authenticate begins the enrollment on the server.
func (d *Device) Authenticate(ctx context.Context) error {
	if err := d.authenticate(ctx, d.current()); err != nil {
		return err
	}
	d.advance(Authenticated)
	return nil
}

func (d *Device) authenticate(ctx context.Context, id *identity) error {
	_, err := d.checkIn(ctx, id, "Authenticate", d.IDs(), d.topic(), d.introduction())
	return err
}

func (d *Device) topic() Dict {
	if p := d.Profile(); p != nil {
		return Dict{"Topic": p.MDM.Topic}
	}
	return nil
}

// introduction is what Authenticate tells of the device: only a Mac gives its
// name and model, the rest needs the right to query information, and a User
// Enrollment never gives what identifies the hardware (PROTOCOL 4.2).
func (d *Device) introduction() Dict {
	hw, o := d.opts.Model.hardware(), d.opts
	keys := Dict{}
	if o.Model == Mac {
		keys["DeviceName"], keys["Model"], keys["ModelName"] = o.Name, hw.product, hw.name
	}
	if !d.allows(16) {
		return keys
	}
	keys["OSVersion"], keys["BuildVersion"], keys["ProductName"] = o.OSVersion, o.Build, hw.product
	if !d.byod.Load() {
		keys["SerialNumber"] = o.Serial
		if o.Model == IPhone {
			keys["IMEI"] = d.imei
		}
	}
	return keys
}

// allows reports whether the enrollment gives the server an access right. A User
// Enrollment has a fixed set, which commands and queries apply one by one.
func (d *Device) allows(right int64) bool {
	p := d.Profile()
	return d.byod.Load() || p != nil && p.MDM.AccessRights&right == right
}

// TokenUpdate sends the push token of the device channel. The first one makes
// the device enrolled.
func (d *Device) TokenUpdate(ctx context.Context) error {
	if err := d.channel.tokenUpdate(ctx, d.current()); err != nil {
		return err
	}
	d.advance(Enrolled)
	return nil
}

// CheckOut tells the server that the enrollment ends. It changes nothing on the
// device: Remove does both.
func (d *Device) CheckOut(ctx context.Context) error {
	_, err := d.checkIn(ctx, d.current(), "CheckOut", d.IDs(), d.topic())
	return err
}

// Remove takes the enrollment profile away, as the user would: with one attempt
// of CheckOut if the profile wants it. The device is removed in any case; the
// error says what became of CheckOut.
func (d *Device) Remove(ctx context.Context) error {
	p := d.Profile()
	if p == nil {
		return ErrNotInstalled
	}
	var err error
	if p.MDM.CheckOutWhenRemoved {
		err = d.CheckOut(ctx)
	}
	d.uninstall(Removed)
	return err
}

// Vanish takes the enrollment profile away without a word to the server.
func (d *Device) Vanish() { d.uninstall(Removed) }

// SetBootstrapToken escrows a Mac's bootstrap token; an empty one deletes it.
func (d *Device) SetBootstrapToken(ctx context.Context, token []byte) error {
	if err := d.bootstrapping(); err != nil {
		return err
	}
	keys := Dict{}
	if len(token) > 0 {
		keys["BootstrapToken"] = token
	}
	_, err := d.checkIn(ctx, d.current(), "SetBootstrapToken", d.IDs(), keys)
	return err
}

// GetBootstrapToken fetches the escrowed token; it is empty when there is none.
func (d *Device) GetBootstrapToken(ctx context.Context) ([]byte, error) {
	if err := d.bootstrapping(); err != nil {
		return nil, err
	}
	reply, err := d.checkIn(ctx, d.current(), "GetBootstrapToken", d.IDs())
	if err != nil || len(reply.Body) == 0 {
		return nil, err
	}
	v, err := UnmarshalPlist(reply.Body)
	if err != nil {
		return nil, fmt.Errorf("GetBootstrapToken: %w", err)
	}
	dict, _ := v.(Dict)
	f := fields{dict: dict}
	token := f.data("BootstrapToken")
	return token, f.err
}

func (d *Device) bootstrapping() error { return d.announced("com.apple.mdm.bootstraptoken") }

// announced fails unless the profile has a server capability.
func (d *Device) announced(capability string) error {
	p := d.Profile()
	if p == nil {
		return ErrNotInstalled
	}
	if !slices.Contains(p.MDM.ServerCapabilities, capability) {
		return fmt.Errorf("the profile does not announce %s", capability)
	}
	return nil
}

// Services that GetToken asks for a token.
const (
	ServiceMAID         = "com.apple.maid"
	ServiceWatchPairing = "com.apple.watch.pairing"
)

// GetToken fetches a token of a service; params, which may be nil, are its
// TokenParameters: SecurityToken, PhoneUDID, WatchUDID. A server that does not know
// the service answers 400, which is a [*HTTPError].
func (d *Device) GetToken(ctx context.Context, service string, params Dict) ([]byte, error) {
	if err := d.announced("com.apple.mdm.token"); err != nil {
		return nil, err
	}
	keys := Dict{"TokenServiceType": service}
	if params != nil {
		keys["TokenParameters"] = params
	}
	reply, err := d.checkIn(ctx, d.current(), "GetToken", d.IDs(), keys)
	if err != nil {
		return nil, err
	}
	v, err := UnmarshalPlist(reply.Body)
	if err != nil {
		return nil, fmt.Errorf("GetToken: %w", err)
	}
	dict, _ := v.(Dict)
	f := fields{dict: dict}
	token := f.data("TokenData")
	if f.err == nil && len(token) == 0 {
		f.err = errors.New("TokenData is missing")
	}
	if f.err != nil {
		return nil, fmt.Errorf("GetToken: %w", f.err)
	}
	return token, nil
}

// UserAuthenticate asks for a directory user of a Mac. It returns the digest
// challenge; a server that declines answers 410, which is a [*HTTPError].
func (d *Device) UserAuthenticate(ctx context.Context, userID string) (challenge string, err error) {
	reply, err := d.checkIn(ctx, d.current(), "UserAuthenticate", d.IDs(), Dict{"UserID": userID})
	if err != nil {
		return "", err
	}
	v, err := UnmarshalPlist(reply.Body)
	if err != nil {
		return "", fmt.Errorf("UserAuthenticate: %w", err)
	}
	dict, _ := v.(Dict)
	f := fields{dict: dict}
	challenge = f.string("DigestChallenge")
	return challenge, f.err
}
