package signin

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// pending is what a browser's session holds of somebody who is about to sign in.
type pending struct {
	// Browser ties sign-ins that were begun at providers to this browser.
	Browser string `json:"browser,omitempty"`

	// Next is where they want to go on to, or went: who comes back to a page that is over
	// goes there again.
	Next string `json:"next,omitempty"`

	Switch bool `json:"switch,omitempty"` // they want to be somebody else than who is signed in

	// User has given the password, and is to give a code until Until, or until their
	// sessions are ended: then they have another Stamp.
	User  string    `json:"user,omitempty"`
	Stamp string    `json:"stamp,omitempty"`
	Until time.Time `json:"until,omitzero"`
}

// codeLife is how long a right password is good for without the code.
const codeLife = 10 * time.Minute

// errWaited means that the password was given too long ago, by another browser, or before
// all sign-ins were ended.
var errWaited = errors.New("no sign-in waits for a code in this session")

// pending returns what the session of r holds.
func (s *SignIn) pending(r *http.Request) (p pending) {
	if text := s.Sessions.Value(r.Context(), webui.SessionSignIn); text != "" {
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			return pending{}
		}
	}
	return p
}

func (s *SignIn) keep(r *http.Request, p pending) error {
	text := ""
	if p != (pending{}) {
		data, err := json.Marshal(p)
		if err != nil {
			return err
		}
		text = string(data)
	}
	return s.Sessions.SetValue(r.Context(), webui.SessionSignIn, text)
}

// askForCode sends who gave the right password to where the second factor is asked for.
// The session is a new one: nobody can have planted its cookie before.
func (s *SignIn) askForCode(w http.ResponseWriter, r *http.Request, in identity.SignedIn, next string, somebodyElse bool) error {
	p := s.pending(r)
	p.User, p.Stamp, p.Until = in.User.ID, in.User.Stamp(), s.Now().UTC().Add(codeLife)
	p.Next, p.Switch = next, somebodyElse
	if err := s.Sessions.Rotate(r.Context()); err != nil {
		return err
	}
	if err := s.keep(r, p); err != nil {
		return err
	}
	return see(w, r, pathCode)
}

// waiting returns whose code the session of r waits for.
func (s *SignIn) waiting(r *http.Request) (pending, identity.User, error) {
	p := s.pending(r)
	if p.User == "" || !s.Now().Before(p.Until) {
		return p, identity.User{}, errWaited
	}
	u, err := s.People.User(r.Context(), p.User)
	if errors.Is(err, storage.ErrNotFound) {
		return p, identity.User{}, errWaited
	}
	return p, u, err
}

func (s *SignIn) codeForm(w http.ResponseWriter, r *http.Request) error {
	p, u, err := s.waiting(r)
	switch {
	case errors.Is(err, errWaited):
		return see(w, r, loginPath(p.Next, p.Switch))
	case err != nil:
		return err
	}
	page, err := s.codePage(r, u, p, r.URL.Query().Get("recovery") != "")
	if err != nil {
		return err
	}
	return s.write(w, http.StatusOK, page, p.Next)
}

func (s *SignIn) codePage(r *http.Request, u identity.User, p pending, recovery bool) (view.SignInCode, error) {
	around, _, err := s.Frame.Portal(r, "signin.code.heading")
	if err != nil {
		return view.SignInCode{}, err
	}
	around.Here, around.Keep, around.User = pathCode, nil, ""
	if recovery {
		around.Keep = []view.Hidden{{Name: "recovery", Value: "1"}}
	}
	if purposeOf(p.Next) == toEnroll && s.Progress != nil {
		around.Progress = s.Progress(r, p.Next)
	}
	return view.SignInCode{Portal: around, Who: u.Login(), Recovery: recovery}, nil
}

// code takes a second factor.
func (s *SignIn) code(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	p, u, err := s.waiting(r)
	if errors.Is(err, errWaited) {
		return s.again(w, r, p.Next, p.Switch, "", err)
	}
	if err != nil {
		return err
	}
	in, err := s.People.CheckCode(r.Context(), u.ID, p.Stamp, r.PostForm.Get("code"), peer(r))
	why := mistakeOf(err)
	switch {
	case err == nil:
		return s.letIn(w, r, in, p.Next, true)
	case errors.Is(err, identity.ErrSecondFactor), errors.Is(err, identity.ErrStale): // taken away, or ended, meanwhile
		return s.again(w, r, p.Next, p.Switch, "", errWaited)
	case why == nil:
		return err
	case errors.Is(err, identity.ErrDisabled):
		return s.again(w, r, p.Next, p.Switch, u.Login(), err)
	}
	recovery := r.PostForm.Get("recovery") != ""
	page, failed := s.codePage(r, u, p, recovery)
	if failed != nil {
		return failed
	}
	page.Error, page.Code = why.say(page.T, err), why.code
	if recovery && errors.Is(err, identity.ErrBadCode) {
		page.Error = page.T.Say("signin.error.recovery")
	}
	s.note(r, why.code, err)
	wait(w, err)
	return s.write(w, why.status, page, p.Next)
}
