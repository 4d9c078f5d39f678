package main

import (
	"bytes"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
)

// enrolled makes simulated devices that are enrolled, and returns them with their ids.
func (d *deskClient) enrolled(t *testing.T, all ...mdmtest.Options) (devices []*mdmtest.Device, ids []string) {
	t.Helper()
	for _, o := range all {
		o.Transport = d.client.Transport
		device, err := mdmtest.NewDevice(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(device.Close)
		if err := device.Enroll(t.Context(), d.newLink(t)+"/profile"); err != nil {
			t.Fatal(err)
		}
		var found struct{ Items []struct{ ID string } }
		d.call(t, "GET", "/api/v1/devices?q="+url.QueryEscape(device.Options().Serial), nil, &found)
		if len(found.Items) != 1 {
			t.Fatalf("%s is %+v", device.Options().Serial, found)
		}
		devices, ids = append(devices, device), append(ids, found.Items[0].ID)
	}
	return devices, ids
}

// fields are what a browser would send of a page's command form as it is.
func (p deskPage) fields(t *testing.T) url.Values {
	t.Helper()
	forms := p.all("form", "id", "command-form")
	if len(forms) != 1 {
		t.Fatalf("%s has %d command forms:\n%s", p.path, len(forms), p.text())
	}
	values := url.Values{}
	for n := range forms[0].Descendants() {
		if n.Type != html.ElementNode || attributeOf(n, "name") == "" {
			continue
		}
		name, value := attributeOf(n, "name"), attributeOf(n, "value")
		switch n.Data {
		case "input":
			switch attributeOf(n, "type") {
			case "file":
				continue
			case "checkbox", "radio":
				if !slices.ContainsFunc(n.Attr, func(a html.Attribute) bool { return a.Key == "checked" }) {
					continue
				}
			}
			values.Add(name, value)
		case "textarea":
			values.Add(name, strings.TrimPrefix(textOf(n), "\n"))
		case "select":
			values.Add(name, "")
			for o := range n.Descendants() {
				if o.Data == "option" && slices.ContainsFunc(o.Attr, func(a html.Attribute) bool { return a.Key == "selected" }) {
					values.Set(name, attributeOf(o, "value"))
				}
			}
		}
	}
	return values
}

// wrong returns what stands at the fields of a form that was refused, and above it.
func (p deskPage) wrong() (said []string) {
	for _, n := range p.all("") {
		if class := attributeOf(n, "class"); class == "field-error" || class == "alert" && attributeOf(n, "role") == "alert" {
			said = append(said, textOf(n))
		}
	}
	return said
}

func TestTheDeskQueuesCommands(t *testing.T) {
	d := startDesk(t)
	devices, ids := d.enrolled(t,
		mdmtest.Options{Model: mdmtest.IPhone, Serial: "PHONE0001", Name: hostile},
		mdmtest.Options{Model: mdmtest.Mac, Serial: "MAC000001", Name: "Ben’s Mac"},
	)
	phone, mac := ids[0], ids[1]
	d.call(t, "POST", "/api/v1/commands", map[string]any{"request_type": "DeviceInformation", "device_ids": ids}, &struct{}{})
	for _, device := range devices { // so that they say what they are called
		if _, err := device.Poll(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	to := func(id, requestType string) string {
		return "/admin/commands/new?device_id=" + id + "&type=" + requestType
	}
	const form = "/admin/commands/new"

	t.Run("an empty list says what to do", func(t *testing.T) {
		got := d.get(t, "/admin/commands?type=EraseDevice")
		got.says(t, "Nothing matches")
		d.get(t, "/admin/commands/batches").says(t, "No batches yet")
	})
	t.Run("without a device it asks for one", func(t *testing.T) {
		got := d.get(t, form)
		got.says(t, "Which device?", "Ben’s Mac", "Choose the command")
		got.escapes(t)
		d.get(t, form+"?q=MAC000001").says(t, "Ben’s Mac")
		if got := d.ask(t, "GET", form+"?filter=colour%3Dred", nil); got.status != http.StatusUnprocessableEntity {
			t.Errorf("a filter with a slip: %d", got.status)
		}
	})
	t.Run("the catalogue has what the device may get, and why not the rest", func(t *testing.T) {
		got := d.get(t, form+"?device_id="+phone)
		got.escapes(t)
		got.says(t, "Device lock", "Not on this device", "Set firmware password")
		if href := got.link(t, "Device lock"); !strings.Contains(href, "type=DeviceLock") {
			t.Errorf("the lock leads to %s", href)
		}
		for _, a := range got.all("a") {
			if strings.Contains(attributeOf(a, "href"), "SetFirmwarePassword") {
				t.Error("an iPhone can be asked for a firmware password")
			}
		}
		found := d.get(t, form+"?device_id="+phone+"&find=lost+mode")
		found.says(t, "Enable lost mode")
		if strings.Contains(found.text(), "Profile list") {
			t.Errorf("the search for Lost Mode finds all:\n%s", found.text())
		}
		both := d.get(t, form+"?device_ids="+phone+","+mac)
		both.says(t, "For 2 devices", "1 of 2")
	})
	t.Run("each command has a form, which is sent or says what is missing", func(t *testing.T) {
		var types struct {
			Items []struct {
				RequestType string `json:"request_type"`
				Confirm     bool
			}
		}
		d.call(t, "GET", "/api/v1/command-types", nil, &types)
		for _, typ := range types.Items {
			sent := 0
			for _, id := range ids {
				page := d.get(t, to(id, typ.RequestType))
				if strings.Contains(page.text(), "This device can’t get this command.") {
					if len(page.all("input", "name", "type")) > 0 {
						t.Errorf("a form offers %s, which the device can’t get", typ.RequestType)
					}
					page.link(t, "Other command")
					continue
				}
				got := d.ask(t, "POST", form, with(page.fields(t), "do", "queue"))
				switch {
				case got.status == http.StatusSeeOther && typ.Confirm:
					t.Errorf("%s needs no confirmation", typ.RequestType)
				case got.status == http.StatusSeeOther:
					sent++
				case got.status != http.StatusUnprocessableEntity || len(got.wrong()) == 0:
					t.Errorf("POST of %s = %d, and says %q", typ.RequestType, got.status, got.wrong())
				}
			}
			if sent == 0 && typ.RequestType == "ProfileList" {
				t.Error("not even ProfileList can be queued")
			}
		}
		// They are in nobody's way from here on.
		for _, device := range devices {
			if _, err := device.Poll(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("what is wrong stands at its field, and nothing is lost", func(t *testing.T) {
		fields := with(d.get(t, to(mac, "DeviceLock")).fields(t), "params.PIN", "12", "params.Message", "Call us", "do", "queue")
		got := d.ask(t, "POST", form, fields)
		if got.status != http.StatusUnprocessableEntity || len(got.all("", "id", "f-params-PIN-error")) != 1 {
			t.Fatalf("%d, %q", got.status, got.wrong())
		}
		if again := got.fields(t); again.Get("params.Message") != "Call us" || again.Get("params.PIN") != "" {
			t.Errorf("the form holds %v: the message, and not the PIN", again)
		}
		deep := url.Values{"device_id": {phone}, "type": {"Settings"}, "do": {"queue"}, "rows params.Settings": {"2"},
			"params.Settings[0].Item": {"DeviceName"}, "params.Settings[0].DeviceName": {""},
			"params.Settings[1].Item": {"Bluetooth"}, "params.Settings[1].Enabled": {"true"}}
		got = d.ask(t, "POST", form, deep)
		if got.status != http.StatusUnprocessableEntity || len(got.all("", "id", "f-params-Settings-0--DeviceName-error"))+len(got.wrong()) < 2 {
			t.Errorf("a setting without a name: %d %q", got.status, got.wrong())
		}
	})
	t.Run("rows come and go without script", func(t *testing.T) {
		got := d.ask(t, "POST", form, url.Values{"device_id": {phone}, "type": {"Settings"}, "rows params.Settings": {"0"}, "shape params.Settings": {"Bluetooth"}, "do": {"add params.Settings"}})
		if got.status != http.StatusOK || len(got.all("select", "name", "params.Settings[0].Enabled")) != 1 {
			t.Fatalf("no row came: %d\n%s", got.status, got.text())
		}
		fields := with(got.fields(t), "params.Settings[0].Enabled", "true", "do", "remove params.Settings[0]")
		if got = d.ask(t, "POST", form, fields); got.fields(t).Has("params.Settings[0].Enabled") {
			t.Error("the row stays")
		}
	})
	t.Run("a script gets the same, without secrets", func(t *testing.T) {
		fields := with(d.get(t, to(mac, "DeviceLock")).fields(t), "params.PIN", "918273", "params.Message", "It’s ours", "do", "show")
		got := d.ask(t, "POST", form, fields)
		got.says(t, `"Message": "It’s ours"`, "$GATEHOUSE_TOKEN", "<PIN>", "gatehouse command send DeviceLock", "--device '"+mac+"'")
		if strings.Contains(got.body, "918273") {
			t.Error("the PIN is on the page")
		}
	})
	t.Run("some of several are refused before it leaves the form", func(t *testing.T) {
		page := d.get(t, "/admin/commands/new?device_ids="+phone+","+mac+"&type=RestartDevice")
		fields := with(page.fields(t), "do", "queue", "params.NotifyUser", "true")
		got := d.ask(t, "POST", form, fields)
		got.escapes(t)
		if got.status != http.StatusUnprocessableEntity || len(got.all("", "id", "rejected")) != 1 {
			t.Fatalf("%d\n%s", got.status, got.text())
		}
		done := d.post(t, form, with(got.fields(t), "do", "queue"))
		done.says(t, "Restart device", "Ben’s Mac")
	})
	t.Run("a form that is sent twice queues one command", func(t *testing.T) {
		fields := with(d.get(t, to(mac, "RestartDevice")).fields(t), "do", "queue")
		if first, again := d.post(t, form, fields), d.post(t, form, fields); first.path != again.path {
			t.Errorf("queued as %s, then as %s", first.path, again.path)
		}
		if next := d.post(t, form, with(d.get(t, to(mac, "RestartDevice")).fields(t), "do", "queue")); next.path == d.post(t, form, fields).path {
			t.Error("the next form queues nothing of its own")
		}
		refused := d.ask(t, "POST", form, with(fields, "params.NotifyUser", "true"))
		if refused.status != http.StatusUnprocessableEntity {
			t.Fatalf("a form that was changed after it was sent = %d", refused.status)
		}
		d.post(t, form, with(refused.fields(t), "do", "queue"))
	})
	t.Run("what loses data is typed", func(t *testing.T) {
		fields := with(d.get(t, to(phone, "EraseDevice")).fields(t), "do", "queue", "params.PreserveDataPlan", "true")
		if got := d.ask(t, "POST", form, with(fields, "typed", "something")); got.status != http.StatusUnprocessableEntity || len(got.all("", "id", "typed-error")) != 1 {
			t.Fatalf("%d %q", got.status, got.wrong())
		}
		page := d.post(t, form, with(fields, "typed", hostile))
		page.says(t, "Queued", "by "+ownerEmail, "PreserveDataPlan")
		page.escapes(t)
		if _, err := devices[0].Poll(t.Context()); err != nil {
			t.Logf("after it was erased: %v", err) // it has no identity any more
		}
		page = d.get(t, page.path)
		page.says(t, "Delivered", "Acknowledged")
	})
	t.Run("what loses data is typed again before it is tried again, and the server knows what", func(t *testing.T) {
		page := d.post(t, form, with(d.get(t, to(mac, "EraseDevice")).fields(t), "do", "queue", "params.PIN", "482913", "typed", "ben's mac"))
		here, _, _ := strings.Cut(page.path, "?")
		d.post(t, here+"/cancel", nil)
		asked := d.ask(t, "POST", here+"/retry", url.Values{})
		asked.says(t, "queue it again?", "Ben’s Mac")
		if got := d.ask(t, "POST", here+"/retry", url.Values{"word": {"yes"}, "typed": {"yes"}}); got.status != http.StatusUnprocessableEntity || len(got.all("", "id", "typed-error")) != 1 {
			t.Errorf("a word of one’s own: %d\n%s", got.status, got.text())
		}
		again := d.post(t, here+"/retry", url.Values{"typed": {"Bens Mac"}})
		again.says(t, "Queued again.")
		there, _, _ := strings.Cut(again.path, "?")
		d.post(t, there+"/cancel", nil)
	})
	t.Run("its way is told, and it can be cancelled and tried again", func(t *testing.T) {
		page := d.post(t, form, with(d.get(t, to(mac, "SecurityInfo")).fields(t), "do", "queue"))
		here, _, _ := strings.Cut(page.path, "?")
		page.says(t, "Queued", "Ben’s Mac", "The device has not answered yet", "Cancel command")
		d.post(t, here+"/cancel", nil).says(t, "Cancelled.", "Queue it again")
		again := d.post(t, here+"/retry", nil)
		again.says(t, "Queued again.", "Another try of")
		if _, err := devices[1].Poll(t.Context()); err != nil {
			t.Fatal(err)
		}
		there, _, _ := strings.Cut(again.path, "?")
		answered := d.get(t, there)
		answered.says(t, "Acknowledged", "Answer", "Raw answer")
		d.get(t, there+"/devices/"+mac).says(t, "Security info on Ben’s Mac", "Acknowledged")
		d.get(t, "/admin/commands").says(t, "Security info", "acknowledged", "2 of 2")
		d.get(t, "/admin/commands?who=me&state=failed&since=1h&type=SecurityInfo")
	})
	t.Run("who goes back and changes the form is asked, and then believed", func(t *testing.T) {
		fields := with(d.get(t, to(mac, "DeviceLock")).fields(t), "do", "queue", "params.PIN", "482913", "typed", "Ben’s Mac")
		d.post(t, form, fields)
		got := d.ask(t, "POST", form, with(fields, "params.PIN", "482914"))
		if got.status != http.StatusUnprocessableEntity {
			t.Fatalf("= %d", got.status)
		}
		got.says(t, "This form was sent before, with something else in it")
		d.post(t, form, with(got.fields(t), "do", "queue", "params.PIN", "482914", "typed", "Ben’s Mac"))
		if _, err := devices[1].Poll(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a raw command says at which line it is wrong", func(t *testing.T) {
		raw := "/admin/commands/raw"
		page := d.get(t, raw+"?device_id="+mac)
		plist := textOf(page.all("textarea", "name", "plist")[0])
		got := d.ask(t, "POST", raw, url.Values{"device_id": {mac}, "plist": {"<plist>\n<dict>\n</plist>"}})
		got.says(t, "line 3")
		got = d.ask(t, "POST", raw, url.Values{"device_id": {mac}, "plist": {"<plist><dict></dict></plist>"}})
		got.says(t, "RequestType is missing")
		erase := strings.Replace(plist, "ProfileList", "EraseDevice", 1)
		got = d.ask(t, "POST", raw, url.Values{"device_id": {mac}, "plist": {erase}})
		got.says(t, "To go on, type the device’s name")
		queued := d.post(t, raw, url.Values{"device_id": {mac}, "plist": {plist}})
		queued.says(t, "Profile list", "Queued")
		if again := d.post(t, raw, url.Values{"device_id": {mac}, "plist": {plist}}); again.path != queued.path {
			t.Errorf("sent twice, it is two commands: %s and %s", queued.path, again.path)
		}
	})
	t.Run("a raw command is for a group, or for all that match", func(t *testing.T) {
		raw := "/admin/commands/raw?" + url.Values{"filter": {"state=enrolled"}}.Encode()
		page := d.get(t, raw)
		page.says(t, "all that match")
		fields := url.Values{"plist": {textOf(page.all("textarea", "name", "plist")[0])}}
		fields.Set("filter", attributeOf(page.all("input", "name", "filter")[0], "value"))
		d.post(t, "/admin/commands/raw", fields).says(t, "Profile list", "Queued")
	})
	t.Run("a file is taken, and is there again", func(t *testing.T) {
		var body bytes.Buffer
		w := multipart.NewWriter(&body)
		for name, value := range map[string]string{"device_id": mac, "type": "InstallProfile", "do": "show"} {
			if err := w.WriteField(name, value); err != nil {
				t.Fatal(err)
			}
		}
		file, err := w.CreateFormFile("params.Payload", hostile+".mobileconfig")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.Write([]byte("<plist/>")); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), "POST", d.url+form, &body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", w.FormDataContentType())
		req.Header.Set("Sec-Fetch-Site", "same-origin")
		resp, err := d.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		root, err := html.Parse(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		page := deskPage{form, resp.StatusCode, resp.Header, "", root}
		if got := page.fields(t).Get("params.Payload"); resp.StatusCode != http.StatusOK || got != "PHBsaXN0Lz4=" {
			t.Errorf("%d, and the form holds %q", resp.StatusCode, got)
		}
		page.says(t, `"Payload": "PHBsaXN0Lz4="`)
	})
	t.Run("a helpdesk may ask, and a reader may look", func(t *testing.T) {
		helpdesk, reader := d.as(t, "helpdesk"), d.as(t, "read_only")
		page := helpdesk.get(t, form+"?device_id="+mac)
		page.says(t, "Only administrators may queue it.")
		if got := helpdesk.ask(t, "POST", form, url.Values{"device_id": {mac}, "type": {"EraseDevice"}, "do": {"queue"}, "typed": {"Ben’s Mac"}}); got.status != http.StatusForbidden {
			t.Errorf("a helpdesk erases: %d", got.status)
		}
		if got := helpdesk.ask(t, "GET", "/admin/commands/raw?device_id="+mac, nil); got.status != http.StatusForbidden {
			t.Errorf("a helpdesk writes raw commands: %d", got.status)
		}
		list := reader.get(t, "/admin/commands")
		if strings.Contains(list.text(), "Queue a command") {
			t.Error("a reader has the button")
		}
		if got := reader.ask(t, "GET", form+"?device_id="+mac, nil); got.status != http.StatusForbidden {
			t.Errorf("a reader has the form: %d", got.status)
		}
		if got := reader.get(t, list.link(t, "Security info")); len(got.all("button")) > 6 {
			t.Logf("buttons: %d", len(got.all("button")))
		}
	})
}

// with are values in which some are others: names and values.
func with(values url.Values, pairs ...string) url.Values {
	out := url.Values{}
	for name, v := range values {
		out[name] = slices.Clone(v)
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		out.Set(pairs[i], pairs[i+1])
	}
	return out
}
