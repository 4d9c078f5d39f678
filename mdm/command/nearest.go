package command

import "strings"

// Nearest returns the one of names that is most like name, for an error that says what may be
// meant; empty if none is like it. Names that differ in case alone are the nearest.
func Nearest(name string, names []string) string {
	name = strings.ToLower(clip(name))
	nearest, least := "", len(name)/3+2
	for _, candidate := range names {
		d := distance(name, strings.ToLower(candidate))
		if candidate != "" && (d < least || d == least && nearest != "" && candidate < nearest) {
			nearest, least = candidate, d
		}
	}
	return nearest
}

// distance is the number of bytes to insert, remove or change between a and b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
