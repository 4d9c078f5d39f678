package account

import (
	"html/template"
	"net/http"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// start returns the page for who opens, in a browser, the address at which devices say what
// they are: how such a device is enrolled.
func (s *SignIns) start(mode enroll.AccountMode) webui.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		driven, err := s.Enroll.AccountDriven(r.Context())
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(driven.Domains, func(d enroll.AccountDomain) bool { return offers(d, mode) }) {
			return explain(&visit{path: mode.Path()}, enroll.ErrModeOff)
		}
		around, settings, err := s.Frame.Portal(r, "account.start.heading")
		if err != nil {
			return err
		}
		t := around.T
		page := view.AccountStart{Portal: around, Lead: t.Say("account.start.lead." + string(mode))}
		touch, mac := false, false
		for _, d := range driven.Domains {
			touch = touch || d.Policy["iPhone"] == mode || d.Policy["iPad"] == mode || d.Policy["RealityDevice"] == mode
			mac = mac || d.Policy["Mac"] == mode
		}
		page.Rights = rightsOf(settings, mode, mac && !touch)
		account := t.HTML("account.start.account")
		row := strings.TrimRight(t.Apple("sign_in_work_school", 0), ".… ") // a sentence ends behind it
		if touch {
			page.Touch = []template.HTML{
				t.HTML("account.start.open", "settings", t.Apple("settings", 0), "general", t.Apple("general", 0), "menu", t.Apple("vpn_device_management", 0)),
				t.HTML("account.start.tap", "row", row), account,
			}
		}
		if mac {
			page.Mac = []template.HTML{
				t.HTML("account.start.open_mac", "settings", t.Apple("mac_system_settings", 0), "general", t.Apple("mac_general", 0), "menu", t.Apple("mac_device_management", 0),
					"privacy", t.Apple("mac_privacy_security", 14), "profiles", t.Apple("mac_device_management", 14)),
				t.HTML("account.start.click", "row", row), account,
			}
		}
		return s.Pages.Write(w, http.StatusOK, page)
	}
}

// offers says whether devices of any kind enroll in a mode by a domain.
func offers(d enroll.AccountDomain, mode enroll.AccountMode) bool {
	for _, of := range d.Policy {
		if of == mode {
			return true
		}
	}
	return false
}
