package text_test

import (
	"reflect"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
)

// jamf are the texts of an enrollment language of Jamf Pro.
var jamf = []string{
	"title", "loginDescription", "loginButton", "username", "password", "deviceClassDescription", "deviceClassPersonal",
	"deviceClassPersonalDescription", "deviceClassEnterprise", "deviceClassEnterpriseDescription", "deviceClassButton",
	"personalEula", "enterpriseEula", "eulaButton", "siteDescription", "certificateText", "certificateButton",
	"certificateProfileName", "certificateProfileDescription", "personalText", "personalButton", "personalProfileName",
	"personalProfileDescription", "enterpriseText", "enterpriseButton", "enterpriseProfileName", "enterpriseProfileDescription",
	"userEnrollmentText", "userEnrollmentButton", "userEnrollmentProfileName", "userEnrollmentProfileDescription",
	"quickAddText", "quickAddButton", "quickAddName", "completeMessage", "failedMessage", "tryAgainButton", "checkNowButton",
	"checkEnrollmentMessage", "logoutButton",
}

func TestEveryTextOfJamfHasOneOfOursOrAReason(t *testing.T) {
	storagetest.AnyEngine(t)
	taken, others := text.JamfTexts()
	english := messages(t, "en")
	for _, name := range jamf {
		key, isTaken := taken[name]
		if _, isOther := others[name]; isTaken == isOther {
			t.Errorf("%s is taken for %q, and left out for %q", name, key, others[name])
		}
		if _, there := english[key]; isTaken && !there {
			t.Errorf("%s is taken for %s, which is not there", name, key)
		}
	}
}

func TestWhatBecomesOfTextsOfJamf(t *testing.T) {
	storagetest.AnyEngine(t)
	cat := newCatalogue(t, nil)
	texts, became := cat.FromJamf(map[string]string{
		"personalText": "Mine", "enterpriseText": "Ours", "personalButton": "Get mine", "enterpriseButton": "Get ours",
		"personalEula": "Be kind.", "enterpriseEula": "Be kind.", "title": " ", "quickAddName": "x", "somethingNew": "x",
	})
	wantTexts := map[string]string{
		"portal.profile.description": "Ours\n\nMine", "portal.profile.download": "Get ours", "portal.terms": "Be kind.",
	}
	wantBecame := []text.Imported{
		{Name: "enterpriseButton", Key: "portal.profile.download"},
		{Name: "enterpriseEula", Key: "portal.terms"},
		{Name: "enterpriseText", Key: "portal.profile.description"},
		{Name: "personalButton", Key: "portal.profile.download", Reason: "differs from enterpriseButton, which was taken for the same text"},
		{Name: "personalEula", Key: "portal.terms"},
		{Name: "personalText", Key: "portal.profile.description"},
		{Name: "quickAddName", Reason: "Macs enroll by a profile, too"},
		{Name: "somethingNew", Reason: "is no text that we know of"},
		{Name: "title", Key: "portal.frame.title", Reason: "is empty: ours stays"},
	}
	if !reflect.DeepEqual(texts, wantTexts) || !reflect.DeepEqual(became, wantBecame) {
		t.Errorf("FromJamf = %q, %+v; want %q, %+v", texts, became, wantTexts, wantBecame)
	}
}
