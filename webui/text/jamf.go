package text

import (
	"maps"
	"slices"
	"strings"
)

// Imported says what became of one text of another product.
type Imported struct {
	Name   string // as that product has it
	Key    string // ours; empty if there is none
	Reason string // why there is none, or why it was not taken
}

// jamfTexts are the texts of a language of Jamf Pro's user-initiated enrollment, and ours
// that say the same. The names are those of its API, "/v3/enrollment/languages/{id}".
var jamfTexts = map[string][]string{
	"loginDescription":                 {"portal.login.description"},
	"deviceClassPersonalDescription":   {"portal.ownership.personal.description"},
	"deviceClassEnterpriseDescription": {"portal.ownership.institutional.description"},
	"personalEula":                     {"portal.terms"},
	"enterpriseEula":                   {"portal.terms"},
	"certificateText":                  {"portal.certificate.description"},
	"personalText":                     {"portal.profile.description"},
	"enterpriseText":                   {"portal.profile.description"},
	"completeMessage":                  {"portal.complete.message"},
}

// jamfOthers are the texts that we have none for, and why.
var jamfOthers = map[string]string{
	"name":         "the name of the language is not a text of the portal",
	"languageCode": "the language is that of the request's path",
}

// FromJamf returns the texts of ours that an enrollment language of Jamf Pro comes to, and
// what became of each of its texts. Where two of its texts are one of ours, and differ,
// ours is both of them, one after the other.
func FromJamf(language map[string]string) (texts map[string]string, became []Imported) {
	texts = map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(language)) {
		text := tidy(language[name])
		keys, known := jamfTexts[name]
		switch {
		case jamfOthers[name] != "":
			became = append(became, Imported{Name: name, Reason: jamfOthers[name]})
			continue
		case !known:
			became = append(became, Imported{Name: name, Reason: "is no text that we know of"})
			continue
		case text == "":
			became = append(became, Imported{Name: name, Key: keys[0], Reason: "is empty: ours stays"})
			continue
		}
		for _, key := range keys {
			switch before := texts[key]; {
			case before == "":
				texts[key] = text
			case !strings.Contains(before, text):
				texts[key] = before + "\n\n" + text
			}
			became = append(became, Imported{Name: name, Key: key})
		}
	}
	return texts, became
}
