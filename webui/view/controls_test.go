package view

import "testing"

func TestNamesThatDeceiveAreShownAsTheyAre(t *testing.T) {
	for name, tt := range map[string]struct{ page, want string }{
		"nothing to show":          {"<p>Ana’s iPhone</p>", "<p>Ana’s iPhone</p>"},
		"an override":              {"<p>exe\u202egpj.</p>", "<p>exe⟨U+202E⟩gpj.</p>"},
		"an isolate":               {"<b>a\u2069b</b>", "<b>a⟨U+2069⟩b</b>"},
		"a bell, and what hides":   {"a\x07\u200b\u00adb", "a⟨U+0007⟩⟨U+200B⟩⟨U+00AD⟩b"},
		"lines stay":               {"<pre>a\n\tb\u202e</pre>", "<pre>a\n\tb⟨U+202E⟩</pre>"},
		"emoji and Persian stay":   {"<p>👩\u200d💻 می\u200cخواهم\u200f</p>\u202d", "<p>👩\u200d💻 می\u200cخواهم\u200f</p>⟨U+202D⟩"},
		"values of forms stay":     {"<input value=\"a>\u202eb\"> <textarea rows=1>\u202e</textarea>\u202e", "<input value=\"a>\u202eb\"> <textarea rows=1>\u202e</textarea>⟨U+202E⟩"},
		"what ends in a tag stays": {"\u202e<p title=\"x", "⟨U+202E⟩<p title=\"x"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := string(RevealControls([]byte(tt.page))); got != tt.want {
				t.Errorf("RevealControls(%q) = %q, want %q", tt.page, got, tt.want)
			}
		})
	}
}
