package guard_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/gatehouse-mdm/gatehouse/"

// rooms are the packages in the order of DESIGN, from below. A package imports
// those of lower layers, and those of its own layer that have its own name.
// The longest prefix of a package's path counts.
var rooms = []struct {
	prefix string
	layer  int
	domain string
}{
	{"storage", 0, "storage"},
	{"apns", 1, "apns"},
	{"mdm", 2, "mdm"},
	{"depot", 2, "depot"},
	{"enroll/identity", 2, "identity"},
	{"enroll", 3, "enroll"},
	{"webui", 4, "webui"},
	{"mdm/checkin", 4, "checkin"},
	{"depot/scep", 4, "depot/scep"},
	{"depot/est", 4, "depot/est"},
	{"depot/csr", 4, "depot/csr"},
	{"depot/ocsp", 4, "depot/ocsp"},
	{"depot/crl", 4, "depot/crl"},
	{"enroll/account", 4, "account"},
	{"cmd", 5, "cmd"},
}

// adapters say where a library may be imported: its types stop there. No place
// means nowhere.
var adapters = []struct {
	library string
	in      []string
}{
	{"github.com/micromdm/nanomdm", []string{"mdm/checkin"}},
	{"github.com/micromdm/scep", []string{"depot/scep"}},
	{"github.com/smallstep/scep", []string{"depot/scep"}},
	{"go.etcd.io/bbolt", []string{"storage/bolt"}},
	{"github.com/jackc/pgx", []string{"storage/postgres", "storage/storagetest/postgrestest"}},
	{"github.com/jackc/puddle", []string{"storage/postgres"}},
	{"github.com/sideshow/apns2", []string{"apns"}},
	{"github.com/caddyserver/certmagic", []string{"webui/acme"}},
	{"github.com/wneessen/go-mail", []string{"enroll/mail"}},
	{"rsc.io/qr", []string{"webui/qr"}},
	{"github.com/mholt/acmez", []string{"webui/acme"}},
	{"go.uber.org/zap", []string{"webui/acme"}},
	{"software.sslmate.com/src/go-pkcs12", []string{"depot", "storage/guard"}},
	{"github.com/go-ldap", []string{"enroll/identity/ldap"}},
	{"github.com/go-asn1-ber", []string{"enroll/identity/ldap"}},
	{"github.com/nicksnyder/go-i18n", []string{"webui/text"}},
	{"github.com/yuin/goldmark", []string{"webui/text"}},
	{"github.com/coreos/go-oidc", []string{"enroll/identity/oidc"}},
	{"golang.org/x/oauth2", []string{"enroll/identity/oidc"}},
	{"github.com/go-jose", []string{"enroll/identity/oidc"}},
	{"github.com/micromdm/plist", nil},
	{"github.com/boltdb/bolt", nil},
}

// composed are packages that only cmd puts in place: engines, identity sources
// and what stands in for devices. Tests may use them too.
var composed = []struct {
	prefix string
	in     []string
}{
	{"storage/bolt", []string{"cmd", "storage/storagetest"}},
	{"storage/postgres", []string{"cmd", "storage/storagetest"}},
	{"storage/storagetest", []string{"enroll/identity/ldap/ldaptest"}}, // for a free port
	{"enroll/identity/local", []string{"cmd"}},
	{"enroll/identity/ldap", []string{"cmd"}},
	{"enroll/identity/ldap/ldaptest", nil},
	{"enroll/identity/oidc", []string{"cmd"}},
	{"mdm/mdmtest", []string{"cmd"}},
	{"apns/standin", []string{"cmd", "apns/apnstest"}},
	{"apns/apnstest", nil},
	{"depot/depottest", nil},
	{"webui/acme/acmetest", nil},
	{"enroll/mail/mailtest", nil},
	{"enroll/business/businesstest", nil},
}

// decoders are functions that trust their input. They are called in one place.
var decoders = []struct {
	library string
	names   []string
	in      string
}{
	{"github.com/groob/plist", []string{"Unmarshal", "NewDecoder", "NewXMLDecoder", "NewBinaryDecoder"}, "storage/guard"},
	{"github.com/smallstep/pkcs7", []string{"Parse"}, "storage/guard"},
	{"github.com/smallstep/pkcs7", []string{"Encrypt", "EncryptUsingPSK", "ContentEncryptionAlgorithm"}, ""}, // single DES, unless a global says otherwise
	{"crypto/x509", []string{"ParseCertificateRequest"}, "storage/guard"},
	{"github.com/micromdm/nanomdm/cryptoutil", []string{"VerifyMdmSignature"}, ""},
	{"github.com/micromdm/nanomdm/mdm", []string{"DecodeCheckin", "DecodeCommandResults", "DecodeCommand"}, "mdm/checkin"},
	{"github.com/smallstep/scep", []string{"ParsePKIMessage", "CACerts"}, "depot/scep"},
}

// methods that check signatures without looking at the key first. The parser
// knows no types, but these names are nobody else's.
var methods = []string{"CheckSignature", "CheckSignatureFrom", "VerifyWithChain", "VerifyWithChainAtTime"}

// simulator libraries are what the server is built with: a simulated device that
// shared them would share their mistakes.
var simulatorLibraries = []string{"github.com/micromdm/", "github.com/smallstep/", "github.com/groob/"}

func under(pkg, prefix string) bool {
	return pkg == prefix || strings.HasPrefix(pkg, strings.TrimSuffix(prefix, "/")+"/")
}

func underAny(pkg string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return under(pkg, p) })
}

// room returns the layer and the domain of a package of ours.
func room(pkg string) (layer int, domain string, ok bool) {
	longest := -1
	for _, r := range rooms {
		if under(pkg, r.prefix) && len(r.prefix) > longest {
			longest, layer, domain = len(r.prefix), r.layer, r.domain
		}
	}
	return layer, domain, longest >= 0
}

// violations says what is wrong with one file of the package pkg, whose path is
// relative to the module.
func violations(pkg, filename string, src any) ([]string, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, filename, src, 0)
	if err != nil {
		return nil, err
	}
	isTest := strings.HasSuffix(filename, "_test.go")
	isSimulator := under(pkg, "mdm/mdmtest")
	var found []string
	report := func(at token.Pos, format string, args ...any) {
		found = append(found, fmt.Sprintf("%s: %s %s", fset.Position(at), pkg, fmt.Sprintf(format, args...)))
	}

	if _, _, ok := room(pkg); !ok && !isTest {
		report(file.Package, "is no room of the house")
	}
	names := map[string]string{} // what the file calls a package, to its path
	for _, spec := range file.Imports {
		target, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		name := path.Base(target)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		names[name] = target

		own, ours := strings.CutPrefix(target, module)
		switch {
		case isSimulator && ours && !isTest && !under(own, pkg):
			report(spec.Pos(), "is the simulated device and imports the server's %s", own)
		case isSimulator && underAny(target, simulatorLibraries) && !isTest:
			report(spec.Pos(), "is the simulated device and imports the server's library %s", target)
		case isTest:
			// Tests put together what only cmd may.
		case ours:
			checkOwnImport(pkg, own, func(format string, args ...any) { report(spec.Pos(), format, args...) })
		default:
			for _, a := range adapters {
				if under(target, a.library) && !underAny(pkg, a.in) {
					report(spec.Pos(), "imports %s, whose types stop at %q", target, a.in)
				}
			}
		}
		if name == "." {
			report(spec.Pos(), "imports %s with a dot, which hides its calls", target)
		}
	}
	if isTest || isSimulator {
		return found, nil
	}

	ast.Inspect(file, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok && len(call.Args) == 0 && pkg != "storage/guard" {
			// crypto/x509's Verify has an argument, that of pkcs7 has none.
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Verify" {
				report(call.Pos(), "calls Verify of pkcs7")
			}
		}
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if slices.Contains(methods, sel.Sel.Name) && pkg != "storage/guard" {
			report(sel.Pos(), "calls %s", sel.Sel.Name)
		}
		x, ok := sel.X.(*ast.Ident)
		if !ok {
			return true
		}
		for _, d := range decoders {
			if names[x.Name] == d.library && slices.Contains(d.names, sel.Sel.Name) && pkg != d.in {
				report(sel.Pos(), "uses %s of %s", sel.Sel.Name, d.library)
			}
		}
		return true
	})
	return found, nil
}

func checkOwnImport(pkg, own string, report func(string, ...any)) {
	fromLayer, fromDomain, _ := room(pkg)
	toLayer, toDomain, known := room(own)
	switch {
	case !known:
		report("imports %s, which is no room of the house", own)
	case toLayer > fromLayer:
		report("imports %s, which is above it", own)
	case toLayer == fromLayer && toDomain != fromDomain:
		report("imports %s, which it must not know of", own)
	}
	for _, c := range composed {
		if under(own, c.prefix) && !under(pkg, c.prefix) && !underAny(pkg, c.in) {
			report("imports %s, which only %q may put in place", own, c.in)
		}
	}
}

func TestImportsPointDownAndDecodersAreCalledInTheirPlace(t *testing.T) {
	root := "../.."
	files := 0
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if base := d.Name(); name != root && (strings.HasPrefix(base, ".") || base == "testdata" || base == "bin" || base == "data") {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(name) != ".go" {
			return nil
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		files++
		found, err := violations(filepath.ToSlash(filepath.Dir(rel)), name, nil)
		if err != nil {
			return err
		}
		for _, v := range found {
			t.Error(v)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 10 {
		t.Errorf("only %d files were looked at", files)
	}
}

func TestNoDeadForkOfBoltIsBuilt(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("skipped: no go command to list what is built")
	}
	list := exec.Command("go", "list", "-e", "-deps", "-test", "./...")
	list.Dir = "../.."
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range strings.FieldsSeq(string(out)) {
		if under(pkg, "github.com/boltdb/bolt") {
			t.Errorf("%s is built: it crashes under the race detector, and can't share a file with bbolt", pkg)
		}
	}
}

func TestTheRulesAreNoticed(t *testing.T) {
	imports := func(paths ...string) string {
		src := "package p\n"
		for _, p := range paths {
			src += "import _ \"" + p + "\"\n"
		}
		return src
	}
	for name, tt := range map[string]struct {
		pkg, file, src string
		broken         bool
	}{
		"mdm may import storage":                         {"mdm", "a.go", imports(module + "storage"), false},
		"mdm may not import depot":                       {"mdm", "a.go", imports(module + "depot"), true},
		"depot may not import mdm":                       {"depot", "a.go", imports(module + "mdm"), true},
		"depot may not import identity":                  {"depot", "a.go", imports(module + "enroll/identity"), true},
		"mdm may not import its edge":                    {"mdm", "a.go", imports(module + "mdm/checkin"), true},
		"mdm may import its catalogue":                   {"mdm", "a.go", imports(module + "mdm/command"), false},
		"storage may not import mdm":                     {"storage", "a.go", imports(module + "mdm"), true},
		"apns may import storage":                        {"apns", "a.go", imports(module + "storage"), false},
		"storage may not import apns":                    {"storage", "a.go", imports(module + "apns"), true},
		"enroll may import mdm, depot and identity":      {"enroll", "a.go", imports(module+"mdm", module+"depot", module+"enroll/identity"), false},
		"identity may not import enroll":                 {"enroll/identity", "a.go", imports(module + "enroll"), true},
		"enroll may not import an edge":                  {"enroll", "a.go", imports(module + "webui"), true},
		"an edge may import enroll":                      {"depot/scep", "a.go", imports(module + "enroll"), false},
		"an edge may not import another edge":            {"depot/scep", "a.go", imports(module + "webui"), true},
		"the web's rooms may import each other":          {"webui/admin", "a.go", imports(module + "webui/view"), false},
		"cmd may import an engine":                       {"cmd/gatehouse", "a.go", imports(module+"storage/bolt", module+"webui/admin"), false},
		"an edge may not import an engine":               {"webui", "a.go", imports(module + "storage/bolt"), true},
		"a test may import an engine":                    {"webui", "a_test.go", imports(module + "storage/bolt"), false},
		"nothing may import cmd":                         {"webui", "a.go", imports(module + "cmd/gatehouse"), true},
		"a new room must be made known":                  {"util", "a.go", imports("fmt"), true},
		"nanomdm stops at checkin":                       {"mdm", "a.go", imports("github.com/micromdm/nanomdm/mdm"), true},
		"checkin may import nanomdm":                     {"mdm/checkin", "a.go", imports("github.com/micromdm/nanomdm/mdm"), false},
		"scep stops at its door":                         {"depot", "a.go", imports("github.com/smallstep/scep"), true},
		"bbolt stops at its engine":                      {"storage", "a.go", imports("go.etcd.io/bbolt"), true},
		"apns2 stops at apns":                            {"mdm", "a.go", imports("github.com/sideshow/apns2"), true},
		"the dead fork of bolt is for nobody":            {"storage/bolt", "a.go", imports("github.com/boltdb/bolt"), true},
		"the simulated device imports nothing of ours":   {"mdm/mdmtest", "a.go", imports(module + "storage"), true},
		"the simulated device imports no such library":   {"mdm/mdmtest", "a.go", imports("github.com/smallstep/pkcs7"), true},
		"the simulated device may decode":                {"mdm/mdmtest", "a.go", "package p\nimport \"crypto/x509\"\nvar _ = x509.ParseCertificateRequest", false},
		"the server does not import the simulator":       {"mdm", "a.go", imports(module + "mdm/mdmtest"), true},
		"plists are encoded anywhere":                    {"enroll", "a.go", "package p\nimport \"github.com/groob/plist\"\nvar _ = plist.Marshal", false},
		"plists are decoded in one place":                {"enroll", "a.go", "package p\nimport \"github.com/groob/plist\"\nvar _ = plist.Unmarshal", true},
		"plists are decoded in one place, by any name":   {"enroll", "a.go", "package p\nimport p2 \"github.com/groob/plist\"\nfunc f() { p2.NewXMLDecoder(nil) }", true},
		"plists are decoded in one place, without a dot": {"enroll", "a.go", "package p\nimport . \"github.com/groob/plist\"\nvar _ = Unmarshal", true},
		"plists are decoded in the guard":                {"storage/guard", "a.go", "package p\nimport \"github.com/groob/plist\"\nvar _ = plist.Unmarshal", false},
		"CMS is signed anywhere":                         {"enroll", "a.go", "package p\nimport \"github.com/smallstep/pkcs7\"\nvar _ = pkcs7.NewSignedData", false},
		"CMS is parsed in one place":                     {"enroll", "a.go", "package p\nimport \"github.com/smallstep/pkcs7\"\nvar _, _ = pkcs7.Parse(nil)", true},
		"nobody encrypts with single DES":                {"enroll", "a.go", "package p\nimport \"github.com/smallstep/pkcs7\"\nvar _, _ = pkcs7.Encrypt(nil, nil)", true},
		"a request's signature is checked in one place":  {"depot", "a.go", "package p\nfunc f(c interface{ CheckSignature() error }) { c.CheckSignature() }", true},
		"a parent's signature is checked in one place":   {"depot", "a.go", "package p\nfunc f(c interface{ CheckSignatureFrom() error }) { c.CheckSignatureFrom() }", true},
		"a message is verified in one place":             {"depot", "a.go", "package p\nfunc f(c interface{ Verify() error }) { c.Verify() }", true},
		"a chain may be verified":                        {"depot", "a.go", "package p\nfunc f(c interface{ Verify(int) error }) { c.Verify(1) }", false},
		"check-ins are decoded at their edge":            {"mdm/checkin", "a.go", "package p\nimport \"github.com/micromdm/nanomdm/mdm\"\nvar _ = mdm.DecodeCheckin", false},
		"nanomdm's signature check is for nobody":        {"mdm/checkin", "a.go", "package p\nimport \"github.com/micromdm/nanomdm/cryptoutil\"\nvar _ = cryptoutil.VerifyMdmSignature", true},
		"a test may decode what it likes":                {"depot", "a_test.go", "package p\nimport \"github.com/smallstep/pkcs7\"\nvar _, _ = pkcs7.Parse(nil)", false},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := violations(tt.pkg, tt.file, tt.src)
			if err != nil {
				t.Fatal(err)
			}
			if (len(found) > 0) != tt.broken {
				t.Errorf("violations = %q, want some: %v", found, tt.broken)
			}
		})
	}
}
