package mdmtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
)

const (
	profileType     = "application/x-apple-aspen-config"
	managementAgent = "DeviceManagementClient/1.0" // PROTOCOL 0
)

// MachineInfo is what the device says of itself in the enrollment POST (PROTOCOL
// 2.1). A User Enrollment names no hardware.
func (d *Device) MachineInfo() Dict {
	o, hw := d.opts, d.opts.Model.hardware()
	account := o.Account
	if account == nil {
		account = &Account{}
	}
	info := Dict{"LANGUAGE": "en-US", "PRODUCT": hw.product, "VERSION": o.Build}
	if !account.Sparse {
		if o.since("17", "14") {
			info["OS_VERSION"] = o.OSVersion
		}
		if !d.byod.Load() {
			info["UDID"], info["SERIAL"] = o.UDID, o.Serial
			if o.Model == IPhone {
				info["IMEI"] = d.imei
			}
		}
	}
	maps.Copy(info, account.Info)
	maps.DeleteFunc(info, func(_ string, v any) bool { return v == nil })
	return info
}

// PrepareEnrollment signs MachineInfo as an identity, [Device.BuiltIn] in the usual
// case, for the URL that discovery found. An empty bearer leaves Authorization out.
func (d *Device) PrepareEnrollment(baseURL, bearer string, info Dict, as *BuiltIn) (Prepared, error) {
	plain, err := MarshalPlist(info)
	if err != nil {
		return Prepared{}, err
	}
	return d.PrepareEnrollmentRaw(baseURL, bearer, plain, as)
}

// PrepareEnrollmentRaw signs any bytes in place of MachineInfo.
func (d *Device) PrepareEnrollmentRaw(baseURL, bearer string, plain []byte, as *BuiltIn) (Prepared, error) {
	body, err := d.signBuiltIn(plain, as)
	if err != nil {
		return Prepared{}, err
	}
	return enrollmentPost(baseURL, bearer, body), nil
}

func enrollmentPost(baseURL, bearer string, body []byte) Prepared {
	p := Prepared{Method: http.MethodPost, URL: baseURL, Body: body, Header: http.Header{
		"Content-Type": {"application/pkcs7-signature"},
		"User-Agent":   {managementAgent},
	}}
	if bearer != "" {
		p.Header.Set("Authorization", "Bearer "+bearer)
	}
	return p
}

// PostEnrollment sends MachineInfo and returns the profile in the answer. The errors
// are [*SignInRequired] for a 401 with a challenge, [*Refusal] for a 403 in Apple's
// form and [*HTTPError] for what else is no profile: all but the first cancel the
// enrollment. With a bearer it repeats the body that it sent without one.
func (d *Device) PostEnrollment(ctx context.Context, baseURL, bearer string) ([]byte, error) {
	d.mu.Lock()
	body := d.posted
	d.mu.Unlock()
	if body == nil || bearer == "" {
		builtin, err := d.BuiltIn()
		if err != nil {
			return nil, err
		}
		p, err := d.PrepareEnrollment(baseURL, bearer, d.MachineInfo(), builtin)
		if err != nil {
			return nil, err
		}
		body = p.Body
		d.mu.Lock()
		d.posted = body
		d.mu.Unlock()
	}
	return d.SendEnrollment(ctx, enrollmentPost(baseURL, bearer, body))
}

// SendEnrollment sends a prepared enrollment POST; see [Device.PostEnrollment].
func (d *Device) SendEnrollment(ctx context.Context, p Prepared) ([]byte, error) {
	req, err := p.Request(ctx)
	if err != nil {
		return nil, err
	}
	reply, err := d.exchange(req, StepPost)
	if err == nil {
		err = d.refusedEnrollment(reply)
	}
	if err != nil {
		return nil, fmt.Errorf("enrollment: %w", err)
	}
	return reply.Body, nil
}

func (d *Device) refusedEnrollment(reply *Reply) error {
	switch reply.Status {
	case http.StatusOK:
		if kind := mediaType(reply.Header); kind != profileType {
			return fmt.Errorf("the answer's Content-Type %q is no profile", kind)
		}
		return nil
	case http.StatusUnauthorized:
		challenge, err := ParseChallenge(reply.Header, d.opts.PlainHTTP)
		if err != nil {
			return fmt.Errorf("%w: %w", &HTTPError{*reply}, err)
		}
		return &SignInRequired{Challenge: challenge, Reply: reply}
	}
	err := reply.refusal(codeUpdate, codePairing, codePSSO)
	var refusal *Refusal
	if errors.As(err, &refusal) && refusal.Code == codeUpdate && d.MachineInfo()[keyRequestsUpdate] != true {
		return fmt.Errorf("%w: the device has not said %s", err, keyRequestsUpdate)
	}
	return err
}
