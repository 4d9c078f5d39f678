package apiv1

// Nearest returns the known name that is most like one that is not known, for an error that
// says what may be meant; empty if none is like it.
func Nearest(name string, known map[string]bool) string {
	nearest, least := "", len(name)/3+2
	for candidate := range known {
		d := distance(name, candidate)
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
