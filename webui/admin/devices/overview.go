package devices

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
)

type overviewPage struct {
	head
	Own      []admin.Fact
	Groups   []groupOfFacts
	Asked    time.Time // of the newest answer; zero: none
	Waiting  string    // a question that it has yet to answer
	Failures []string
	Recent   []command
	Channels []device
	In       []group // groups that it is in
	Note     *admin.Form
	Minimal  bool // only what this server installed is known
	Formers  []device
}

func (s *Devices) overview(w http.ResponseWriter, r *http.Request) error {
	return s.writeOverview(w, r, http.StatusOK, "", nil)
}

// recent is how many commands the overview shows.
const recent = "5"

func (s *Devices) writeOverview(w http.ResponseWriter, r *http.Request, status int, problem string, note *admin.Form) error {
	h, err := s.headOf(r, "")
	if err != nil {
		return err
	}
	ctx, d := r.Context(), h.Device
	page := &overviewPage{head: h, Own: s.own(d), Note: note}
	page.Problem = problem
	if note == nil {
		page.Note = admin.NewForm("note", "")
		if d.Note != nil {
			page.Note.Values.Set("note", d.Note.Text)
		}
	}
	var known inventory
	if err := s.desk.Get(ctx, deviceAPI(d.ID)+"/inventory", nil, &known); err != nil {
		return err
	}
	page.Minimal = known.ManagedOnly
	page.Groups = groupFacts(known.source("DeviceInformation"), known.source("SecurityInfo"))
	failed, reasons := make(map[string][]string), []string(nil) // one reason is often that of all
	for _, from := range known.Sources {
		if from.AnsweredAt != nil && from.AnsweredAt.After(page.Asked) {
			page.Asked = *from.AnsweredAt
		}
		if from.Failure != nil {
			if failed[from.Failure.Reason] == nil {
				reasons = append(reasons, from.Failure.Reason)
			}
			failed[from.Failure.Reason] = append(failed[from.Failure.Reason], admin.Words(from.Source))
		}
		if from.Waiting != nil {
			page.Waiting = admin.Words(from.Source)
		}
	}
	for _, why := range reasons {
		page.Failures = append(page.Failures, strings.Join(failed[why], ", ")+": "+why)
	}
	var list admin.List[command]
	if err := s.desk.Get(ctx, deviceAPI(d.ID)+"/commands", url.Values{"limit": {recent}}, &list); err != nil {
		return err
	}
	once(list.Items, d.WaitingFor)
	page.Recent = list.Items
	if !d.IsChannel() && d.Platform != "tvos" {
		var channels found
		if err := s.desk.Get(ctx, api, url.Values{"parent_id": {d.ID}, "limit": {"20"}}, &channels); err != nil {
			return err
		}
		page.Channels = channels.Items
	}
	var in admin.List[group]
	if err := s.desk.Get(ctx, deviceAPI(d.ID)+"/groups", nil, &in); err != nil {
		return err
	}
	page.In = in.Items
	if page.Formers, err = s.formers(r, d); err != nil {
		return err
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "overview.html", page)
}
