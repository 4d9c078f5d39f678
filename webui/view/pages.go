package view

// Welcome is the first page, at /.
type Welcome struct {
	Layout
	SetUp       bool
	OwnCA       bool   // devices must be told to trust our certificate authority
	Fingerprint string // SHA-256 of the organisation root, in pairs
	Version     string
}

func (Welcome) template() string { return "welcome.html" }

// Setup is where the one-time setup token is redeemed.
type Setup struct {
	Layout
	Error string // why the last try failed
}

func (Setup) template() string { return "setup.html" }

// Message says one thing, usually that something did not work: what, in a
// sentence, and the one thing to do about it.
type Message struct {
	Layout
	Heading   string
	Text      string
	Command   string // to be typed by the operator; may be empty
	Action    Link   // may be empty
	Other     Link   // for who is in the other case; may be empty
	Code      string // GH-…; may be empty
	RequestID string // may be empty
	Details   string // may be empty
}

func (Message) template() string { return "message.html" }

// Link is a link or, on a page's one primary action, a button.
type Link struct{ Label, URL string }

// State is a state as text and the tone it is shown in.
type State struct {
	Text string
	Tone Tone
	Hint string // what it means; may be empty
}

// Tone is how a state is meant. Colour only repeats what the text says.
type Tone string

// The tones.
const (
	Good    Tone = "good"
	Waiting Tone = "waiting"
	Bad     Tone = "bad"
	Neutral Tone = "neutral"
)

// Fact is a label and a value.
type Fact struct {
	Label, Value string
	URL          string  // makes a link of Value; may be empty
	Moment       *Moment // instead of Value
	Mono         bool    // an identifier
}
