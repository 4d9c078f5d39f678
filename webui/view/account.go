package view

import "html/template"

// AccountConfirm asks whether a device is to be enrolled for who is signed in, in the
// browser view that the device has opened.
type AccountConfirm struct {
	Portal
	Action  string // path that takes the form
	Other   string // path at which somebody else signs in
	UserID  string // who was signed in when the page was made
	Facts   []Fact
	Rights  Rights
	Terms   template.HTML // to be agreed to; empty: none
	Agreed  bool
	Error   string // why the form was not taken; may be empty
	Again   bool   // the device is enrolled, and its user signs in again
	Fresh   bool   // they have just signed in for it
	Changed bool   // somebody else has signed in meanwhile
}

func (AccountConfirm) template() string { return "account_confirm.html" }

// AccountStart says how a device enrolls by an account, to who opens a device's address in a
// browser.
type AccountStart struct {
	Portal
	Lead   string
	Touch  []template.HTML // what to do on an iPhone; none: they don't enroll so
	Mac    []template.HTML // the same
	Rights Rights
}

func (AccountStart) template() string { return "account_start.html" }
