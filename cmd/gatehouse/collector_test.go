package main

import (
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestCollectorGetsRoomOfAFixedSize(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		live uint64
		want int
	}{
		"before the first collection":           {0, 400},
		"a small heap is not cleaned for bytes": {4 << 20, 400},
		"what lives takes its part":             {12 << 20, 200},
		"a large heap is left to Go":            {500 << 20, 100},
	} {
		t.Run(name, func(t *testing.T) {
			if got := gcPercent(tt.live); got != tt.want {
				t.Errorf("gcPercent(%d) = %d, want %d", tt.live, got, tt.want)
			}
		})
	}
}
