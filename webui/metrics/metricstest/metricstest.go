// Package metricstest reads Prometheus' text exposition format, and is strict about it.
package metricstest

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

var (
	head   = regexp.MustCompile(`^# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)$`)
	sample = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"(?:,[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*")*\})? (\S+)$`)
)

// Parse returns the samples of text by name and labels, as they are written. Its error says
// which line Prometheus would not take, or take for something else: every metric has HELP and
// TYPE before its samples, all of them in one place, each once.
func Parse(text string) (map[string]float64, error) {
	if !strings.HasSuffix(text, "\n") {
		return nil, fmt.Errorf("the last line has no end")
	}
	samples := make(map[string]float64)
	kinds, helps := make(map[string]string), make(map[string]bool)
	current := ""
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		fail := func(why string) error { return fmt.Errorf("line %d, %q: %s", i+1, line, why) }
		if m := head.FindStringSubmatch(line); m != nil {
			switch name := m[2]; {
			case m[1] == "HELP":
				if helps[name] {
					return nil, fail("HELP again")
				}
				helps[name], current = true, name
			case name != current:
				return nil, fail("TYPE without HELP before it")
			case kinds[name] != "":
				return nil, fail("TYPE again")
			case m[3] != "counter" && m[3] != "gauge" && m[3] != "histogram":
				return nil, fail("no such type")
			case (m[3] == "counter") != strings.HasSuffix(name, "_total"):
				return nil, fail("counters, and nothing else, end in _total")
			default:
				kinds[name] = m[3]
			}
			continue
		}
		m := sample.FindStringSubmatch(line)
		if m == nil {
			return nil, fail("no sample")
		}
		base := m[1]
		if kinds[current] == "histogram" {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				base = strings.TrimSuffix(base, suffix)
			}
		}
		if base != current || kinds[current] == "" {
			return nil, fail("the sample is not of the metric above")
		}
		v, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			return nil, fail("no number")
		}
		if _, twice := samples[m[1]+m[2]]; twice {
			return nil, fail("the sample is there twice")
		}
		samples[m[1]+m[2]] = v
	}
	return samples, nil
}
