package template

import "github.com/gatehouse-mdm/gatehouse/storage/guard"

// Asked returns names without variables as a certificate request would ask for them,
// for [Template.Match].
func Asked(s Subject, n SANs) (guard.Asked, error) {
	asked := guard.Asked{
		Subject: make(guard.Name, len(s)),
		Names:   guard.AlternativeNames{EmailAddresses: n.RFC822Names, DNSNames: n.DNSNames, URIs: n.URIs},
	}
	if n.NTPrincipalName != "" {
		asked.Names.UserPrincipalNames = []string{n.NTPrincipalName}
	}
	for i, rdn := range s {
		for _, a := range rdn {
			t, err := typeOf(a.Type)
			if err != nil {
				return guard.Asked{}, &FieldError{"subject", err.Error()}
			}
			oid, err := parseOID(t.oid)
			if err != nil {
				return guard.Asked{}, &FieldError{"subject", err.Error()}
			}
			asked.Subject[i] = append(asked.Subject[i], guard.NameAttribute{Type: oid, Value: a.Value})
		}
	}
	return asked, nil
}
