package settings

import (
	"net/http"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
)

// second is what is to be typed to have a second topic.
const second = "second certificate"

type activatePage struct {
	admin.Page
	Topic     pushTopic
	New       held
	Old       *held        // nil: the topic has none yet
	Others    []otherTopic // where it is another topic than those there are: the red stop
	Form      *admin.Form
	MayDelete bool
}

// Word is what is to be typed at the red stop.
func (p *activatePage) Word() string { return second }

// SameEnd says that the new one does not last longer.
func (p *activatePage) SameEnd() bool { return p.Old != nil && !p.New.NotAfter.After(p.Old.NotAfter) }

// askActivate compares the certificate that waits with the one that serves. Another topic
// than all there are is a stop: no device can be woken by it.
func (s *Settings) askActivate(w http.ResponseWriter, r *http.Request) error {
	return s.writeActivate(w, r, http.StatusOK, admin.NewForm())
}

func (s *Settings) writeActivate(w http.ResponseWriter, r *http.Request, status int, f *admin.Form) error {
	o, t, err := s.findTopic(r)
	if err != nil {
		return err
	}
	if t.Ready == nil { // it was activated meanwhile, or is the one that serves already
		return admin.Redirect(w, r, t.URL(), "")
	}
	page := &activatePage{
		Page:  admin.Page{Title: "Activate a push certificate", Section: section, Crumbs: crumbs(link("Push certificates", pushPath))},
		Topic: *t, New: *t.Ready, Form: f, MayDelete: s.desk.May(r.Context(), "DELETE /api/v1/push-certificates/{topic}"),
	}
	if t.Fresh() {
		if page.Others, err = s.named(r, o.served(t.Topic)); err != nil {
			return err
		}
	} else {
		page.Old = &t.held
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "push-activate.html", page)
}

func (s *Settings) activate(w http.ResponseWriter, r *http.Request) error {
	f, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	o, t, err := s.findTopic(r)
	if err != nil {
		return err
	}
	other := t.Fresh() && len(o.served(t.Topic)) > 0
	if other && !f.Typed(second) {
		return s.writeActivate(w, r, http.StatusUnprocessableEntity, f)
	}
	path := escaped("/api/v1/push-certificates/%s", t.Topic)
	err = s.desk.Send(r.Context(), http.MethodPost, path+"/activate", nil, nil)
	if err == nil && other { // for new enrollments: the others keep waking the devices that they wake
		err = s.desk.Send(r.Context(), http.MethodPut, path, map[string]any{"default": true}, nil)
	}
	if err == nil {
		return admin.Redirect(w, r, t.URL(), "activated")
	}
	if !f.Refused(err) {
		return err
	}
	return s.writeActivate(w, r, http.StatusUnprocessableEntity, f)
}
