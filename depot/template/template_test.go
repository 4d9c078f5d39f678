package template_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot/template"
)

// wifi is a template with something in every field.
func wifi(t testing.TB) template.Template {
	t.Helper()
	tmpl := template.New("wifi")
	var err error
	if tmpl.Subject, err = template.ParseSubject("/C=HR/O=Example/OU=$DEPARTMENTNAME/CN=$EMAIL"); err != nil {
		t.Fatal(err)
	}
	tmpl.SANs = template.SANs{
		RFC822Names: []string{"$EMAIL"}, DNSNames: []string{"$SERIALNUMBER.devices.example.com"},
		URIs: []string{"mdm-device://$DEVICE_ID", "urn:uuid:$UDID"}, NTPrincipalName: "$UPN",
	}
	return tmpl
}

func TestCheckTakesWhatIsRight(t *testing.T) {
	for name, change := range map[string]func(*template.Template){
		"the defaults":    func(*template.Template) {},
		"a short name":    func(t *template.Template) { t.Name = "A" },
		"a long name":     func(t *template.Template) { t.Name = "0" + strings.Repeat("a._-", 15) + "xyz" },
		"a large key":     func(t *template.Template) { t.KeySize = 4096 },
		"only signatures": func(t *template.Template) { t.KeyUsage = []string{"digitalSignature"} },
		"only encryption": func(t *template.Template) { t.KeyUsage = []string{"keyEncipherment"} },
		"many purposes": func(t *template.Template) {
			t.ExtKeyUsage = []string{"clientAuth", "serverAuth", "emailProtection", "codeSigning", "1.3.6.1.4.1.311.20.2.2", "1.3.6.1.4.1.99999.1"}
		},
		"an hour":                         func(t *template.Template) { t.Validity = "1h" },
		"825 days":                        func(t *template.Template) { t.Validity = "825d" },
		"renewal by a part":               func(t *template.Template) { t.RenewBefore = "30%" },
		"renewal by days":                 func(t *template.Template) { t.RenewBefore = "14d" },
		"renewal by hours":                func(t *template.Template) { t.RenewBefore = "720h" },
		"no retries":                      func(t *template.Template) { t.Retries, t.RetryDelay = 0, 0 },
		"a static challenge":              func(t *template.Template) { t.ChallengeType, t.Challenge = template.Static, "static-secret" },
		"a subject without CN":            func(t *template.Template) { t.Subject = t.Subject[:3] },
		"dollars that are no variables":   func(t *template.Template) { t.Subject[1][0].Value = "$$ave ${EMAIL}x" },
		"Jamf's words":                    func(t *template.Template) { t.Subject[3][0].Value = "$JSSID $REALNAME $EXTENSIONATTRIBUTE_12" },
		"an external issuer":              func(t *template.Template) { external(t) },
		"an external one with short keys": func(t *template.Template) { external(t); t.KeySize = 1024 },
		"a proxy":                         func(t *template.Template) { external(t); t.Issuer = template.Proxy },
		"a proxy for a static challenge": func(t *template.Template) {
			external(t)
			t.Issuer = template.Proxy
			t.ChallengeType, t.Challenge = template.Static, "static-secret"
		},
		"a challenge that is fetched": func(t *template.Template) {
			external(t)
			t.Upstream.ChallengeType, t.Upstream.ChallengeURL = template.UpstreamDynamic, "https://ndes.example.com/certsrv/mscep_admin/?x=1"
			t.Upstream.Username, t.Upstream.Password = `EXAMPLE\gatehouse`, "secret"
		},
	} {
		t.Run(name, func(t *testing.T) {
			tmpl := wifi(t)
			change(&tmpl)
			if err := tmpl.Check(); err != nil {
				t.Errorf("Check() = %v", err)
			}
		})
	}
}

// external makes t one of another SCEP server.
func external(t *template.Template) {
	t.Issuer = template.External
	t.Upstream = template.Upstream{
		URL: "http://ndes.example.com/certsrv/mscep/mscep.dll", Name: "Example CA",
		Fingerprint: make([]byte, 32), ChallengeType: template.UpstreamNone,
	}
}

func TestCheckNamesTheFieldThatIsWrong(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*template.Template)
		field  string
		reason string
	}{
		"no name":                 {func(t *template.Template) { t.Name = "" }, "name", "1 to 64"},
		"a dot for a name":        {func(t *template.Template) { t.Name = "." }, "name", "begin with"},
		"two dots":                {func(t *template.Template) { t.Name = ".." }, "name", "begin with"},
		"a slash in the name":     {func(t *template.Template) { t.Name = "a/b" }, "name", "letters"},
		"a line end in the name":  {func(t *template.Template) { t.Name = "a\n" }, "name", "letters"},
		"a name that is too long": {func(t *template.Template) { t.Name = strings.Repeat("a", 65) }, "name", "64"},

		"no subject":                  {func(t *template.Template) { t.Subject = nil }, "subject", "required"},
		"an unknown variable":         {func(t *template.Template) { t.Subject[3][0].Value = "x $EMAILX" }, "subject", "CN has the unknown variable $EMAILX"},
		"one in braces":               {func(t *template.Template) { t.Subject[3][0].Value = "${email}" }, "subject", "$email"},
		"braces that stay open":       {func(t *template.Template) { t.Subject[3][0].Value = "${EMAIL" }, "subject", "without }"},
		"a lone dollar":               {func(t *template.Template) { t.Subject[3][0].Value = "5 $ " }, "subject", "$$"},
		"an attribute without number": {func(t *template.Template) { t.Subject[3][0].Value = "$EXTENSIONATTRIBUTE_" }, "subject", "$EXTENSIONATTRIBUTE_"},
		"an empty value":              {func(t *template.Template) { t.Subject[1][0].Value = "" }, "subject", "O is empty"},
		"a country of three letters":  {func(t *template.Template) { t.Subject[0][0].Value = "HRV" }, "subject", "C must be two letters"},
		"a country in digits":         {func(t *template.Template) { t.Subject[0][0].Value = "38" }, "subject", "C must be two letters"},
		"a CN of 65 bytes":            {func(t *template.Template) { t.Subject[3][0].Value = strings.Repeat("é", 32) + "x" }, "subject", "CN has 65 bytes, at most 64"},
		"a CN that can't but be long": {func(t *template.Template) { t.Subject[3][0].Value = strings.Repeat("x", 64) + "$EMAIL" }, "subject", "CN has 65 characters"},
		"an O of 65 characters":       {func(t *template.Template) { t.Subject[1][0].Value = strings.Repeat("é", 65) }, "subject", "O has 65 characters"},
		"a control character":         {func(t *template.Template) { t.Subject[1][0].Value = "a\x00b" }, "subject", "control"},
		"one beside a variable":       {func(t *template.Template) { t.Subject[1][0].Value = "a\x1b$EMAIL" }, "subject", "control"},
		"a space at the end":          {func(t *template.Template) { t.Subject[1][0].Value = "a " }, "subject", "space"},
		"an address in other letters": {func(t *template.Template) { t.Subject[1] = one("emailAddress", "aña@example.com") }, "subject", "ASCII"},
		"a serial number of any text": {func(t *template.Template) { t.Subject[1] = one("serialNumber", "a_b") }, "subject", "serialNumber may hold"},
		"a type twice in one part": {func(t *template.Template) {
			t.Subject[1] = template.RDN{{Type: "O", Value: "a"}, {Type: "O", Value: "b"}}
		}, "subject", "O twice"},
		"an empty part": {func(t *template.Template) { t.Subject[1] = nil }, "subject", "0 attributes"},

		"no e-mail address":            {func(t *template.Template) { t.SANs.RFC822Names = []string{"$EMAIL", "ana"} }, "sans.rfc822Name[1]", `"ana"`},
		"a wildcard":                   {func(t *template.Template) { t.SANs.DNSNames[0] = "*.example.com" }, "sans.dNSName[0]", "wildcard"},
		"an address for a name":        {func(t *template.Template) { t.SANs.DNSNames[0] = "192.0.2.1" }, "sans.dNSName[0]", "addresses"},
		"an underscore":                {func(t *template.Template) { t.SANs.DNSNames[0] = "a_b.example.com" }, "sans.dNSName[0]", "host name"},
		"a dot at the end":             {func(t *template.Template) { t.SANs.DNSNames[0] = "example.com." }, "sans.dNSName[0]", "host name"},
		"a relative URI":               {func(t *template.Template) { t.SANs.URIs[1] = "/device" }, "sans.uniformResourceIdentifier[1]", "absolute"},
		"a URI of a scheme":            {func(t *template.Template) { t.SANs.URIs[1] = "urn:" }, "sans.uniformResourceIdentifier[1]", "absolute"},
		"a URI with a user":            {func(t *template.Template) { t.SANs.URIs[1] = "https://ana@example.com/" }, "sans.uniformResourceIdentifier[1]", "user"},
		"no user principal name":       {func(t *template.Template) { t.SANs.NTPrincipalName = "ana" }, "sans.ntPrincipalName", "ana@example.com"},
		"an unknown variable in a SAN": {func(t *template.Template) { t.SANs.NTPrincipalName = "$UPNS" }, "sans.ntPrincipalName", "$UPNS"},
		"very many names":              {func(t *template.Template) { t.SANs.DNSNames = slices.Repeat([]string{"a.example.com"}, 21) }, "sans.dNSName", "at most 20"},

		"another type of key":          {func(t *template.Template) { t.KeyType = "EC" }, "key_type", "RSA"},
		"an odd size":                  {func(t *template.Template) { t.KeySize = 3072 }, "key_size", "2048 or 4096"},
		"a short key of ours":          {func(t *template.Template) { t.KeySize = 1024 }, "key_size", "too short"},
		"a short key through us":       {func(t *template.Template) { external(t); t.Issuer, t.KeySize = template.Proxy, 1024 }, "key_size", "too short"},
		"no key usage":                 {func(t *template.Template) { t.KeyUsage = nil }, "key_usage", "at least one"},
		"keyCertSign":                  {func(t *template.Template) { t.KeyUsage = []string{"keyCertSign"} }, "key_usage", "keyCertSign"},
		"a usage twice":                {func(t *template.Template) { t.KeyUsage = []string{"digitalSignature", "digitalSignature"} }, "key_usage", "twice"},
		"no purpose":                   {func(t *template.Template) { t.ExtKeyUsage = nil }, "ext_key_usage", "any purpose"},
		"any purpose":                  {func(t *template.Template) { t.ExtKeyUsage = []string{"clientAuth", "anyExtendedKeyUsage"} }, "ext_key_usage[1]", "any purpose"},
		"any purpose by OID":           {func(t *template.Template) { t.ExtKeyUsage = []string{"2.5.29.37.0"} }, "ext_key_usage[0]", "any purpose"},
		"any purpose, as Windows says": {func(t *template.Template) { t.ExtKeyUsage = []string{"1.3.6.1.4.1.311.10.12.1"} }, "ext_key_usage[0]", "any purpose"},
		"OCSPSigning":                  {func(t *template.Template) { t.ExtKeyUsage = []string{"OCSPSigning"} }, "ext_key_usage[0]", "revoked"},
		"timeStamping":                 {func(t *template.Template) { t.ExtKeyUsage = []string{"1.3.6.1.5.5.7.3.8"} }, "ext_key_usage[0]", "time-stamping"},
		"an agent of enrollment":       {func(t *template.Template) { t.ExtKeyUsage = []string{"1.3.6.1.4.1.311.20.2.1"} }, "ext_key_usage[0]", "others"},
		"a purpose that nobody knows":  {func(t *template.Template) { t.ExtKeyUsage = []string{"clientauth"} }, "ext_key_usage[0]", "clientAuth"},
		"a purpose twice":              {func(t *template.Template) { t.ExtKeyUsage = []string{"clientAuth", "1.3.6.1.5.5.7.3.2"} }, "ext_key_usage[1]", "twice"},
		"an OID in other spelling":     {func(t *template.Template) { t.ExtKeyUsage = []string{"2.5.29.37.00"} }, "ext_key_usage[0]", "OID"},

		"no validity":          {func(t *template.Template) { t.Validity = "" }, "validity", "8760h"},
		"a short validity":     {func(t *template.Template) { t.Validity = "59m" }, "validity", "825 days"},
		"a long validity":      {func(t *template.Template) { t.Validity = "826d" }, "validity", "825 days"},
		"a negative one":       {func(t *template.Template) { t.Validity = "-8760h" }, "validity", "8760h"},
		"renewal at once":      {func(t *template.Template) { t.RenewBefore = "365d" }, "renew_before", "shorter"},
		"renewal at no time":   {func(t *template.Template) { t.RenewBefore = "0s" }, "renew_before", "30%|720h"},
		"renewal by all of it": {func(t *template.Template) { t.RenewBefore = "100%" }, "renew_before", "99%"},
		"renewal by nothing":   {func(t *template.Template) { t.RenewBefore = "0%" }, "renew_before", "1%"},
		"negative retries":     {func(t *template.Template) { t.Retries = -1 }, "retries", "0 to 100"},
		"half a second":        {func(t *template.Template) { t.RetryDelay = time.Second / 2 }, "retry_delay", "whole seconds"},
		"days of delay":        {func(t *template.Template) { t.RetryDelay = 25 * time.Hour }, "retry_delay", "86400"},

		"no challenge":             {func(t *template.Template) { t.ChallengeType = "none" }, "challenge_type", "one_time"},
		"a challenge for one time": {func(t *template.Template) { t.Challenge = "static-secret" }, "challenge", "static"},
		"a short static challenge": {func(t *template.Template) { t.ChallengeType, t.Challenge = template.Static, "12345" }, "challenge", "at least 6"},
		"a long one": {func(t *template.Template) {
			t.ChallengeType, t.Challenge = template.Static, template.Secret(strings.Repeat("x", 256))
		}, "challenge", "255"},
		"one with a line end":       {func(t *template.Template) { t.ChallengeType, t.Challenge = template.Static, "static\nsecret" }, "challenge", "control"},
		"a static one of another's": {func(t *template.Template) { external(t); t.ChallengeType = template.Static }, "challenge_type", "upstream"},

		"another issuer":              {func(t *template.Template) { t.Issuer = "ndes" }, "issuer", "builtin"},
		"an upstream of ours":         {func(t *template.Template) { external(t); t.Issuer = template.Builtin }, "upstream", "builtin"},
		"no URL":                      {func(t *template.Template) { external(t); t.Upstream.URL = "" }, "upstream.url", "required"},
		"a URL with a query":          {func(t *template.Template) { external(t); t.Upstream.URL += "?operation=x" }, "upstream.url", "query"},
		"a URL of a file":             {func(t *template.Template) { external(t); t.Upstream.URL = "file:///etc/passwd" }, "upstream.url", "http"},
		"a URL with a user":           {func(t *template.Template) { external(t); t.Upstream.URL = "https://a:b@example.com/" }, "upstream.url", "user"},
		"a proxy that anybody can be": {func(t *template.Template) { external(t); t.Issuer, t.Upstream.Fingerprint = template.Proxy, nil }, "upstream.fingerprint", "required"},
		"a static challenge and theirs": {func(t *template.Template) {
			external(t)
			t.Issuer, t.ChallengeType, t.Challenge = template.Proxy, template.Static, "static-secret"
			t.Upstream.ChallengeType, t.Upstream.Challenge = template.UpstreamStatic, "theirs"
		}, "challenge_type", "one challenge"},
		"a private address of ours":    {func(t *template.Template) { t.Upstream.AllowPrivate = true }, "upstream", "builtin"},
		"a fingerprint of MD5":         {func(t *template.Template) { external(t); t.Upstream.Fingerprint = make([]byte, 16) }, "upstream.fingerprint", "digest"},
		"no kind of challenge":         {func(t *template.Template) { external(t); t.Upstream.ChallengeType = "" }, "upstream.challenge_type", "dynamic"},
		"a static one that is missing": {func(t *template.Template) { external(t); t.Upstream.ChallengeType = template.UpstreamStatic }, "upstream.challenge", "required"},
		"a challenge without use":      {func(t *template.Template) { external(t); t.Upstream.Challenge = "x" }, "upstream.challenge", "static"},
		"a password without use":       {func(t *template.Template) { external(t); t.Upstream.Password = "x" }, "upstream.password", "dynamic"},
		"a password in the clear": {func(t *template.Template) {
			external(t)
			t.Upstream.ChallengeType, t.Upstream.ChallengeURL = template.UpstreamDynamic, "http://ndes.example.com/"
			t.Upstream.Username, t.Upstream.Password = "ana", "x"
		}, "upstream.challenge_url", "https"},
		"a long note":            {func(t *template.Template) { t.Notes = []template.Note{{Text: strings.Repeat("x", 10_001)}} }, "notes", "10000"},
		"roots for nobody":       {func(t *template.Template) { t.Roots = [][]byte{rootDER()} }, "root_certificates", "include_root"},
		"a root that is no root": {func(t *template.Template) { t.IncludeRoot, t.Roots = true, [][]byte{rootDER(), leafDER()} }, "root_certificates[1]", "authority"},
		"a root that is nothing": {func(t *template.Template) { t.IncludeRoot, t.Roots = true, [][]byte{{1, 2, 3}} }, "root_certificates[0]", "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			tmpl := wifi(t)
			tt.change(&tmpl)
			var bad template.FieldErrors
			if err := tmpl.Check(); !errors.As(err, &bad) {
				t.Fatalf("Check() = %v, want an error about %s", err, tt.field)
			}
			found := slices.ContainsFunc(bad, func(e template.FieldError) bool {
				return e.Field == tt.field && slices.ContainsFunc(strings.Split(tt.reason, "|"), func(s string) bool { return strings.Contains(e.Reason, s) })
			})
			if !found || len(bad) != 1 {
				t.Errorf("Check() = %v, want one error: %s: … %s …", bad, tt.field, tt.reason)
			}
		})
	}
}

func TestCheckNamesAllFieldsThatAreWrong(t *testing.T) {
	tmpl := wifi(t)
	tmpl.KeySize, tmpl.Validity, tmpl.Retries = 1, "x", -1
	var bad template.FieldErrors
	if err := tmpl.Check(); !errors.As(err, &bad) || len(bad) != 3 {
		t.Errorf("Check() = %v, want three errors", err)
	}
}

func TestRenewAt(t *testing.T) {
	const day = 24 * time.Hour
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct {
		before template.RenewBefore
		life   time.Duration
		want   time.Duration // after from
	}{
		"30 days when nothing is said":    {"", 365 * day, 335 * day},
		"half a life if that is shorter":  {"", 40 * day, 20 * day},
		"days":                            {"14d", 365 * day, 351 * day},
		"hours":                           {"720h", 365 * day, 335 * day},
		"a part":                          {"30%", 100 * day, 70 * day},
		"one that its issuer cut short":   {"14d", 10 * day, 5 * day},
		"a part of one that was cut, too": {"50%", 10 * day, 5 * day},
	} {
		t.Run(name, func(t *testing.T) {
			tmpl := template.New("x")
			tmpl.RenewBefore = tt.before
			if got := tmpl.RenewAt(from, from.Add(tt.life)).Sub(from); got != tt.want {
				t.Errorf("renewed after %v of %v, want %v", got, tt.life, tt.want)
			}
		})
	}
	if got := template.New("x").ValidFor(); got != 365*day {
		t.Errorf("ValidFor() = %v by default", got)
	}
}

func TestWarnings(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct {
		change func(*template.Template)
		want   []string // fields
	}{
		"nothing to say":           {func(*template.Template) {}, nil},
		"three CNs":                {func(t *template.Template) { t.Subject = append(t.Subject, one("CN", "a"), one("CN", "b")) }, []string{"subject"}},
		"two CNs are usual":        {func(t *template.Template) { t.Subject = append(t.Subject, one("CN", "a")) }, nil},
		"no CN":                    {func(t *template.Template) { t.Subject = t.Subject[:2] }, []string{"subject"}},
		"a key that can be taken":  {func(t *template.Template) { t.KeyExtractable = true }, []string{"key_extractable"}},
		"a static challenge":       {func(t *template.Template) { t.ChallengeType, t.Challenge = template.Static, "0123456789abcdef" }, []string{"challenge_type"}},
		"a short static challenge": {func(t *template.Template) { t.ChallengeType, t.Challenge = template.Static, "01234567" }, []string{"challenge_type", "challenge"}},
		"a short key":              {func(t *template.Template) { external(t); t.KeySize = 1024 }, []string{"key_size"}},
		"no fingerprint":           {func(t *template.Template) { external(t); t.Upstream.Fingerprint = nil }, []string{"upstream.fingerprint"}},
		"a fingerprint of SHA-1":   {func(t *template.Template) { external(t); t.Upstream.Fingerprint = make([]byte, 20) }, []string{"upstream.fingerprint"}},
		"a challenge for all through us": {func(t *template.Template) {
			external(t)
			t.Issuer, t.Upstream.ChallengeType, t.Upstream.Challenge = template.Proxy, template.UpstreamStatic, "theirs"
			t.Upstream.URL = "https://ndes.example.com/"
		}, []string{"upstream.challenge_type"}},
		"a way through us in the clear": {func(t *template.Template) { external(t); t.Issuer = template.Proxy }, []string{"upstream.url"}},
		"our challenge shown to them": {func(t *template.Template) {
			external(t)
			t.Issuer, t.ChallengeType, t.Challenge = template.Proxy, template.Static, "0123456789abcdef"
			t.Upstream.URL = "https://ndes.example.com/"
		}, []string{"challenge_type", "challenge_type"}},
		"our root for another's": {func(t *template.Template) { external(t); t.IncludeRoot = true }, []string{"include_root"}},
		"an expired root":        {func(t *template.Template) { t.IncludeRoot, t.Roots = true, [][]byte{rootDER()} }, []string{"root_certificates[0]"}},
		"a server by its own word": {func(t *template.Template) {
			t.ExtKeyUsage = []string{"serverAuth"}
			t.SANs.DNSNames = []string{"a.example.com", "${DEVICENAME}.example.com"}
		}, []string{"sans.dNSName[1]"}},
		"a client by its own word":  {func(t *template.Template) { t.SANs.DNSNames = []string{"$DEVICENAME"} }, nil},
		"a server by our knowledge": {func(t *template.Template) { t.ExtKeyUsage = []string{"serverAuth"} }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			tmpl := wifi(t)
			tt.change(&tmpl)
			if err := tmpl.Check(); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, w := range tmpl.Warnings(now) {
				got = append(got, w.Field)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("Warnings() = %v, want %v", tmpl.Warnings(now), tt.want)
			}
		})
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	s := template.Secret("hush")
	for _, text := range []string{fmt.Sprint(s), fmt.Sprintf("%s %v %+v %#v %q", s, s, s, s, s), s.LogValue().String(), fmt.Sprintf("%+v", template.Template{Challenge: s})} {
		if strings.Contains(text, "hush") {
			t.Errorf("a secret prints as %s", text)
		}
	}
	if !s.Is("hush") || s.Is("") || s.Is("hush ") || template.Secret("").Is("") {
		t.Error("Is does not compare")
	}
}
