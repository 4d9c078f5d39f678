package library_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/library"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
)

func TestADeviceWhoseValuesMakeTooMuchOfAProfileIsRejected(t *testing.T) {
	h := newHouse(t)
	short := h.device(t, "a")
	long := h.device(t, "b", func(d *mdm.Device) { d.User = strings.Repeat("x", 1000) })
	id := h.add(t, "com.example.a", fmt.Sprintf(clip, strings.Repeat("$EMAIL ", profile.MaxSize/1000))).Profile.ID
	out, err := h.Send(context.Background(), library.Order{Profile: id, Targets: to(short, long)})
	if err != nil || len(out.Sent) != 1 || out.Sent[0].DeviceID != short || len(out.Rejected) != 1 || out.Rejected[0].Code != "profile_too_large" {
		t.Fatalf("sent %+v, rejected %+v, %v", out.Sent, out.Rejected, err)
	}
	if got := out.Rejected[0].Reason; got != "The profile would have 9 MiB with the values of this device, at most 8." {
		t.Errorf("the reason is %q", got)
	}
	if h.next(t, short) == nil || h.next(t, long) != nil {
		t.Error("what is queued is another's")
	}
}
