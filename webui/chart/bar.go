package chart

import (
	"fmt"
	"html/template"
	"strings"
)

// Part is one of the parts of a whole.
type Part struct {
	Label string
	Count int
	Ink   Ink    // 0: the next one
	URL   string // a page of ours that lists them; may be empty
}

// Bar is a whole in its parts, as one bar: devices by state, or the devices of a command by
// what became of it.
type Bar struct {
	ID    string // in its page: letters, digits and hyphens
	Title string // what is counted: "Devices by state"
	Parts []Part
	None  string // what is said without anything to count
}

// barHeight is that of a bar, in em.
const barHeight = 1.75

// HTML draws the bar over a table of its parts, which is its legend.
func (b Bar) HTML() template.HTML {
	parts, total := b.parts()
	if total == 0 {
		return none(b.None)
	}
	rows := make([][]cell, len(parts))
	for i, p := range parts {
		rows[i] = []cell{{text: p.Label, url: p.URL, ink: p.Ink, drawn: true}, {text: Count(positive(p.Count))}, {text: share(p.Count, total)}}
	}
	return figure(b.picture(parts, total), table(clean(b.ID), b.Title, []string{"", "Number", "Share"}, rows))
}

// Picture draws the bar alone, for a row of a table that says in words how many of all are
// done.
func (b Bar) Picture() template.HTML {
	parts, total := b.parts()
	return template.HTML(b.picture(parts, total))
}

// parts are b's with an ink each, and how many there are of all.
func (b Bar) parts() (parts []Part, total int) {
	parts = make([]Part, len(b.Parts))
	copy(parts, b.Parts)
	for i := range parts {
		if parts[i].Ink == 0 {
			parts[i].Ink = inks[i%len(inks)]
		}
		total = sum(total, positive(parts[i].Count))
	}
	return parts, total
}

func (b Bar) picture(parts []Part, total int) string {
	var used []Ink
	var words []string
	counts := make([]int, len(parts))
	for i, p := range parts {
		used = append(used, p.Ink)
		if counts[i] = p.Count; p.Count > 0 {
			words = append(words, fmt.Sprintf("%s %s", p.Label, Count(p.Count)))
		}
	}
	desc := fmt.Sprintf("%s of %s.", strings.Join(words, ", "), Count(total))
	if total == 0 {
		desc = nothing
	}
	d := open(b.ID, "chart-bar", b.Title, desc, barHeight, used...)
	if total == 0 {
		d.rect(0, 0, 100, barHeight, `class="track"`)
		return d.close()
	}
	x := 0.0
	for i, width := range widths(counts, 1.5) {
		if width == 0 {
			continue
		}
		d.rect(x, 0, width, barHeight, d.fill(parts[i].Ink))
		if x > 0 {
			d.line(x, 0, x, barHeight, "cut")
		}
		x += width
	}
	return d.close()
}

// Rows are numbers to compare, as a bar each under its label: devices by version of their
// system. They are drawn in the order that they come in.
type Rows struct {
	ID    string
	Title string
	Unit  string // heads the numbers of the table: "Devices"; empty: "Number"
	Parts []Part // Ink 0: blue
	Of    int    // what shares are told of; 0: all parts together
	None  string
}

// Places in a row, in em.
const (
	rowHeight = 2.5
	rowLabel  = 0.95
	rowBar    = 1.3
	rowThick  = 0.75
)

// HTML draws the rows.
func (r Rows) HTML() template.HTML {
	most, total := 0, 0
	for _, p := range r.Parts {
		most, total = max(most, p.Count), sum(total, positive(p.Count))
	}
	if len(r.Parts) == 0 {
		return none(r.None)
	}
	if r.Of > 0 {
		total = r.Of
	}
	words := make([]string, len(r.Parts))
	rows := make([][]cell, len(r.Parts))
	var used []Ink
	for i, p := range r.Parts {
		words[i] = fmt.Sprintf("%s %s", p.Label, Count(positive(p.Count)))
		rows[i] = []cell{{text: p.Label, url: p.URL}, {text: Count(positive(p.Count))}, {text: share(p.Count, total)}}
		used = append(used, rowInk(p))
	}
	d := open(r.ID, "chart-rows", r.Title, strings.Join(words, ", ")+".", rowHeight*float64(len(r.Parts)), used...)
	for i, p := range r.Parts {
		y := rowHeight * float64(i)
		d.text(0, y+rowLabel, start, "label", short(p.Label))
		d.text(100, y+rowLabel, end, "count", Count(positive(p.Count)))
		d.rect(0, y+rowBar, 100, rowThick, `class="track"`)
		if p.Count > 0 {
			d.rect(0, y+rowBar, max(1, float64(p.Count)/float64(most)*100), rowThick, d.fill(rowInk(p)))
		}
	}
	unit := r.Unit
	if unit == "" {
		unit = "Number"
	}
	return figure(d.close(), folded(table(d.id, r.Title, []string{"", unit, "Share"}, rows)))
}

func rowInk(p Part) Ink {
	if p.Ink == 0 {
		return Blue
	}
	return p.Ink
}
