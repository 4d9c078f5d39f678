package view

import "html/template"

// SignIn is where people sign in.
type SignIn struct {
	Portal
	Lead        string        // what for
	Description template.HTML // the organisation's own words; may be empty
	Notice      string        // what has just happened; may be empty
	Error       string        // why the last try failed; may be empty
	Code        string        // GH-… of Error

	Passwords bool   // there is a form for a login and a password
	Action    string // path that takes it
	Login     string // as it was typed

	Providers []SignInProvider
	Next      string // path to go to afterwards; empty: where people of this role begin
	Switch    bool   // for somebody else than who is signed in, here or at a provider
	Hint      string // who is probably signing in; may be empty
	NewServer bool   // it is for administrators, who can also have a setup link
}

func (SignIn) template() string { return "signin.html" }

// SignInProvider is a place elsewhere where people can sign in.
type SignInProvider struct {
	Name    string
	Action  string // path that a form is posted to
	Primary bool   // there is no other way
}

// SignInCode asks for the second factor.
type SignInCode struct {
	Portal
	Who      string // who has given the password
	Recovery bool   // it asks for a recovery code
	Error    string // why the last one was not taken; may be empty
	Code     string // GH-… of Error
}

func (SignInCode) template() string { return "signin_code.html" }

// SignInGo is on the screen for the moment in which a browser goes to a provider.
type SignInGo struct {
	Portal
	Provider string
	URL      string // of the provider
}

func (SignInGo) template() string { return "signin_go.html" }

// SignedOut says that somebody is signed out here, and perhaps not where they signed in.
type SignedOut struct {
	Portal
	User     string // who is still signed in: then it asks; empty: nobody
	Provider string // where they may be signed in, still; empty: nowhere
	URL      string // of the provider, to sign out there, too
	Again    string // path to sign in again
}

func (SignedOut) template() string { return "signin_out.html" }

// SignInTrial is what came of a sign-in that an administrator has tried.
type SignInTrial struct {
	Portal
	Provider string
	OK       bool
	Steps    []SignInStep
	Becomes  []Fact // what would be stored
	Groups   []string
	Claims   []Fact // what the provider says
	Warnings []string
}

func (SignInTrial) template() string { return "signin_trial.html" }

// SignInStep is one thing that had to work.
type SignInStep struct {
	Name   string
	OK     bool
	Detail string
}
