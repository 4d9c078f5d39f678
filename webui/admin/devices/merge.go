package devices

import (
	"net/http"
	"net/url"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// earlier is how many former records a page offers for merging.
const earlier = "20"

// formers returns records of devices that have left and may have been d before: it tells
// nothing by which the server could know it again, as in a User Enrollment, and is of the same
// person and model.
func (s *Devices) formers(r *http.Request, d device) ([]device, error) {
	route := "POST /api/v1/devices/{id}/merge"
	if d.EnrollmentType != "user" || d.User == "" || d.State == "unenrolled" || d.State == "blocked" || !s.desk.May(r.Context(), route) {
		return nil, nil
	}
	var theirs found
	err := s.desk.Get(r.Context(), api, url.Values{
		"user": {d.User}, "state": {"unenrolled"}, "enrollment_type": {"user"}, "sort": {"-enrolled_at"}, "limit": {earlier},
	}, &theirs)
	if err != nil {
		return nil, err
	}
	var same []device
	for _, former := range theirs.Items {
		if former.Model == d.Model {
			same = append(same, former)
		}
	}
	return same, nil
}

// askMerge asks before two records become one.
func (s *Devices) askMerge(w http.ResponseWriter, r *http.Request) error {
	return s.confirmMerge(w, r, r.URL.Query().Get("from"), nil)
}

func (s *Devices) confirmMerge(w http.ResponseWriter, r *http.Request, from string, form *admin.Form) error {
	var d, former device
	if err := s.desk.Get(r.Context(), deviceAPI(r.PathValue("id")), nil, &d); err != nil {
		return err
	}
	if err := s.desk.Get(r.Context(), deviceAPI(from), nil, &former); err != nil {
		return err
	}
	enrolled, seen := s.desk.Moment(former.EnrolledAt), s.desk.Moment(former.LastSeenAt)
	return s.desk.Confirm(w, r, &admin.Confirm{
		Page:    admin.Page{Section: section, Crumbs: []view.Link{{Label: "Devices", URL: section}, {Label: d.Name(), URL: d.URL()}}},
		Heading: "Merge into " + d.Name(), Button: "Merge the records", Danger: true,
		Text: []string{
			"Do this if both records are the same device: somebody’s own device tells nothing by which this server could know it again when it enrolls once more.",
			"The note on the former record and its place in groups go to the present one. What the former one said of itself, its commands and answers are deleted, and the record with them; so are recovery keys and other secrets that are kept for it.",
		},
		Facts: known([]admin.Fact{
			{Label: "Former record", Value: former.Name(), URL: former.URL()}, {Label: "Owner", Value: former.Owner()},
			{Label: "Model", Value: former.ModelWords()}, {Label: "Enrolled", Moment: &enrolled}, {Label: "Last seen", Moment: &seen},
		}),
		Action: r.URL.Path, Hidden: url.Values{"from": {from}}, Back: d.URL(), Form: form,
	})
}

// merge makes two records one.
func (s *Devices) merge(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	id, from := r.PathValue("id"), form.Get("from")
	err = s.desk.Send(r.Context(), http.MethodPost, deviceAPI(id)+"/merge", map[string]string{"device_id": from}, nil)
	if err == nil {
		return admin.Redirect(w, r, device{ID: id}.URL(), "merged")
	}
	if s.mergedInto(r, from) == id { // the form was sent twice
		return admin.Redirect(w, r, device{ID: id}.URL(), "gone")
	}
	if form.Error, err = refusal(err); err != nil {
		return err
	}
	return s.confirmMerge(w, r, from, form)
}
