package ldap_test

import (
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity/ldap"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestSettingsAreChecked(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	kind, err := ldap.New(ldap.Config{Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	_, certificate, key := pair(t)
	_, _, another := pair(t)
	for name, tt := range map[string]struct {
		changes string // to the least that is needed: a JSON object
		field   string // empty: nothing is wrong
		want    string // in the reason
	}{
		"the least":                      {`{}`, "", ""},
		"nothing":                        {`{"urls": null, "base_dn": null}`, "urls", "required"},
		"no base":                        {`{"base_dn": ""}`, "base_dn", "required"},
		"a typo":                         {`{"bind_pasword": "x"}`, "bind_pasword", "is no setting"},
		"another case":                   {`{"Bind_Password": "x"}`, "Bind_Password", "is no setting"},
		"a text for a list":              {`{"urls": "ldaps://a"}`, "urls", "a list of texts"},
		"a text for a number":            {`{"page_size": "500"}`, "page_size", "a number"},
		"a text for true":                {`{"start_tls": "yes"}`, "start_tls", "true or false"},
		"a number for a text":            {`{"timeout": 5}`, "timeout", "a text"},
		"several servers":                {`{"urls": ["ldaps://a.example.com", "ldaps://b.example.com:3269", "ldaps://[2001:db8::1]"]}`, "", ""},
		"too many servers":               {`{"urls": ["ldaps://a", "ldaps://b", "ldaps://c", "ldaps://d", "ldaps://e", "ldaps://f"]}`, "urls", "at most 5"},
		"one twice":                      {`{"urls": ["ldaps://a", "ldaps://a/"]}`, "urls", "twice"},
		"no URL":                         {`{"urls": ["ldap.example.com"]}`, "urls", "ldaps://ldap.example.com"},
		"another scheme":                 {`{"urls": ["https://ldap.example.com"]}`, "urls", "ldaps://ldap.example.com"},
		"a socket":                       {`{"urls": ["ldapi://%2frun%2fslapd"]}`, "urls", "ldaps://ldap.example.com"},
		"a base in the URL":              {`{"urls": ["ldaps://a/dc=example"]}`, "urls", "settings of their own"},
		"a filter in the URL":            {`{"urls": ["ldaps://a??sub"]}`, "urls", "settings of their own"},
		"an account in the URL":          {`{"urls": ["ldaps://ana:secret@a"]}`, "urls", "settings of their own"},
		"no encryption":                  {`{"urls": ["ldap://a"]}`, "urls", "allow_plaintext"},
		"no encryption for the second":   {`{"urls": ["ldaps://a", "ldap://b"]}`, "urls", "allow_plaintext"},
		"no encryption, and that's fine": {`{"urls": ["ldap://a"], "allow_plaintext": true}`, "", ""},
		"StartTLS":                       {`{"urls": ["ldap://a"], "start_tls": true}`, "", ""},
		"StartTLS for one of two":        {`{"urls": ["ldaps://a", "ldap://b"], "start_tls": true}`, "", ""},
		"StartTLS for ldaps":             {`{"start_tls": true}`, "start_tls", "encrypted anyway"},
		"certificates":                   {`{"ca_certificates": ` + quote(certificate) + `}`, "", ""},
		"no certificates":                {`{"ca_certificates": "hello"}`, "ca_certificates", "PEM"},
		"a key among certificates":       {`{"ca_certificates": ` + quote(certificate+key) + `}`, "ca_certificates", "PEM"},
		"a broken certificate":           {`{"ca_certificates": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}`, "ca_certificates", "can't be read"},
		"a certificate to show":          {`{"client_certificate": ` + quote(certificate) + `, "client_key": ` + quote(key) + `}`, "", ""},
		"one without a key":              {`{"client_certificate": ` + quote(certificate) + `}`, "client_key", "required"},
		"a key alone":                    {`{"client_key": ` + quote(key) + `}`, "client_certificate", "required"},
		"another's key":                  {`{"client_certificate": ` + quote(certificate) + `, "client_key": ` + quote(another) + `}`, "client_key", "the key of client_certificate"},
		"an account":                     {`{"bind_dn": "gatehouse@example.com", "bind_password": " x "}`, "", ""},
		"an account without a password":  {`{"bind_dn": "cn=gatehouse"}`, "bind_password", "required"},
		"a password without an account":  {`{"bind_password": "x"}`, "bind_dn", "required"},
		"a NUL in a password":            {`{"bind_dn": "cn=x", "bind_password": "a\u0000"}`, "bind_password", "control characters"},
		"a base that is none":            {`{"base_dn": "example.com"}`, "base_dn", "ou=people,dc=example,dc=com"},
		"a base that is too long":        {`{"base_dn": "cn=` + strings.Repeat("a", 1000) + `"}`, "base_dn", "at most 1000 bytes"},
		"a space after the base":         {`{"base_dn": "dc=example,dc=com "}`, "base_dn", "space"},
		"another scope":                  {`{"scope": "base"}`, "scope", "sub"},
		"a filter without a login":       {`{"user_filter": "(uid=ana)"}`, "user_filter", "{login}"},
		"a filter with a typo":           {`{"user_filter": "(&(uid={login})"}`, "user_filter", "no search filter"},
		"a filter of all with a login":   {`{"people_filter": "(uid={login})"}`, "people_filter", "{login}"},
		"a filter of those off":          {`{"disabled_filter": "(!(employeeType=staff))"}`, "", ""},
		"one with a typo":                {`{"disabled_filter": "employeeType=left"}`, "disabled_filter", "no search filter"},
		"attributes":                     {`{"attributes": ["departmentNumber", "1.2.840.113556.1.4.8", "cn;lang-de"]}`, "", ""},
		"attributes that are none":       {`{"attributes": ["department number"]}`, "attributes", "department number"},
		"all attributes":                 {`{"attributes": ["*"]}`, "attributes", "names of attributes"},
		"passwords":                      {`{"attributes": ["userPassword"]}`, "attributes", "userPassword"},
		"a subject that is none":         {`{"subject_attribute": "entry uuid"}`, "subject_attribute", "name of an attribute"},
		"groups of groups, nowhere":      {`{"nested_groups": "walk"}`, "group_base_dn", "required"},
		"groups of groups":               {`{"nested_groups": "active_directory", "group_base_dn": "dc=example,dc=com"}`, "", ""},
		"groups in another way":          {`{"nested_groups": "yes"}`, "nested_groups", "none, walk or active_directory"},
		"a group filter for nobody":      {`{"group_filter": "(objectClass=group)"}`, "group_filter", "{dn} or {uid}"},
		"groups of a base that is none":  {`{"group_base_dn": "groups"}`, "group_base_dn", "ou=groups"},
		"a timeout":                      {`{"timeout": "1.5s"}`, "", ""},
		"no timeout":                     {`{"timeout": "0s"}`, "timeout", "between"},
		"a timeout of a minute":          {`{"timeout": "1m"}`, "timeout", "between"},
		"pages of none":                  {`{"page_size": 0}`, "page_size", "between"},
		"pages of too many":              {`{"page_size": 5000}`, "page_size", "between"},
	} {
		t.Run(name, func(t *testing.T) {
			settings := map[string]any{"urls": []string{"ldaps://ldap.example.com"}, "base_dn": "ou=people,dc=example,dc=com"}
			if err := json.Unmarshal([]byte(tt.changes), &settings); err != nil {
				t.Fatal(err)
			}
			raw, err := json.Marshal(settings)
			if err != nil {
				t.Fatal(err)
			}
			checkField(t, kind.Check(raw), tt.field, tt.want)
			if _, err := kind.Open(raw); (err == nil) != (tt.field == "") {
				t.Errorf("Open = %v", err)
			}
		})
	}
	for _, raw := range []string{``, `null`, `[]`, `"x"`, `{`} {
		checkField(t, kind.Check(json.RawMessage(raw)), "settings", "an object")
	}
}

func checkField(t *testing.T, err error, field, want string) {
	t.Helper()
	if field == "" {
		if err != nil {
			t.Errorf("Check = %v, want nothing", err)
		}
		return
	}
	var wrong *identity.FieldError
	if !errors.As(err, &wrong) || wrong.Field != field || !strings.Contains(wrong.Reason, want) {
		t.Errorf("Check = %v, want %s ... %q", err, field, want)
	}
	for _, secret := range []string{"ana:secret", "PRIVATE KEY"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error has a secret: %v", err)
		}
	}
}

func quote(text string) string {
	raw, _ := json.Marshal(text)
	return string(raw)
}

func TestSecretsAreSettings(t *testing.T) {
	storagetest.AnyEngine(t)
	kind, err := ldap.New(ldap.Config{Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if got := kind.Secrets(); kind.Name() != "ldap" || !slices.Equal(got, []string{"bind_password", "client_key"}) {
		t.Errorf("secrets of %s are %q", kind.Name(), got)
	}
	if m := kind.Mapping(); m.Username == "" || m.Email == "" || m.FullName == "" {
		t.Errorf("Mapping() = %+v", m)
	}
	if _, err := ldap.New(ldap.Config{}); err == nil {
		t.Error("New without a log and a clock is no error")
	}
}
