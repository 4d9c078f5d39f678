package text

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Imported says what became of one text of another product.
type Imported struct {
	Name   string // as that product has it
	Key    string // ours; empty if there is none
	Reason string // why it was not taken; empty if it was
}

// jamfTexts are the texts of a language of Jamf Pro's user-initiated enrollment, and ours
// that say the same. The names are those of its API, "/v3/enrollment/languages/{id}".
var jamfTexts = map[string]string{
	"title":                            "portal.frame.title",
	"loginDescription":                 "portal.login.description",
	"username":                         "signin.login",
	"password":                         "signin.password",
	"loginButton":                      "signin.go",
	"deviceClassDescription":           "portal.device.lead",
	"deviceClassEnterprise":            "portal.device.institutional",
	"deviceClassEnterpriseDescription": "portal.ownership.institutional.description",
	"deviceClassPersonal":              "portal.device.personal",
	"deviceClassPersonalDescription":   "portal.ownership.personal.description",
	"enterpriseEula":                   "portal.terms",
	"personalEula":                     "portal.terms",
	"certificateText":                  "portal.certificate.description",
	"certificateButton":                "portal.certificate.download",
	"enterpriseText":                   "portal.profile.description",
	"personalText":                     "portal.profile.description",
	"enterpriseButton":                 "portal.profile.download",
	"personalButton":                   "portal.profile.download",
	"userEnrollmentText":               "portal.account.lead",
	"completeMessage":                  "portal.complete.message",
	"tryAgainButton":                   "portal.status.again",
	"logoutButton":                     "portal.frame.sign_out",
}

// jamfOthers are the texts that we have none for, and why.
var jamfOthers = map[string]string{
	"name":                             "the language is that of the request's path",
	"languageCode":                     "the language is that of the request's path",
	"deviceClassButton":                "the button that goes on is the same on all pages",
	"eulaButton":                       "the terms are agreed to by a switch",
	"siteDescription":                  "there are no sites",
	"certificateProfileName":           profileNames,
	"certificateProfileDescription":    profileNames,
	"enterpriseProfileName":            profileNames,
	"enterpriseProfileDescription":     profileNames,
	"personalProfileName":              profileNames,
	"personalProfileDescription":       profileNames,
	"userEnrollmentProfileName":        profileNames,
	"userEnrollmentProfileDescription": profileNames,
	"userEnrollmentButton":             "the button that goes on is the same on all pages",
	"quickAddName":                     noQuickAdd,
	"quickAddText":                     noQuickAdd,
	"quickAddButton":                   noQuickAdd,
	"failedMessage":                    "each failure has a text of its own",
	"checkNowButton":                   "the page of the status looks by itself",
	"checkEnrollmentMessage":           "the page of the status looks by itself",
}

const (
	profileNames = "profiles are named after the organisation"
	noQuickAdd   = "Macs enroll by a profile, too"
)

// FromJamf returns the texts of ours that an enrollment language of Jamf Pro comes to, and
// what became of each of its texts. Where two of its texts are one of ours, and differ,
// ours is both, one after the other, if it is a text of its own; of two labels it is the
// first.
func (c *Catalogue) FromJamf(language map[string]string) (texts map[string]string, became []Imported) {
	texts = map[string]string{}
	from := map[string]string{} // which of its texts one of ours is
	for _, name := range slices.Sorted(maps.Keys(language)) {
		text, key := tidy(language[name]), jamfTexts[name]
		reason := ""
		switch {
		case jamfOthers[name] != "":
			reason = jamfOthers[name]
		case key == "":
			reason = "is no text that we know of"
		case text == "":
			reason = "is empty: ours stays"
		case texts[key] == "":
			texts[key], from[key] = text, name
		case c.ours(fallback).texts[key] == "":
			if !strings.Contains(texts[key], text) {
				texts[key] += "\n\n" + text
			}
		case texts[key] != text:
			reason = fmt.Sprintf("differs from %s, which was taken for the same text", from[key])
		}
		became = append(became, Imported{Name: name, Key: key, Reason: reason})
	}
	return texts, became
}
