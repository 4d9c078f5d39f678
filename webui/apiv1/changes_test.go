package apiv1_test

import (
	"slices"
	"strings"
	"testing"
)

// What somebody changes is told field by field, and no secret with it.
func TestTheAuditLogTellsChanges(t *testing.T) {
	h := newHouse(t)
	const sentinel = "sentinel-5f2c-of-a-secret"
	do := func(method, path string, body any) (id string) {
		t.Helper()
		x := h.do(t, exchange{method: method, path: path, body: body})
		if x.status >= 300 {
			t.Fatalf("%s %s = %d %s", method, path, x.status, x.answer)
		}
		if x.status == 204 {
			return ""
		}
		var made struct{ ID string }
		x.want(t, x.status, &made)
		return made.ID
	}
	type object = map[string]any

	do("PATCH", "/api/v1/settings", object{
		"organisation": object{"name": "Example & Co."}, "portal": false, "push": object{"repeats": 3}, "inventory": object{"every": "48h"},
		"mail": object{"host": "mail.example.com", "from": "it@example.com", "encryption": "tls", "username": "it", "password": sentinel},
	})
	user := do("POST", "/api/v1/users", object{"email": "bea@example.com", "password": sentinel})
	do("PATCH", "/api/v1/users/"+user, object{"role": "helpdesk", "full_name": "Bea", "password": sentinel + "2"})
	token := do("POST", "/api/v1/tokens", object{"name": "ci", "scopes": []string{"read_only"}, "expires_at": "2026-12-31T12:00:00Z"})
	do("DELETE", "/api/v1/tokens/"+token, nil)
	link := do("POST", "/api/v1/enrollment-links", object{"name": "old", "login": "none"})
	do("PATCH", "/api/v1/enrollment-links/"+link, object{"name": "new"})
	do("DELETE", "/api/v1/enrollment-links/"+link, nil)
	hook := do("POST", "/api/v1/webhooks", object{"name": "hook", "url": "http://127.0.0.1:9/x?key=" + sentinel, "allow_private": true, "secret": sentinel, "format": "cloudevents"})
	do("PATCH", "/api/v1/webhooks/"+hook, object{"name": "other", "headers": object{"X-Key": sentinel}})
	do("DELETE", "/api/v1/webhooks/"+hook, nil)
	do("PATCH", "/api/v1/users/"+user, object{"disabled": true})
	group := do("POST", "/api/v1/groups", object{"name": "Kiosks", "description": "In the hall"})
	do("PATCH", "/api/v1/groups/"+group, object{"description": "In the shop"})
	h.device(t, "d1", nil)
	do("PUT", "/api/v1/groups/"+group+"/devices", object{"device_ids": []string{"d1"}})
	do("DELETE", "/api/v1/groups/"+group, nil)
	do("PATCH", "/api/v1/devices/d1", object{"note": "dented"})
	do("POST", "/api/v1/devices/d1/block", object{})
	do("DELETE", "/api/v1/devices/d1/block", nil)
	do("PUT", "/api/v1/account-driven", object{"domains": []object{{"domain": "example.com", "policy": object{"iPhone": "byod"}}}, "method": "apple-as-web"})
	do("PATCH", "/api/v1/portal-texts/en", object{"texts": object{"portal.complete.message": "Hello"}})
	wifi := func(network string) string {
		return mobileconfig("com.example.wifi", `<key>PayloadType</key><string>com.apple.wifi.managed</string><key>SSID_STR</key><string>`+network+`</string><key>EncryptionType</key><string>WPA2</string><key>Password</key><string>`+sentinel+`</string>`)
	}
	h.upload(t, wifi("Office"))
	do("DELETE", "/api/v1/profiles/"+h.upload(t, wifi("Other")).ID, nil)

	var log struct{ Items []changedEvent }
	all := h.do(t, exchange{method: "GET", path: "/api/v1/audit?limit=100"})
	all.want(t, 200, &log)
	exported := h.do(t, exchange{method: "GET", path: "/api/v1/audit/export"})
	for _, text := range []string{string(all.answer), string(exported.answer)} {
		if strings.Contains(text, sentinel) {
			at := strings.Index(text, sentinel)
			t.Errorf("the audit log tells a secret: …%s…", text[max(0, at-200):at+len(sentinel)])
		}
	}
	for _, want := range []string{
		"settings.changed organisation.name:  -> Example & Co.", "settings.changed portal: true -> false", "settings.changed mail.password:  -> set",
		"settings.changed mail.host:  -> mail.example.com", "settings.changed inventory.every: 24h0m0s -> 48h0m0s",
		"user.created password:  -> set", "user.updated role: user -> helpdesk", "user.updated full_name:  -> Bea", "user.updated password:  -> changed",
		"token.created scopes:  -> read_only", "token.created expires_at:  -> 2026-12-31T12:00:00Z", "token.revoked name: ci -> ",
		"link.created name:  -> old", "link.changed name: old -> new", "link.revoked revoked: false -> true", "webhook.created secret:  -> set", "webhook.created url:  -> set", "webhook.changed name: hook -> other", "webhook.changed headers:  -> set", "webhook.deleted name: other -> ", "webhook.deleted secret:  -> removed",
		"user.disabled disabled: false -> true", "group.created description:  -> In the hall", "group.changed description: In the hall -> In the shop", "group.changed devices: 0 -> 1",
		"group.deleted name: Kiosks -> ", "device.noted note:  -> dented", "device.blocked state: enrolled -> blocked", "device.unblocked state: blocked -> unenrolled",
		"account_driven.changed domains.example.com.policy.iPhone:  -> byod", "profile.saved identifier:  -> com.example.wifi", "profile.saved latest_version: 1 -> 2", "profile.deleted identifier: com.example.wifi -> ", "profile.saved payload_types:  -> com.apple.wifi.managed",
		"portal_texts.changed portal.complete.message:  -> Hello",
	} {
		if !slices.ContainsFunc(log.Items, func(e changedEvent) bool { return slices.Contains(e.told(), want) }) {
			t.Errorf("the audit log does not tell %q", want)
		}
	}
	if t.Failed() {
		for _, e := range log.Items {
			t.Log(strings.Join(e.told(), "\n"))
		}
	}

	for query, want := range map[string]int{
		"q=bea@EXAMPLE.com+helpdesk": 1, "q=bea+nothing": 0, "actor=token:TEST&action=link.": 3, "actor=token:&action=link.": 3, "actor=user:&action=link.": 0,
	} {
		if got := h.audit(t, "", query); len(got) != want {
			t.Errorf("%s finds %d events, want %d", query, len(got), want)
		}
	}
}

type changedEvent struct {
	Action  string
	Changes []struct{ Field, Before, After string }
}

func (e changedEvent) told() (told []string) {
	for _, c := range e.Changes {
		told = append(told, e.Action+" "+c.Field+": "+c.Before+" -> "+c.After)
	}
	return told
}
