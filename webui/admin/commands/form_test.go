package commands

import (
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
)

// keys has one key of each kind.
var keys = []key{
	{Name: "Message", Type: "string"},
	{Name: "PIN", Type: "string", Secret: true},
	{Name: "On", Type: "boolean"},
	{Name: "Many", Type: "integer"},
	{Name: "When", Type: "date"},
	{Name: "Payload", Type: "data"},
	{Name: "Free", Type: "dictionary", Free: true},
	{Name: "Inner", Type: "dictionary", Keys: []key{{Name: "Text", Type: "string"}}},
	{Name: "Names", Type: "array", Items: []key{{Type: "string"}}},
	{Name: "Queries", Type: "array", Items: []key{{Type: "string", Values: []string{"A", "B"}}}},
	{Name: "Accounts", Type: "array", Items: []key{{Type: "dictionary", Keys: []key{{Name: "shortName", Type: "string"}}}}},
	{Name: "Settings", Type: "array", Items: []key{
		{Name: "Bluetooth", Type: "dictionary", Keys: []key{{Name: "Item", Type: "string"}, {Name: "Enabled", Type: "boolean"}}},
		{Name: "DeviceName", Type: "dictionary", Keys: []key{{Name: "Item", Type: "string"}, {Name: "DeviceName", Type: "string"}}},
	}},
}

func formOf(values url.Values) *admin.Form {
	f := admin.NewForm()
	maps.Copy(f.Values, values)
	return f
}

func TestAFormBecomesWhatTheAPITakes(t *testing.T) {
	for name, tt := range map[string]struct {
		values url.Values
		want   string
	}{
		"nothing": {url.Values{"params.Message": {" "}, "params.On": {""}, "rows params.Accounts": {"2"}}, `{}`},
		"scalars": {
			url.Values{"params.Message": {" Hello "}, "params.PIN": {" 12"}, "params.On": {"false"}, "params.Many": {"3"}, "params.When": {"2026-11-22T08:30"}},
			`{"Many":3,"Message":"Hello","On":false,"PIN":" 12","When":"2026-11-22T08:30:00Z"}`,
		},
		"what is none goes as it is, for the API to say why": {url.Values{"params.Many": {"three"}, "params.When": {"soon"}}, `{"Many":"three","When":"soon"}`},
		"a property list that was pasted":                    {url.Values{"params.Payload": {"<plist/>"}}, `{"Payload":"PHBsaXN0Lz4="}`},
		"base64 over lines":                                  {url.Values{"params.Payload": {"PHBs\n aXN0Lz4="}}, `{"Payload":"PHBsaXN0Lz4="}`},
		"dictionaries":                                       {url.Values{"params.Free": {`{"a": 1}`}, "params.Inner.Text": {"x"}}, `{"Free":{"a":1},"Inner":{"Text":"x"}}`},
		"lists":                                              {url.Values{"params.Names": {"a\n\n b \n"}, "params.Queries": {"A", "B"}}, `{"Names":["a","b"],"Queries":["A","B"]}`},
		"rows, but for empty ones": {
			url.Values{"rows params.Accounts": {"3"}, "params.Accounts[0].shortName": {""}, "params.Accounts[2].shortName": {"ana"}},
			`{"Accounts":[{"shortName":"ana"}]}`,
		},
		"rows of several shapes": {
			url.Values{"rows params.Settings": {"2"}, "params.Settings[0].Item": {"DeviceName"}, "params.Settings[0].DeviceName": {"x"}, "params.Settings[1].Item": {"Bluetooth"}},
			`{"Settings":[{"DeviceName":"x","Item":"DeviceName"},{"Item":"Bluetooth"}]}`,
		},
		"a password that is to be none": {url.Values{"empty params.PIN": {"true"}}, `{"PIN":""}`},
	} {
		t.Run(name, func(t *testing.T) {
			form := formOf(tt.values)
			params, _ := read(form, keys)
			got, err := json.Marshal(params)
			if err != nil || string(got) != tt.want || !form.OK() {
				t.Errorf("read = %s, %v, want %s; errors %v", got, err, tt.want, form.Errors)
			}
		})
	}
	for text, want := range map[string]string{"{": "Is not JSON", "[1]": "JSON object"} {
		form := formOf(url.Values{"params.Free": {text}})
		if read(form, keys); !strings.Contains(form.Errors["params.Free"], want) {
			t.Errorf("%q: %q, want %q", text, form.Errors["params.Free"], want)
		}
	}
}

func TestErrorsStandAtTheirFields(t *testing.T) {
	form := formOf(url.Values{
		"params.Names": {"\na\nb"}, "params.Free": {`{"a": null}`}, "rows params.Accounts": {"3"}, "params.Accounts[2].shortName": {"ana"},
	})
	_, r := read(form, keys)
	for path, want := range map[string][2]string{
		"params.Message":               {"params.Message", "Is wrong."},
		"params.Names[1]":              {"params.Names", "Line 2 is wrong."},
		"params.Free.a":                {"params.Free", "a is wrong."},
		"params.Accounts[0].shortName": {"params.Accounts[2].shortName", "Is wrong."}, // the rows before it are empty
		"params.Accounts[0].other":     {"params.Accounts[2]", "other is wrong."},
		"expires_in":                   {"expires_in", "Is wrong."},
	} {
		clear(form.Errors)
		r.refused(&admin.Problem{Errors: []admin.FieldError{{Field: path, Detail: "is wrong"}}})
		if got := form.Errors[want[0]]; got != want[1] {
			t.Errorf("%s: %v, want %q at %s", path, form.Errors, want[1], want[0])
		}
	}
	r.refused(&admin.Problem{Errors: []admin.FieldError{{Field: "params.Other", Detail: "is not a key"}}})
	r.refused(&admin.Problem{Problem: webui.Problem{Title: "It can’t be"}})
	if form.Error != "It can’t be." {
		t.Errorf("above the form: %q", form.Error)
	}
}

func TestRowsComeAndGo(t *testing.T) {
	form := formOf(url.Values{"rows params.Settings": {"2"}, "shape params.Settings": {"Bluetooth"},
		"params.Settings[0].Item": {"DeviceName"}, "params.Settings[0].DeviceName": {"a"}, "params.Settings[1].Item": {"DeviceName"}, "params.Settings[1].DeviceName": {"b"}})
	if !change(form, "add params.Settings") || form.Get("rows params.Settings") != "3" || form.Get("params.Settings[2].Item") != "Bluetooth" {
		t.Errorf("after adding one: %v", form.Values)
	}
	if !change(form, "remove params.Settings[0]") || form.Get("rows params.Settings") != "2" || form.Get("params.Settings[0].DeviceName") != "b" || form.Get("params.Settings[1].Item") != "Bluetooth" {
		t.Errorf("after removing the first: %v", form.Values)
	}
	for _, do := range []string{"queue", "remove params.Settings", "remove params.Settings[x]", "show me"} {
		if change(form, do) {
			t.Errorf("%q changes rows", do)
		}
	}
	for _, do := range []string{"remove params.Settings[9]", "remove params.Settings[99999999999999999999]"} {
		if change(form, do); form.Get("rows params.Settings") != "2" {
			t.Errorf("%q leaves %s rows", do, form.Get("rows params.Settings"))
		}
	}
	form.Values.Set("rows params.Settings", "100000000")
	if n := rowsOf(form, "params.Settings"); n != maxRows {
		t.Errorf("%d rows of what a client made up", n)
	}
}

func TestADrawnFormHoldsWhatWasTyped(t *testing.T) {
	form := formOf(url.Values{
		"params.Message": {"Hello"}, "params.PIN": {"secret"}, "params.On": {"true"}, "params.Queries": {"B"}, "params.Inner.Text": {"x"},
		"rows params.Settings": {"1"}, "params.Settings[0].Item": {"Bluetooth"},
	})
	nodes := draw(form, "params", append(slices.Clone(keys), key{Name: "Not", Type: "string", Refused: "No."}))
	by := make(map[string]node)
	for _, n := range nodes {
		by[n.Name] = n
	}
	if n := by["Message"]; n.Field.Value != "Hello" || n.Field.Type != "textarea" {
		t.Errorf("the message: %+v", n.Field)
	}
	if n := by["PIN"]; n.Field.Value != "" || n.Field.Type != "password" {
		t.Errorf("the PIN: %+v", n.Field)
	}
	if n := by["On"]; !n.Field.Options[1].Selected || n.Field.Options[0].Selected {
		t.Errorf("the switch: %+v", n.Field.Options)
	}
	if n := by["Queries"]; n.Kind != "checks" || n.Field.Options[0].Selected || !n.Field.Options[1].Selected {
		t.Errorf("the queries: %+v", n)
	}
	if n := by["Inner"]; !n.Open || n.Nodes[0].Field.Value != "x" {
		t.Errorf("the group: %+v", n)
	}
	if n := by["Settings"]; len(n.Rows) != 1 || n.Rows[0].Item != "Bluetooth" || len(n.Rows[0].Nodes) != 1 || len(n.Shapes) != 2 {
		t.Errorf("the rows: %+v", n)
	}
	if last := nodes[len(nodes)-1]; last.Kind != "not" || last.Nodes[0].Hint != "No." {
		t.Errorf("what it can’t have: %+v", last)
	}
}

func TestAShellTakesWhatIsCopied(t *testing.T) {
	if got, want := quote(`it's $(rm -rf /) "x"`), `'it'\''s $(rm -rf /) "x"'`; got != want {
		t.Errorf("quote = %s, want %s", got, want)
	}
	server := &url.URL{Scheme: "https", Host: "mdm.example.com"}
	o := order{RequestType: "X", Params: map[string]any{
		"Message": "it's", "PIN": "918273", "Payload": strings.Repeat("A", 2000), "Names": []any{"a", "b"}, "Settings": []any{map[string]any{"Item": "DeviceName", "DeviceName": "<x>"}},
	}, targets: &targets{DeviceIDs: []string{"d1"}}}
	typ := commandType{RequestType: "X", Keys: keys, Confirm: true}
	_, r := read(formOf(nil), keys)
	for _, got := range []string{o.curl(server, r, typ), o.cli(server, r, typ)} {
		if strings.Contains(got, "918273") || strings.Contains(got, "AAAA") || !strings.Contains(got, "<PIN>") || !strings.Contains(got, `it'\''s`) || !strings.Contains(got, "https://mdm.example.com") || !strings.Contains(got, "confirm") {
			t.Errorf("to be copied:\n%s", got)
		}
	}
	if cli := o.cli(server, r, typ); !strings.Contains(cli, "--param 'Names=a'") || !strings.Contains(cli, "--param 'Names=b'") || !strings.Contains(cli, `--param 'Settings=[{`) {
		t.Errorf("for the command line:\n%s", cli)
	}
	o.DeviceIDs, o.Filter = nil, "state=enrolled"
	if cli := o.cli(server, r, typ); cli != "" {
		t.Errorf("the command line knows no filter: %s", cli)
	}
}

func TestTheWayOfACommandInWords(t *testing.T) {
	var queued, later = timeAt(0), timeAt(1)
	for name, tt := range map[string]struct {
		entry entry
		want  []string
	}{
		"waits for the device": {entry{State: "queued", PushedAt: &later, WaitingFor: &waiting{"not_seen", "It has not connected."}}, []string{"Queued", "Pushed", "Waiting It has not connected."}},
		"can’t be pushed":      {entry{State: "queued", WaitingFor: &waiting{"push_failing", "There is no push certificate."}}, []string{"Queued", "Not pushed There is no push certificate."}},
		"was put off":          {entry{State: "not_now", DeliveredAt: &later, NotNowCount: 3, WaitingFor: &waiting{"not_now", "x"}}, []string{"Queued", "Delivered", "Not now The device was locked or busy, tried 3 times. It is asked again when it unlocks."}},
		"is done":              {entry{State: "acknowledged", DeliveredAt: &later, FinishedAt: &later, NotNowCount: 1, Summary: "2 apps"}, []string{"Queued", "Delivered", "Not now", "Acknowledged 2 apps"}},
		"came for a push":      {entry{State: "acknowledged", PushedAt: &later, DeliveredAt: &later, FinishedAt: &later, NotNowCount: 2}, []string{"Queued", "Pushed", "Delivered", "Not now The device was locked or busy, tried 2 times.", "Acknowledged"}},
		"failed":               {entry{State: "error", DeliveredAt: &later, Error: "No rights.", ErrorChain: []chainError{{ErrorCode: 12007, ErrorDomain: "MCMDMErrorDomain"}}}, []string{"Queued", "Delivered", "Failed No rights."}},
		"was cancelled":        {entry{State: "cancelled"}, []string{"Queued", "Cancelled"}},
		"was superseded":       {entry{State: "cancelled", SupersededBy: "U"}, []string{"Queued", "Superseded"}},
		"expired":              {entry{State: "expired"}, []string{"Queued", "Expired"}},
	} {
		t.Run(name, func(t *testing.T) {
			steps := tt.entry.steps(queued, "ana")
			if len(steps) != len(tt.want) {
				t.Fatalf("steps = %+v, want %v", steps, tt.want)
			}
			for i, s := range steps {
				if got := s.What + " " + s.Note; !strings.HasPrefix(got, tt.want[i]) {
					t.Errorf("step %d = %q, want %q", i, got, tt.want[i])
				}
			}
		})
	}
}

func TestWhereAFormLeadsBackTo(t *testing.T) {
	for to, want := range map[string]string{
		"/admin/devices/d1?tab=commands": "/admin/devices/d1?tab=commands",
		"https://evil.example/admin/":    "/otherwise", "//evil.example/admin/": "/otherwise", "/enroll": "/otherwise", `/admin/\evil`: "/otherwise", "": "/otherwise", "javascript:alert(1)": "/otherwise",
	} {
		if got := back(admin.NewForm("back", to), "/otherwise"); got != want {
			t.Errorf("back(%q) = %q, want %q", to, got, want)
		}
	}
}

func timeAt(minutes int) time.Time { return time.Date(2026, 11, 22, 8, minutes, 0, 0, time.UTC) }
