// Package qr draws QR codes (ISO/IEC 18004) as SVG, which prints sharp at any size and
// needs no script. The library's types stop here.
package qr

import (
	"bytes"
	"fmt"
	"html"

	"rsc.io/qr"
)

// quiet is the margin that readers need (ISO/IEC 18004, 9.1), in modules.
const quiet = 4

// SVG returns a picture of text, which is mostly a URL, and says in title what it is of to
// those who can't see it. It is dark on white in any theme, since not all readers take the
// reverse. Text of more than 2,300 bytes does not fit.
func SVG(text, title string) ([]byte, error) {
	code, err := qr.Encode(text, qr.M)
	if err != nil {
		return nil, fmt.Errorf("qr: %w", err)
	}
	size := code.Size + 2*quiet
	var svg bytes.Buffer
	fmt.Fprintf(&svg, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" shape-rendering="crispEdges">`, size, size, 8*size, 8*size)
	fmt.Fprintf(&svg, `<title>%s</title><rect width="%d" height="%d" fill="#fff"/><path fill="#000" d="`, html.EscapeString(title), size, size)
	for y := range code.Size {
		for x := 0; x < code.Size; x++ {
			run := 0
			for code.Black(x+run, y) {
				run++
			}
			if run > 0 {
				fmt.Fprintf(&svg, "M%d %dh%dv1h-%dz", x+quiet, y+quiet, run, run)
				x += run
			}
		}
	}
	svg.WriteString(`"/></svg>`)
	return svg.Bytes(), nil
}
