package chart

import (
	"fmt"
	"html/template"
	"strings"
	"time"
)

// Mark is one thing that ends: the push certificate.
type Mark struct {
	Label string
	At    time.Time
	Ink   Ink    // 0: by how near it is
	URL   string // a page of ours where it is renewed; may be empty
}

// Week is how many of something end in the seven days from a day on.
type Week struct {
	From  time.Time
	Count int
}

// Timeline shows what ends when, over the months from Now on: each mark as a bar that is as
// long as the time that is left, and many of a kind as columns by week on the same axis.
type Timeline struct {
	ID     string
	Title  string
	Now    time.Time
	Months int // 0: 12
	Marks  []Mark
	Many   string // what Weeks count: "Identity certificates"
	Weeks  []Week
	None   string
}

const manyHeight = 3.5 // of the columns by week, in em

// HTML draws the timeline.
func (t Timeline) HTML() template.HTML {
	if t.Months <= 0 {
		t.Months = 12
	}
	to := t.Now.AddDate(0, t.Months, 0)
	all, most := 0, 0
	for _, w := range t.Weeks {
		all, most = sum(all, positive(w.Count)), max(most, w.Count)
	}
	if len(t.Marks) == 0 && all == 0 {
		return none(t.None)
	}
	words := make([]string, 0, len(t.Marks)+1)
	rows := make([][]cell, 0, len(t.Marks)+len(t.Weeks))
	used := []Ink{Blue}
	for _, m := range t.Marks {
		words = append(words, fmt.Sprintf("%s %s", m.Label, m.when(t.Now)))
		rows = append(rows, []cell{{text: m.Label, url: m.URL}, {text: m.At.UTC().Format("2006-01-02")}})
		used = append(used, m.ink(t.Now))
	}
	if all > 0 {
		words = append(words, fmt.Sprintf("%s: %s", t.Many, Count(all)))
	}
	height := rowHeight*float64(len(t.Marks)) + 1.7
	if all > 0 {
		height += manyHeight + 2.9
	}
	d := open(t.ID, "chart-timeline", t.Title, strings.Join(words, "; ")+".", height, used...)
	y := 0.0
	for _, m := range t.Marks {
		d.text(0, y+rowLabel, start, "label", short(m.Label))
		d.text(100, y+rowLabel, end, "count", m.when(t.Now))
		d.rect(0, y+rowBar, 100, rowThick, `class="track"`)
		d.rect(0, y+rowBar, max(1, t.place(m.At, to)), rowThick, d.fill(m.ink(t.Now)))
		y += rowHeight
	}
	if all > 0 {
		d.text(0, y+rowLabel, start, "label", short(t.Many))
		d.text(100, y+rowLabel, end, "count", Count(all))
		y += 2.7
		d.weeks(t, to, niceTop(most), y)
		y += manyHeight + 0.2
	}
	for i := range 4 {
		at := t.Now.AddDate(0, i*t.Months/4, 0)
		x := t.place(at, to)
		d.line(x, y, x, y+0.3, "axis")
		d.text(x, y+1.3, start, "", at.UTC().Format("Jan 2006"))
	}
	for _, w := range t.Weeks {
		if w.Count > 0 {
			rows = append(rows, []cell{{text: t.Many + ", week of " + w.From.UTC().Format("2006-01-02")}, {text: Count(w.Count)}})
		}
	}
	return figure(d.close(), folded(table(d.id, t.Title, []string{"", "Ends on, or how many"}, rows)))
}

// weeks draws how many end by week.
func (d *drawing) weeks(t Timeline, to time.Time, top int, y float64) {
	d.line(0, y, 100, y, "grid")
	d.text(0, y-0.3, start, "", Count(top))
	for _, w := range t.Weeks {
		if w.Count <= 0 || !w.From.Before(to) {
			continue
		}
		x := t.place(w.From, to)
		width := max(0.8, (t.place(w.From.AddDate(0, 0, 7), to)-x)*0.8)
		tall := max(0.18, float64(w.Count)/float64(top)*manyHeight)
		d.rect(min(x, 100-width), y+manyHeight-tall, width, tall, d.fill(Blue))
	}
	d.line(0, y+manyHeight, 100, y+manyHeight, "axis")
}

// place is where a time stands on the axis, in percent.
func (t Timeline) place(at, to time.Time) float64 {
	whole := to.Sub(t.Now).Seconds()
	if whole <= 0 {
		return 0
	}
	return min(max(at.Sub(t.Now).Seconds()/whole*100, 0), 100)
}

// soon is how near the end of something must be for it to be drawn as what needs somebody,
// and near for it to be drawn as trouble.
const (
	soon = 60 * 24 * time.Hour
	near = 14 * 24 * time.Hour
)

func (m Mark) ink(now time.Time) Ink {
	left := m.At.Sub(now)
	switch {
	case m.Ink != 0:
		return m.Ink
	case left < near:
		return Red
	case left < soon:
		return Amber
	}
	return Green
}

// when says in few words when m ends.
func (m Mark) when(now time.Time) string {
	left := m.At.Sub(now)
	days := int(left / (24 * time.Hour))
	switch {
	case left <= 0:
		return "expired " + m.At.UTC().Format("2 Jan 2006")
	case days == 0:
		return "expires today"
	case days == 1:
		return "1 day left"
	case days < 60:
		return fmt.Sprintf("%d days left", days)
	}
	return m.At.UTC().Format("2 Jan 2006")
}
