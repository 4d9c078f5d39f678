package view

import "strings"

// token is a custom property of the style sheets: what it is in light and in dark, the same
// in both where dark is empty.
type token struct{ name, light, dark string }

// tokens is the one table of what pages look like: colours, spaces, type. The contrast of
// every pair that is put on each other is computed in a test.
var tokens = []token{
	{"bg", "#f5f6f8", "#12151b"},
	{"surface", "#ffffff", "#1b1f28"},
	{"text", "#1b1f27", "#e8ebf1"},
	{"quiet", "#586173", "#a3acbd"},
	{"line", "#dde1e8", "#2d3340"},
	{"field", "#7d8799", "#6d778a"},
	{"accent", "#2b59c3", "#8fb0ff"},
	{"on-accent", "#ffffff", "#0e1a38"},
	{"accent-hover", "#214796", "#b0c7ff"},
	{"accent-soft", "#eaf0fd", "#202d4d"},
	{"good", "#1a6b3c", "#7fd6a0"},
	{"good-soft", "#e3f4e9", "#16331f"},
	{"waiting", "#7a5200", "#f0c56b"},
	{"waiting-soft", "#fdf1d8", "#362a0f"},
	{"bad", "#a4262c", "#ff9d9d"},
	{"bad-soft", "#fce9e9", "#42191c"},
	{"on-bad", "#ffffff", "#35090b"},
	{"code", "#eef0f4", "#252a35"},

	// Series of pictures, in the order of use: each stands out from the surface, and from
	// its neighbours also by a pattern or a label.
	{"series-1", "#2b59c3", "#8fb0ff"},
	{"series-2", "#1f7a4d", "#7fd6a0"},
	{"series-3", "#a86a00", "#f0c56b"},
	{"series-4", "#b0353b", "#ff9d9d"},
	{"series-5", "#6b4fb3", "#c4b0ff"},
	{"series-6", "#0f7c86", "#74d4dd"},
	{"series-7", "#7d8799", "#8b95a8"},

	{"shadow", "0 1px 2px rgba(20, 28, 45, .06), 0 4px 16px rgba(20, 28, 45, .05)", "none"},

	{"space-1", ".25rem", ""}, {"space-2", ".5rem", ""}, {"space-3", ".75rem", ""},
	{"space-4", "1rem", ""}, {"space-5", "1.5rem", ""}, {"space-6", "2rem", ""}, {"space-7", "3rem", ""},

	{"type-small", ".875rem", ""}, {"type-label", ".8125rem", ""}, {"type-lead", "1.0625rem", ""},
	{"type-h2", "1.25rem", ""}, {"type-h1", "1.75rem", ""},

	{"radius", "14px", ""}, {"radius-control", "10px", ""}, {"touch", "44px", ""},
}

// tokenSheet is the style sheet of the tokens: as the device prefers, unless who looks has
// chosen otherwise, and on paper always light.
func tokenSheet() string {
	var light, dark strings.Builder
	for _, t := range tokens {
		light.WriteString("--" + t.name + ":" + t.light + ";")
		if t.dark != "" {
			dark.WriteString("--" + t.name + ":" + t.dark + ";")
		}
	}
	return ":root{color-scheme:light dark;" + light.String() + "}\n" +
		"@media screen and (prefers-color-scheme:dark){:root{" + dark.String() + "}}\n" +
		":root[data-theme=light]{color-scheme:light;" + light.String() + "}\n" +
		"@media screen{:root[data-theme=dark]{color-scheme:dark;" + dark.String() + "}}\n" +
		"@media (prefers-contrast:more){:root{--quiet:var(--text);--line:var(--field)}}\n"
}
