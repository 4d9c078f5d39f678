package admin

// areas are what the parts of event names before the dot are called, where the part itself
// is not what pages call it.
var areas = map[string]string{
	"account_driven":  "Sign-in on devices",
	"activation_lock": "Activation Lock",
	"apple_business":  "Apple Business Manager",
	"audit":           "Audit log",
	"ca":              "Certificate authority",
	"demo":            "Simulated devices",
	"link":            "Enrollment link",
	"migration":       "Migration from another server",
	"push":            "Pushes",
	"push_request":    "Push certificate request",
	"push_vendor":     "MDM vendor certificate",
	"secret":          "Secrets of devices",
	"template":        "Certificate template",
	"token":           "API token",
}

// Area names what events have in common whose names begin with prefix and a dot.
func Area(prefix string) string {
	if name, ok := areas[prefix]; ok {
		return name
	}
	return Words(prefix)
}
