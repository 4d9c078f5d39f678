package compat

import (
	"context"
	"errors"
	"net/http"

	"github.com/gatehouse-mdm/gatehouse/mdm/library"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// profileJSON is a profile in MicroMDM's list, which has no tags for its names.
type profileJSON struct {
	Identifier   string
	Mobileconfig []byte
}

// getProfiles lists the profiles of the library, or the one with an identifier, as devices get
// them but for signature and variables.
func (c *Compat) getProfiles(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Identifier string `json:"id"`
	}
	if err := readJSON(r, &in); err != nil {
		return err
	}
	out := struct {
		Profiles []profileJSON `json:"profiles"`
	}{[]profileJSON{}}
	err := c.eachProfile(r.Context(), func(p library.Profile) error {
		if in.Identifier != "" && p.Identifier != in.Identifier {
			return nil
		}
		_, content, err := c.Library.Content(r.Context(), p.ID, p.Latest)
		if errors.Is(err, storage.ErrNotFound) {
			return nil // deleted meanwhile
		}
		if err != nil {
			return err
		}
		data, err := content.Encode()
		if err != nil {
			return err
		}
		out.Profiles = append(out.Profiles, profileJSON{p.Identifier, data})
		return nil
	})
	if err != nil {
		return err
	}
	if in.Identifier != "" && len(out.Profiles) == 0 {
		return noProfile(in.Identifier)
	}
	return writeMicro(w, http.StatusOK, out)
}

func noProfile(identifier string) error {
	return &refusal{http.StatusNotFound, "there is no profile with the identifier " + clip(identifier)}
}

// eachProfile hands all profiles of the library to use.
func (c *Compat) eachProfile(ctx context.Context, use func(library.Profile) error) error {
	for cursor, more := "", true; more; more = cursor != "" {
		page, next, err := c.Library.Profiles(ctx, cursor, 100)
		if err != nil {
			return err
		}
		for _, p := range page {
			if err := use(p); err != nil {
				return err
			}
		}
		cursor = next
	}
	return nil
}

// applyProfile keeps a profile in the library. Dollar signs in it are what they are: MicroMDM
// knows no variables.
func (c *Compat) applyProfile(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Profile *profileJSON `json:"profile"`
	}
	if err := readJSON(r, &in); err != nil {
		return err
	}
	if in.Profile == nil || len(in.Profile.Mobileconfig) == 0 {
		return &refusal{http.StatusBadRequest, "no Mobileconfig data"}
	}
	identifier, err := profile.Identifier(in.Profile.Mobileconfig)
	if err != nil {
		return aboutProfile(err)
	}
	if in.Profile.Identifier != identifier {
		return &refusal{http.StatusBadRequest, "payload Identifier does not match Profile"}
	}
	_, err = c.Library.Add(r.Context(), library.Upload{Data: in.Profile.Mobileconfig, Literal: true, By: principal(r).String()})
	if err != nil {
		return aboutProfile(err)
	}
	return writeMicro(w, http.StatusOK, struct{}{})
}

// aboutProfile is err as a client is told.
func aboutProfile(err error) error {
	var field *library.FieldError
	switch {
	case errors.As(err, &field):
		return &refusal{http.StatusBadRequest, field.Error()}
	case errors.Is(err, profile.ErrNotProfile):
		return &refusal{http.StatusBadRequest, "Mobileconfig is no configuration profile: " + err.Error()}
	case errors.Is(err, library.ErrReserved), errors.Is(err, library.ErrTooManyVersions), errors.Is(err, library.ErrInUse):
		return &refusal{http.StatusConflict, err.Error()}
	}
	return err
}

// removeProfiles deletes profiles from the library, which are on no device.
func (c *Compat) removeProfiles(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Identifiers []string `json:"ids"`
	}
	if err := readJSON(r, &in); err != nil {
		return err
	}
	byIdentifier := map[string]string{}
	err := c.eachProfile(r.Context(), func(p library.Profile) error {
		byIdentifier[p.Identifier] = p.ID
		return nil
	})
	if err != nil {
		return err
	}
	for _, identifier := range in.Identifiers {
		id, there := byIdentifier[identifier]
		if !there {
			return noProfile(identifier)
		}
		err := c.Library.Delete(r.Context(), principal(r).String(), id)
		if errors.Is(err, storage.ErrNotFound) {
			continue // somebody was quicker
		}
		if err != nil {
			return aboutProfile(err)
		}
	}
	return writeMicro(w, http.StatusOK, struct{}{})
}
