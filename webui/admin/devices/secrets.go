package devices

import (
	"net/http"
	"net/url"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
)

// secret is what may be told of a secret that the server holds for a device.
type secret struct {
	Kind       string     `json:"kind"`
	State      string     `json:"state"`
	Account    string     `json:"account"`
	CreatedAt  *time.Time `json:"created_at"`
	KeptUntil  *time.Time `json:"kept_until"`
	RevealedAt *time.Time `json:"revealed_at"`
	RevealedBy string     `json:"revealed_by"`
	Revealable bool       `json:"revealable"`
}

// secretWords are the kinds of secrets, and what each is for.
var secretWords = map[string][2]string{
	"unlock_token":                {"Unlock token", "Clears a forgotten passcode: the command Clear passcode uses it."},
	"bootstrap_token":             {"Bootstrap token", "Lets a Mac give its users what they need to update and to unlock it. The Mac asks for it by itself."},
	"device_lock_pin":             {"Lock PIN", "Unlocks a Mac that was locked from here."},
	"erase_pin":                   {"Erase PIN", "What a Mac asks for after it was erased from here."},
	"recovery_lock":               {"Recovery Lock password", "Opens recoveryOS on a Mac with Apple silicon."},
	"firmware_password":           {"Firmware password", "Opens the startup options of a Mac with an Intel processor."},
	"filevault_recovery_key":      {"FileVault recovery key", "Opens the disk of a Mac whose password was forgotten."},
	"admin_password":              {"Administrator’s password", "Of the administrator’s account that Setup Assistant made."},
	"activation_lock_bypass_code": {"Activation Lock bypass code", "Opens Activation Lock: type it as the password, and leave the Apple Account empty."},
}

// secretStates are the states of secrets in words.
var secretStates = map[string]string{
	"pending": "on its way", "unconfirmed": "not confirmed: the device may have this one, or the current one", "current": "current", "previous": "a former one",
}

// Words is the secret's name.
func (s secret) Words() string { return kindWords(s.Kind) }

// Use is what the secret is for.
func (s secret) Use() string { return secretWords[s.Kind][1] }

// StateWords is whether the device has it.
func (s secret) StateWords() string { return secretStates[s.State] }

func kindWords(kind string) string {
	if w, ok := secretWords[kind]; ok {
		return w[0]
	}
	return admin.Words(kind)
}

type secretsPage struct {
	head
	Items    []secret
	Kinds    []admin.Option // that can be revealed
	Form     *admin.Form
	Revealed []revealed
	Shown    string // the kind that was revealed, in words
	Empty    *admin.Empty
}

type revealed struct {
	Value    string `json:"value"`
	Encoding string `json:"encoding"`
	State    string `json:"state"`
	Account  string `json:"account"`
}

// StateWords is whether the device has it.
func (r revealed) StateWords() string { return secretStates[r.State] }

func (s *Devices) secrets(w http.ResponseWriter, r *http.Request) error {
	return s.writeSecrets(w, r, http.StatusOK, admin.NewForm(), "", nil)
}

func (s *Devices) writeSecrets(w http.ResponseWriter, r *http.Request, status int, form *admin.Form, kind string, shown []revealed) error {
	h, err := s.headOf(r, "secrets")
	if err != nil {
		return err
	}
	page := &secretsPage{head: h, Form: form, Revealed: shown, Shown: kindWords(kind)}
	if r.Method != http.MethodGet {
		page.Watch, page.Every = "", 0 // what was revealed stays until somebody goes on
	}
	var list admin.List[secret]
	if err := s.desk.Get(r.Context(), deviceAPI(h.Device.ID)+"/secrets", nil, &list); err != nil {
		return err
	}
	page.Items = list.Items
	seen := map[string]bool{}
	for _, item := range list.Items {
		if item.Revealable && !seen[item.Kind] {
			seen[item.Kind] = true
			page.Kinds = append(page.Kinds, admin.Option{Value: item.Kind, Label: item.Words()})
		}
	}
	if len(page.Items) == 0 {
		page.Empty = &admin.Empty{Heading: "No secrets", Text: "Recovery keys, PINs and passwords that this server sets or that the device hands over are kept here, sealed."}
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "secrets.html", page)
}

// reveal shows a secret, once, to who says why they want it. That goes into the audit log.
func (s *Devices) reveal(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	kind := r.PathValue("kind")
	if kind == "chosen" {
		kind = form.Get("kind")
	}
	var out struct {
		Secrets []revealed `json:"secrets"`
	}
	err = s.desk.Send(r.Context(), http.MethodPost, deviceAPI(r.PathValue("id"))+"/secrets/"+url.PathEscape(kind)+"/reveal", map[string]any{"reason": form.Get("reason")}, &out)
	if err != nil {
		if form.Refused(err) {
			return s.writeSecrets(w, r, http.StatusUnprocessableEntity, form, "", nil)
		}
		return err
	}
	return s.writeSecrets(w, r, http.StatusOK, admin.NewForm(), kind, out.Secrets)
}
