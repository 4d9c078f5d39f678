package migrate

import (
	"fmt"
	"net/url"
	"slices"

	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
)

// Enrollment is what another server's enrollment profile says.
type Enrollment struct {
	Identifier   string // PayloadIdentifier of the whole profile
	ServerURL    string
	CheckInURL   string // as it stands there; empty: ServerURL
	Topic        string // empty where the server puts it in
	AccessRights int    // 0: there are none in it
	DeviceOnly   bool   // it lacks com.apple.mdm.per-user-connections
}

// ReadEnrollment reads an enrollment profile, signed or not. Its error wraps
// [profile.ErrNotProfile], or says what the profile lacks.
func ReadEnrollment(data []byte) (e Enrollment, err error) {
	p, err := profile.Parse(data)
	if err != nil {
		return e, err
	}
	i := slices.IndexFunc(p.Payloads, func(payload profile.Payload) bool { return payload.Type == "com.apple.mdm" })
	switch {
	case p.Identifier == "":
		return e, fmt.Errorf("enrollment profile: PayloadIdentifier is missing")
	case i < 0:
		return e, fmt.Errorf("enrollment profile: it has no payload com.apple.mdm, so it enrolls nothing")
	}
	mdm := p.Payloads[i].Content
	e = Enrollment{Identifier: p.Identifier, DeviceOnly: true}
	e.ServerURL, _ = mdm["ServerURL"].(string)
	e.CheckInURL, _ = mdm["CheckInURL"].(string)
	e.Topic, _ = mdm["Topic"].(string)
	switch rights := mdm["AccessRights"].(type) {
	case int64:
		e.AccessRights = int(rights)
	case uint64:
		e.AccessRights = int(rights)
	}
	if e.AccessRights < 0 || e.AccessRights > profile.AllRights {
		return e, fmt.Errorf("enrollment profile: AccessRights must be from 1 to %d", profile.AllRights)
	}
	capabilities, _ := mdm["ServerCapabilities"].([]any)
	for _, c := range capabilities {
		if c == "com.apple.mdm.per-user-connections" {
			e.DeviceOnly = false
		}
	}
	return e, nil
}

// Differs says why devices with the profile will not find a server at a URL, or would refuse its
// renewals, empty if they will not. connect and checkIn are the server's paths.
func (e Enrollment) Differs(server *url.URL, connect, checkIn string) string {
	for _, is := range []struct{ name, has, wants string }{
		{"ServerURL", e.ServerURL, server.JoinPath(connect).String()},
		{"CheckInURL", e.CheckInURL, server.JoinPath(checkIn).String()},
	} {
		if is.has != is.wants {
			return fmt.Sprintf("%s in the enrollment profile is %q, and this server's is %q", is.name, is.has, is.wants)
		}
	}
	return ""
}
