package apiv1

import (
	"net/http"

	"github.com/gatehouse-mdm/gatehouse/mdm/library"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// payloadBrief says what a payload of a profile is, and nothing of what it holds.
type payloadBrief struct {
	PayloadType string `json:"payload_type"`
	Title       string `json:"title"`   // of the type, in words
	Summary     string `json:"summary"` // what the type is for; may be empty
	Name        string `json:"name"`    // PayloadDisplayName
	Identifier  string `json:"identifier"`
}

func payloadsOf(p *profile.Profile) []payloadBrief {
	out := make([]payloadBrief, len(p.Payloads))
	for i, one := range p.Payloads {
		out[i] = payloadBrief{PayloadType: one.Type, Title: one.Type, Name: one.DisplayName, Identifier: one.Identifier}
		if uses := profile.DescribePayload(one.Type); len(uses) > 0 {
			out[i].Title, out[i].Summary = uses[0].Title, uses[0].Summary
		}
	}
	return out
}

// payloadSettings is a payload with what it sets.
type payloadSettings struct {
	payloadBrief
	Settings []settingJSON `json:"settings"`
}

// settingJSON is a value in a payload, as a text.
type settingJSON struct {
	Key    string `json:"key"` // "EAPClientConfiguration.UserName"
	Value  string `json:"value"`
	Secret bool   `json:"secret"` // the value is not told
}

// settingsOf returns what the payloads of a profile set: what is different from payloads
// that set nothing.
func settingsOf(p *profile.Profile) []payloadSettings {
	briefs := payloadsOf(p)
	out := make([]payloadSettings, len(briefs))
	for i, one := range p.Payloads {
		out[i] = payloadSettings{briefs[i], []settingJSON{}}
		full := &profile.Profile{Payloads: []profile.Payload{one}}
		bare := one
		bare.Content = map[string]any{}
		for _, c := range profile.Diff(&profile.Profile{Payloads: []profile.Payload{bare}}, full) {
			if !ofEveryPayload[c.Key] {
				out[i].Settings = append(out[i].Settings, settingJSON{c.Key, c.New, c.Secret})
			}
		}
	}
	return out
}

// ofEveryPayload are the keys that say which payload it is.
var ofEveryPayload = map[string]bool{
	"PayloadType": true, "PayloadUUID": true, "PayloadIdentifier": true, "PayloadVersion": true,
	"PayloadDisplayName": true, "PayloadOrganization": true,
}

// getProfileSettings shows what a version of a profile sets, without passwords.
func (a *API) getProfileSettings(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	number, err := versionOf(r)
	if err != nil {
		return err
	}
	v, p, err := a.library.Content(r.Context(), id, number)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, struct {
		Version  int               `json:"version"`
		Payloads []payloadSettings `json:"payloads"`
	}{v.Number, settingsOf(p)})
}

// lintedJSON says what a profile is that nobody has kept yet, and what is wrong with it.
type lintedJSON struct {
	Identifier           string            `json:"identifier"`
	Name                 string            `json:"name"`
	Description          string            `json:"description"`
	Organization         string            `json:"organization"`
	Scope                string            `json:"scope"`
	RemovalDisallowed    bool              `json:"removal_disallowed"`
	Encrypted            bool              `json:"encrypted"`
	Signer               *signerJSON       `json:"signer"`
	Payloads             []payloadSettings `json:"payloads"`
	Variables            []string          `json:"variables"`
	CertificateTemplates []string          `json:"certificate_templates"`
	Existing             *profileJSON      `json:"existing"` // of which it would be the next version; null: it would be new
	Reserved             bool              `json:"reserved"` // this server uses the identifier itself
	Findings             []findingJSON     `json:"findings"`
	Refused              *bool             `json:"refused"` // by the target; null: none was named
}

// linted describes a profile that was given, but for Refused.
func (a *API) linted(r *http.Request, p *profile.Profile, literal bool) (lintedJSON, error) {
	out := lintedJSON{
		Identifier: p.Identifier, Name: p.DisplayName, Description: p.Description, Organization: p.Organization, Scope: p.Scope,
		RemovalDisallowed: p.RemovalDisallowed, Encrypted: p.Encrypted, Signer: signerOf(p.Signer), Payloads: settingsOf(p),
		Variables: []string{}, CertificateTemplates: orEmpty(p.Certificates()), Findings: findingsOf(a.library.Lint(p, literal)),
		Reserved: p.Identifier != "" && a.library.Reserved(p.Identifier),
	}
	if !literal {
		names, _ := p.Variables(a.library.People.Known) // what is wrong with them is among the findings
		out.Variables = orEmpty(names)
	}
	existing, ok, err := a.library.Named(r.Context(), p.Identifier)
	if err != nil {
		return lintedJSON{}, err
	}
	if ok {
		have := profileOfLibrary(existing)
		out.Existing = &have
	}
	return out, nil
}

func signerOf(s *profile.Signer) *signerJSON {
	if s == nil {
		return nil
	}
	return &signerJSON{s.Subject, s.Issuer, s.Serial, timestamp(s.NotAfter), s.Broken}
}

// severities counts findings.
func severities(findings []profile.Finding) map[string]int {
	out := map[string]int{}
	for _, f := range findings {
		out[string(f.Severity)]++
	}
	return out
}

// mostCounted is up to how many devices a list of profiles counts for each; for who is limited
// to groups, of how many of their devices it counts.
const mostCounted = 1000

// maxDetailed is how many profiles a list describes in detail at most: each is read whole.
const maxDetailed = 100

// detailedProfile is a profile as a list with ?details=true has it.
type detailedProfile struct {
	profileJSON
	Payloads    []payloadBrief `json:"payloads"`
	Findings    map[string]int `json:"findings"`     // how many there are of each severity
	Devices     map[string]int `json:"devices"`      // how many have it in which state
	MoreDevices bool           `json:"more_devices"` // only the first of them were counted
}

// detailedProfile describes a profile, but for the devices.
func (a *API) detailedProfile(r *http.Request, p profileJSON) (detailedProfile, error) {
	v, content, err := a.library.Content(r.Context(), p.ID, p.Version)
	if err != nil {
		return detailedProfile{}, err
	}
	return detailedProfile{profileJSON: p, Payloads: payloadsOf(content), Findings: severities(a.library.Lint(content, v.Literal))}, nil
}

// byState is a summary with the names of its states.
func byState(sum library.Summary) map[string]int {
	out := make(map[string]int, len(sum))
	for state, n := range sum {
		out[string(state)] = n
	}
	return out
}

// placeJSON is how a profile stands on a device, with what people call that.
type placeJSON struct {
	installationJSON
	DeviceName   string `json:"device_name"`
	SerialNumber string `json:"serial_number"`
	User         string `json:"user"`
}
