package apiv1_test

import (
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
)

const portalTextsPath = "/api/v1/portal-texts"

func TestTheOperatorsTextsAreKeptPerLanguage(t *testing.T) {
	h := newHouse(t)
	var got, sent map[string]any
	h.do(t, exchange{method: "GET", path: portalTextsPath + "/en"}).want(t, 200, &got)
	if !reflect.DeepEqual(got["texts"], map[string]any{}) || got["overridden"] != 0.0 || got["updated_at"] != nil || got["dir"] != "ltr" {
		t.Errorf("at first it is %v", got)
	}
	entry := func(in map[string]any, key string) map[string]any {
		for _, e := range in["catalogue"].([]any) {
			if e := e.(map[string]any); e["key"] == key {
				return e
			}
		}
		t.Fatalf("there is no %s", key)
		return nil
	}
	if e := entry(got, "portal.terms"); !reflect.DeepEqual(e, map[string]any{
		"key": "portal.terms", "default": "", "text": "", "placeholders": []any{"organisation"}, "markdown": true,
	}) {
		t.Errorf("the terms are %v", e)
	}

	put := map[string]any{"texts": map[string]any{"portal.terms": "**Terms** of {organisation}", "portal.complete.message": "Welcome!"}}
	h.do(t, exchange{method: "PUT", path: portalTextsPath + "/en", body: put}).want(t, 200, &got)
	if e := entry(got, "portal.terms"); e["text"] != "**Terms** of {organisation}" || got["overridden"] != 2.0 || got["updated_by"] != "token:test" {
		t.Errorf("after PUT it is %v: %v", got["overridden"], e)
	}

	// What was read can be sent back.
	h.do(t, exchange{method: "PUT", path: portalTextsPath + "/en", body: got}).want(t, 200, &sent)
	if !reflect.DeepEqual(sent, got) {
		t.Errorf("sent back it is\n%v, was\n%v", sent, got)
	}

	h.do(t, exchange{method: "PATCH", path: portalTextsPath + "/en", body: map[string]any{"texts": map[string]any{
		"portal.terms": "", "portal.login.description": "Use your e-mail address.",
	}}}).want(t, 200, &got)
	want := map[string]any{"portal.complete.message": "Welcome!", "portal.login.description": "Use your e-mail address."}
	if !reflect.DeepEqual(got["texts"], want) {
		t.Errorf("after PATCH texts are %v, want %v", got["texts"], want)
	}

	var list struct {
		Items []struct {
			Lang              string
			Total, Overridden int
		}
	}
	h.do(t, exchange{method: "GET", path: portalTextsPath}).want(t, 200, &list)
	if en := list.Items[0]; en.Lang != "en" || en.Overridden != 2 || en.Total < 10 {
		t.Errorf("the first language is %+v", en)
	}
}

func TestBadPortalTextsChangeNothing(t *testing.T) {
	h := newHouse(t)
	good := map[string]any{"portal.complete.message": "Welcome!"}
	h.do(t, exchange{method: "PUT", path: portalTextsPath + "/en", body: map[string]any{"texts": good}}).want(t, 200, nil)
	for name, tt := range map[string]struct {
		path   string
		body   any
		status int
		fields []string
	}{
		"no texts":               {"/en", map[string]any{}, 400, []string{"texts"}},
		"texts that are none":    {"/en", map[string]any{"texts": []any{}}, 400, []string{"texts"}},
		"null":                   {"/en", map[string]any{"texts": nil}, 400, []string{"texts"}},
		"a number":               {"/en", map[string]any{"texts": map[string]any{"portal.terms": 7}}, 400, []string{"texts.portal.terms"}},
		"null for a text":        {"/en", map[string]any{"texts": map[string]any{"portal.terms": nil}}, 400, []string{"texts.portal.terms"}},
		"unknown texts":          {"/en", map[string]any{"texts": map[string]any{"a.b": "x", "b": "y"}}, 400, []string{"texts.a.b", "texts.b"}},
		"an unknown placeholder": {"/en", map[string]any{"texts": map[string]any{"portal.terms": "{x}"}}, 400, []string{"texts.portal.terms"}},
		"an unknown field":       {"/en", map[string]any{"texts": map[string]any{}, "text": ""}, 400, []string{"text"}},
		"too long":               {"/en", map[string]any{"texts": map[string]any{"portal.terms": strings.Repeat("x", 5001)}}, 400, []string{"texts.portal.terms"}},
		"an unknown format":      {"/en?format=xml", map[string]any{"texts": map[string]any{}}, 400, []string{"format"}},
		"an unknown language":    {"/tlh", map[string]any{"texts": map[string]any{}}, 404, nil},
		"bad texts of Jamf's":    {"/en?format=jamf", map[string]any{"completeMessage": "{x}", "loginDescription": "x"}, 400, []string{"completeMessage"}},
		"Jamf's as a list":       {"/en?format=jamf", []any{}, 400, nil},
	} {
		t.Run(name, func(t *testing.T) {
			for _, method := range []string{"PUT", "PATCH"} {
				var got struct {
					Errors []struct{ Field string }
				}
				h.do(t, exchange{method: method, path: portalTextsPath + tt.path, body: tt.body, wild: true}).want(t, tt.status, &got)
				var fields []string
				for _, e := range got.Errors {
					fields = append(fields, e.Field)
				}
				if !slices.Equal(fields, tt.fields) {
					t.Errorf("%s: wrong are %q, want %q", method, fields, tt.fields)
				}
			}
		})
	}
	var now struct{ Texts map[string]any }
	h.do(t, exchange{method: "GET", path: portalTextsPath + "/en"}).want(t, 200, &now)
	if !reflect.DeepEqual(now.Texts, good) {
		t.Errorf("texts are %v, want %v", now.Texts, good)
	}
	h.do(t, exchange{method: "PUT", path: portalTextsPath + "/en", token: h.token(t, identity.ScopeHelpdesk), body: map[string]any{"texts": map[string]any{}}}).want(t, 403, nil)
	h.do(t, exchange{method: "GET", path: portalTextsPath + "/" + url.PathEscape("../en")}).want(t, 404, nil)
}

func TestALanguageOfJamfIsImported(t *testing.T) {
	h := newHouse(t)
	var got struct {
		Texts    map[string]string
		Imported []struct{ Name, Key, Reason string }
	}
	h.do(t, exchange{method: "PUT", path: portalTextsPath + "/en?format=jamf", body: map[string]any{
		"name": "English", "languageCode": "en", "personalEula": "Be kind.", "enterpriseEula": "Be fast.", "completeMessage": "Done.\r\nBye.",
		"certificateText": "", "somethingNew": "x", "somethingOdd": 7,
	}}).want(t, 200, &got)
	want := map[string]string{"portal.terms": "Be fast.\n\nBe kind.", "portal.complete.message": "Done.\nBye."}
	if !reflect.DeepEqual(got.Texts, want) {
		t.Errorf("texts are %q, want %q", got.Texts, want)
	}
	var became []string
	for _, i := range got.Imported {
		became = append(became, i.Name+" → "+i.Key+": "+i.Reason)
	}
	for _, want := range []string{
		"certificateText → portal.certificate.description: is empty: ours stays", "completeMessage → portal.complete.message: ",
		"enterpriseEula → portal.terms: ", "personalEula → portal.terms: ", "somethingNew → : is no text that we know of",
	} {
		if !slices.Contains(became, want) {
			t.Errorf("what became of it is %q, want %q in it", became, want)
		}
	}
}

func TestAPortalTextIsPreviewed(t *testing.T) {
	h := newHouse(t)
	var got struct {
		HTML     string
		Findings []string
	}
	path := portalTextsPath + "/en/preview"
	h.do(t, exchange{method: "POST", path: path, body: map[string]any{"key": "portal.terms", "text": "**Hi** <script>"}}).want(t, 200, &got)
	if got.HTML != "<strong>Hi</strong> &lt;script&gt;" || len(got.Findings) != 1 {
		t.Errorf("preview is %+v", got)
	}
	h.do(t, exchange{method: "POST", path: path, body: map[string]any{"key": "portal.terms", "text": "{x}"}}).want(t, 400, nil)
	h.do(t, exchange{method: "POST", path: path, body: map[string]any{"key": "no", "text": ""}}).want(t, 400, nil)
	h.do(t, exchange{method: "POST", path: portalTextsPath + "/tlh/preview", body: map[string]any{"key": "portal.terms", "text": ""}}).want(t, 404, nil)
}
