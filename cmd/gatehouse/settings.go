package main

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/gatehouse-mdm/gatehouse/webui/apiv1"
)

// environment is the process's environment variables.
type environment map[string]string

func newEnvironment(env []string) environment {
	e := environment{}
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		e[name] = value
	}
	return e
}

const envPrefix = "GATEHOUSE_"

// envName is the environment variable that sets a flag.
func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// settings finds the values of flags that the command line doesn't give: in the
// environment, then in the YAML file of --config. It is a kong.Resolver.
type settings struct {
	env    environment
	file   string                 // path of the YAML file, "" without
	values map[string]fileSetting // from the file, by flag
	used   map[string]fileSetting // what flags got from here; without a token: from the environment
	hidden map[string]bool        // flags whose values must not be shown
	err    error                  // the first thing that is wrong; kong would name the flag that it was looking for
}

// fileSetting is one value of the YAML file.
type fileSetting struct {
	value string // lists: joined by commas, as on the command line
	token *token.Token
}

// configFlag names the flag that names the file.
const configFlag = "config"

// yamlAliases are other spellings of flags, after nested keys were joined:
// "tls: {email: …}" reads better than "acme_email".
var yamlAliases = map[string]string{
	"tls_email":       "acme_email",
	"tls_acme_email":  "acme_email",
	"trusted_proxies": "trusted_proxy",
}

// Validate implements kong.Resolver.
func (*settings) Validate(*kong.Application) error { return nil }

// Resolve implements kong.Resolver. Its errors are kept in s.err.
func (s *settings) Resolve(kctx *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if s.err != nil {
		return nil, nil
	}
	value, err := s.resolve(kctx, flag)
	if err != nil {
		s.err = err
		return nil, nil
	}
	return value, nil
}

func (s *settings) resolve(kctx *kong.Context, flag *kong.Flag) (any, error) {
	if s.values == nil {
		if err := s.load(kctx); err != nil {
			return nil, err
		}
	}
	if flag.Name == "help" {
		return nil, nil
	}
	name := envName(flag.Name)
	if value, ok := s.env[name]; ok && value != "" {
		s.used[flag.Name] = fileSetting{value: value}
		return value, s.fits(flag, value, fmt.Sprintf("%s=%q", name, value))
	}
	// A secret may stand in a file that the environment names.
	if path, ok := s.env[name+"_FILE"]; ok && path != "" && secret(flag) {
		value, err := readSecret(path)
		if err != nil {
			return nil, fmt.Errorf("%s_FILE: %w", name, err)
		}
		return value, nil
	}
	if setting, ok := s.values[flag.Name]; ok {
		if err := s.fits(flag, setting.value, ""); err != nil {
			return nil, s.at(setting.token, err.Error())
		}
		s.used[flag.Name] = setting
		return setting.value, nil
	}
	return nil, nil
}

// secret reports whether a flag's value must not be seen, as its tag says.
func secret(flag *kong.Flag) bool { return flag.Tag.Has("secret") }

// fits tries whether a flag takes value, so that the message can name where the
// value stands.
func (*settings) fits(flag *kong.Flag, value, where string) error {
	target := reflect.New(flag.Target.Type()).Elem()
	scan := kong.Scan().PushTyped(value, kong.FlagValueToken)
	err := flag.Mapper.Decode(&kong.DecodeContext{Value: flag.Value, Scan: scan}, target)
	if err == nil && flag.Enum != "" && !flag.EnumMap()[value] {
		err = fmt.Errorf("must be one of %s", strings.Join(flag.EnumSlice(), ", "))
	}
	if err != nil && where != "" {
		return fmt.Errorf("%s: %w", where, err)
	}
	return err
}

// load reads the YAML file, if there is one.
func (s *settings) load(kctx *kong.Context) error {
	s.values, s.used, s.hidden = map[string]fileSetting{}, map[string]fileSetting{}, map[string]bool{}
	flags := kctx.Flags()
	for _, f := range flags {
		s.hidden[f.Name] = secret(f)
	}
	i := slices.IndexFunc(flags, func(f *kong.Flag) bool { return f.Name == configFlag })
	if i < 0 {
		return nil // this command has no configuration
	}
	s.file, _ = kctx.FlagValue(flags[i]).(string)
	if s.file == "" {
		s.file = s.env[envName(configFlag)]
	}
	if s.file == "" {
		return nil
	}
	data, err := os.ReadFile(s.file)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	doc, err := parser.ParseBytes(data, 0)
	if err != nil {
		return fmt.Errorf("%s: %s", s.file, yaml.FormatError(err, false, true))
	}
	// The file is the server's, whichever command reads it.
	known := map[string]bool{}
	for _, command := range kctx.Model.Children {
		if command.Name != "serve" {
			continue
		}
		for _, f := range command.Flags {
			if f.Name != configFlag {
				known[strings.ReplaceAll(f.Name, "-", "_")] = true
			}
		}
	}
	if len(doc.Docs) > 1 {
		return fmt.Errorf("%s: more than one document", s.file)
	}
	for _, d := range doc.Docs {
		if d.Body == nil {
			continue // an empty file, or nothing but comments
		}
		if err := s.flatten("", d.Body, known); err != nil {
			return err
		}
	}
	return nil
}

// flatten collects the settings below node. The key of a nested one is the path to
// it, joined by underscores: "tls: {mode: files}" is tls_mode.
func (s *settings) flatten(prefix string, node ast.Node, known map[string]bool) error {
	mapping, ok := node.(ast.MapNode)
	if !ok {
		return s.at(node.GetToken(), "expected a setting such as \"server_url: https://mdm.example.com\"")
	}
	for it := mapping.MapRange(); it.Next(); {
		keyNode, value := it.Key(), it.Value()
		tok := keyNode.GetToken()
		key := prefix + tok.Value
		if canonical, ok := yamlAliases[key]; ok {
			key = canonical
		}
		if !known[key] {
			if _, nested := value.(ast.MapNode); nested && isPrefix(key+"_", known) {
				if err := s.flatten(key+"_", value, known); err != nil {
					return err
				}
				continue
			}
			message := fmt.Sprintf("unknown key %q", tok.Value)
			if near := apiv1.Nearest(key, known); near != "" {
				message += fmt.Sprintf(", did you mean %q?", near)
			}
			return s.at(tok, message)
		}
		flag := strings.ReplaceAll(key, "_", "-")
		if _, twice := s.values[flag]; twice {
			return s.at(tok, fmt.Sprintf("%q is set twice", key))
		}
		texts, err := s.texts(value)
		if err != nil {
			return err
		}
		if texts != nil {
			s.values[flag] = fileSetting{strings.Join(texts, ","), value.GetToken()}
		}
	}
	return nil
}

// texts returns a value, or the values of a list, as text. What it looked like to
// YAML (a number, a boolean) is the flag's business.
func (s *settings) texts(node ast.Node) ([]string, error) {
	switch n := node.(type) {
	case *ast.NullNode:
		return nil, nil
	case *ast.StringNode:
		return []string{n.Value}, nil
	case *ast.LiteralNode:
		return []string{n.Value.Value}, nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return []string{n.GetToken().Value}, nil
	case *ast.SequenceNode:
		var list []string
		for _, element := range n.Values {
			if _, nested := element.(*ast.SequenceNode); nested {
				return nil, s.at(element.GetToken(), "expected a single value")
			}
			texts, err := s.texts(element)
			if err != nil {
				return nil, err
			}
			list = append(list, texts...)
		}
		return list, nil
	}
	return nil, s.at(node.GetToken(), "expected a value, not settings")
}

func isPrefix(prefix string, known map[string]bool) bool {
	for key := range known {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	for key := range yamlAliases {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// at says what is wrong at a place of the file, with the line and a caret.
func (s *settings) at(tok *token.Token, message string) error {
	err := &yaml.SyntaxError{Message: message, Token: tok}
	return fmt.Errorf("%s: %s", s.file, err.FormatError(false, true))
}

// flagError is a value that a flag can't have, found after parsing.
type flagError struct {
	flag string
	err  error
}

func (e *flagError) Error() string { return fmt.Sprintf("--%s: %s", e.flag, e.err) }
func (e *flagError) Unwrap() error { return e.err }

// invalid reports that a flag can't have the value it has.
func invalid(flag, format string, args ...any) error {
	return &flagError{flag, fmt.Errorf(format, args...)}
}

// explain adds to an error about a flag where its value stands, if that is not
// the command line.
func (s *settings) explain(err error) error {
	var flag *flagError
	if !errors.As(err, &flag) || s == nil {
		return err
	}
	setting, ok := s.used[flag.flag]
	switch {
	case !ok:
		return err
	case setting.token == nil:
		return fmt.Errorf("%s: %w", envName(flag.flag), flag.err)
	case s.hidden[flag.flag]: // the line would show it
		return fmt.Errorf("%s:%d: %s: %w", s.file, setting.token.Position.Line, flag.flag, flag.err)
	}
	return s.at(setting.token, flag.err.Error())
}

// strangers returns a warning for each variable of the environment that looks
// like a setting and is none. It is no error: orchestrators put variables of
// their own there, named for the service (GATEHOUSE_PORT, GATEHOUSE_SERVICE_HOST).
func (s *settings) strangers(flags []*kong.Flag) []string {
	known := map[string]bool{"GATEHOUSE_SERVER": true, "GATEHOUSE_TOKEN": true, "GATEHOUSE_TOKEN_FILE": true}
	for _, f := range flags {
		known[envName(f.Name)] = true
		if secret(f) {
			known[envName(f.Name)+"_FILE"] = true
		}
	}
	var warnings []string
	for name := range s.env {
		if strings.HasPrefix(name, envPrefix) && !known[name] {
			warning := "unknown environment variable " + name
			if near := apiv1.Nearest(name, known); near != "" {
				warning += ", did you mean " + near + "?"
			}
			warnings = append(warnings, warning)
		}
	}
	slices.Sort(warnings)
	return warnings
}

// readSecret reads a secret from a file; a final newline is not part of it.
func readSecret(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.Size() > 4096 {
		return "", fmt.Errorf("%s: longer than any secret", path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	secret := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if secret == "" {
		return "", fmt.Errorf("%s: is empty", path)
	}
	return secret, nil
}
