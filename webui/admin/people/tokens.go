package people

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// token is an API token as the API lists it.
type token struct {
	ID         string     `json:"id"`
	Name       string     `json:"name"`
	Scopes     []string   `json:"scopes"`
	User       string     `json:"user"`
	CreatedAt  time.Time  `json:"created_at"`
	CreatedBy  string     `json:"created_by"`
	LastUsedAt *time.Time `json:"last_used_at"`
	GroupIDs   []string   `json:"group_ids"`
	ExpiresAt  *time.Time `json:"expires_at"`
}

// endsSoon is how long before its end a token is warned of.
const endsSoon = 14 * 24 * time.Hour

// End says when the token expires, in words, and whether somebody should care. Its text is
// empty where it never does.
func (t token) End(now time.Time) view.State {
	if t.ExpiresAt == nil {
		return view.State{}
	}
	const day = 24 * time.Hour
	left := t.ExpiresAt.Sub(now)
	words := "in " + admin.Count(int(left.Round(day)/day), "day", "days")
	switch {
	case left <= 0:
		return view.State{Text: "Expired", Tone: view.Bad}
	case left < time.Hour:
		words = "in " + admin.Count(max(1, int(left.Minutes())), "minute", "minutes")
	case left < 2*day:
		words = "in " + admin.Count(int(left.Hours()), "hour", "hours")
	}
	if left < endsSoon {
		return view.State{Text: "Expires " + words, Tone: view.Waiting}
	}
	return view.State{Text: words, Tone: view.Neutral}
}

// ScopeNames are the scopes in words.
func (t token) ScopeNames() (names []string) {
	for _, scope := range t.Scopes {
		name := scope
		for _, o := range scopes {
			if o.Value == scope {
				name = o.Label
			}
		}
		names = append(names, name)
	}
	return names
}

// URL is where the token is revoked.
func (t token) URL() string { return tokensPath + "/" + url.PathEscape(t.ID) + "/revoke" }

// scopes are what a token may do.
var scopes = []admin.Option{
	{Value: "read_only", Label: "Read only", Hint: "Sees everything, changes nothing: for monitoring and reports."},
	{Value: "helpdesk", Label: "Helpdesk", Hint: "Sends commands that lose no data, makes enrollment links, invites people."},
	{Value: "admin", Label: "Administrator", Hint: "Everything but authorities, owners and administrators."},
	{Value: "owner", Label: "Owner", Hint: "Everything. Few scripts need it."},
	{Value: "cert:self", Label: "Own certificates", Hint: "Certificates in the name of the token’s user, and nothing else."},
	{Value: "cert:any", Label: "Certificates for anybody", Hint: "Certificates in anybody’s name, and nothing else: for a server that asks in the name of others."},
	{Value: "cert:manage", Label: "Manage certificates", Hint: "Lists and revokes certificates, and nothing else."},
}

func problemOf(err error) *admin.Problem {
	var p *admin.Problem
	if errors.As(err, &p) {
		return p
	}
	return nil
}

type tokensPage struct {
	admin.Page
	Tabs   []admin.NavItem
	Items  []listedToken
	Pager  admin.Pager
	Empty  *admin.Empty
	Revoke bool
}

// listedToken is a token with the state of its end.
type listedToken struct {
	token
	Life view.State
}

func (s *People) tokens(w http.ResponseWriter, r *http.Request) error {
	query := url.Values{"limit": {perPage}}
	if v := r.URL.Query().Get("cursor"); v != "" {
		query.Set("cursor", v)
	}
	var found admin.List[token]
	if err := s.desk.Get(r.Context(), "/api/v1/tokens", query, &found); err != nil {
		return err
	}
	page := &tokensPage{
		Page: admin.Page{Title: "API tokens", Section: section, Watch: "token."}, Tabs: s.tabs(r, tokensPath),
		Pager: admin.NewPager(r, found.NextCursor), Revoke: s.desk.May(r.Context(), "DELETE /api/v1/tokens/{id}"),
	}
	now := s.desk.Now()
	for _, t := range found.Items {
		page.Items = append(page.Items, listedToken{t, t.End(now)})
	}
	if len(found.Items) == 0 {
		page.Empty = &admin.Empty{
			Heading: "No API tokens yet", Text: "Scripts and the command line sign in with a token. Whatever these pages do, a token can do as well, as far as its scope goes.",
			Actions: links("New token", tokensPath+"/new"),
		}
	}
	return s.desk.Write(w, r, s.pages, "tokens.html", page)
}

type tokenForm struct {
	admin.Page
	Form    *admin.Form
	Scopes  []admin.Option
	Choices []admin.Option
	Lives   []admin.Option
}

// lives are for how long a token may be good, by days; empty: for ever.
var lives = admin.Options("", "It does not expire", "7", "A week", "30", "30 days", "90", "90 days", "365", "A year")

func (s *People) showTokenForm(w http.ResponseWriter, r *http.Request, form *admin.Form) error {
	page := &tokenForm{Page: admin.Page{Title: "New API token", Section: section, Crumbs: links("API tokens", tokensPath)}, Form: form, Lives: lives}
	var err error
	if page.Choices, err = s.groupChoices(r, form.Values["group_ids"]); err != nil {
		return err
	}
	for _, o := range scopes {
		o.Selected = form.Has("scopes", o.Value)
		if o.Value == "owner" && !s.desk.May(r.Context(), "DELETE /api/v1/tokens/{id}") {
			o.Disabled = true
			o.Hint += " Only owners make such tokens."
		}
		page.Scopes = append(page.Scopes, o)
	}
	status := http.StatusOK
	if !form.OK() {
		status = http.StatusUnprocessableEntity
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "tokenform.html", page)
}

func (s *People) newToken(w http.ResponseWriter, r *http.Request) error {
	return s.showTokenForm(w, r, admin.NewForm("scopes", "read_only"))
}

type tokenMade struct {
	admin.Page
	Token  token
	Secret struct{ ID, Text string } // for the part "copy"
	Try    struct{ ID, Text string }
}

func (s *People) createToken(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	in := map[string]any{
		"name": form.Get("name"), "scopes": append([]string{}, form.Values["scopes"]...), "user": form.Get("user"),
		"group_ids": append([]string{}, form.Values["group_ids"]...),
	}
	if life := form.Get("expires_at"); life != "" {
		days, err := strconv.Atoi(life)
		if err != nil || days < 1 {
			form.Errors["expires_at"] = "must be one of those"
			return s.showTokenForm(w, r, form)
		}
		in["expires_at"] = s.desk.Now().AddDate(0, 0, days).UTC().Format(time.RFC3339)
	}
	var made struct {
		token
		Secret string `json:"token"`
	}
	err = s.desk.Send(r.Context(), http.MethodPost, "/api/v1/tokens", in, &made)
	if err != nil && form.Refused(err) {
		return s.showTokenForm(w, r, form)
	}
	if err != nil {
		return err
	}
	// Not after a redirect: the secret is nowhere but in this answer.
	page := &tokenMade{Page: admin.Page{Title: "Token made", Section: section, Crumbs: links("API tokens", tokensPath)}, Token: made.token}
	page.Secret.ID, page.Secret.Text = "token", made.Secret
	page.Try.ID = "try"
	page.Try.Text = "curl -H 'Authorization: Bearer " + made.Secret + "' " + s.desk.ServerURL.JoinPath("/api/v1/devices").String()
	return s.desk.Write(w, r, s.pages, "tokenmade.html", page)
}

func (s *People) askRevoke(w http.ResponseWriter, r *http.Request) error {
	if !s.desk.May(r.Context(), "DELETE /api/v1/tokens/{id}") {
		return &webui.Problem{Status: http.StatusForbidden, Code: "forbidden", Title: "Owners revoke tokens", Detail: "Ask one of them. What a token of a user may do also ends when that user is disabled."}
	}
	var t token
	if err := s.desk.Get(r.Context(), "/api/v1/tokens/"+url.PathEscape(r.PathValue("id")), nil, &t); err != nil {
		return err
	}
	used := s.desk.Moment(t.LastUsedAt)
	return s.desk.Confirm(w, r, &admin.Confirm{
		Page:    admin.Page{Section: section, Crumbs: links("API tokens", tokensPath)},
		Heading: "Revoke “" + t.Name + "”?", Button: "Revoke", Danger: true, Action: r.URL.Path, Back: tokensPath,
		Text:  []string{"Whatever uses it is refused from now on. It can’t be taken back: make another token instead."},
		Facts: []admin.Fact{{Label: "Last used", Moment: &used}},
	})
}

func (s *People) revoke(w http.ResponseWriter, r *http.Request) error {
	err := s.desk.Send(r.Context(), http.MethodDelete, "/api/v1/tokens/"+url.PathEscape(r.PathValue("id")), nil, nil)
	switch {
	case notFound(err):
		return admin.Redirect(w, r, tokensPath, "gone")
	case err != nil:
		return err
	}
	return admin.Redirect(w, r, tokensPath, "revoked")
}
