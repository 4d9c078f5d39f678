package guard_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

const (
	plistHead = `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
`
	plistOpen = plistHead + `<plist version="1.0">`
)

// document wraps value as Apple's encoders do.
func document(value string) string { return plistOpen + value + "</plist>\n" }

// refusedCheaply fails the test unless decode returns an error that wraps want,
// soon and without much memory.
func refusedCheaply(t *testing.T, want error, decode func() error) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	err := decode()
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, want) {
		t.Errorf("error = %v, want %v", err, want)
	}
	if took > 30*time.Second { // what this is about takes minutes, or for ever; a busy machine takes seconds
		t.Errorf("took %v", took)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 32<<20 {
		t.Errorf("allocated %d MiB, want less than 32", used>>20)
	}
}

func TestPlistsThatAreRead(t *testing.T) {
	for name, doc := range map[string]string{
		"an idle check-in":                         document("<dict><key>Status</key><string>Idle</string><key>UDID</key><string>X</string></dict>"),
		"every kind of value":                      document("<array><string>a</string><integer>-1</integer><real>1.5</real><date>2026-01-02T03:04:05Z</date><data>AAEC</data><true/><false/><dict/></array>"),
		"no declaration and no document type":      `<plist version="1.0"><dict/></plist>`,
		"a document type of older systems":         `<!DOCTYPE plist SYSTEM "file://localhost/System/Library/DTDs/PropertyList.dtd"><plist version="0.9"><dict/></plist>`,
		"a plist element without version":          `<plist><string>x</string></plist>`,
		"a version in single quotes":               `<?xml version='1.0' encoding='utf-8'?><plist version = '1.0' ><dict/></plist>`,
		"a byte order mark":                        "\xEF\xBB\xBF" + document("<dict/>"),
		"white space and comments everywhere":      "<?xml version=\"1.0\"?>\n<!-- a -->\n<plist version=\"1.0\" >\n <!-- b --> <dict >\r\n<key >k</key >\t<!-- c --><true /><!-- d --></dict>\n</plist><!-- e -->\n",
		"truth values written in full":             document("<array><true></true><false> <!-- no --> </false></array>"),
		"empty elements":                           document("<dict><key/><string/><key>a</key><data/><key>b</key><array/></dict>"),
		"predefined and numeric entities":          document("<string>&lt;&gt;&amp;&quot;&apos;&#65;&#x1F600;</string>"),
		"a CDATA section":                          document("<dict><key><![CDATA[<k>]]></key><string><![CDATA[</string>&x;]]></string></dict>"),
		"emoji":                                    document("<string>📱</string>"),
		"a key again in another dict":              document("<array><dict><key>a</key><true/></dict><dict><key>a</key><dict><key>a</key><true/></dict></dict></array>"),
		"sixty dicts in one another":               document(strings.Repeat("<dict><key>k</key>", 60) + "<true/>" + strings.Repeat("</dict>", 60)),
		"sixty-four arrays in one another":         document(strings.Repeat("<array>", 64) + strings.Repeat("</array>", 64)),
		"a dict of many keys":                      document("<dict>" + manyPairs(5000) + "</dict>"),
		"a bracket and an angle inside of strings": document("<string>a > b ] c ]] d</string>"),
	} {
		t.Run(name, func(t *testing.T) {
			if err := guard.CheckPlist([]byte(doc), guard.PlistLimits{}); err != nil {
				t.Fatalf("CheckPlist: %v", err)
			}
			var v any
			if err := guard.DecodePlist([]byte(doc), &v, guard.PlistLimits{}); err != nil {
				t.Errorf("DecodePlist: %v", err)
			}
		})
	}
}

func manyPairs(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "<key>%d</key><true/>", i)
	}
	return b.String()
}

func TestPlistsThatAreRefused(t *testing.T) {
	dict := "<dict><key>a</key><true/></dict>"
	for name, doc := range map[string]string{
		"nothing":                           "",
		"only a declaration":                plistHead,
		"another root":                      plistHead + "<dict/>",
		"JSON":                              `{"Status":"Idle"}`,
		"no value":                          document(""),
		"no end":                            plistOpen + dict,
		"an end inside":                     document("<dict>"),
		"two values":                        document(dict + dict),
		"two roots":                         document(dict) + document(dict),
		"two plist elements":                document(dict) + "<plist version=\"1.0\"><dict/></plist>",
		"text after the end":                document(dict) + "x",
		"text between elements":             document("<dict>x<key>a</key><true/></dict>"),
		"the same key twice":                document("<dict><key>UDID</key><string>A</string><key>UDID</key><string>B</string></dict>"),
		"the same key twice, once escaped":  document("<dict><key>UDID</key><string>A</string><key>U&#68;ID</key><string>B</string></dict>"),
		"the same key twice, once as CDATA": document("<dict><key>UDID</key><string>A</string><key>U<![CDATA[DI]]>D</key><string>B</string></dict>"),
		"the same key twice, once with a comment":   document("<dict><key>UDID</key><string>A</string><key>UD<!-- -->ID</key><string>B</string></dict>"),
		"the same key twice, by line ends":          document("<dict><key>a\nb</key><true/><key>a\r\nb</key><true/></dict>"),
		"the same empty key twice":                  document("<dict><key/><true/><key></key><true/></dict>"),
		"the same key twice around a dict":          document("<dict><key>a</key><dict><key>b</key><true/></dict><key>a</key><true/></dict>"),
		"the same key twice among many":             document("<dict>" + manyPairs(100) + "<key>99</key><true/></dict>"),
		"the same early key twice among many":       document("<dict>" + manyPairs(100) + "<key>0</key><true/></dict>"),
		"a key without a value":                     document("<dict><key>a</key></dict>"),
		"two keys for one value":                    document("<dict><key>a</key><key>b</key><true/></dict>"),
		"a value without a key":                     document("<dict><true/></dict>"),
		"a key in an array":                         document("<array><key>a</key></array>"),
		"a key for a root":                          document("<key>a</key>"),
		"an element inside a string":                document("<string>a<string>b</string></string>"),
		"an element inside a truth value":           document("<true><false/></true>"),
		"an unknown element":                        document("<set><string>a</string></set>"),
		"a namespace":                               document("<x:dict></x:dict>"),
		"an attribute":                              document(`<string lang="en">a</string>`),
		"a million attributes":                      plistHead + "<plist" + strings.Repeat(` a="b"`, 100_000) + "><dict/></plist>",
		"capital letters":                           document("<Dict></Dict>"),
		"wrong nesting":                             document("<dict><key>a</key><array></dict></array>"),
		"an internal subset":                        `<!DOCTYPE plist [<!ENTITY a "b">]><plist version="1.0"><string>&a;</string></plist>`,
		"an internal subset after an identifier":    `<!DOCTYPE plist PUBLIC "x" "y" [<!ENTITY a SYSTEM "file:///etc/passwd">]><plist version="1.0"><string>&a;</string></plist>`,
		"an entity nobody declared":                 document("<string>&nbsp;</string>"),
		"an ampersand alone":                        document("<string>a & b</string>"),
		"a reference to a control character":        document("<string>&#0;</string>"),
		"a reference beyond Unicode":                document("<string>&#x110000;</string>"),
		"a reference to half a character":           document("<string>&#xD83D;</string>"),
		"a control character":                       document("<string>\x01</string>"),
		"a NUL":                                     document("<string>a\x00b</string>"),
		"bad UTF-8":                                 document("<string>\xC3\x28</string>"),
		"a half of a character in UTF-8":            document("<string>\xED\xA0\xBD</string>"),
		"a character that is none":                  document("<string>\uFFFE</string>"),
		"another encoding":                          `<?xml version="1.0" encoding="ISO-8859-1"?><plist version="1.0"><dict/></plist>`,
		"UTF-16":                                    "\xFF\xFE<\x00p\x00l\x00i\x00s\x00t\x00>\x00",
		"UTF-16 without a mark":                     "<\x00p\x00l\x00i\x00s\x00t\x00>\x00",
		"another document type":                     `<!DOCTYPE html><plist version="1.0"><dict/></plist>`,
		"a document type that never ends":           `<!DOCTYPE plist ` + strings.Repeat(" ", 1<<16),
		"two document types":                        `<!DOCTYPE plist><!DOCTYPE plist><plist version="1.0"><dict/></plist>`,
		"a comment that never ends":                 document("<string>a<!-- "),
		"two hyphens in a comment":                  document("<!-- a -- b --><dict/>"),
		"the end of a CDATA section alone":          document("<string>]]></string>"),
		"a CDATA section between elements":          document("<dict><![CDATA[ ]]></dict>"),
		"a processing instruction":                  document("<?php x ?><dict/>"),
		"another declaration's name":                `<?xml-stylesheet href="x"?><plist version="1.0"><dict/></plist>`,
		"a string that never ends":                  plistOpen + "<string>abc",
		"a tag that never ends":                     plistOpen + "<string",
		"a version that is none":                    `<plist version="<x>"><dict/></plist>`,
		"sixty-five dicts in one another":           document(strings.Repeat("<dict><key>k</key>", 65) + "<true/>" + strings.Repeat("</dict>", 65)),
		"more elements than the limit":              document("<array>" + strings.Repeat("<true/>", 200_000) + "</array>"),
		"a million arrays in one another, unclosed": plistOpen + strings.Repeat("<array>", 140_000),
	} {
		t.Run(name, func(t *testing.T) {
			lim := guard.PlistLimits{Bytes: 8 << 20}
			refusedCheaply(t, guard.ErrPlist, func() error { return guard.CheckPlist([]byte(doc), lim) })
			refusedCheaply(t, guard.ErrPlist, func() error { return guard.DecodePlist([]byte(doc), new(any), lim) })
		})
	}
}

func TestPlistLimitsCanBeSet(t *testing.T) {
	doc := []byte(document("<array><array/><true/></array>"))
	for name, tt := range map[string]struct {
		lim  guard.PlistLimits
		want error
	}{
		"as many bytes as allowed":    {guard.PlistLimits{Bytes: len(doc)}, nil},
		"one byte more":               {guard.PlistLimits{Bytes: len(doc) - 1}, guard.ErrTooLarge},
		"as deep as allowed":          {guard.PlistLimits{Depth: 2}, nil},
		"as many elements as allowed": {guard.PlistLimits{Elements: 3}, nil},
		"one element more":            {guard.PlistLimits{Elements: 2}, guard.ErrPlist},
	} {
		t.Run(name, func(t *testing.T) {
			if err := guard.CheckPlist(doc, tt.lim); !errors.Is(err, tt.want) {
				t.Errorf("CheckPlist(%+v) = %v, want %v", tt.lim, err, tt.want)
			}
		})
	}
}

// Binary property lists can hold cycles and shared references that bring the
// decoder down with the process. They are refused by their first bytes, whatever
// follows, so that none of it needs to be understood.
func TestBinaryPlistsAreRefusedByName(t *testing.T) {
	for name, doc := range map[string]string{
		"of today":      "bplist00\xd1\x01\x02",
		"of the future": "bplist17" + strings.Repeat("\xa0", 100),
		"cut short":     "bplist",
	} {
		t.Run(name, func(t *testing.T) {
			refusedCheaply(t, guard.ErrBinaryPlist, func() error {
				return guard.DecodePlist([]byte(doc), new(any), guard.PlistLimits{})
			})
			err := guard.CheckPlist([]byte(doc), guard.PlistLimits{})
			if !errors.Is(err, guard.ErrPlist) || !strings.Contains(err.Error(), "plutil") {
				t.Errorf("CheckPlist = %v, want an ErrPlist that says how to convert", err)
			}
		})
	}
}

func TestWhatWasEncodedComesBack(t *testing.T) {
	type user struct{ Name string }
	for name, want := range map[string]string{
		"markup": `A</string><key>x</key>&"'`,
		"emoji":  "📱",
	} {
		t.Run(name, func(t *testing.T) {
			var escaped bytes.Buffer
			for _, r := range want {
				fmt.Fprintf(&escaped, "&#%d;", r)
			}
			var got user
			doc := document("<dict><key>Name</key><string>" + escaped.String() + "</string></dict>")
			if err := guard.DecodePlist([]byte(doc), &got, guard.PlistLimits{}); err != nil {
				t.Fatal(err)
			}
			if got.Name != want {
				t.Errorf("Name = %q, want %q", got.Name, want)
			}
		})
	}
}

func TestDecodeErrorsDoNotQuoteTheDocument(t *testing.T) {
	for name, tt := range map[string]struct {
		value string
		into  any
	}{
		"a string for a number": {"<dict><key>N</key><string>hunter2</string></dict>", new(struct{ N int })},
		"a malformed number":    {"<integer>hunter2</integer>", new(any)},
		"malformed base64":      {"<data>hunter2!</data>", new(any)},
		"a malformed date":      {"<date>hunter2</date>", new(any)},
	} {
		t.Run(name, func(t *testing.T) {
			err := guard.DecodePlist([]byte(document(tt.value)), tt.into, guard.PlistLimits{})
			if !errors.Is(err, guard.ErrPlist) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("DecodePlist = %v, want an ErrPlist that keeps the value to itself", err)
			}
		})
	}
}

func TestACheckinOfARealMacIsRead(t *testing.T) {
	doc, err := os.ReadFile("testdata/apple-mac-2021-b.plist")
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := guard.DecodePlist(doc, &got, guard.PlistLimits{}); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"Status": "Idle", "UDID": "D4D56083-BFB0-5047-8BDF-2727BACDC59B"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func BenchmarkCheckPlistIdle(b *testing.B) {
	doc, err := os.ReadFile("testdata/apple-mac-2021-b.plist")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	for b.Loop() {
		if err := guard.CheckPlist(doc, guard.PlistLimits{}); err != nil {
			b.Fatal(err)
		}
	}
}
