package compat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// Migrations takes devices over that another server hands over. *enroll.Service is one.
type Migrations interface {
	HandedOver(ctx context.Context, m enroll.HandOver) error
}

// MountMigration registers NanoMDM's /migration: check-ins of devices of another server, without
// a certificate, from whoever has an owner's token. NanoMDM's nano2nano sends them.
func (c *Compat) MountMigration(m *webui.Mux, to Migrations) {
	group := m.Group(webui.Group{BodyLimit: maxBody, Timeout: maxTime, Fail: c.failNano})
	for _, method := range []string{http.MethodPut, http.MethodPost} {
		group.Handle(method+" /migration", c.guarded(route{scope: identity.ScopeOwner, handle: func(_ http.ResponseWriter, r *http.Request) error {
			return migrate(r, to)
		}}))
	}
}

// sharedIPadUser is the UserID of every user of a Shared iPad (Apple: TokenUpdate).
const sharedIPadUser = "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"

// migrate takes one check-in, and answers it with nothing, as NanoMDM does.
func migrate(r *http.Request, to Migrations) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	var m struct {
		MessageType, UDID, EnrollmentID, UserID, EnrollmentUserID string

		SerialNumber, DeviceName, Model, ModelName, ProductName, OSVersion, BuildVersion, IMEI, MEID string

		Topic, PushMagic, UserShortName, UserLongName string
		Token, UnlockToken, BootstrapToken            []byte
	}
	if err := guard.DecodePlist(body, &m, guard.PlistLimits{Bytes: maxBody}); err != nil {
		return &refusal{http.StatusBadRequest, "the body is not a check-in message: " + err.Error()}
	}
	id := mdm.AppleID{UDID: m.UDID, EnrollmentID: m.EnrollmentID, UserID: m.UserID}
	switch {
	case m.UserID == sharedIPadUser:
		id.UserID = m.UserShortName
	case m.EnrollmentID != "":
		id.UserID = m.EnrollmentUserID
	}
	err = to.HandedOver(r.Context(), enroll.HandOver{
		Message: m.MessageType, ID: id,
		Facts: mdm.Facts{
			SerialNumber: m.SerialNumber, DeviceName: m.DeviceName, Model: m.Model, ModelName: m.ModelName,
			ProductName: m.ProductName, OSVersion: m.OSVersion, BuildVersion: m.BuildVersion, IMEI: m.IMEI, MEID: m.MEID,
		},
		Push:        mdm.Push{Topic: m.Topic, Token: m.Token, Magic: m.PushMagic},
		UnlockToken: m.UnlockToken, BootstrapToken: m.BootstrapToken, UserShortName: m.UserShortName, UserLongName: m.UserLongName,
	})
	switch {
	case errors.Is(err, enroll.ErrBadMessage):
		return &refusal{http.StatusBadRequest, err.Error()}
	case errors.Is(err, enroll.ErrNotHandedOver):
		return &refusal{http.StatusConflict, err.Error()}
	}
	return err
}
