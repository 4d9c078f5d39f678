package view

import "html/template"

// Me is what the pages have in common on which people see what is theirs.
type Me struct {
	Portal
	Nav  []NavItem
	Done string // what has just been done; empty: nothing
}

// MeTime is a time in words of the page's language.
type MeTime struct {
	At    string // for machines; empty: never
	Words string
	Exact string // for hovering; may be empty
}

// MeFact is one thing that is stored, and why.
type MeFact struct {
	Label, Value string
	Why          string
	URL          string  // makes a link of Value; may be empty
	Time         *MeTime // instead of Value
	Mono         bool    // an identifier
}

// MeDevices lists a person's devices.
type MeDevices struct {
	Me
	Devices []MeDeviceRow // that are managed
	Past    []MeDeviceRow
}

func (MeDevices) template() string { return "me.html" }

// MeDeviceRow is one device of a list.
type MeDeviceRow struct {
	URL, Name   string
	State       State
	Lost        *State   // nil: not reported lost
	Parts       []string // model, system, serial number, whose it is
	Since, Seen MeFact
	Users       []string // of its user channels
	UsersLabel  string
}

// MeDevice shows all that is stored about one device.
type MeDevice struct {
	Me
	Name    string
	State   State
	Lost    *MeLost
	Notice  *MeNotice
	Actions []Link
	WhyNot  string // why there is no action; may be empty

	Facts        []MeFact
	Answers      []MeFact  // what the device said when it was asked
	Rights       *MeRights // nil: it is not managed
	Users        []MeFact
	Certificates []MeCertificateRow
	Steps        []MeFact // of its enrollment
	Events       []MeEvent
	Commands     []MeEvent // Who is what became of it
}

func (MeDevice) template() string { return "me_device.html" }

// MeRights is what the organisation can and cannot do with a device: keys of texts.
type MeRights struct{ Can, Cannot []string }

// MeChoice is one of several things to choose from.
type MeChoice struct {
	Value, Title string
	Chosen       bool
}

// MeLost is a report that a device is lost.
type MeLost struct {
	State State
	Time  MeTime
	Note  string
}

// MeNotice is something that is under way.
type MeNotice struct {
	Heading string
	Text    []string
	Action  Link // may be empty
}

// MeEvent is something that happened.
type MeEvent struct {
	What, Who string
	Time      MeTime
}

// MeConfirm asks whether something is really to be done, and what there is to know for that.
type MeConfirm struct {
	Me
	Heading string
	Lead    string
	Points  []string // what it means
	Error   string

	Action     string   // where the form goes
	Note       *MeField // a text to be written
	ChoiceName string
	Legend     string
	Choices    []MeChoice
	Button     string
	Danger     bool // it can't be undone
	Cancel     Link

	InsteadText string // before the link Instead
	Instead     Link   // something else to do; may be empty
}

func (MeConfirm) template() string { return "me_confirm.html" }

// MeField is a field to write in.
type MeField struct {
	Label, Value string
	Most         int // characters
}

// MeCertificates lists a person's certificates.
type MeCertificates struct {
	Me
	Good []MeCertificateRow
	Past []MeCertificateRow
	More string // that there are more; may be empty
}

func (MeCertificates) template() string { return "me_certificates.html" }

// MeCertificateRow is one certificate of a list.
type MeCertificateRow struct {
	URL, Name, Subject string
	Device             string // that it is on; may be empty
	State              State
	Until              string
}

// MeCertificate shows one certificate.
type MeCertificate struct {
	Me
	Name      string
	State     State
	Note      string
	Facts     []MeFact
	Downloads []Link
	Actions   []Link
}

func (MeCertificate) template() string { return "me_certificate.html" }

// MeNewCertificate takes the wish for a certificate: with a key that is made here, or for
// a request.
type MeNewCertificate struct {
	Me
	Renews string // which certificate it is to replace, in words; may be empty

	For      []MeChoice // whom it may be for
	NoName   string     // why it can't be for the person; may be empty
	Password string     // of the file
	Least    int        // characters of it
	Error    string

	Names        []string // that a request may have
	Request      string
	RequestError string
}

func (MeNewCertificate) template() string { return "me_new_certificate.html" }

// MeSecurity shows how a person signs in.
type MeSecurity struct {
	Me
	Elsewhere string // where the password is kept, if not here

	PasswordError string
	Least         int // characters of a password

	Codes        bool   // codes are asked for here, beside the password
	Factor       bool   // there is a second factor
	FactorText   string // since when, and how many recovery codes are left
	FactorNeeded string // why one is asked for; may be empty
	FactorError  string
}

func (MeSecurity) template() string { return "me_security.html" }

// MeFactor has a person set up a second factor.
type MeFactor struct {
	Me
	QR    template.HTML // empty once it was scanned
	Key   string        // in groups
	Raw   string        // the key as it is
	Error string
}

func (MeFactor) template() string { return "me_factor.html" }

// MeRecovery shows recovery codes, once.
type MeRecovery struct {
	Me
	Codes []string
}

func (MeRecovery) template() string { return "me_recovery.html" }
