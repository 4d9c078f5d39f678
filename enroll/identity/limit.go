package identity

import (
	"fmt"
	"iter"
	"slices"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// maxLimits is how many groups of devices a role may be limited to.
const maxLimits = 100

// limitedTo is what [Principal.Groups] is for a role that is limited to groups; nil for none.
func limitedTo(groups []string) []string {
	if len(groups) == 0 {
		return nil
	}
	return slices.Clone(groups)
}

// normalGroups returns ids in their order, each once.
func normalGroups(ids []string) []string {
	if len(ids) == 0 {
		return nil
	}
	return slices.Compact(slices.Sorted(slices.Values(ids)))
}

// checkGroups checks what a role is limited to. Whether there are such groups, this package
// does not know.
func checkGroups(ids []string, owner bool) error {
	const field = "group_ids"
	switch {
	case len(ids) == 0:
		return nil
	case owner:
		return &FieldError{field, "limit no owner: who owns the server has all devices"}
	case len(ids) > maxLimits:
		return &FieldError{field, fmt.Sprintf("must be at most %d groups", maxLimits)}
	}
	for _, id := range ids {
		if err := checkText(field, id, 1, 64); err != nil {
			return err
		}
	}
	return nil
}

// LimitedTo returns what the users and the tokens are called whose role is limited to a
// group: what they may do ends with it.
func LimitedTo(tx storage.Tx, group string) (userLogins, tokenNames []string, err error) {
	if userLogins, err = named(users.Lookup(tx, usersByGroup, group), User.Login); err != nil {
		return nil, nil, fmt.Errorf("users limited to group %s: %w", group, err)
	}
	if tokenNames, err = named(tokens.Lookup(tx, tokensByGroup, group), func(t Token) string { return t.Name }); err != nil {
		return nil, nil, fmt.Errorf("tokens limited to group %s: %w", group, err)
	}
	return userLogins, tokenNames, nil
}

func named[T any](all iter.Seq2[T, error], name func(T) string) (names []string, err error) {
	for v, err := range all {
		if err != nil {
			return nil, err
		}
		names = append(names, name(v))
	}
	return names, nil
}
