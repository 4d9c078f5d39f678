package apiv1

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// The bounds of what an answer says of one command. Without ?limit=, wholeCommand devices
// fit, so that only a command to more of them takes more than one request.
const (
	wholeCommand = 5000
	maxResults   = 16 << 20 // bytes of what devices answered
	entriesChunk = 500
)

// commandSummary is a command without what each device says of it.
type commandSummary struct {
	CommandUUID string     `json:"command_uuid"`
	RequestType string     `json:"request_type"`
	CreatedAt   time.Time  `json:"created_at"`
	CreatedBy   string     `json:"created_by"`
	BatchID     string     `json:"batch_id"`
	RetryOf     string     `json:"retry_of"`
	Priority    string     `json:"priority"`
	ExpiresAt   *time.Time `json:"expires_at"`
	DeviceID    string     `json:"device_id"`   // the only one; empty: there are several
	DeviceName  string     `json:"device_name"` // its name
	Progress    *tallyJSON `json:"progress"`    // null: not counted
}

// tallyJSON counts devices by how far they are.
type tallyJSON struct {
	Queued       int `json:"queued"`
	Delivered    int `json:"delivered"`
	NotNow       int `json:"not_now"`
	Acknowledged int `json:"acknowledged"`
	Error        int `json:"error"`
	Cancelled    int `json:"cancelled"`
	Expired      int `json:"expired"`
	Total        int `json:"total"`
}

func tally(t mdm.Tally) *tallyJSON {
	return &tallyJSON{t.Queued, t.Delivered, t.NotNow, t.Acknowledged, t.Failed, t.Cancelled, t.Expired, t.Total()}
}

func summaryOf(c mdm.CommandStatus) commandSummary {
	out := commandSummary{
		CommandUUID: c.UUID, RequestType: c.RequestType, CreatedAt: c.CreatedAt.UTC(), CreatedBy: c.CreatedBy,
		BatchID: c.Batch, RetryOf: c.RetryOf, Priority: priorityJSON(c.Priority), ExpiresAt: timestamp(c.ExpiresAt),
	}
	if c.Counted {
		out.Progress = tally(c.Tally)
	}
	return out
}

// summariesOf is summaryOf for many, with the names of their devices.
func (a *API) summariesOf(r *http.Request, all []mdm.CommandStatus) ([]commandSummary, error) {
	var ids []mdm.DeviceID
	for _, c := range all {
		if len(c.Targets) == 1 {
			ids = append(ids, c.Targets[0])
		}
	}
	slices.Sort(ids)
	names, err := a.deviceNames(r, slices.Compact(ids))
	if err != nil {
		return nil, err
	}
	out := make([]commandSummary, len(all))
	for i, c := range all {
		out[i] = summaryOf(c)
		if len(c.Targets) == 1 {
			out[i].DeviceID, out[i].DeviceName = string(c.Targets[0]), names[c.Targets[0]]
		}
	}
	return out, nil
}

func priorityJSON(p mdm.Priority) string {
	if p == mdm.Normal {
		return "normal"
	}
	return string(p)
}

// commandJSON is a command with what its devices say of it, or a page of them.
type commandJSON struct {
	commandSummary
	Params     map[string]any  `json:"params"` // without secrets
	Devices    []commandResult `json:"devices"`
	NextCursor string          `json:"next_cursor"`
}

// commandResult is how far a command is with one device.
type commandResult struct {
	DeviceID   string `json:"device_id"`
	DeviceName string `json:"device_name"`
	progress
}

// deviceCommand is one command in the list of a device.
type deviceCommand struct {
	CommandUUID string    `json:"command_uuid"`
	RequestType string    `json:"request_type"`
	CreatedAt   time.Time `json:"created_at"`
	progress
}

type progress struct {
	State        string           `json:"state"`
	Priority     string           `json:"priority"`
	DeliveredAt  *time.Time       `json:"delivered_at"`
	FinishedAt   *time.Time       `json:"finished_at"`
	ExpiresAt    *time.Time       `json:"expires_at"`
	PushedAt     *time.Time       `json:"pushed_at"` // null: not yet, or of a finished command none is known
	NotNowCount  int              `json:"not_now_count"`
	WaitingFor   *waitsForJSON    `json:"waiting_for"`   // null once it is finished
	SupersededBy string           `json:"superseded_by"` // UUID of the command that took its place
	Error        string           `json:"error"`         // what ErrorChain says, in a sentence
	ErrorChain   []chainedError   `json:"error_chain"`
	Summary      string           `json:"summary"` // what Result says, in a line
	Result       *json.RawMessage `json:"result"`  // null until the device has answered
}

// waitsForJSON says why a device has not finished a command.
type waitsForJSON struct {
	Code   string `json:"code"`
	Reason string `json:"reason"`
}

// chainedError has its keys as Apple spells them.
type chainedError struct {
	ErrorCode            int64  `json:"ErrorCode"`
	ErrorDomain          string `json:"ErrorDomain"`
	LocalizedDescription string `json:"LocalizedDescription"`
	USEnglishDescription string `json:"USEnglishDescription"`
}

func progressOf(e mdm.Entry, w mdm.Waiting) progress {
	p := progress{
		State: string(e.State), Priority: priorityJSON(e.Priority), DeliveredAt: timestamp(e.DeliveredAt), FinishedAt: timestamp(e.FinishedAt),
		ExpiresAt: timestamp(e.ExpiresAt), PushedAt: timestamp(w.PushedAt), NotNowCount: e.NotNowCount, SupersededBy: e.SupersededBy, ErrorChain: make([]chainedError, len(e.ErrorChain)),
	}
	if e.State.Final() {
		p.PushedAt = timestamp(e.PushedAt)
	}
	for i, link := range e.ErrorChain {
		p.ErrorChain[i] = chainedError(link)
	}
	switch e.State {
	case mdm.Failed:
		p.Error = command.Sentence(e.RequestType, e.ErrorChain)
	case mdm.Acknowledged:
		p.Summary = command.Summary(e.RequestType, e.Result)
	}
	if w.Code != "" {
		p.WaitingFor = &waitsForJSON{w.Code, w.Reason}
	}
	if len(e.Result) > 0 {
		p.Result = &e.Result
	}
	return p
}

// progressOfAll is progressOf for many.
func (a *API) progressOfAll(ctx context.Context, entries []mdm.Entry) ([]progress, error) {
	waits, err := a.mdm.Waits(ctx, entries)
	if err != nil {
		return nil, err
	}
	all := make([]progress, len(entries))
	for i, e := range entries {
		all[i] = progressOf(e, waits[i])
	}
	return all, nil
}

func (a *API) listCommands(w http.ResponseWriter, r *http.Request) error {
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	query := r.URL.Query()
	if err := onlyParameters(query, "limit", "cursor", "request_type", "created_by", "batch_id", "open", "failed", "background", "since"); err != nil {
		return err
	}
	open, err := flag(query, "open")
	if err != nil {
		return err
	}
	background, err := flag(query, "background")
	if err != nil {
		return err
	}
	failed, err := flag(query, "failed")
	if err != nil {
		return err
	}
	var since time.Time
	if text := query.Get("since"); text != "" {
		if since, err = time.Parse(time.RFC3339, text); err != nil {
			return invalid("since", "must be a time like 2006-01-02T15:04:05Z (RFC 3339)")
		}
	}
	page, next, err := a.mdm.Commands(r.Context(), mdm.CommandFilter{
		RequestType: query.Get("request_type"), CreatedBy: query.Get("created_by"), Batch: query.Get("batch_id"),
		Open: open, Failed: failed, Background: background, Since: since, Scope: limitOf(principal(r)),
	}, cursor, limit)
	if err != nil {
		return err
	}
	summaries, err := a.summariesOf(r, page)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(summaries, next, func(c commandSummary) commandSummary { return c }))
}

func (a *API) getCommand(w http.ResponseWriter, r *http.Request) error {
	uuid, err := pathID(r, "uuid")
	if err != nil {
		return err
	}
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	if !r.URL.Query().Has("limit") {
		limit = wholeCommand
	}
	states, err := statesOf(r)
	if err != nil {
		return err
	}
	within := a.mdm.In(limitOf(principal(r)))
	cmd, err := within.CommandStatus(r.Context(), uuid)
	if err != nil {
		return err
	}
	entries, next, err := gather(cursor, limit, maxResults, func(cursor string, limit int) ([]mdm.Entry, string, error) {
		return within.CommandEntries(r.Context(), uuid, states, cursor, limit)
	})
	if err != nil {
		return err
	}
	all, err := a.progressOfAll(r.Context(), entries)
	if err != nil {
		return err
	}
	summaries, err := a.summariesOf(r, []mdm.CommandStatus{cmd})
	if err != nil {
		return err
	}
	out := commandJSON{commandSummary: summaries[0], Devices: make([]commandResult, len(entries)), NextCursor: next}
	if out.Params, err = a.mdm.Params(r.Context(), uuid); err != nil {
		return err
	}
	names, err := a.deviceNames(r, deviceIDsOf(entries))
	if err != nil {
		return err
	}
	for i, e := range entries {
		out.Devices[i] = commandResult{string(e.DeviceID), names[e.DeviceID], all[i]}
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}

func deviceIDsOf(entries []mdm.Entry) []mdm.DeviceID {
	ids := make([]mdm.DeviceID, len(entries))
	for i, e := range entries {
		ids[i] = e.DeviceID
	}
	return ids
}

// gather reads entries page by page, up to limit, and fewer where what the devices answered
// is longer than maxResults bytes in all.
func gather(cursor string, limit, maxResults int, read func(cursor string, limit int) ([]mdm.Entry, string, error)) (all []mdm.Entry, next string, err error) {
	size := 0
	for next = cursor; ; {
		var page []mdm.Entry
		page, next, err = read(next, min(entriesChunk, limit-len(all)))
		if err != nil {
			return nil, "", err
		}
		for i := range page {
			if size += len(page[i].Result); size > maxResults && len(all) > 0 {
				return all, string(all[len(all)-1].DeviceID), nil
			}
			all = append(all, page[i])
		}
		if next == "" || len(all) == limit {
			return all, next, nil
		}
	}
}

// commandStates are the states that may be asked for.
var commandStates = []mdm.CommandState{mdm.Queued, mdm.Delivered, mdm.NotNow, mdm.Acknowledged, mdm.Failed, mdm.Cancelled, mdm.Expired}

// statesOf reads ?state=, one or several with commas in between; none: all.
func statesOf(r *http.Request) (states []mdm.CommandState, err error) {
	for _, list := range r.URL.Query()["state"] {
		for name := range strings.SplitSeq(list, ",") {
			if !slices.Contains(commandStates, mdm.CommandState(name)) {
				return nil, invalid("state", "must be one or more of queued, delivered, not_now, acknowledged, error, cancelled and expired, with commas in between")
			}
			states = append(states, mdm.CommandState(name))
		}
	}
	return states, nil
}

func (a *API) listDeviceCommands(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	entries, next, err := a.mdm.DeviceCommands(r.Context(), mdm.DeviceID(id), cursor, limit)
	if err != nil {
		return err
	}
	all, err := a.progressOfAll(r.Context(), entries)
	if err != nil {
		return err
	}
	out := page[deviceCommand]{Items: make([]deviceCommand, len(entries)), NextCursor: next}
	for i, e := range entries {
		out.Items[i] = deviceCommand{e.UUID, e.RequestType, e.CreatedAt.UTC(), all[i]}
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}

// answerFact is one thing that a device said.
type answerFact struct {
	Path  string          `json:"path"` // where it stands in the result
	Label string          `json:"label"`
	Value string          `json:"value"` // in words
	Raw   json.RawMessage `json:"raw"`   // null where it is long
	Table *answerTable    `json:"table"` // of a list of dictionaries
}

type answerTable struct {
	Columns     []answerColumn `json:"columns"`
	Rows        []answerRow    `json:"rows"`
	More        int            `json:"more"`         // rows that were left out
	MoreColumns int            `json:"more_columns"` // columns that were left out
}

type answerColumn struct {
	Key   string `json:"key"`
	Label string `json:"label"`
}

type answerRow struct {
	Path  string   `json:"path"`
	Cells []string `json:"cells"` // in words; empty where the row has none
}

func answerFacts(e mdm.Entry) ([]answerFact, error) {
	facts, err := command.Facts(e.RequestType, e.Result)
	if err != nil {
		return nil, err
	}
	out := make([]answerFact, len(facts))
	for i, f := range facts {
		out[i] = answerFact{Path: f.Path, Label: f.Label, Value: f.Value, Raw: f.Raw}
		if f.Table == nil {
			continue
		}
		t := &answerTable{Columns: make([]answerColumn, len(f.Table.Columns)), Rows: make([]answerRow, len(f.Table.Rows)), More: f.Table.More, MoreColumns: f.Table.MoreColumns}
		for j, c := range f.Table.Columns {
			t.Columns[j] = answerColumn(c)
		}
		for j, row := range f.Table.Rows {
			t.Rows[j] = answerRow{Path: row.Path, Cells: make([]string, len(row.Cells))}
			for k, cell := range row.Cells {
				t.Rows[j].Cells[k] = cell.Value
			}
		}
		out[i].Table = t
	}
	return out, nil
}

// getDeviceCommand answers for one command of one device, with all that there is to say.
func (a *API) getDeviceCommand(w http.ResponseWriter, r *http.Request) error {
	id, uuid, err := deviceAndCommand(r)
	if err != nil {
		return err
	}
	cmd, e, err := a.mdm.DeviceCommand(r.Context(), id, uuid)
	if err != nil {
		return err
	}
	all, err := a.progressOfAll(r.Context(), []mdm.Entry{e})
	if err != nil {
		return err
	}
	facts, err := answerFacts(e)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, struct {
		deviceCommand
		DeviceID  string       `json:"device_id"`
		CreatedBy string       `json:"created_by"`
		BatchID   string       `json:"batch_id"`
		RetryOf   string       `json:"retry_of"`
		Facts     []answerFact `json:"facts"`
	}{deviceCommand{e.UUID, e.RequestType, e.CreatedAt.UTC(), all[0]}, string(id), cmd.CreatedBy, cmd.Batch, cmd.RetryOf, facts})
}
