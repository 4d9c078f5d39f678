package mdmtest

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestPlistLayoutIsApples(t *testing.T) {
	got, err := MarshalPlist(Dict{
		"MessageType": "TokenUpdate",
		"Awaiting":    false,
		"Token":       []byte("0123456789"),
		"Empty":       []any{},
		"Queries":     []string{"A&B", "<C>"},
		"Since":       time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC),
		"Level":       0.5,
		"Rights":      8191,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
	<key>Awaiting</key>
	<false/>
	<key>Empty</key>
	<array/>
	<key>Level</key>
	<real>0.5</real>
	<key>MessageType</key>
	<string>TokenUpdate</string>
	<key>Queries</key>
	<array>
		<string>A&amp;B</string>
		<string>&lt;C&gt;</string>
	</array>
	<key>Rights</key>
	<integer>8191</integer>
	<key>Since</key>
	<date>2026-01-31T12:00:00Z</date>
	<key>Token</key>
	<data>
	MDEyMzQ1Njc4OQ==
	</data>
</dict>
</plist>
`
	// The dict itself is not indented below <plist>, as plutil writes it.
	if string(got) != want {
		t.Errorf("MarshalPlist:\n%s\nwant:\n%s", got, want)
	}
}

func TestPlistReadsWhatItWrote(t *testing.T) {
	want := Dict{
		"string": "A</string><key>x</key>&\"' 😀\n\ttail",
		"int":    int64(-5),
		"uint":   uint64(1 << 63),
		"real":   1.25e-9,
		"yes":    true,
		"data":   bytes.Repeat([]byte{0, 1, 254}, 100),
		"none":   []byte{},
		"date":   time.Date(1999, 12, 31, 23, 59, 59, 0, time.UTC),
		"array":  []any{Dict{}, []any{}, "x"},
	}
	data, err := MarshalPlist(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := UnmarshalPlist(data)
	if err != nil {
		t.Fatalf("UnmarshalPlist: %v\n%s", err, data)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("UnmarshalPlist(MarshalPlist(v)) = %#v, want %#v", got, want)
	}
}

func TestPlistReader(t *testing.T) {
	for name, tt := range map[string]struct {
		in   string
		want any // nil: refused
	}{
		"a bare document":                  {`<plist version="1.0"><string>a</string></plist>`, "a"},
		"an empty string in two forms":     {`<plist><array><string/><string></string></array></plist>`, []any{"", ""}},
		"a comment and a CDATA section":    {`<plist><!-- x --><string><![CDATA[<&]]>b</string></plist>`, "<&b"},
		"references by number":             {`<plist><string>&#65;&#x1F600;</string></plist>`, "A😀"},
		"data over several lines":          {"<plist><data>\n\tMDEy\n\tMzQ=\n</data></plist>", []byte("01234")},
		"a key that repeats":               {`<plist><dict><key>a</key><true/><key>a</key><true/></dict></plist>`, nil},
		"two roots":                        {`<plist><true/><true/></plist>`, nil},
		"text after the end":               {`<plist><true/></plist>x`, nil},
		"text between elements":            {`<plist><array>x<true/></array></plist>`, nil},
		"an element that isn't closed":     {`<plist><string>a</plist>`, nil},
		"an element closed by another":     {`<plist><dict></array></plist>`, nil},
		"an unknown element":               {`<plist><null/></plist>`, nil},
		"an undefined entity":              {`<plist><string>&x;</string></plist>`, nil},
		"a DTD subset":                     {`<!DOCTYPE plist [<!ENTITY x "y">]><plist><string>&x;</string></plist>`, nil},
		"a key without a value":            {`<plist><dict><key>a</key></dict></plist>`, nil},
		"a value without a key":            {`<plist><dict><true/></dict></plist>`, nil},
		"malformed base64":                 {`<plist><data>!</data></plist>`, nil},
		"an integer that is none":          {`<plist><integer>1.5</integer></plist>`, nil},
		"no root":                          {`<plist/>`, nil},
		"nothing":                          {``, nil},
		"nesting beyond reason":            {"<plist>" + strings.Repeat("<array>", 1e5), nil},
		"a string that isn't UTF-8":        {"<plist><string>\xff</string></plist>", nil},
		"a closing tag where a key opens":  {`<plist><dict></key></dict></plist>`, nil},
		"attributes on ordinary elements":  {`<plist><string a="b">x</string></plist>`, nil},
		"a character that XML can't refer": {`<plist><string>&#0;</string></plist>`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := UnmarshalPlist([]byte(tt.in))
			if tt.want == nil {
				if err == nil {
					t.Errorf("UnmarshalPlist = %#v, want an error", got)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("UnmarshalPlist = %#v, %v, want %#v", got, err, tt.want)
			}
		})
	}
}

func FuzzUnmarshalPlist(f *testing.F) {
	f.Add([]byte(`<?xml version="1.0"?><plist version="1.0"><dict><key>a</key><array><data>AA==</data></array></dict></plist>`))
	f.Add([]byte(`<plist><string>&#x41;<![CDATA[x]]></string></plist>`))
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := UnmarshalPlist(data)
		if err != nil {
			return
		}
		again, err := MarshalPlist(v)
		if err != nil {
			return // for example a control character, which a reader meets but XML can't hold
		}
		if w, err := UnmarshalPlist(again); err != nil || !reflect.DeepEqual(v, w) && !hasNaN(v) {
			t.Errorf("%#v became %#v, %v", v, w, err)
		}
	})
}

func hasNaN(v any) bool {
	switch v := v.(type) {
	case float64:
		return v != v
	case []any:
		for _, item := range v {
			if hasNaN(item) {
				return true
			}
		}
	case Dict:
		for _, item := range v {
			if hasNaN(item) {
				return true
			}
		}
	}
	return false
}
