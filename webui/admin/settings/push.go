package settings

import (
	"net/http"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

const (
	pushPath     = section + "/push"
	newPushPath  = pushPath + "/new"
	requestsPath = pushPath + "/requests"
	topicsPath   = pushPath + "/topics"
	havePath     = pushPath + "/upload"
	vendorPath   = pushPath + "/vendor"
)

// mountPush registers the pages of push certificates: the wizard, and each topic.
func (s *Settings) mountPush(r, uploads webui.Router) {
	r.Handle("GET "+pushPath, s.push)
	r.Handle("GET "+newPushPath, s.newRequest)
	r.Handle("POST "+newPushPath, s.makeRequest)
	r.Handle("GET "+requestsPath+"/{id}", s.request)
	r.Handle("GET "+requestsPath+"/{id}/csr", s.downloadRequest("csr"))
	r.Handle("GET "+requestsPath+"/{id}/file", s.downloadRequest("file"))
	uploads.Handle("POST "+requestsPath+"/{id}/mail", s.openMail)
	uploads.Handle("POST "+requestsPath+"/{id}/certificate", s.answerRequest)
	r.Handle("GET "+requestsPath+"/{id}/delete", s.desk.Only("DELETE /api/v1/push-certificate-requests/{id}", s.askDeleteRequest))
	r.Handle("POST "+requestsPath+"/{id}/delete", s.deleteRequest)
	r.Handle("GET "+havePath, s.have)
	uploads.Handle("POST "+havePath, s.takeCertificate)
	r.Handle("GET "+topicsPath+"/{topic}", s.topic)
	r.Handle("POST "+topicsPath+"/{topic}", s.changeTopic)
	r.Handle("POST "+topicsPath+"/{topic}/try", s.try)
	r.Handle("GET "+topicsPath+"/{topic}/activate", s.askActivate)
	r.Handle("POST "+topicsPath+"/{topic}/activate", s.activate)
	r.Handle("GET "+topicsPath+"/{topic}/delete", s.askDeleteTopic)
	r.Handle("POST "+topicsPath+"/{topic}/delete", s.deleteTopic)
	r.Handle("GET "+vendorPath, s.vendor)
	uploads.Handle("POST "+vendorPath, s.putVendor)
	r.Handle("POST "+vendorPath+"/delete", s.deleteVendor)
}

func (s *Settings) pushCard(r *http.Request) (card, error) {
	o, err := s.topics(r)
	c := card{Label: "Push certificates", URL: pushPath, Text: "Apple’s permission to wake your devices: renewed once a year", State: view.State{Text: "None: no device can be woken", Tone: view.Bad}}
	worst := -1
	for _, t := range o.Items {
		if stands := t.Stands(); !t.Fresh() && (worst < 0 || t.DaysLeft < worst) {
			worst, c.State = t.DaysLeft, stands
		}
	}
	if len(o.Lost) > 0 && worst >= 0 {
		c.State = view.State{Text: "Devices without a certificate", Tone: view.Bad}
	}
	return c, err
}

type pushPage struct {
	admin.Page
	pushOverview
	Requests []pushRequest // that are not done
	Empty    *admin.Empty
	MayEdit  bool
	Demo     bool
}

// push shows the certificate of each topic, with its countdown.
func (s *Settings) push(w http.ResponseWriter, r *http.Request) error {
	o, err := s.topics(r)
	if err != nil {
		return err
	}
	page := &pushPage{
		Page:         admin.Page{Title: "Push certificates", Section: section, Crumbs: crumbs(), Watch: "push_"},
		pushOverview: o, MayEdit: s.desk.May(r.Context(), "POST /api/v1/push-certificate-requests"), Demo: s.desk.Demo(),
	}
	if page.MayEdit {
		var requests admin.List[pushRequest]
		if err := s.desk.Get(r.Context(), "/api/v1/push-certificate-requests", nil, &requests); err != nil {
			return err
		}
		for _, q := range requests.Items {
			if q.State != "fulfilled" {
				page.Requests = append(page.Requests, q)
			}
		}
	}
	if len(o.Items) == 0 {
		page.Empty = &admin.Empty{
			Heading: "No push certificate yet",
			Text:    "Apple wakes devices only for servers that have one. Without it devices enroll, but commands wait until a device checks in by itself, and devices that enroll now have to enroll again later. It is free, lasts a year, and takes ten minutes.",
		}
		if !page.MayEdit {
			page.Empty.Text += " An administrator gets it."
		} else {
			page.Empty.Actions = []view.Link{{Label: "Get a push certificate", URL: newPushPath}, {Label: "Upload one that I have", URL: havePath}}
		}
	}
	return s.desk.Write(w, r, s.pages, "push.html", page)
}
