package apiv1

import (
	"cmp"
	"net/http"
	"net/url"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

type userRequest struct {
	Username            string `json:"username"`
	Email               string `json:"email"`
	FullName            string `json:"full_name"`
	Password            string `json:"password"`
	ManagedAppleAccount string `json:"managed_apple_account"`
	CanEnroll           *bool  `json:"can_enroll"` // nil: true
	Role                string `json:"role"`       // empty: user
	Provider            string `json:"provider"`   // empty: local

	GroupIDs []string `json:"group_ids"` // that the role is limited to; none: it is not
}

// userChange is the body of a PATCH: what is nil stays.
type userChange struct {
	Username            *string        `json:"username"`
	Email               *string        `json:"email"`
	FullName            *string        `json:"full_name"`
	Password            *string        `json:"password"`
	ManagedAppleAccount *string        `json:"managed_apple_account"`
	CanEnroll           *bool          `json:"can_enroll"`
	Role                *identity.Role `json:"role"`
	Disabled            *bool          `json:"disabled"`
	Provider            *string        `json:"provider"`

	GroupIDs *[]string `json:"group_ids"`
}

type userJSON struct {
	ID                  string    `json:"id"`
	Username            string    `json:"username"`
	Email               string    `json:"email"`
	FullName            string    `json:"full_name"`
	UPN                 string    `json:"upn"` // user principal name, as in certificates
	ManagedAppleAccount string    `json:"managed_apple_account"`
	CanEnroll           bool      `json:"can_enroll"`
	Role                string    `json:"role"`
	HasPassword         bool      `json:"has_password"`
	Provider            string    `json:"provider"` // ID
	Groups              []string  `json:"groups"`   // at the provider, when the user last signed in
	HasSecondFactor     bool      `json:"has_second_factor"`
	Disabled            bool      `json:"disabled"`
	CreatedAt           time.Time `json:"created_at"`

	LastSignInAt *time.Time `json:"last_sign_in_at"` // null: never

	GroupIDs []string `json:"group_ids"` // that the role is limited to; empty: it is not
}

func user(u identity.User, groups []string, signedIn time.Time) userJSON {
	return userJSON{
		ID: u.ID, Username: u.Username, Email: u.Email, FullName: u.FullName, UPN: u.UPN(),
		ManagedAppleAccount: u.ManagedAppleAccount, CanEnroll: !u.NoEnroll, Role: string(u.Role),
		HasPassword: u.Password != "", Provider: cmp.Or(u.Provider, identity.LocalProvider), Groups: orEmpty(groups),
		HasSecondFactor: !u.SecondFactorAt.IsZero(), Disabled: u.Disabled, CreatedAt: u.CreatedAt.UTC(),
		LastSignInAt: timestamp(signedIn), GroupIDs: orEmpty(u.GroupIDs),
	}
}

// orEmpty is an array in JSON where there is nothing, too.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// writeUser answers with a user as they are.
func (a *API) writeUser(w http.ResponseWriter, r *http.Request, status int, u identity.User) error {
	groups, err := a.identity.Groups(r.Context(), u.ID)
	if err != nil {
		return err
	}
	last, err := a.identity.LastSignIns(r.Context(), u.ID)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, status, user(u, groups[u.ID], last[u.ID]))
}

func (a *API) createUser(w http.ResponseWriter, r *http.Request) error {
	var in userRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	if err := a.knownGroups(r, in.GroupIDs); err != nil {
		return err
	}
	u, err := a.identity.CreateUser(r.Context(), principal(r), identity.NewUser{
		Username: in.Username, Email: in.Email, FullName: in.FullName, Password: in.Password,
		ManagedAppleAccount: in.ManagedAppleAccount, NoEnroll: in.CanEnroll != nil && !*in.CanEnroll, Role: identity.Role(in.Role),
		Provider: in.Provider, GroupIDs: in.GroupIDs,
	})
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/users/"+u.ID)
	return a.writeUser(w, r, http.StatusCreated, u)
}

func (a *API) listUsers(w http.ResponseWriter, r *http.Request) error {
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	filter, err := userFilter(r.URL.Query())
	if err != nil {
		return err
	}
	users, next, err := a.identity.FindUsers(r.Context(), filter, cursor, limit)
	if err != nil {
		return err
	}
	ids := make([]string, len(users))
	for i, u := range users {
		ids[i] = u.ID
	}
	groups, err := a.identity.Groups(r.Context(), ids...)
	if err != nil {
		return err
	}
	last, err := a.identity.LastSignIns(r.Context(), ids...)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(users, next, func(u identity.User) userJSON { return user(u, groups[u.ID], last[u.ID]) }))
}

// userFilter reads the parameters that say which users are wanted.
func userFilter(query url.Values) (f identity.UserFilter, err error) {
	role, status := "", ""
	for name, to := range map[string]*string{"q": &f.Text, "role": &role, "status": &status} {
		if *to, err = textOf(query, name); err != nil {
			return identity.UserFilter{}, err
		}
	}
	switch f.Role = identity.Role(role); f.Role {
	case "", identity.RoleUser, identity.RoleReadOnly, identity.RoleHelpdesk, identity.RoleAdmin, identity.RoleOwner:
	default:
		return identity.UserFilter{}, invalid("role", "must be user, read_only, helpdesk, admin or owner")
	}
	switch status {
	case "":
	case "active", "disabled":
		disabled := status == "disabled"
		f.Disabled = &disabled
	default:
		return identity.UserFilter{}, invalid("status", "must be active or disabled")
	}
	return f, nil
}

func (a *API) getUser(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	u, err := a.identity.User(r.Context(), id)
	if err != nil {
		return err
	}
	return a.writeUser(w, r, http.StatusOK, u)
}

func (a *API) updateUser(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	var in userChange
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	change := identity.UserChange{
		Username: in.Username, Email: in.Email, FullName: in.FullName, Password: in.Password,
		ManagedAppleAccount: in.ManagedAppleAccount, Role: in.Role, Disabled: in.Disabled, Provider: in.Provider, GroupIDs: in.GroupIDs,
	}
	if in.GroupIDs != nil {
		if err := a.knownGroups(r, *in.GroupIDs); err != nil {
			return err
		}
	}
	if in.CanEnroll != nil {
		no := !*in.CanEnroll
		change.NoEnroll = &no
	}
	u, err := a.identity.UpdateUser(r.Context(), principal(r), id, change)
	if err != nil {
		return err
	}
	return a.writeUser(w, r, http.StatusOK, u)
}

func (a *API) resetSecondFactor(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	u, err := a.identity.ResetSecondFactor(r.Context(), principal(r), id)
	if err != nil {
		return err
	}
	return a.writeUser(w, r, http.StatusOK, u)
}

func (a *API) endSessions(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	if err := a.identity.EndSessions(r.Context(), principal(r), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
