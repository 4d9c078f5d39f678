package portal

import (
	"net/http"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// SignInProgress returns the progress header of who is about to sign in for the enrollment
// that path leads to, one of the portal's; without steps if it leads to none.
func (p *Portal) SignInProgress(r *http.Request, path string) view.Progress {
	rest, ok := strings.CutPrefix(path, "/enroll/a/")
	if !ok {
		return view.Progress{}
	}
	asked := r.Clone(r.Context())
	asked.SetPathValue("id", rest[:len(rest)-len(strings.TrimLeft(rest, idCharacters))])
	v, err := p.visit(asked)
	if err != nil || !v.login {
		return view.Progress{} // the portal says why, when they come to it
	}
	return v.progress(stepLogin)
}

// idCharacters are those of an attempt's ID.
const idCharacters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"
