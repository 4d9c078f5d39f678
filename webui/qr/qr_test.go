package qr_test

import (
	"encoding/xml"
	"fmt"
	"strings"
	"testing"

	rscqr "rsc.io/qr"

	"github.com/gatehouse-mdm/gatehouse/webui/qr"
)

func TestThePictureIsTheCode(t *testing.T) {
	for _, text := range []string{
		"https://mdm.example.com/enroll/l/abcdefghijklmnopqrst", "7Q4M-W2KD", strings.Repeat("é", 500),
	} {
		svg, err := qr.SVG(text, `Link "Berlin" <&>`)
		if err != nil {
			t.Fatal(err)
		}
		var picture struct {
			ViewBox string `xml:"viewBox,attr"`
			Role    string `xml:"role,attr"`
			Title   string `xml:"title"`
			Path    struct {
				D string `xml:"d,attr"`
			} `xml:"path"`
		}
		if err := xml.Unmarshal(svg, &picture); err != nil {
			t.Fatalf("%v in %s", err, svg)
		}
		code, err := rscqr.Encode(text, rscqr.M)
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("0 0 %d %d", code.Size+8, code.Size+8); picture.ViewBox != want || picture.Role != "img" || picture.Title != `Link "Berlin" <&>` {
			t.Errorf("the picture is %q %q %q", picture.ViewBox, picture.Role, picture.Title)
		}
		dark := map[[2]int]bool{}
		for part := range strings.SplitSeq(strings.Trim(picture.Path.D, "Mz"), "zM") {
			var x, y, run, back int
			if _, err := fmt.Sscanf(part, "%d %dh%dv1h-%d", &x, &y, &run, &back); err != nil || run != back {
				t.Fatalf("%q: %v", part, err)
			}
			for i := range run {
				dark[[2]int{x + i - 4, y - 4}] = true
			}
		}
		for y := range code.Size {
			for x := range code.Size {
				if dark[[2]int{x, y}] != code.Black(x, y) {
					t.Fatalf("%q: module %d, %d is wrong", text, x, y)
				}
			}
		}
	}
}

func TestWhatDoesNotFitIsRefused(t *testing.T) {
	if _, err := qr.SVG(strings.Repeat("x", 3000), ""); err == nil {
		t.Error("3,000 bytes have a code")
	}
}
