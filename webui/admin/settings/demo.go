package settings

import (
	"net/http"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
)

const demoPath = serverPath + "/demo"

func (s *Settings) mountDemo(r webui.Router) {
	r.Handle("POST "+demoPath, s.addDemo)
	r.Handle("POST "+demoPath+"/remove", s.removeDemo)
}

// demo is what the pages say of simulated devices.
type demo struct {
	admin.Demo
	Left int // enrolled ones of an earlier start, while none are wanted
}

func (s *Settings) demo(r *http.Request) (d demo, err error) {
	if d.Demo, err = s.desk.GetDemo(r.Context()); err != nil || d.Count > 0 {
		return d, err
	}
	var sum struct {
		Devices struct {
			Simulated int `json:"simulated"`
		} `json:"devices"`
	}
	err = s.desk.Get(r.Context(), "/api/v1/summary", nil, &sum)
	d.Left = sum.Devices.Simulated
	return d, err
}

// addDemo has devices enroll, which are seen in the list of devices as they come.
func (s *Settings) addDemo(w http.ResponseWriter, r *http.Request) error {
	if err := s.desk.Send(r.Context(), http.MethodPost, "/api/v1/demo-devices", map[string]int{"count": admin.DemoDevices}, nil); err != nil {
		return err
	}
	return admin.Redirect(w, r, "/admin/devices", "demo")
}

func (s *Settings) removeDemo(w http.ResponseWriter, r *http.Request) error {
	if err := s.desk.Send(r.Context(), http.MethodDelete, "/api/v1/demo-devices", nil, nil); err != nil {
		return err
	}
	return admin.Redirect(w, r, serverPath, "demo_removed")
}
