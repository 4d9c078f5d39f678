package view

import (
	"html/template"

	"github.com/gatehouse-mdm/gatehouse/webui/text"
)

// Portal is what the pages for the people of an organisation have around them: those of
// the portal, of signing in, and their own one. Package frame fills it.
type Portal struct {
	T     *text.Texts
	Title string

	Organisation string // its name; may be empty
	Logo         string // path of its picture; empty: none
	Support      Support

	Here     string   // this page, where a change of the language leads back to; empty: no menu
	Keep     []Hidden // parameters of this page
	Progress Progress
	User     string // who is signed in; empty: nobody
	Refresh  int    // seconds after which the page is fetched again where scripts are off; 0: never
	Preview  bool   // a page as it could be, for administrators
}

func (Portal) layout() string { return "portal_layout.html" }

// Support is whom people can ask. All may be empty.
type Support struct{ Email, Phone, URL string }

// Any says whether there is anybody to ask.
func (s Support) Any() bool { return s.Email != "" || s.Phone != "" || s.URL != "" }

// Hidden is a parameter that goes with a link or a form.
type Hidden struct{ Name, Value string }

// Progress is how far a person has come. Without Steps there is nothing to show.
type Progress struct {
	Steps   []string // what they are, in the page's language
	Current int      // 1 is the first one
}

// At is one step of Progress.
type At struct {
	Name    string
	Done    bool
	Current bool
}

// List is all steps.
func (p Progress) List() []At {
	list := make([]At, len(p.Steps))
	for i, name := range p.Steps {
		list[i] = At{Name: name, Done: i+1 < p.Current, Current: i+1 == p.Current}
	}
	return list
}

// Name is the current step.
func (p Progress) Name() string {
	if p.Current < 1 || p.Current > len(p.Steps) {
		return ""
	}
	return p.Steps[p.Current-1]
}

// PortalError says that something did not work: what, in a sentence, and the one thing
// to do about it.
type PortalError struct {
	Portal
	Heading string
	Text    string
	Action  Link   // may be empty
	Code    string // GH-…
	Details string // lines to copy for who helps
}

func (PortalError) template() string { return "portal_error.html" }

// ShortCode is the form that takes the short code of a link or of an enrollment.
type ShortCode struct {
	Typed string
	Error string // why the last one did nothing; may be empty
}

// Rights is what the organisation can and cannot do with a device: keys of texts.
type Rights struct{ Can, Cannot []string }

// PortalWelcome is the first page on a device that can enroll.
type PortalWelcome struct {
	Portal
	Link    string // code of the enrollment link; empty: none
	Device  string // what the device is called: "iPhone"
	As      string // what the person said that it is; empty: nothing
	Fingers string // page for an iPad, where this is a Mac as far as the browser says; empty elsewhere
	Resume  string // the enrollment that this browser has under way; empty: none
	Steps   int
	Login   bool    // one step is to sign in
	Rights  *Rights // nil: they depend on what the person chooses
	Others  []Link  // the same page for other devices
	Code    ShortCode
	Expires string // until when the link is good, in words; may be empty
}

func (PortalWelcome) template() string { return "portal_welcome.html" }

// PortalElsewhere is the first page where nothing can be enrolled: how to come here with a
// device that can be.
type PortalElsewhere struct {
	Portal
	Reason  string        // key of a text: why it is not this device
	QR      template.HTML // of the address
	Address string        // to be typed
	Spelled string        // short code of the link; may be empty
	Others  []Link
	Code    ShortCode
}

func (PortalElsewhere) template() string { return "portal_elsewhere.html" }

// PortalSafari is the first page in a browser that can't install profiles.
type PortalSafari struct {
	Portal
	App     string // what it is; empty: not known
	Address string // to be opened in Safari
	Anyway  string // the same page for who says that this is Safari
}

func (PortalSafari) template() string { return "portal_safari.html" }

// PortalClosed is the first page where nobody can begin: without a link, or yet.
type PortalClosed struct {
	Portal
	Texts string // what the keys of its texts begin with
	Code  ShortCode
}

func (PortalClosed) template() string { return "portal_closed.html" }

// Choice is one of several things to choose from.
type Choice struct {
	Value       string
	Chosen      bool
	Title       string
	Description template.HTML
	Rights
}

// PortalDevice asks whose device it is, and for consent to the terms.
type PortalDevice struct {
	Portal
	Action  string
	Choices []Choice // none: nothing to choose
	Terms   template.HTML
	Agreed  bool
	Errors  map[string]string // by field
}

func (PortalDevice) template() string { return "portal_device.html" }

// Card is one thing to do on the device: what, and what the device shows meanwhile. The
// picture is drawn of texts, so that it grows, is translated and read aloud.
type Card struct {
	Say     template.HTML
	Note    template.HTML // where to look if it is not there; may be empty
	Picture Picture
}

// Picture is what a device shows. An empty Kind is no picture.
type Picture struct {
	Kind string // "alert", "list", "sheet", "passcode"
	Mac  bool

	Title   string // of an alert or a sheet
	Text    string
	Buttons []Press // of an alert; of a sheet, those at its top: what it begins with and ends with
	Rows    []Press // of a list or a sheet
}

// Press is a button or a row of a Picture.
type Press struct {
	Label string
	Now   bool   // the one to press
	Value string // what stands at a row's end
	Tone  Tone   // of Value
	On    bool   // a switch, which is on
	Blank bool   // nothing is here
}

// Countdown says for how long a device keeps a profile that was downloaded.
type Countdown struct {
	Left  int  // seconds; 0: none was downloaded, or it is gone
	Of    int  // seconds
	Ended bool // it is gone by now
}

// PortalCertificate has the person install the certificate authority.
type PortalCertificate struct {
	Portal
	Description template.HTML
	Download    string
	Next        string // takes the form that says that it is installed
	Trusted     string // takes the form that says that it is trusted
	Trusts      bool   // that is all: there is nothing to switch on
	Cards       []Card
	Name        string // of the authority
	Fingerprint string
	Countdown   Countdown
	Probe       string // picture that loads once the authority is trusted; empty: none
	Mac         bool
}

func (PortalCertificate) template() string { return "portal_certificate.html" }

// PortalTrust has the person switch on trust in the certificate authority.
type PortalTrust struct {
	Portal
	Next  string // takes the form that says that it is trusted
	Back  string
	Cards []Card
	Name  string
	Probe string
}

func (PortalTrust) template() string { return "portal_trust.html" }

// PortalAccount asks for the Managed Apple Account.
type PortalAccount struct {
	Portal
	Action  string
	Account string
	Error   string
	Domains []string // those that it may have; none: any
	Decline bool     // there is another way
	Rights  Rights
}

func (PortalAccount) template() string { return "portal_account.html" }

// PortalAccountDriven says how to sign in in the device's settings.
type PortalAccountDriven struct {
	Portal
	Action  string
	Account string // the address to type there; may be empty
	Managed string // Managed Apple Account, if that is another; may be empty
	Waits   bool   // the page goes on when somebody has signed in there
	Cards   []Card
	Decline bool
	Rights  Rights
	Events  string
}

func (PortalAccountDriven) template() string { return "portal_account_driven.html" }

// PortalProfile has the person install the enrollment profile.
type PortalProfile struct {
	Portal
	Description template.HTML
	Download    string
	Status      string
	Events      string
	Cards       []Card
	Payloads    []string // what the profile holds: keys of texts
	Rights      Rights
	ByAccount   bool // a User Enrollment
	Personal    bool
	Verified    bool // what the device will call the profile
	Devices     []Owned
	Countdown   Countdown
	Mac         bool
	Account     string // Managed Apple Account; may be empty
}

func (PortalProfile) template() string { return "portal_profile.html" }

// Owned is a device that the person has enrolled before.
type Owned struct {
	Name  string
	Since Moment
	When  string // since when, in words
}

// Lamp is one thing that the server knows to have happened, or not yet.
type Lamp struct {
	Text  string
	State string // "done", "now", "next", "failed"
	Said  string // the state in words
	At    Moment // when it happened, or what came before it; zero: not shown
	Ago   string
}

// PortalStatus says how far an enrollment has come.
type PortalStatus struct {
	Portal
	Stage   string // of the attempt
	Heading string
	Lead    string
	Lamps   []Lamp
	Hint    template.HTML // what may be wrong, after a while without movement; may be empty
	Events  string
	Profile string // page of the profile; empty: not to go back to
	Again   string // takes the form that asks for another profile; empty: not now
	Over    string // where to start over; empty: not now
	Spelled string // short code to watch from elsewhere
	QR      template.HTML
	Address string

	Failure *PortalError // what went wrong; nil: nothing
}

func (PortalStatus) template() string { return "portal_status.html" }

// PortalDone says that a device is enrolled.
type PortalDone struct {
	Portal
	Stage     string
	Events    string
	Name      string // of the device
	Owner     string // may be empty
	Facts     []Fact
	Lamps     []Lamp
	Before    string // since when there is an old record that goes on, in words; empty: it is new
	Message   template.HTML
	Remove    template.HTML // how to end management
	Mine      string        // page of the person's own devices; may be empty
	OwnCA     bool
	Installed []string // keys of texts
}

func (PortalDone) template() string { return "portal_done.html" }
