package ldap

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// settings are what an operator says of a directory, as JSON.
type settings struct {
	// URLs are servers with the same content, ldaps:// or ldap://, in the order in which
	// they are asked.
	URLs []string `json:"urls"`

	// StartTLS has connections to ldap:// URLs encrypted before anything is sent (RFC 4511,
	// 4.14). There is no going on without.
	StartTLS bool `json:"start_tls"`

	// AllowPlaintext lets passwords travel unencrypted, where URLs are ldap:// without
	// StartTLS.
	AllowPlaintext bool `json:"allow_plaintext"`

	// CACertificates are trusted beside the system's: PEM.
	CACertificates string `json:"ca_certificates"`

	// ServerName is what servers' certificates must be for; empty: the host of the URL.
	ServerName string `json:"server_name"`

	// ClientCertificate and ClientKey are shown to servers that ask for them: PEM.
	ClientCertificate string `json:"client_certificate"`
	ClientKey         string `json:"client_key"`

	// BindDN is who searches; empty: anybody may. Active Directory takes
	// "gatehouse@example.com" as well.
	BindDN       string `json:"bind_dn"`
	BindPassword string `json:"bind_password"`

	BaseDN     string `json:"base_dn"`
	Scope      string `json:"scope"`       // "sub" or "one" (RFC 4516)
	UserFilter filter `json:"user_filter"` // with {login}

	// PeopleFilter finds all who may sign in; empty: UserFilter with any login.
	PeopleFilter filter `json:"people_filter"`

	// DisabledFilter finds those whose accounts are off, beside the ways that are known
	// anyway.
	DisabledFilter filter `json:"disabled_filter"`

	// SubjectAttribute tells entries apart for ever; empty: entryUUID, else objectGUID.
	SubjectAttribute string `json:"subject_attribute"`

	// Attributes are read beside those of [attributesOf].
	Attributes []string `json:"attributes"`

	// GroupBaseDN is where groups are searched for; empty: nowhere, memberOf alone counts.
	GroupBaseDN  string `json:"group_base_dn"`
	GroupFilter  filter `json:"group_filter"`  // with {dn} and {uid} of the member
	NestedGroups string `json:"nested_groups"` // groups of groups: "none", "walk" or "active_directory"

	Timeout  string `json:"timeout"`   // for each step: "5s"
	PageSize int    `json:"page_size"` // entries for each answer when all are listed

	servers []server
	timeout time.Duration
	tls     *tls.Config // without a name
}

// server is one address of a directory.
type server struct {
	url     string
	host    string
	address string // host and port
	tls     bool   // from the first byte on
}

const (
	nestedNone            = "none"
	nestedWalk            = "walk"
	nestedActiveDirectory = "active_directory"
)

// defaultUserFilter finds people in OpenLDAP, FreeIPA and Active Directory.
const defaultUserFilter = "(&(objectClass=person)(|(uid={login})(mail={login})(sAMAccountName={login})(userPrincipalName={login})))"

// defaultGroupFilter finds groups of RFC 4519 (groupOfNames, groupOfUniqueNames) and of
// RFC 2307 (posixGroup).
const defaultGroupFilter = "(|(member={dn})(uniqueMember={dn})(memberUid={uid}))"

// Bounds of settings.
const (
	mostServers    = 5
	mostAttributes = 50
	longestText    = 1000    // bytes
	longestPEM     = 1 << 16 // bytes
	mostEntries    = 1000    // on a page: more than that Active Directory doesn't give
)

// attribute is a name or an OID, with options (RFC 4512, 2.5).
var attribute = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9-]*|[0-9]+(\.[0-9]+)+)(;[A-Za-z0-9-]+)*$`)

// parseSettings reads settings and says what is wrong with them: a *FieldError.
func parseSettings(raw json.RawMessage) (settings, error) {
	s := settings{
		Scope: "sub", UserFilter: defaultUserFilter, GroupFilter: defaultGroupFilter,
		NestedGroups: nestedNone, Timeout: "5s", PageSize: 500,
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(raw, &object); err != nil || object == nil {
		return settings{}, &identity.FieldError{Field: "settings", Reason: "must be an object"}
	}
	// Not decoded as a whole: encoding/json takes "Bind_Password" for bind_password, which
	// would not be kept as a secret.
	fields := reflect.ValueOf(&s).Elem()
	known := map[string]reflect.Value{}
	for i := range fields.NumField() {
		if name := fields.Type().Field(i).Tag.Get("json"); name != "" {
			known[name] = fields.Field(i)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		field, ok := known[name]
		if !ok {
			return settings{}, &identity.FieldError{Field: name, Reason: "is no setting of LDAP"}
		}
		if text := string(object[name]); text == "null" || text == `""` {
			continue // as if it were not there
		}
		if err := json.Unmarshal(object[name], field.Addr().Interface()); err != nil {
			return settings{}, &identity.FieldError{Field: name, Reason: "must be " + shape(field.Kind())}
		}
	}
	if err := s.check(); err != nil {
		return settings{}, err
	}
	return s, nil
}

// shape says what JSON a field takes.
func shape(kind reflect.Kind) string {
	switch kind {
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "a list of texts"
	case reflect.Int:
		return "a number"
	}
	return "a text"
}

func wrong(field, reason string, args ...any) error {
	return &identity.FieldError{Field: field, Reason: fmt.Sprintf(reason, args...)}
}

func (s *settings) check() error {
	for _, check := range []func() error{
		s.checkTexts, s.checkServers, s.checkTLS, s.checkBind, s.checkSearch, s.checkGroups, s.checkLimits,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (s *settings) checkTexts() error {
	for _, text := range []struct{ field, value string }{
		{"server_name", s.ServerName}, {"bind_dn", s.BindDN}, {"bind_password", s.BindPassword},
		{"base_dn", s.BaseDN}, {"group_base_dn", s.GroupBaseDN}, {"subject_attribute", s.SubjectAttribute},
	} {
		switch {
		case len(text.value) > longestText:
			return wrong(text.field, "must have at most %d bytes", longestText)
		case strings.ContainsFunc(text.value, isControl):
			return wrong(text.field, "must have no control characters")
		case text.field != "bind_password" && text.value != strings.TrimSpace(text.value):
			return wrong(text.field, "must not begin or end with a space")
		}
	}
	return nil
}

func (s *settings) checkServers() error {
	switch n := len(s.URLs); {
	case n == 0:
		return wrong("urls", "is required: at least one URL, such as ldaps://ldap.example.com")
	case n > mostServers:
		return wrong("urls", "must be at most %d", mostServers)
	}
	encrypted := true
	for _, text := range s.URLs {
		at, err := parseServer(text)
		if err != nil {
			return wrong("urls", "%v", err)
		}
		if slices.ContainsFunc(s.servers, func(other server) bool { return other.url == at.url }) {
			return wrong("urls", "has %s twice", at.url)
		}
		s.servers = append(s.servers, at)
		encrypted = encrypted && at.tls
	}
	switch {
	case encrypted && s.StartTLS:
		return wrong("start_tls", "is for ldap:// URLs: those of urls are encrypted anyway")
	case !encrypted && !s.StartTLS && !s.AllowPlaintext:
		return wrong("urls", "must begin with ldaps://, or start_tls be true: without them everybody on the way can read passwords, "+
			"which allow_plaintext must say is all right")
	}
	return nil
}

func parseServer(text string) (server, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || len(text) > longestText || u.Hostname() == "" || u.Scheme != "ldap" && u.Scheme != "ldaps":
		return server{}, errors.New("must be URLs such as ldaps://ldap.example.com or ldaps://ldap.example.com:636")
	case u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return server{}, errors.New("must be nothing but scheme, host and port: base, filter and who binds are settings of their own")
	}
	at := server{url: u.Scheme + "://" + u.Host, host: u.Hostname(), tls: u.Scheme == "ldaps"}
	port := "389"
	if at.tls {
		port = "636"
	}
	at.address = net.JoinHostPort(at.host, cmp.Or(u.Port(), port))
	return at, nil
}

func (s *settings) checkTLS() error {
	s.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CACertificates != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool() // a system without any
		}
		if err := eachCertificate(s.CACertificates, pool.AddCert); err != nil {
			return wrong("ca_certificates", "%v", err)
		}
		s.tls.RootCAs = pool
	}
	switch {
	case s.ClientCertificate == "" && s.ClientKey == "":
		return nil
	case s.ClientCertificate == "":
		return wrong("client_certificate", "is required beside client_key")
	case s.ClientKey == "":
		return wrong("client_key", "is required beside client_certificate")
	}
	if err := eachCertificate(s.ClientCertificate, func(*x509.Certificate) {}); err != nil {
		return wrong("client_certificate", "%v", err)
	}
	if len(s.ClientKey) > longestPEM {
		return wrong("client_key", "must have at most %d bytes", longestPEM)
	}
	pair, err := tls.X509KeyPair([]byte(s.ClientCertificate), []byte(s.ClientKey))
	if err != nil { // whose text may quote the key
		return wrong("client_key", "must be the key of client_certificate in PEM, without a passphrase")
	}
	s.tls.Certificates = []tls.Certificate{pair}
	return nil
}

// eachCertificate calls fn for every certificate of a PEM text, which holds nothing else.
func eachCertificate(text string, fn func(*x509.Certificate)) error {
	if len(text) > longestPEM {
		return fmt.Errorf("must have at most %d bytes", longestPEM)
	}
	for rest := []byte(strings.TrimSpace(text)); len(rest) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return errors.New("must be certificates in PEM, and nothing else")
		}
		cert, err := guard.ParseCertificate(block.Bytes)
		if err != nil {
			return errors.New("has a certificate that can't be read")
		}
		fn(cert)
	}
	return nil
}

// checkBind refuses the half of an account: a bind with a name and no password succeeds,
// and is anonymous (RFC 4513, 5.1.2).
func (s *settings) checkBind() error {
	switch {
	case s.BindDN == "" && s.BindPassword != "":
		return wrong("bind_dn", "is required beside bind_password")
	case s.BindDN != "" && s.BindPassword == "":
		return wrong("bind_password", "is required beside bind_dn")
	}
	return nil
}

func (s *settings) checkSearch() error {
	if s.BaseDN == "" {
		return wrong("base_dn", "is required: below it are the people, such as ou=people,dc=example,dc=com")
	}
	if _, err := ldap.ParseDN(s.BaseDN); err != nil {
		return wrong("base_dn", "must be a name such as ou=people,dc=example,dc=com")
	}
	if s.Scope != "sub" && s.Scope != "one" {
		return wrong("scope", "must be sub, for all below base_dn, or one, for what is directly below it")
	}
	if err := s.UserFilter.check("login"); err != nil {
		return wrong("user_filter", "%v", err)
	}
	if s.PeopleFilter != "" {
		if err := s.PeopleFilter.check(); err != nil {
			return wrong("people_filter", "%v", err)
		}
	}
	if s.DisabledFilter != "" {
		if err := s.DisabledFilter.check(); err != nil {
			return wrong("disabled_filter", "%v", err)
		}
	}
	if s.SubjectAttribute != "" && !attribute.MatchString(s.SubjectAttribute) {
		return wrong("subject_attribute", "must be the name of an attribute, such as entryUUID")
	}
	if len(s.Attributes) > mostAttributes {
		return wrong("attributes", "must be at most %d", mostAttributes)
	}
	for _, name := range s.Attributes {
		if !attribute.MatchString(name) {
			return wrong("attributes", "must be names of attributes: %q is none", clean(name))
		}
		if isPassword(name) {
			return wrong("attributes", "must not have %s, which is nobody's to read", name)
		}
	}
	return nil
}

func (s *settings) checkGroups() error {
	if s.GroupBaseDN != "" {
		if _, err := ldap.ParseDN(s.GroupBaseDN); err != nil {
			return wrong("group_base_dn", "must be a name such as ou=groups,dc=example,dc=com")
		}
	}
	if err := s.GroupFilter.check("dn", "uid"); err != nil {
		return wrong("group_filter", "%v", err)
	}
	switch s.NestedGroups {
	case nestedNone:
	case nestedWalk, nestedActiveDirectory:
		if s.GroupBaseDN == "" {
			return wrong("group_base_dn", "is required where nested_groups is %s", s.NestedGroups)
		}
	default:
		return wrong("nested_groups", "must be none, walk or active_directory")
	}
	return nil
}

func (s *settings) checkLimits() (err error) {
	if s.timeout, err = time.ParseDuration(s.Timeout); err != nil || s.timeout < 100*time.Millisecond || s.timeout > signInLimit {
		return wrong("timeout", "must be a duration between 100ms and %v, such as 5s", signInLimit)
	}
	if s.PageSize < 1 || s.PageSize > mostEntries {
		return wrong("page_size", "must be between 1 and %d", mostEntries)
	}
	return nil
}

// isPassword says whether an attribute holds passwords or what they can be guessed from.
func isPassword(name string) bool {
	name, _, _ = strings.Cut(strings.ToLower(name), ";")
	return slices.Contains([]string{
		"userpassword", "unicodepwd", "sambantpassword", "sambalmpassword", "ipanthash", "krbprincipalkey", "2.5.4.35",
	}, name)
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }
