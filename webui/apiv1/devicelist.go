package apiv1

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/inventory"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// devicePage is a page of devices, which says how many there are on all pages.
type devicePage struct {
	page[deviceJSON]
	Total int `json:"total"`
}

func (a *API) listDevices(w http.ResponseWriter, r *http.Request) error {
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	q, err := a.deviceQueryOf(r, "limit", "cursor")
	if err != nil {
		return err
	}
	return a.writeDevices(w, r, q, cursor, limit)
}

// writeDevices answers with a page of the devices that q asks for.
func (a *API) writeDevices(w http.ResponseWriter, r *http.Request, q mdm.Query, cursor string, limit int) error {
	found, err := a.mdm.Search(r.Context(), q, cursor, limit)
	if err != nil {
		return ofQuery(err)
	}
	tell, err := a.tellers(r, found.Devices)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, devicePage{
		page:  newPage(found.Devices, found.Next, tell),
		Total: found.Total,
	})
}

// tellers reads what a list says of devices beside what is known of them, and returns what
// makes JSON of one of them.
func (a *API) tellers(r *http.Request, devices []mdm.Overview) (tell func(mdm.Overview) deviceJSON, err error) {
	lost, err := a.lostOf(r, devices)
	if err != nil {
		return nil, err
	}
	var waiting []mdm.DeviceID
	for _, d := range devices {
		if d.PendingCommands > 0 {
			waiting = append(waiting, d.ID)
		}
	}
	waits, err := a.mdm.FirstWaits(r.Context(), waiting)
	if err != nil {
		return nil, err
	}
	push, err := a.pushesOf(r.Context(), devices)
	if err != nil {
		return nil, err
	}
	return func(o mdm.Overview) deviceJSON {
		out := device(o)
		out.Push = push[o.ID]
		out.lost(lost[o.ID])
		out.waits(waits)
		return out
	}, nil
}

func (a *API) lostOf(r *http.Request, devices []mdm.Overview) (map[mdm.DeviceID]enroll.Lost, error) {
	ids := make([]mdm.DeviceID, len(devices))
	for i, d := range devices {
		ids[i] = d.ID
	}
	return a.enroll.LostDevices(r.Context(), ids...)
}

// deviceQueryOf reads which devices are wanted, of those that whoever asks may see, from the
// parameters of r, but for others.
func (a *API) deviceQueryOf(r *http.Request, others ...string) (q mdm.Query, err error) {
	if q, err = a.deviceQuery(r.URL.Query(), others...); err != nil {
		return mdm.Query{}, err
	}
	q.Scope = limitOf(principal(r))
	for _, id := range q.GroupIDs {
		if q.Scope != nil && !slices.Contains(q.Scope, id) {
			return mdm.Query{}, invalid("group_id", "names no group")
		}
	}
	if len(q.Users) == 0 {
		return q, nil
	}
	named := q.Users
	err = a.db.View(r.Context(), func(tx storage.Tx) error {
		q.Users = slices.Clone(named)
		return withLogins(tx, &q)
	})
	return q, err
}

// deviceQuery reads which devices are wanted. A parameter that is not known is refused: a
// filter with a slip in its name must not return all devices.
func (a *API) deviceQuery(query url.Values, others ...string) (q mdm.Query, err error) {
	known := map[string]bool{"lost": true, "push": true, "app": true, "profile": true}
	for _, name := range slices.Concat(others, mdm.QueryFields()) {
		known[name] = true
	}
	var installed []inventory.Installed
	for _, name := range slices.Sorted(maps.Keys(query)) {
		switch {
		case !known[name]:
			return mdm.Query{}, invalid(clip(name), "is no parameter of this request"+meant(name, known))
		case slices.Contains(others, name):
			continue
		case name == "lost":
			if err := a.whetherLost(query, &q); err != nil {
				return mdm.Query{}, err
			}
			continue
		case name == "push":
			if err := a.pushedSo(query, &q); err != nil {
				return mdm.Query{}, err
			}
			continue
		case name == "app" || name == "profile":
			if installed, err = addInstalled(installed, name, query[name]); err != nil {
				return mdm.Query{}, ofQuery(err)
			}
			continue
		}
		for _, value := range query[name] {
			if err := q.Set(name, value); err != nil {
				return mdm.Query{}, ofQuery(err)
			}
		}
	}
	if err := inventory.Narrow(&q, installed); err != nil {
		return mdm.Query{}, ofQuery(err)
	}
	return q, nil
}

// withLogins has q ask for the users that it names by all that they log in with.
func withLogins(tx storage.Tx, q *mdm.Query) error {
	for _, login := range slices.Clone(q.Users) {
		u, err := identity.UserByLogin(tx, login)
		if errors.Is(err, storage.ErrNotFound) {
			continue // of somebody who is not here any more
		}
		if err != nil {
			return err
		}
		q.Users = append(q.Users, u.Logins()...)
	}
	return nil
}

// whetherLost adds the condition of ?lost= to q.
func (a *API) whetherLost(query url.Values, q *mdm.Query) error {
	text, err := textOf(query, "lost")
	if err != nil {
		return err
	}
	want := text == "true"
	if !want && text != "false" {
		return invalid("lost", "must be true or false")
	}
	var of storage.Tx // whose reports these are
	var lost map[mdm.DeviceID]bool
	q.Require("lost "+text, nil, func(tx storage.Tx, id mdm.DeviceID) (bool, error) {
		if tx != of {
			all, err := enroll.ReportedLost(tx)
			if err != nil {
				return false, err
			}
			of, lost = tx, all
		}
		return lost[id] == want, nil
	})
	return nil
}

// pushedSo adds the condition of ?push= to q: enrolled devices whose waking stands so.
func (a *API) pushedSo(query url.Values, q *mdm.Query) error {
	text, err := textOf(query, "push")
	if err != nil {
		return err
	}
	want := mdm.PushState(text)
	if !slices.Contains(mdm.PushStates, want) {
		return invalid("push", "is none of "+joined(mdm.PushStates))
	}
	reads := func(id mdm.DeviceID) []storage.Read {
		return []storage.Read{mdm.ReadDevice(id), mdm.ReadWakeup(id)}
	}
	q.Require("push "+text, reads, func(tx storage.Tx, id mdm.DeviceID) (bool, error) {
		d, err := mdm.GetDevice(tx, id)
		if errors.Is(err, storage.ErrNotFound) || err == nil && !d.Live() {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		st, err := mdm.PushStatusOf(tx, d, a.now())
		return st.State == want, err
	})
	return nil
}

// joined is a list of words as a sentence has it.
func joined(words []mdm.PushState) string {
	list := make([]string, len(words))
	for i, w := range words {
		list[i] = string(w)
	}
	return strings.Join(list, ", ")
}

// addInstalled reads the conditions of ?app= or ?profile=.
func addInstalled(conditions []inventory.Installed, name string, values []string) ([]inventory.Installed, error) {
	parse := inventory.ParseApp
	if name == "profile" {
		parse = inventory.ParseProfile
	}
	for _, value := range values {
		if value = strings.TrimSpace(value); value == "" {
			return nil, &mdm.QueryError{Field: name, Reason: "has no value"}
		}
		c, err := parse(value)
		if err != nil {
			return nil, err
		}
		conditions = append(conditions, c)
	}
	return conditions, nil
}

// meant says which known name is meant by one that is not, where that can be told.
func meant(name string, known map[string]bool) string {
	if nearest := Nearest(clip(name), known); nearest != "" {
		return fmt.Sprintf(": the nearest is %q", nearest)
	}
	return ""
}

// ofQuery makes a mistake in a query that of a parameter.
func ofQuery(err error) error {
	bad, ok := errors.AsType[*mdm.QueryError](err)
	if !ok {
		return err
	}
	reason := bad.Reason
	if bad.Unknown != "" {
		known := make(map[string]bool, len(bad.Known))
		for _, name := range bad.Known {
			known[name] = true
		}
		reason += meant(bad.Unknown, known)
	}
	return invalid(bad.Field, reason)
}

const (
	exportPart = 500 // devices that are read together
	maxColumns = 64

	attributeColumn = "attributes." // and the name of an attribute
)

// exported is a device in an export.
type exported struct {
	mdm.Overview
	lost enroll.Lost
}

// column is a column of an export. A value may be anything that cell takes.
type column struct {
	name  string
	value func(d exported) any
}

// exportColumns are the columns that there are, beside those of attributes, in their usual
// order.
var exportColumns = []column{
	{"id", func(d exported) any { return string(d.ID) }},
	{"device_name", func(d exported) any { return d.DeviceName }},
	{"serial_number", func(d exported) any { return d.SerialNumber }},
	{"model", func(d exported) any { return device(d.Overview).Model }},
	{"product_name", func(d exported) any { return d.ProductName }},
	{"model_name", func(d exported) any { return d.ModelName }},
	{"platform", func(d exported) any { return device(d.Overview).Platform }},
	{"os_version", func(d exported) any { return d.OSVersion }},
	{"build_version", func(d exported) any { return d.BuildVersion }},
	{"user", func(d exported) any { return d.User }},
	{"managed_apple_account", func(d exported) any { return d.ManagedAppleAccount }},
	{"enrollment_type", func(d exported) any { return string(d.Type) }},
	{"enrollment_mode", func(d exported) any { return d.EnrollmentMode }},
	{"ownership", func(d exported) any { return string(d.Ownership) }},
	{"state", func(d exported) any { return string(d.State) }},
	{"supervised", func(d exported) any { return d.Supervised }},
	{"enrolled_at", func(d exported) any { return d.EnrolledAt }},
	{"last_seen_at", func(d exported) any { return d.LastSeenAt }},
	{"pending_commands", func(d exported) any { return d.PendingCommands }},
	{"lost_reported_at", func(d exported) any { return d.lost.At }},
	{"lost_note", func(d exported) any { return d.lost.Note }},
	{"udid", func(d exported) any { return d.UDID }},
	{"enrollment_id", func(d exported) any { return d.EnrollmentID }},
	{"parent_id", func(d exported) any { return string(d.ParentID) }},
	{"imei", func(d exported) any { return d.IMEI }},
	{"meid", func(d exported) any { return d.MEID }},
	{"demo", func(d exported) any { return d.Demo }},
}

// columnsOf reads ?columns=, and says whether attributes are among them.
func columnsOf(query url.Values) (columns []column, attributes bool, err error) {
	if len(query["columns"]) > 1 {
		return nil, false, invalid("columns", "is there more than once")
	}
	if !query.Has("columns") {
		return exportColumns, false, nil
	}
	known := make(map[string]bool, len(exportColumns))
	for _, c := range exportColumns {
		known[c.name] = true
	}
	seen := make(map[string]bool)
	for name := range strings.SplitSeq(query.Get("columns"), ",") {
		name = strings.TrimSpace(name)
		path, ofAttribute := strings.CutPrefix(name, attributeColumn)
		i := slices.IndexFunc(exportColumns, func(c column) bool { return c.name == name })
		switch {
		case seen[name]:
			return nil, false, invalid("columns", fmt.Sprintf("names %q twice", clip(name)))
		case len(seen) == maxColumns:
			return nil, false, invalid("columns", fmt.Sprintf("names more than %d columns", maxColumns))
		case ofAttribute && path != "" && len(path) <= maxID:
			attributes = true
			columns = append(columns, column{name, func(d exported) any { return attributeAt(d.Attributes, path) }})
		case i < 0:
			return nil, false, invalid("columns", fmt.Sprintf("names %q, which is no column", clip(name))+meant(name, known))
		default:
			columns = append(columns, exportColumns[i])
		}
		seen[name] = true
	}
	return columns, attributes, nil
}

// attributeAt follows dots into dictionaries.
func attributeAt(attributes map[string]any, path string) any {
	name, inside, deeper := strings.Cut(path, ".")
	v := attributes[name]
	if !deeper {
		return v
	}
	d, _ := v.(map[string]any)
	return attributeAt(d, inside)
}

// exportDevices writes all devices that are asked for as a table. Which ones, and their order,
// are settled before the first line; what is known of each is read part by part, so that a
// list of any length takes no more memory than its ids.
func (a *API) exportDevices(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	columns, attributes, err := columnsOf(query)
	if err != nil {
		return err
	}
	bom, err := textOf(query, "bom")
	if err != nil {
		return err
	}
	if bom != "" && bom != "true" && bom != "false" {
		return invalid("bom", "must be true or false")
	}
	q, err := a.deviceQueryOf(r, "columns", "bom")
	if err != nil {
		return err
	}
	ids, err := a.mdm.Select(r.Context(), q)
	if err != nil {
		return ofQuery(err)
	}

	w.Header().Set("Content-Type", "text/csv; charset=utf-8; header=present")
	w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="devices-%s.csv"`, a.now().UTC().Format(time.DateOnly)))
	w.WriteHeader(http.StatusOK)
	if bom == "true" {
		if _, err := w.Write([]byte("\ufeff")); err != nil {
			return nil // the client is gone
		}
	}
	table := csv.NewWriter(w)
	table.UseCRLF = true // RFC 4180, 2.1
	line := make([]string, len(columns))
	for i, c := range columns {
		line[i] = cell(c.name)
	}
	if table.Write(line) != nil {
		return nil
	}
	for part := range slices.Chunk(ids, exportPart) {
		devices, err := a.mdm.Overviews(r.Context(), part, attributes)
		if err != nil {
			return fmt.Errorf("export devices: %w", err) // the answer is cut off, so that nobody takes it for all
		}
		lost, err := a.lostOf(r, devices)
		if err != nil {
			return fmt.Errorf("export devices: %w", err)
		}
		for _, o := range devices {
			d := exported{impersonal(o), lost[o.ID]}
			for i, c := range columns {
				line[i] = cell(c.value(d))
			}
			if table.Write(line) != nil {
				return nil
			}
		}
		if table.Flush(); table.Error() != nil {
			return nil
		}
	}
	table.Flush()
	return nil
}

// impersonal is o without what Apple keeps from the server of a User Enrollment. None of it
// should be there; in a file that goes from hand to hand it must not be.
func impersonal(o mdm.Overview) mdm.Overview {
	if o.Type != mdm.TypeUser && o.EnrollmentID == "" {
		return o
	}
	o.SerialNumber, o.UDID, o.IMEI, o.MEID = "", "", "", ""
	told := o.Attributes
	if o.Attributes = nil; len(told) == 0 {
		return o
	}
	answer, err := json.Marshal(map[string]any{"QueryResponses": told})
	if err != nil {
		return o
	}
	kept, err := command.WithoutPersonal("DeviceInformation", command.PlatformOf(o.ProductName), answer)
	if err != nil {
		return o
	}
	var may struct{ QueryResponses map[string]any }
	if json.Unmarshal(kept, &may) == nil {
		o.Attributes = may.QueryResponses
	}
	return o
}

// cell is v as text. What a spreadsheet would take for the beginning of a formula has an
// apostrophe before it, which spreadsheets take for "this is text": names of devices are
// chosen by those who hold them (OWASP, CSV injection).
func cell(v any) string {
	text := ""
	switch v := v.(type) {
	case nil:
	case string:
		text = v
	case bool:
		text = strconv.FormatBool(v)
	case *bool:
		if v != nil {
			text = strconv.FormatBool(*v)
		}
	case int:
		text = strconv.Itoa(v)
	case time.Time:
		if !v.IsZero() {
			text = v.UTC().Format(time.RFC3339)
		}
	default: // of an attribute
		if b, err := json.Marshal(v); err == nil {
			text = string(b)
		}
	}
	if text != "" && strings.ContainsAny(firstRune(text), "=+-@\t\r\n＝＋－＠") {
		return "'" + text
	}
	return text
}

func firstRune(text string) string {
	for i := range text {
		if i > 0 {
			return text[:i]
		}
	}
	return text
}
