// Package chart draws numbers as SVG on the server: pictures that follow the theme, print,
// and need neither script nor an inline style.
//
// Places are in percent of the width and in em of the height, so that a picture fits a phone
// while its text stays as large as that around it. Colours are classes of the style sheet,
// and a pattern stands beside each, so that none says anything alone. With each picture goes
// a table of the same numbers.
//
// It knows nothing of requests, and nothing of what is counted.
package chart

import (
	"fmt"
	"html/template"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Ink is what a part of a picture is drawn with: a colour and a pattern, both of which stay
// the same for the same thing. The zero value is Grey.
type Ink uint8

// The inks, each with the series-N token of its colour.
const (
	Blue  Ink = 1 + iota
	Green     // what is well
	Amber     // what waits
	Red       // what went wrong
	Violet
	Teal
	Grey // what is out of it
)

// inks are in the order in which a picture takes them when nobody has chosen.
var inks = [...]Ink{Blue, Green, Amber, Violet, Teal, Red, Grey}

func (i Ink) number() int {
	if i < Blue || i > Grey {
		i = Grey
	}
	return int(i)
}

// patterns are what is drawn over the colour of each ink, in a square of 8 units. Blue has
// none: it is most of most pictures.
var patterns = [...]string{
	Blue:   "",
	Green:  `<path d="M2 2h.01M6 6h.01"/>`,
	Amber:  `<path d="M-2 2l4-4M0 8l8-8M6 10l4-4"/>`,
	Red:    `<path d="M0 0l8 8M8 0l-8 8"/>`,
	Violet: `<path d="M4 0v8"/>`,
	Teal:   `<path d="M-2 6l4 4M0 0l8 8M6-2l4 4"/>`,
	Grey:   `<path d="M0 4h8"/>`,
}

// maxLabel is how many characters of a label a picture shows. The table has all of it.
const maxLabel = 28

// nothing is said where there are no numbers and the caller has no better words.
const nothing = "There is nothing to show yet."

// drawing is an SVG under way. Whatever comes from outside goes through attr or text.
type drawing struct {
	strings.Builder
	id string
}

// clean makes a picture's name one that can be an element's id, and part of others.
func clean(id string) string {
	id = strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return r
		}
		return '-'
	}, id)
	if id == "" || !unicode.IsLetter(rune(id[0])) {
		id = "chart-" + id
	}
	return id
}

func escape(text string) string {
	return template.HTMLEscapeString(strings.ToValidUTF8(text, string(unicode.ReplacementChar)))
}

// open begins a picture of a height in em, with its name and what it shows in words, and the
// patterns of the inks that it uses.
func open(id, class, title, desc string, height float64, used ...Ink) *drawing {
	d := &drawing{id: clean(id)}
	fmt.Fprintf(d, `<svg class="chart-picture %s" role="img" aria-labelledby="%s-chart-name %[2]s-chart-desc" width="100%%" height="%sem" focusable="false">`, class, d.id, number(height))
	fmt.Fprintf(d, `<title id="%s-chart-name">%s</title><desc id="%[1]s-chart-desc">%[3]s</desc>`, d.id, escape(title), escape(desc))
	d.patterns(used...)
	return d
}

func (d *drawing) patterns(used ...Ink) {
	var done [len(patterns)]bool
	var defs strings.Builder
	for _, ink := range used {
		n := ink.number()
		if done[n] || patterns[n] == "" {
			continue
		}
		done[n] = true
		fmt.Fprintf(&defs, `<pattern id="%s-chart-ink-%d" width="8" height="8" patternUnits="userSpaceOnUse"><rect width="8" height="8" class="ink-%[2]d"/><g class="ink-over">%s</g></pattern>`, d.id, n, patterns[n])
	}
	if defs.Len() > 0 {
		d.WriteString("<defs>" + defs.String() + "</defs>")
	}
}

// close ends the picture.
func (d *drawing) close() string {
	d.WriteString("</svg>")
	return d.String()
}

// fill is the attribute that paints with an ink: its pattern, or its plain colour.
func (d *drawing) fill(ink Ink) string {
	n := ink.number()
	if patterns[n] == "" {
		return fmt.Sprintf(`class="ink-%d"`, n)
	}
	return fmt.Sprintf(`fill="url(#%s-chart-ink-%d)"`, d.id, n)
}

// rect draws a box: x and width in percent, y and height in em.
func (d *drawing) rect(x, y, width, height float64, paint string) {
	fmt.Fprintf(d, `<rect x="%s%%" y="%sem" width="%s%%" height="%sem" %s/>`, number(x), number(y), number(width), number(height), paint)
}

// line draws a line from x1 to x2, in percent, and y1 to y2, in em.
func (d *drawing) line(x1, y1, x2, y2 float64, class string) {
	fmt.Fprintf(d, `<line x1="%s%%" y1="%sem" x2="%s%%" y2="%sem" class="%s"/>`, number(x1), number(y1), number(x2), number(y2), class)
}

// The ends of a text that can be at its place.
const (
	start  = "start"
	middle = "middle"
	end    = "end"
)

// text writes at x percent and with its base line at y em.
func (d *drawing) text(x, y float64, anchor, class, text string) {
	fmt.Fprintf(d, `<text x="%s%%" y="%sem"`, number(x), number(y))
	if anchor != start {
		fmt.Fprintf(d, ` text-anchor="%s"`, anchor)
	}
	if class != "" {
		fmt.Fprintf(d, ` class="%s"`, class)
	}
	d.WriteString(">" + escape(text) + "</text>")
}

// number writes a coordinate: short, and never one that no browser reads.
func number(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		v = 0
	}
	text := strconv.FormatFloat(math.Round(v*100)/100, 'f', -1, 64)
	if text == "-0" {
		return "0"
	}
	return text
}

// short cuts a label that a picture has no room for.
func short(label string) string {
	if utf8.RuneCountInString(label) <= maxLabel {
		return label
	}
	runes := []rune(label)
	return strings.TrimSpace(string(runes[:maxLabel-1])) + "…"
}

// Count writes a number as people read it: 12,345.
func Count(n int) string {
	digits := strconv.Itoa(n)
	sign := ""
	if n < 0 {
		sign, digits = "−", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// share is a part of a whole in percent, in words that are true: never 0 % of something, nor
// 100 % of nearly all.
func share(n, total int) string {
	if total <= 0 || n <= 0 {
		return "0 %"
	}
	switch percent := float64(n) / float64(total) * 100; {
	case percent < 1:
		return "< 1 %"
	case percent > 99 && n < total:
		return "> 99 %"
	default:
		return strconv.Itoa(int(math.Round(percent))) + " %"
	}
}

// positive is n, or nothing where a count can't be less.
func positive(n int) int { return max(n, 0) }

// sum adds up without coming out below nothing.
func sum(a, b int) int {
	if a > math.MaxInt-b {
		return math.MaxInt
	}
	return a + b
}

// widths shares 100 % out, so that nothing that is there gets less than least.
func widths(counts []int, least float64) []float64 {
	out := make([]float64, len(counts))
	total, small, large, some := 0.0, 0.0, 0.0, 0.0
	for _, n := range counts {
		if n > 0 {
			total += float64(n)
			some++
		}
	}
	if total == 0 {
		return out
	}
	least = min(least, 50/some)
	for i, n := range counts {
		switch out[i] = float64(positive(n)) / total * 100; {
		case out[i] == 0:
		case out[i] < least:
			out[i] = least
			small += least
		default:
			large += out[i]
		}
	}
	for i := range out {
		if out[i] > least {
			out[i] *= (100 - small) / large
		}
	}
	return out
}

// niceTop is a round number that is no less than n: 1, 2 or 5 and zeros.
func niceTop(n int) int {
	for step := 1; ; step *= 10 {
		for _, m := range [...]int{1, 2, 5} {
			if step > math.MaxInt/m || step*m >= n {
				return max(n, min(step, math.MaxInt/m)*m)
			}
		}
		if step > math.MaxInt/10 {
			return n
		}
	}
}

// cell is a cell of a table of numbers.
type cell struct {
	text  string
	url   string // of the first one; empty: no link
	ink   Ink    // drawn before the first one's text; 0: none
	drawn bool   // whether ink is
}

// link returns url if it leads to a page of ours, so that nothing that was typed can make it
// lead elsewhere.
func link(url string) string {
	if strings.HasPrefix(url, "/") && !strings.HasPrefix(url, "//") && !strings.HasPrefix(url, `/\`) {
		return url
	}
	return ""
}

// table writes the numbers of a picture: the first cell of a row is its header.
func table(id, caption string, head []string, rows [][]cell) string {
	var b strings.Builder
	b.WriteString(`<table class="chart-numbers"><caption class="only-spoken">` + escape(caption) + `</caption><thead><tr>`)
	for i, h := range head {
		class := ""
		if i > 0 {
			class = ` class="number"`
		}
		b.WriteString(`<th scope="col"` + class + `>` + escape(h) + `</th>`)
	}
	b.WriteString("</tr></thead><tbody>")
	for _, row := range rows {
		b.WriteString("<tr>")
		for i, c := range row {
			text := "<bdi>" + escape(c.text) + "</bdi>"
			if i > 0 {
				b.WriteString(`<td class="number">` + text + "</td>")
				continue
			}
			if url := link(c.url); url != "" {
				text = `<a href="` + escape(url) + `">` + text + "</a>"
			}
			b.WriteString(`<th scope="row">`)
			if c.drawn {
				b.WriteString(swatch(id, c.ink))
			}
			b.WriteString(text + "</th>")
		}
		b.WriteString("</tr>")
	}
	b.WriteString("</tbody></table>")
	return b.String()
}

// swatch is a spot of an ink of the picture with that id, which has its pattern.
func swatch(id string, ink Ink) string {
	d := &drawing{id: id}
	d.WriteString(`<svg class="swatch" width="16" height="16" aria-hidden="true" focusable="false"><rect width="16" height="16" rx="3" ` + d.fill(ink) + `/></svg>`)
	return d.String()
}

// legend names the inks of a picture.
func legend(id string, series []Series) string {
	var b strings.Builder
	b.WriteString(`<ul class="chart-legend">`)
	for _, s := range series {
		b.WriteString("<li>" + swatch(id, s.Ink) + "<bdi>" + escape(s.Label) + "</bdi></li>")
	}
	b.WriteString("</ul>")
	return b.String()
}

// figure is a picture with what belongs to it. The numbers are folded away where the picture
// has them already.
func figure(parts ...string) template.HTML {
	return template.HTML(`<figure class="chart">` + strings.Join(parts, "") + `</figure>`)
}

func folded(table string) string {
	return `<details class="chart-table"><summary>As a table</summary><div class="scroll" tabindex="0" role="group" aria-label="Numbers">` + table + `</div></details>`
}

// none is a figure that has no numbers to show.
func none(text string) template.HTML {
	if text == "" {
		text = nothing
	}
	return template.HTML(`<p class="chart-none quiet">` + escape(text) + `</p>`)
}
