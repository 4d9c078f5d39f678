package apiv1

import (
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
)

func TestNoCellIsAFormula(t *testing.T) {
	no := false
	for _, tt := range []struct {
		value any
		want  string
	}{
		{"plain", "plain"},
		{"", ""},
		{nil, ""},
		{"=1+1", "'=1+1"},
		{"+1", "'+1"},
		{"-1", "'-1"},
		{"@SUM(A1)", "'@SUM(A1)"},
		{"\tx", "'\tx"},
		{"\rx", "'\rx"},
		{"\n=x", "'\n=x"},
		{"＝1", "'＝1"},
		{"a=1", "a=1"},
		{"'=1", "'=1"},
		{-3.5, "'-3.5"},
		{0.15, "0.15"},
		{true, "true"},
		{&no, "false"},
		{(*bool)(nil), ""},
		{12, "12"},
		{time.Time{}, ""},
		{time.Date(2026, 3, 1, 12, 0, 0, 5, time.FixedZone("", 3600)), "2026-03-01T11:00:00Z"},
		{[]any{"a", 1.0}, `["a",1]`},
		{map[string]any{"k": "v"}, `{"k":"v"}`},
	} {
		if got := cell(tt.value); got != tt.want {
			t.Errorf("cell(%#v) = %q, want %q", tt.value, got, tt.want)
		}
	}
}

func TestAUserEnrollmentIsExportedWithoutWhatIsPersonal(t *testing.T) {
	o := mdm.Overview{Attributes: map[string]any{"OSVersion": "18.2", "SerialNumber": "C02", "PhoneNumber": "+1"}}
	o.Type, o.EnrollmentID, o.ProductName = mdm.TypeUser, "E1", "iPhone17,2"
	o.SerialNumber, o.UDID, o.IMEI, o.MEID = "C02", "U", "I", "M"
	o.OSVersion = "18.2"
	got := impersonal(o)
	if got.SerialNumber+got.UDID+got.IMEI+got.MEID != "" || got.Attributes["SerialNumber"] != nil || got.Attributes["PhoneNumber"] != nil {
		t.Errorf("what is left is %+v", got)
	}
	if got.OSVersion != "18.2" || got.Attributes["OSVersion"] != "18.2" {
		t.Errorf("what may be known is gone: %+v", got)
	}
}
