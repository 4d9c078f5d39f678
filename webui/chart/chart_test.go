package chart_test

import (
	"encoding/xml"
	"fmt"
	"html/template"
	"io"
	"math"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui/chart"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

const hostile = `"><script>alert(1)</script>&'`

// every is one picture of each kind, with these labels and counts.
func every(label string, counts ...int) map[string]template.HTML {
	var parts []chart.Part
	var points []chart.Point
	var marks []chart.Mark
	var weeks []chart.Week
	for i, n := range counts {
		parts = append(parts, chart.Part{Label: fmt.Sprint(label, i), Count: n})
		points = append(points, chart.Point{Label: fmt.Sprint(label, i), Counts: []int{n, n}})
		marks = append(marks, chart.Mark{Label: fmt.Sprint(label, i), At: now.AddDate(0, i, i)})
		weeks = append(weeks, chart.Week{From: now.AddDate(0, 0, 7*i), Count: n})
	}
	series := []chart.Series{{Label: label + "a"}, {Label: label + "b"}}
	return map[string]template.HTML{
		"bar":      chart.Bar{ID: label, Title: label, Parts: parts, None: label}.HTML(),
		"picture":  chart.Bar{ID: label, Title: label, Parts: parts, None: label}.Picture(),
		"rows":     chart.Rows{ID: label, Title: label, Unit: label, Parts: parts, None: label}.HTML(),
		"columns":  chart.Columns{ID: label, Title: label, Axis: label, Series: series, Points: points, None: label}.HTML(),
		"timeline": chart.Timeline{ID: label, Title: label, Now: now, Marks: marks, Many: label, Weeks: weeks, None: label}.HTML(),
	}
}

var numbers = regexp.MustCompile(` (x|y|x1|x2|y1|y2|width|height)="(-?[0-9]+(?:\.[0-9]{1,2})?)(%|em|)"`)

// check holds what is true of every picture.
func check(t *testing.T, name string, picture template.HTML) {
	t.Helper()
	text := string(picture)
	d := xml.NewDecoder(strings.NewReader("<div>" + text + "</div>"))
	d.Strict = true
	ids := map[string]bool{}
	for {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("%s is not well formed: %v\n%s", name, err, text)
		}
		e, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		if strings.EqualFold(e.Name.Local, "script") || strings.EqualFold(e.Name.Local, "style") {
			t.Errorf("%s has a <%s>", name, e.Name.Local)
		}
		for _, a := range e.Attr {
			switch {
			case a.Name.Local == "id" && ids[a.Value]:
				t.Errorf("%s has two elements %q", name, a.Value)
			case a.Name.Local == "id":
				ids[a.Value] = true
			case a.Name.Local == "style" || strings.HasPrefix(a.Name.Local, "on"):
				t.Errorf("%s has an attribute %s", name, a.Name.Local)
			case strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf"):
				t.Errorf("%s has %s=%q", name, a.Name.Local, a.Value)
			}
			if e.Name.Local == "rect" && (a.Name.Local == "width" || a.Name.Local == "height") && strings.HasPrefix(a.Value, "-") {
				t.Errorf("%s has a box of %s %s", name, a.Name.Local, a.Value)
			}
		}
	}
	for _, m := range regexp.MustCompile(`url\(#([^)]+)\)`).FindAllStringSubmatch(text, -1) {
		if !ids[m[1]] {
			t.Errorf("%s is painted with %s, which it lacks", name, m[1])
		}
	}
	for _, m := range regexp.MustCompile(`aria-labelledby="([^"]+)"`).FindAllStringSubmatch(text, -1) {
		for id := range strings.FieldsSeq(m[1]) {
			if !ids[id] {
				t.Errorf("%s is named by %s, which it lacks", name, id)
			}
		}
	}
	for _, m := range numbers.FindAllStringSubmatch(text, -1) {
		var v float64
		if _, err := fmt.Sscan(m[2], &v); err != nil || m[3] == "%" && (v < 0 || v > 100.01) {
			t.Errorf("%s has %s=%s%s", name, m[1], m[2], m[3])
		}
	}
}

func TestEveryPictureIsSound(t *testing.T) {
	storagetest.AnyEngine(t)
	many := make([]int, 150)
	for i := range many {
		many[i] = i * i
	}
	for name, counts := range map[string][]int{
		"no data":      nil,
		"zeros":        {0, 0, 0},
		"one value":    {1},
		"one of many":  {0, 0, 7, 0},
		"uneven":       {1, 1_000_000, 3, 0},
		"huge":         {math.MaxInt, math.MaxInt, 1},
		"below zero":   {-5, 3, math.MinInt},
		"many":         many,
		"a few months": {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8},
	} {
		for _, label := range []string{"devices", hostile, "", "\xff\x00\u202e long, and longer, and longer still than there is room for"} {
			for kind, picture := range every(label, counts...) {
				check(t, fmt.Sprintf("%s of %s named %q", kind, name, label), picture)
			}
		}
	}
}

func TestPicturesSayTheirNumbers(t *testing.T) {
	storagetest.AnyEngine(t)
	bar := string(chart.Bar{ID: "states", Title: "Devices by state", Parts: []chart.Part{
		{Label: "enrolled", Count: 99_990, Ink: chart.Green, URL: "/admin/devices?state=enrolled"},
		{Label: "pending", Count: 10, Ink: chart.Amber, URL: "//elsewhere.example"},
		{Label: "blocked", Ink: chart.Red},
	}}.HTML())
	for _, want := range []string{
		`<svg class="chart-picture chart-bar" role="img" aria-labelledby="states-chart-name states-chart-desc" width="100%" height="1.75em" focusable="false">`,
		`<title id="states-chart-name">Devices by state</title><desc id="states-chart-desc">enrolled 99,990, pending 10 of 100,000.</desc>`,
		`<rect x="0%" y="0em" width="98.5%" height="1.75em" fill="url(#states-chart-ink-2)"/>`,
		`<rect x="98.5%" y="0em" width="1.5%" height="1.75em" fill="url(#states-chart-ink-3)"/>`,
		`<a href="/admin/devices?state=enrolled"><bdi>enrolled</bdi></a></th><td class="number"><bdi>99,990</bdi></td><td class="number"><bdi>&gt; 99 %</bdi></td>`,
		`<bdi>pending</bdi></th><td class="number"><bdi>10</bdi></td><td class="number"><bdi>&lt; 1 %</bdi></td>`,
		`<bdi>blocked</bdi></th><td class="number"><bdi>0</bdi></td><td class="number"><bdi>0 %</bdi></td>`,
	} {
		if !strings.Contains(bar, want) {
			t.Errorf("the bar lacks %s\n%s", want, bar)
		}
	}
	if strings.Contains(bar, "elsewhere") {
		t.Errorf("the bar leads away: %s", bar)
	}
	columns := string(chart.Columns{ID: "days", Title: "Enrollments", Axis: "Day", Series: []chart.Series{{Label: "enrolled"}, {Label: "unenrolled"}}, Points: []chart.Point{
		{Label: "20 Nov", Counts: []int{3}}, {Label: "21 Nov", Counts: []int{14, 2}}, {Label: "22 Nov"},
	}}.HTML())
	for _, want := range []string{
		"From 20 Nov to 22 Nov: enrolled 17, unenrolled 2. The most is 16, at 21 Nov.",
		`>20</text>`, // the top of the scale
		`<th scope="row"><bdi>21 Nov</bdi></th><td class="number"><bdi>14</bdi></td><td class="number"><bdi>2</bdi></td>`,
	} {
		if !strings.Contains(columns, want) {
			t.Errorf("the columns lack %s\n%s", want, columns)
		}
	}
	timeline := string(chart.Timeline{ID: "ends", Title: "What expires", Now: now, Many: "Identities", Marks: []chart.Mark{
		{Label: "Gone", At: now.Add(-time.Hour)},
		{Label: "Push certificate", At: now.AddDate(0, 0, 20), URL: "/admin/settings/push"},
		{Label: "TLS", At: now.AddDate(0, 6, 0)},
		{Label: "CA", At: now.AddDate(9, 0, 0)},
	}, Weeks: []chart.Week{{From: now.AddDate(0, 0, 3), Count: 12}}}.HTML())
	for _, want := range []string{
		"Gone expired 22 Nov 2026; Push certificate 20 days left; TLS 22 May 2027; CA 22 Nov 2035; Identities: 12.",
		`<rect x="0%" y="1.3em" width="1%" height="0.75em" fill="url(#ends-chart-ink-4)"/>`,
		`width="5.48%" height="0.75em" fill="url(#ends-chart-ink-3)"/>`,
		`width="100%" height="0.75em" fill="url(#ends-chart-ink-2)"/>`,
		`<a href="/admin/settings/push"><bdi>Push certificate</bdi></a></th><td class="number"><bdi>2026-12-12</bdi></td>`,
		"Nov 2026</text>", "Feb 2027</text>", "Aug 2027</text>",
	} {
		if !strings.Contains(timeline, want) {
			t.Errorf("the timeline lacks %s\n%s", want, timeline)
		}
	}
}

func TestWithoutNumbersASentenceIsSaid(t *testing.T) {
	storagetest.AnyEngine(t)
	for kind, picture := range every("<none>", 0, 0) {
		if kind == "bar" || kind == "columns" {
			if want := `<p class="chart-none quiet">&lt;none&gt;</p>`; string(picture) != want {
				t.Errorf("%s is %s, want %s", kind, picture, want)
			}
		}
	}
	if got := string(chart.Bar{ID: "x", Title: "Command"}.Picture()); !strings.Contains(got, `class="track"`) || !strings.Contains(got, "nothing to show") {
		t.Errorf("an empty bar is %s", got)
	}
}

func TestNumbersAreWrittenForPeople(t *testing.T) {
	storagetest.AnyEngine(t)
	for n, want := range map[int]string{0: "0", 7: "7", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "−1,000"} {
		if got := chart.Count(n); got != want {
			t.Errorf("Count(%d) = %q, want %q", n, got, want)
		}
	}
}

// The view's tests hold the contrast of these pairs of tokens.
func TestTheStyleSheetHasEveryClassInTokensThatContrast(t *testing.T) {
	storagetest.AnyEngine(t)
	sheet, err := os.ReadFile("../view/assets/desk.css")
	if err != nil {
		t.Fatal(err)
	}
	_, rules, ok := strings.Cut(string(sheet), "/* Pictures */")
	if !ok {
		t.Fatal("desk.css has no rules of pictures")
	}
	for n := range 7 {
		if want := fmt.Sprintf(".ink-%d { fill: var(--series-%[1]d); }", n+1); !strings.Contains(rules, want) {
			t.Errorf("desk.css lacks %s", want)
		}
	}
	for _, want := range []string{".ink-over { fill: none; stroke: var(--surface)", ".chart-picture text { fill: var(--quiet)", ".chart-picture .label, .chart-picture .count { fill: var(--text)", ".track {", ".grid {", ".axis {", ".cut { stroke: var(--surface)"} {
		if !strings.Contains(rules, want) {
			t.Errorf("desk.css lacks %s", want)
		}
	}
}
