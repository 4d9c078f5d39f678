package guard_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// sample has everything that a property list can hold, in every spelling.
const sample = "\xEF\xBB\xBF" + `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<!-- a --><plist version="1.0"><!-- b -->
<dict >
	<key>a &amp; b</key> <!-- c --> <string> x&lt;y&#x1F511; <![CDATA[<&>]]>` + "\r\n" + `z<!-- d --></string>
	<key/><string/>
	<key>yes</key><true/><key>no</key><false></false>
	<key>n</key><array><integer>5</integer><integer> -5 </integer><integer>18446744073709551615</integer><integer>-9223372036854775808</integer></array>
	<key>real</key><array><real>1</real><real>-1.5e3</real><real/></array>
	<key>date</key><date>2026-01-02T03:04:05Z</date>
	<key>data</key><array><data>
	AAEC
	/w==
	</data><data/></array>
	<key>empty</key><array><dict/><array/><dict></dict><array> </array></array>
</dict>
</plist>
`

func TestReadPlistReadsWhatDecodePlistDoes(t *testing.T) {
	agree(t, []byte(sample))
	files, err := filepath.Glob("../../mdm/profile/testdata/*/*.mobileconfig")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		agree(t, raw)
	}
	for _, bad := range []string{"<integer>x</integer>", "<integer/>", "<integer>18446744073709551616</integer>", "<real>x</real>", "<date>2026</date>", "<date/>", "<data>x</data>", "<data>AA=A</data>", "<string>a"} {
		agree(t, []byte("<plist><array>"+bad+"</array></plist>"))
	}
}

// agree holds ReadPlist against the library.
func agree(t *testing.T, raw []byte) {
	t.Helper()
	var want any
	wantErr := guard.DecodePlist(raw, &want, guard.PlistLimits{})
	got, err := guard.ReadPlist(raw, guard.PlistLimits{})
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("ReadPlist: %v, DecodePlist: %v, on %.300q", err, wantErr, raw)
	}
	if err == nil && !reflect.DeepEqual(tidy(got), tidy(want)) {
		t.Fatalf("ReadPlist = %#v\nDecodePlist = %#v\non %.300q", got, want, raw)
	}
}

// tidy makes values equal that differ in nothing that a reader sees: nil is empty.
func tidy(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, value := range v {
			out[key] = tidy(value)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = tidy(v[i])
		}
		return out
	case []byte:
		return string(v) + " (data)"
	case float64:
		return fmt.Sprint(v) // NaN is not NaN
	}
	return v
}

func FuzzReadPlist(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte("<plist><string>" + strings.Repeat("&amp;", 9) + "</string></plist>"))
	f.Fuzz(func(t *testing.T, raw []byte) { agree(t, raw) })
}

func BenchmarkReadPlist(b *testing.B) {
	raw := []byte("<plist><array>" + strings.Repeat(sample[strings.Index(sample, "<dict >"):strings.Index(sample, "</plist>")], 1000) + "</array></plist>")
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, err := guard.ReadPlist(raw, guard.PlistLimits{}); err != nil {
			b.Fatal(err)
		}
	}
}
