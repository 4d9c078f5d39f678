package chart

import (
	"fmt"
	"html/template"
	"strings"
)

// Series is one of the things that are counted at every point of a picture.
type Series struct {
	Label string
	Ink   Ink // 0: the next one
}

// Point is a place on the axis, a day for one, with a number of each series.
type Point struct {
	Label  string // "22 Nov"
	Counts []int
}

// Columns are numbers over time, those of a point on top of each other.
type Columns struct {
	ID     string
	Title  string
	Axis   string // heads the points in the table: "Day"
	Series []Series
	Points []Point
	None   string // what is said where every number is zero
}

// Places in a picture of columns, in em.
const (
	columnsTop    = 1.25
	columnsHeight = 6.5
	columnsFoot   = columnsTop + columnsHeight
	columnsLabels = columnsFoot + 1.3
	columnsAll    = columnsLabels + 0.45
)

// HTML draws the columns.
func (c Columns) HTML() template.HTML {
	series := make([]Series, len(c.Series))
	copy(series, c.Series)
	for i := range series {
		if series[i].Ink == 0 {
			series[i].Ink = inks[i%len(inks)]
		}
	}
	totals := make([]int, len(series))
	most, at, all := 0, 0, 0
	for i, p := range c.Points {
		height := 0
		for s := range series {
			height, totals[s] = sum(height, p.count(s)), sum(totals[s], p.count(s))
		}
		if all = sum(all, height); height > most {
			most, at = height, i
		}
	}
	if most == 0 {
		return none(c.None)
	}
	words := make([]string, len(series))
	used := make([]Ink, len(series))
	for s := range series {
		words[s], used[s] = fmt.Sprintf("%s %s", series[s].Label, Count(totals[s])), series[s].Ink
	}
	last := len(c.Points) - 1
	desc := fmt.Sprintf("From %s to %s: %s. The most is %s, at %s.", c.Points[0].Label, c.Points[last].Label, strings.Join(words, ", "), Count(most), c.Points[at].Label)
	d := open(c.ID, "chart-columns", c.Title, desc, columnsAll, used...)
	d.columns(c.Points, series, niceTop(most), columnsTop, columnsHeight, true)
	d.text(0, columnsLabels, start, "", c.Points[0].Label)
	if last >= 6 {
		d.text(50, columnsLabels, middle, "", c.Points[last/2].Label)
	}
	if last > 0 {
		d.text(100, columnsLabels, end, "", c.Points[last].Label)
	}
	picture := d.close()
	if len(series) > 1 {
		picture += legend(d.id, series)
	}
	return figure(picture, folded(c.table(d.id, series)))
}

func (p Point) count(series int) int {
	if series >= len(p.Counts) {
		return 0
	}
	return positive(p.Counts[series])
}

// columns draws the points between 0 and 100 % of the width, on a scale of which the top is
// said.
func (d *drawing) columns(points []Point, series []Series, top int, y, height float64, half bool) {
	d.line(0, y, 100, y, "grid")
	if half {
		d.line(0, y+height/2, 100, y+height/2, "grid")
	}
	d.text(0, y-0.3, start, "", Count(top))
	step := 100 / float64(len(points))
	width := min(step*0.8, 12)
	for i, p := range points {
		foot := y + height
		for s := range series {
			n := p.count(s)
			if n == 0 {
				continue
			}
			tall := max(0.18, float64(n)/float64(top)*height)
			if foot-tall < y {
				tall = max(0.05, foot-y)
			}
			d.rect(step*(float64(i)+0.5)-width/2, foot-tall, width, tall, d.fill(series[s].Ink))
			foot -= tall
		}
	}
	d.line(0, y+height, 100, y+height, "axis")
}

// maxNumbers is how many points the table of a picture has. Only those with a number are
// worth a line when there are more.
const maxNumbers = 31

func (c Columns) table(id string, series []Series) string {
	head := []string{c.Axis}
	for _, s := range series {
		head = append(head, s.Label)
	}
	var rows [][]cell
	for i := len(c.Points) - 1; i >= 0; i-- { // what is new comes first
		p := c.Points[i]
		row, some := []cell{{text: p.Label}}, false
		for s := range series {
			row, some = append(row, cell{text: Count(p.count(s))}), some || p.count(s) > 0
		}
		if some || len(c.Points) <= maxNumbers {
			rows = append(rows, row)
		}
	}
	caption := c.Title
	if len(c.Points) > maxNumbers {
		caption += "; what is not listed has none"
	}
	return table(id, caption, head, rows)
}
