package business

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Account is the organisation and this server's place in it, as Apple tells ("Get the
// Account Detail"). What Apple leaves out is empty.
type Account struct {
	ServerUUID string `json:"server_uuid"` // of the device management service
	ServerName string `json:"server_name"`
	OrgName    string `json:"org_name"`
	OrgEmail   string `json:"org_email"`
	OrgPhone   string `json:"org_phone"`
	OrgAddress string `json:"org_address"`
	OrgID      string `json:"org_id"`
	OrgType    string `json:"org_type"` // "org" or "edu"
	AdminID    string `json:"admin_id"` // Apple Account of whoever made the token

	Asked time.Time `json:"asked"` // when Apple told
}

// Trouble is why the last call to Apple failed.
type Trouble struct {
	Kind  Kind      `json:"kind"`
	Code  string    `json:"code"`  // Apple's; may be empty
	Since time.Time `json:"since"` // it has been the same since then
}

// StoreToken takes the server token out of the file that Apple hands out, asks Apple who
// the organisation is, and keeps both. A token that is there is replaced, and the link
// stays: it is how tokens are renewed.
//
// Errors are *TokenError, wrap ErrNoKey, or are an *AppleError of the kind TokenRefused:
// nothing has changed then. Where Apple has other objections, or does not answer, the
// token is kept and the Link says so, because Apple may not hand out this file again.
func (s *Service) StoreToken(ctx context.Context, file []byte) (Link, error) {
	r, err := s.load(ctx)
	if err != nil {
		return Link{}, err
	}
	c, of, err := s.readToken(file, r.pairs())
	if err != nil {
		return Link{}, err
	}
	account, refusal, err := s.account(ctx, c)
	if err != nil {
		return Link{}, err
	}
	if refusal != nil && refusal.Kind == TokenRefused {
		return Link{}, refusal
	}
	token, err := s.sealToken(c)
	if err != nil {
		return Link{}, err
	}
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		if r, err = load(tx); err != nil {
			return err
		}
		before := r.audited()
		r.Proven = false
		if of != nil && !r.prove(of.Certificate) {
			return &TokenError{OtherCertificate, "The certificate that the token is for was replaced meanwhile.", uploadIt}
		}
		action := "apple_business.token_stored"
		switch {
		case r.Token == nil:
		case r.Token.Server == token.Server:
			action = "apple_business.token_renewed"
		default: // nothing that was known of the other one is true of this
			r.Account, r.Discovery = nil, nil
		}
		r.Token = token
		r.heard(account, refusal, s.now())
		if err := records.Put(tx, r); err != nil {
			return err
		}
		details := map[string]string{"expires": token.Expires.Format(time.RFC3339)}
		if r.Account != nil {
			details["server"], details["organisation"] = r.Account.ServerName, r.Account.OrgName
		}
		return s.tell(ctx, tx, action, details, event.Changes(before, r.audited()))
	})
	if err != nil {
		return Link{}, err
	}
	return s.link(r)
}

// account asks Apple for the account; either it or the refusal is nil.
func (s *Service) account(ctx context.Context, c credentials) (*Account, *AppleError, error) {
	var out struct {
		ServerUUID  string `json:"server_uuid"`
		ServerName  string `json:"server_name"`
		OrgName     string `json:"org_name"`
		OrgEmail    string `json:"org_email"`
		OrgPhone    string `json:"org_phone"`
		OrgAddress  string `json:"org_address"`
		OrgID       string `json:"org_id"`
		OrgType     string `json:"org_type"`
		AdminID     string `json:"admin_id"`
		Facilitator string `json:"facilitator_id"` // its name of old
	}
	if err := s.call(ctx, c, http.MethodGet, "/account", nil, &out); err != nil {
		var refusal *AppleError
		if errors.As(err, &refusal) {
			return nil, refusal, nil
		}
		return nil, nil, err
	}
	return &Account{
		ServerUUID: line(out.ServerUUID), ServerName: line(out.ServerName), OrgName: line(out.OrgName), OrgEmail: line(out.OrgEmail),
		OrgPhone: line(out.OrgPhone), OrgAddress: line(out.OrgAddress), OrgID: line(out.OrgID), OrgType: line(out.OrgType),
		AdminID: line(cmp.Or(out.AdminID, out.Facilitator)), Asked: s.now().UTC(),
	}, nil, nil
}

// line is s on one line, of bounded length.
func line(s string) string {
	s = strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s), "")
	return strings.ToValidUTF8(clip(strings.TrimSpace(s), 500), "")
}

// heard notes what came of a call.
func (r *record) heard(account *Account, refusal *AppleError, now time.Time) {
	if account != nil {
		r.Account = account
	}
	switch {
	case refusal == nil:
		r.Trouble = nil
	case r.Trouble == nil || r.Trouble.Kind != refusal.Kind:
		r.Trouble = &Trouble{Kind: refusal.Kind, Code: refusal.Code, Since: now.UTC()}
	}
}

// troubles says whether a refusal is one of all calls, and not of this one.
func (e *AppleError) troubles() bool {
	switch e.Kind {
	case TokenRefused, TermsNotAccepted, AccessDenied, Busy, Unreachable:
		return true
	}
	return false
}

// token returns the token in force, or an error that wraps ErrNoLink.
func (s *Service) token(ctx context.Context) (credentials, error) {
	r, err := s.load(ctx)
	if err != nil {
		return credentials{}, err
	}
	if r.Token == nil {
		return credentials{}, ErrNoLink
	}
	return s.openToken(*r.Token)
}

// Check asks Apple for the account, and so whether the token is any good, and returns what
// is known then. What Apple refuses is in the Link, and no error; one that wraps ErrNoLink
// means that there is no token.
func (s *Service) Check(ctx context.Context) (l Link, err error) {
	c, err := s.token(ctx)
	if err != nil {
		return Link{}, err
	}
	account, refusal, err := s.account(ctx, c)
	if err != nil {
		return Link{}, err
	}
	var r record
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		if r, err = load(tx); err != nil {
			return err
		}
		if r.Token == nil {
			return ErrNoLink
		}
		if r.Token.ID != c.id() { // what Apple said was about another one
			return nil
		}
		r.heard(account, refusal, s.now())
		return records.Put(tx, r)
	})
	if err != nil {
		return Link{}, err
	}
	return s.link(r)
}

// Intervals of looking after the link.
const (
	lookEvery = time.Hour
	askEvery  = 24 * time.Hour // when all is well
)

// Run looks after the link until ctx ends: it asks Apple about once a day, or every hour
// where something is wrong, and warns of a token that ends.
func (s *Service) Run(ctx context.Context) error {
	return storage.Schedule{
		DB: s.db, Log: s.log, Now: s.now,
		Jobs: []storage.Job{{Name: "apple business", Every: lookEvery, Do: s.look}},
	}.Run(ctx)
}

func (s *Service) look(ctx context.Context) error {
	l, err := s.Link(ctx)
	if err != nil || l.TokenStored.IsZero() {
		return err
	}
	now := s.now()
	if l.Trouble == nil && l.Account != nil && now.Sub(l.Account.Asked) < askEvery {
		return nil
	}
	if now.Before(l.TokenExpires) {
		if l, err = s.Check(ctx); err != nil {
			if errors.Is(err, ErrNoLink) {
				return nil
			}
			return err
		}
	}
	switch l.State(now) {
	case Renew, Expired:
		s.log.WarnContext(ctx, "server token of Apple Business Manager ends: download and upload a new one", "expires", l.TokenExpires)
	case Troubled:
		s.log.WarnContext(ctx, "the link to Apple Business Manager does not work", "kind", l.Trouble.Kind, "reason", l.Trouble.Kind.Sentence(), "since", l.Trouble.Since)
	}
	return nil
}
