package text

import (
	"slices"
	"strings"
)

// placeholder finds the first {name} in text: where it begins and ends.
func placeholder(text string) (begin, end int, ok bool) {
	for begin = strings.IndexByte(text, '{'); begin >= 0; {
		end = begin + 1
		for end < len(text) && isName(text[end], end > begin+1) {
			end++
		}
		if end > begin+1 && end < len(text) && text[end] == '}' {
			return begin, end + 1, true
		}
		next := strings.IndexByte(text[begin+1:], '{')
		if next < 0 {
			break
		}
		begin += 1 + next
	}
	return 0, 0, false
}

// isName says whether b can be in the name of a placeholder; inside is false for the
// first byte.
func isName(b byte, inside bool) bool {
	return 'a' <= b && b <= 'z' || inside && (b == '_' || '0' <= b && b <= '9')
}

// placeholders are the names in text, in order and each once.
func placeholders(text string) []string {
	names := []string{}
	fill(text, func(name string) string { names = append(names, name); return "" })
	slices.Sort(names)
	return slices.Compact(names)
}

// fill replaces placeholders by what value says. That is not looked at again.
func fill(text string, value func(name string) string) string {
	begin, end, ok := placeholder(text)
	if !ok {
		return text
	}
	var out strings.Builder
	for ; ok; begin, end, ok = placeholder(text) {
		out.WriteString(text[:begin])
		out.WriteString(value(text[begin+1 : end-1]))
		text = text[end:]
	}
	out.WriteString(text)
	return out.String()
}

// fillHTML is fill for rendered Markdown: what stands in a tag, such as the address of a
// link, is left as it is. Our renderer has no < and > but those of tags.
func fillHTML(html string, value func(name string) string) string {
	if !strings.Contains(html, "{") {
		return html
	}
	var out strings.Builder
	for html != "" {
		text, rest, tag := strings.Cut(html, "<")
		out.WriteString(fill(text, value))
		if !tag {
			break
		}
		inside, after, _ := strings.Cut(rest, ">")
		out.WriteString("<" + inside + ">")
		html = after
	}
	return out.String()
}
