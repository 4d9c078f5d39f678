package apiv1

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestAnswersAreOfBoundedLength(t *testing.T) {
	storagetest.AnyEngine(t)
	const devices = entriesChunk + 10
	read := func(cursor string, limit int) (page []mdm.Entry, next string, err error) {
		from := 0
		if cursor != "" {
			from, _ = strconv.Atoi(cursor)
			from++
		}
		for i := from; i < devices; i++ {
			if len(page) == limit {
				return page, fmt.Sprint(i - 1), nil
			}
			e := mdm.Entry{DeviceID: mdm.DeviceID(fmt.Sprint(i))}
			if i >= 3 {
				e.Result = json.RawMessage(strings.Repeat("1", 10))
			}
			page = append(page, e)
		}
		return page, "", nil
	}
	for name, tt := range map[string]struct {
		cursor     string
		limit, max int
		want       string // first and last, and the cursor
	}{
		"all":                          {"", wholeCommand, maxResults, "0 509 "},
		"as many as are asked for":     {"", 505, maxResults, "0 504 504"},
		"no more than a page":          {"", 7, maxResults, "0 6 6"},
		"until the answers get long":   {"", wholeCommand, 25, "0 4 4"},
		"on from there":                {"4", wholeCommand, 25, "5 6 6"},
		"one that is too long, alone":  {"4", wholeCommand, 5, "5 5 5"},
		"over the border of two pages": {"", wholeCommand, 10 * (entriesChunk + 1), "0 503 503"},
	} {
		t.Run(name, func(t *testing.T) {
			all, next, err := gather(tt.cursor, tt.limit, tt.max, read)
			if err != nil || len(all) == 0 {
				t.Fatalf("gather: %d entries, %v", len(all), err)
			}
			if got := fmt.Sprintf("%s %s %s", all[0].DeviceID, all[len(all)-1].DeviceID, next); got != tt.want {
				t.Errorf("gather = %s, want %s", got, tt.want)
			}
		})
	}
}
