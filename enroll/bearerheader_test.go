package enroll_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestTheTokenThatARequestShows(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		header []string
		want   string
	}{
		"none":                          {nil, ""},
		"one":                           {[]string{"Bearer abc-_1"}, "abc-_1"},
		"the scheme in another case":    {[]string{"bearer abc"}, "abc"},
		"blanks around it":              {[]string{"Bearer  abc "}, "abc"},
		"the scheme alone":              {[]string{"Bearer"}, ""},
		"two of them":                   {[]string{"Bearer abc", "Bearer abc"}, "-"},
		"another scheme":                {[]string{"Basic YWJj"}, "-"},
		"longer than any token of ours": {[]string{"Bearer " + strings.Repeat("a", 513)}, "-"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := enroll.BearerOf(&http.Request{Header: http.Header{"Authorization": tt.header}}); got != tt.want {
				t.Errorf("BearerOf(%q) = %q, want %q", tt.header, got, tt.want)
			}
		})
	}
}
