package ldap

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"

	"github.com/go-ldap/ldap/v3"
)

const (
	// mostGroups is how many somebody can be in: Active Directory's tokens end at half.
	mostGroups = 2000

	// deepest is how many times a group is looked for in others.
	deepest = 5

	// together is how many groups are looked for by one search.
	together = 50
)

// groups returns the groups of an entry: the DN of each, and then the name in it.
func (s *Source) groups(ctx context.Context, c *conn, e entry) ([]string, error) {
	seen := map[string]bool{} // in lower case
	var dns []string
	add := func(more ...string) (added []string) {
		for _, dn := range more {
			if key := strings.ToLower(dn); dn != "" && !seen[key] {
				seen[key] = true
				added = append(added, dn)
			}
		}
		dns = append(dns, added...)
		return added
	}
	find := func(filter string) ([]string, error) {
		found, err := c.find(ctx, s.GroupBaseDN, ldap.ScopeWholeSubtree, filter, mostGroups)
		if ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject) {
			return nil, &failure{c.server, stepGroups, fmt.Errorf("there is no group_base_dn %s, or bind_dn may not see it: %w", clean(s.GroupBaseDN), explain(err)), false}
		}
		if err != nil {
			return nil, failed(c, stepGroups, err)
		}
		var of []string
		for _, group := range found {
			of = append(of, group.DN)
		}
		return of, nil
	}
	level := add(e.memberOf...)
	if s.GroupBaseDN != "" {
		direct, err := find(s.GroupFilter.fill(map[string]string{
			"dn": e.dn,
			// Nobody has the name that stands for none.
			"uid": cmp.Or(e.person.First("uid"), e.person.First("samaccountname"), rand.Text()),
		}))
		if err != nil {
			return nil, err
		}
		level = append(level, add(direct...)...)
	}
	switch s.NestedGroups {
	case nestedActiveDirectory:
		// LDAP_MATCHING_RULE_IN_CHAIN ([MS-ADTS], 3.1.1.3.4.4.3): the server does the walking.
		of, err := find(filter("(member:1.2.840.113556.1.4.1941:={dn})").fill(map[string]string{"dn": e.dn}))
		if err != nil {
			return nil, err
		}
		add(of...)
	case nestedWalk:
		for depth := 0; depth < deepest && len(level) > 0; depth++ {
			var above []string
			for some := range slices.Chunk(level, together) {
				var any strings.Builder
				for _, dn := range some {
					any.WriteString(filter("(member={dn})(uniqueMember={dn})").fill(map[string]string{"dn": dn}))
				}
				of, err := find("(|" + any.String() + ")")
				if err != nil {
					return nil, err
				}
				above = append(above, add(of...)...) // groups in a circle were seen
			}
			level = above
			if len(dns) > mostGroups {
				break
			}
		}
	}
	if len(dns) > mostGroups {
		return nil, &failure{c.server, stepGroups, fmt.Errorf("the person is in more than %d groups", mostGroups), false}
	}
	return named(dns), nil
}

// named returns DNs, each with the name in its first part.
func named(dns []string) []string {
	var names []string
	for _, dn := range dns {
		names = append(names, dn)
		if parsed, err := ldap.ParseDN(dn); err == nil && len(parsed.RDNs) > 0 && len(parsed.RDNs[0].Attributes) > 0 {
			names = append(names, parsed.RDNs[0].Attributes[0].Value)
		}
	}
	return names
}
