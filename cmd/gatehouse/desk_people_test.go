package main

import (
	"fmt"
	"html"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity/ldap/ldaptest"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity/oidc/oidctest"
)

func TestTheDeskOfPeople(t *testing.T) {
	d := startDesk(t)
	var made struct{ ID, Token string }
	d.call(t, "POST", "/api/v1/groups", map[string]any{"name": hostile}, &made)
	group := made.ID

	t.Run("a user is made, limited, changed, and disabled", func(t *testing.T) {
		d.get(t, "/admin/users").says(t, ownerEmail, "Owner")
		bad := d.ask(t, "POST", "/admin/users/new", url.Values{"email": {"no address"}, "full_name": {"Kept"}, "role": {"user"}})
		if bad.status != http.StatusUnprocessableEntity || len(bad.all("input", "value", "Kept")) != 1 || len(bad.all("", "role", "alert")) == 0 {
			t.Errorf("a wrong address: %d\n%s", bad.status, bad.text())
		}
		page := d.post(t, "/admin/users/new", url.Values{
			"email": {"bea@example.com"}, "full_name": {hostile}, "password": {"another long password"}, "role": {"helpdesk"}, "can_enroll": {"true"}, "group_ids": {group},
		})
		page.says(t, "Helpdesk", "bea@example.com", "Role is limited to", "Signed in nowhere")
		page.escapes(t)
		at, _, _ := strings.Cut(page.path, "?")
		d.get(t, at+"/edit").escapes(t)
		d.post(t, at+"/edit", url.Values{"email": {"bea@example.com"}, "full_name": {hostile}, "role": {"read_only"}}).says(t, "Read only", "For all devices", "Saved.")
		for _, q := range []string{"?q=BEA", "?role=read_only", "?status=active&q=bea"} {
			if got := d.get(t, "/admin/users"+q); !strings.Contains(got.text(), "bea@example.com") {
				t.Errorf("%s does not find her:\n%s", q, got.text())
			}
		}
		d.get(t, "/admin/users?q=nobody-like-that").says(t, "No user fits")
		d.get(t, at+"/password").escapes(t)
		if got := d.ask(t, "POST", at+"/password", url.Values{"password": {"short"}}); got.status != http.StatusUnprocessableEntity {
			t.Errorf("a short password: %d", got.status)
		}
		d.post(t, at+"/password", url.Values{"password": {"yet another password"}})

		bea := &deskClient{d.running, d.newClient(t)}
		bea.signIn(t, "bea@example.com", "yet another password")
		bea.get(t, "/admin/account").says(t, "bea@example.com", "Read only", "this one")
		if got := bea.ask(t, "GET", "/admin/users", nil); got.status != http.StatusForbidden {
			t.Errorf("who may only read sees users: %d", got.status)
		}
		page = d.get(t, at)
		ends := page.all("form", "method", "post")
		for _, form := range ends {
			if action := attributeOf(form, "action"); strings.HasSuffix(action, "/end") {
				d.post(t, action, nil).says(t, "Ended.", "Signed in nowhere")
				d.post(t, action, nil).says(t, "it had gone already")
			}
		}
		if got := bea.ask(t, "GET", "/admin/account", nil); got.status != http.StatusSeeOther || !strings.HasPrefix(got.header.Get("Location"), "/admin/login") {
			t.Errorf("whose session was ended: %d %s", got.status, got.header.Get("Location"))
		}
		d.get(t, at+"/disable").escapes(t)
		d.post(t, at+"/disable", nil).says(t, "Disabled")
		d.get(t, "/admin/users?status=disabled").says(t, "bea@example.com")
		d.post(t, at+"/enable", nil).says(t, "Active")
	})
	t.Run("the last owner stays", func(t *testing.T) {
		var list struct{ Items []struct{ ID string } }
		d.call(t, "GET", "/api/v1/users?role=owner", nil, &list)
		page := d.get(t, "/admin/users/"+list.Items[0].ID)
		at, _, _ := strings.Cut(page.path, "?")
		if got := d.ask(t, "POST", at+"/disable", url.Values{}); got.status != http.StatusUnprocessableEntity || len(got.all("", "role", "alert")) == 0 {
			t.Errorf("the last owner is disabled: %d\n%s", got.status, got.text())
		}
	})
	t.Run("a token is shown once", func(t *testing.T) {
		d.get(t, "/admin/tokens/new").escapes(t) // the group
		got := d.ask(t, "POST", "/admin/tokens/new", url.Values{"name": {hostile}, "scopes": {"read_only"}, "group_ids": {group}, "expires_at": {"7"}})
		if got.status != http.StatusOK || len(got.all("pre", "id", "token")) != 1 {
			t.Fatalf("%d\n%s", got.status, got.text())
		}
		secret := textOf(got.all("pre", "id", "token")[0])
		got.escapes(t)
		list := d.get(t, "/admin/tokens")
		list.escapes(t)
		if strings.Contains(list.body, secret) {
			t.Error("the list has the token")
		}
		list.says(t, "Expires in 7 days")
		d.get(t, "/admin").says(t, "1 API token expires in the next 14 days")
		if bad := d.ask(t, "POST", "/admin/tokens/new", url.Values{"name": {"x"}, "scopes": {"read_only"}, "expires_at": {"soon"}}); bad.status != http.StatusUnprocessableEntity {
			t.Errorf("an end that is none: %d", bad.status)
		}
		if bad := d.ask(t, "POST", "/admin/tokens/new", url.Values{"name": {"x"}}); bad.status != http.StatusUnprocessableEntity {
			t.Errorf("a token that may nothing: %d", bad.status)
		}
		revoke := list.link(t, "Revoke")
		d.get(t, revoke).says(t, "refused from now on")
		d.post(t, revoke, nil).says(t, "Revoked.")
		d.post(t, revoke, nil).says(t, "it had gone already")
	})
	t.Run("identity providers", func(t *testing.T) {
		d.get(t, "/admin/users/sources").says(t, "Accounts of this server")
		d.get(t, "/admin/identity-providers/new").says(t, "OpenID Connect", "LDAP")
		form := url.Values{
			"name": {hostile}, "uses": {"institutional"}, "settings.urls": {"ldaps://127.0.0.1:9"}, "settings.base_dn": {"dc=example,dc=com"},
			"settings.bind_dn": {"cn=x"}, "settings.bind_password": {"hunter2-of-the-directory"},
		}
		if got := d.ask(t, "POST", "/admin/identity-providers/new?kind=ldap", url.Values{"name": {"x"}, "uses": {"institutional"}}); got.status != http.StatusUnprocessableEntity {
			t.Errorf("without settings: %d\n%s", got.status, got.text())
		}
		page := d.post(t, "/admin/identity-providers/new?kind=ldap", form)
		page.escapes(t)
		if strings.Contains(page.body, "hunter2") {
			t.Error("the page has the password")
		}
		page.says(t, "One is set")
		at, _, _ := strings.Cut(page.path, "?")
		made := strings.TrimPrefix(at, "/admin")
		d.call(t, "PATCH", "/api/v1"+made, map[string]any{
			"settings": map[string]any{"attributes": []string{"employeeType"}, "page_size": 250, "timeout": "7s"},
			"mapping":  map[string]any{"managed_apple_accounts": map[string]string{"ana": "ana@appleid.example.com"}},
		}, &struct{}{})
		full := d.get(t, at).filled()
		full.Set("settings.timeout", "") // back to the default
		d.post(t, at, full).says(t, "Saved.")
		var kept struct {
			Settings, Mapping map[string]any
		}
		d.call(t, "GET", "/api/v1"+made, nil, &kept)
		if _, set := kept.Settings["timeout"]; set || kept.Settings["page_size"] != 250.0 || fmt.Sprint(kept.Settings["attributes"]) != "[employeeType]" ||
			kept.Settings["has_bind_password"] != true || fmt.Sprint(kept.Mapping["managed_apple_accounts"]) != "map[ana:ana@appleid.example.com]" {
			t.Errorf("a form that was saved as it is leaves %v, %v", kept.Settings, kept.Mapping)
		}
		delete(form, "settings.bind_password")
		form.Set("settings.base_dn", "dc=example,dc=org")
		d.post(t, at, form).says(t, "Saved.", "One is set")
		tested := d.ask(t, "POST", at+"/test", url.Values{"login": {"ana"}, "password": {"x"}})
		if tested.status != http.StatusOK {
			t.Fatalf("a test: %d\n%s", tested.status, tested.text())
		}
		tested.says(t, "It does not work", "Look at the address of the provider")
		tested.escapes(t)
		d.post(t, at+"/switch", url.Values{"on": {"false"}}).says(t, "Off", "Switch on")
		d.get(t, "/admin/users/sources").escapes(t)
		if got := d.ask(t, "POST", at+"/delete", url.Values{"typed": {"other"}}); got.status != http.StatusUnprocessableEntity {
			t.Errorf("without its name: %d", got.status)
		}
		d.post(t, at+"/delete", url.Values{"typed": {hostile}}).says(t, "Deleted.")
		d.post(t, "/admin/identity-providers/local", url.Values{"name": {"Our accounts"}, "uses": {"institutional", "personal", "user", "account_device"}}).says(t, "Our accounts")
	})
	t.Run("rare settings of OpenID Connect", func(t *testing.T) {
		form := url.Values{
			"name": {"Example ID"}, "uses": {"institutional"}, "settings.issuer": {"https://login.example.com"}, "settings.client_id": {"gatehouse"}, "settings.client_secret": {"hunter2-of-the-client"},
			"settings.required_claims": {"tid = 3f2a\nno pair"}, "settings.extra_authorization_parameters": {"domain_hint = example.com=x"}, "settings.trust_email": {"true"},
		}
		bad := d.ask(t, "POST", "/admin/identity-providers/new?kind=oidc", form)
		if bad.status != http.StatusUnprocessableEntity || len(bad.all("textarea", "name", "settings.required_claims", "aria-invalid", "true")) != 1 {
			t.Errorf("a line that is no pair: %d\n%s", bad.status, bad.text())
		}
		form.Set("settings.required_claims", "tid = 3f2a\nhd=example.com")
		at, _, _ := strings.Cut(d.post(t, "/admin/identity-providers/new?kind=oidc", form).path, "?")
		source := d.get(t, at)
		if len(source.all("input", "name", "disable_missing")) != 0 {
			t.Error("a provider that is no directory is offered to be asked who is gone from it")
		}
		full := source.filled()
		full.Set("forget.client_secret", "true")
		d.post(t, at, full).says(t, "hd = example.com tid = 3f2a")
		var kept struct{ Settings map[string]any }
		d.call(t, "GET", "/api/v1"+strings.TrimPrefix(at, "/admin"), nil, &kept)
		if fmt.Sprint(kept.Settings["required_claims"]) != "map[hd:example.com tid:3f2a]" || fmt.Sprint(kept.Settings["extra_authorization_parameters"]) != "map[domain_hint:example.com=x]" ||
			kept.Settings["trust_email"] != true || kept.Settings["userinfo"] != false || kept.Settings["has_client_secret"] != false {
			t.Errorf("= %v", kept.Settings)
		}
		d.post(t, at+"/delete", url.Values{"typed": {"Example ID"}})
	})
	t.Run("a sign-in is tried at a directory", func(t *testing.T) {
		dir := ldaptest.Open(t)
		var p struct{ ID string }
		d.call(t, "POST", "/api/v1/identity-providers", map[string]any{"kind": "ldap", "name": "Example directory", "uses": []string{"institutional"}, "settings": dir.Settings(nil)}, &p)
		at := "/admin/identity-providers/" + p.ID
		try := func(login, password string) deskPage {
			return d.ask(t, "POST", at+"/test", url.Values{"login": {login}, "password": {password}})
		}
		if got := try("", ""); got.status != http.StatusUnprocessableEntity || len(got.all("input", "name", "login", "aria-invalid", "true")) != 1 {
			t.Errorf("with nothing: %d\n%s", got.status, got.text())
		}
		try("ana", "a guess").says(t, "It does not work", "wrong password", "Look at the password")
		try("nobody", "a guess").says(t, "It does not work", "Look at “Search below”")
		try("ana", ldaptest.Password("ana")).says(t, "It does not work", "another user logs in as "+ownerEmail, "Look at what people are called")
		good := try("ben", ldaptest.Password("ben"))
		good.says(t, "It works", "Who they would be here", "ben@example.com", "Would be a new user", "cn=staff,"+ldaptest.GroupsDN, "Portal: the organisation’s devices", "What they may not use", "entryuuid")
		if strings.Contains(good.body, html.EscapeString(ldaptest.Password("ben"))) {
			t.Error("the page has the password")
		}
		d.call(t, "PATCH", "/api/v1"+strings.TrimPrefix(at, "/admin"), map[string]any{"groups": []string{"nobody is in it"}}, &struct{}{})
		try("ben", ldaptest.Password("ben")).says(t, "Look at what the provider is used for, and at the groups")
		d.call(t, "PATCH", "/api/v1"+strings.TrimPrefix(at, "/admin"), map[string]any{"settings": map[string]any{"bind_password": "another"}}, &struct{}{})
		try("ben", ldaptest.Password("ben")).says(t, "It does not work", "Look at the account by which this server searches")
		d.post(t, at+"/delete", url.Values{"typed": {"Example directory"}})
	})
	t.Run("a sign-in is tried at an OpenID provider", func(t *testing.T) {
		idp, p := d.openID(t, nil)
		at := "/admin/identity-providers/" + p.ID
		d.get(t, at).says(t, p.CallbackURL)
		idp.SetAccount(t, "ben", oidctest.Account{Password: "right", Claims: map[string]any{
			"sub": "5a2d", "preferred_username": "ben", "name": "Ben Example", "email": "ben@example.com", "email_verified": true, "groups": []string{"staff"},
		}})
		try := func(login string) deskPage {
			begun := d.ask(t, "POST", at+"/test", url.Values{})
			begun.says(t, "Go on at the provider")
			back := idp.SignIn(t, begun.link(t, "Sign in at the provider"), p.CallbackURL, login, "right")
			return d.ask(t, "GET", strings.TrimPrefix(p.CallbackURL, d.url)+"?"+back.Encode(), nil)
		}
		try("ben").says(t, "This sign-in works", "a new user would be made: ben", "Ben Example", "preferred_username", "staff")
		try("ana").says(t, "This sign-in does not work yet", "another user logs in as "+ownerEmail)
		d.get(t, "/admin/account").says(t, ownerEmail) // still
		d.call(t, "PATCH", "/api/v1"+strings.TrimPrefix(at, "/admin"), map[string]any{"settings": map[string]any{"issuer": "http://127.0.0.1:9", "client_secret": "another"}}, &struct{}{})
		d.ask(t, "POST", at+"/test", url.Values{}).says(t, "It does not work", "Look at the address of the provider")
		d.post(t, at+"/delete", url.Values{"typed": {"Example ID"}})
	})
	t.Run("groups are listed", func(t *testing.T) { d.get(t, "/admin/groups").escapes(t) })
	t.Run("the audit log tells all of it", func(t *testing.T) {
		page := d.get(t, "/admin/audit?action=user.")
		page.says(t, ownerEmail+" changed the user bea@example.com .", "role", "helpdesk", "read_only", ownerEmail, ownerEmail+" disabled the user bea@example.com .")
		page.escapes(t)
		d.get(t, "/admin/audit?actor="+url.QueryEscape(ownerEmail)+"&q=session+bea").says(t, ownerEmail+" ended a session of the user bea@example.com .")
		d.get(t, "/admin/audit?q=nothing-like-that").says(t, "Nothing fits")
		if got := d.get(t, "/admin/audit"); strings.Contains(got.body, "hunter2") {
			t.Error("the log tells a password")
		}
		d.get(t, "/admin/audit/verify").says(t, "The chain holds")
		if got := d.ask(t, "GET", "/admin/audit/verify?seq=1&hash=x", nil); got.status != http.StatusUnprocessableEntity {
			t.Errorf("no hash: %d", got.status)
		}
		wrong := d.get(t, "/admin/audit/verify?seq=1&hash="+strings.Repeat("0", 64))
		wrong.says(t, "The chain is broken")
		exported := d.send(t, d.client, "GET", "/admin/audit/export?since=1h", nil)
		if exported.StatusCode != http.StatusOK || !strings.Contains(exported.body, `"changes":[`) || !strings.Contains(exported.Header.Get("Content-Disposition"), ".jsonl") {
			t.Errorf("the export: %d %v %.200s", exported.StatusCode, exported.Header, exported.body)
		}
	})
	t.Run("who only reads sees the log, and no users", func(t *testing.T) {
		reader := d.as(t, "read_only")
		reader.get(t, "/admin/audit").says(t, "Audit")
		for _, path := range []string{"/admin/users", "/admin/tokens", "/admin/users/sources"} {
			if got := reader.ask(t, "GET", path, nil); got.status != http.StatusForbidden {
				t.Errorf("%s: %d", path, got.status)
			}
		}
	})
	t.Run("ending the session that one came by leads to the login", func(t *testing.T) {
		page := d.get(t, "/admin/account")
		for _, form := range page.all("form", "method", "post") {
			if action := attributeOf(form, "action"); strings.HasSuffix(action, "/end") {
				d.ask(t, "POST", action, url.Values{})
				break
			}
		}
		if got := d.ask(t, "GET", "/admin/account", nil); got.status != http.StatusSeeOther || !strings.HasPrefix(got.header.Get("Location"), "/admin/login") {
			t.Errorf("= %d %s", got.status, got.header.Get("Location"))
		}
	})
}
