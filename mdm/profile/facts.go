package profile

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

// PayloadFacts are what Apple documents of one type of payload. Its slices and maps are
// shared by all callers: read only. Platforms and Keys are as in [command.Type].
//
// Several payloads of different uses may have the same type, such as com.apple.MCX.
type PayloadFacts struct {
	PayloadType string                                     `json:"payloadType"`
	Title       string                                     `json:"title"` // as Apple heads its page, "Web Clip"
	Keys        []command.Key                              `json:"keys"`  // beside those that all payloads have
	Platforms   map[command.Platform]*command.Availability `json:"platforms"`
}

// The names under which payloads.json has what is no payload.
const (
	topLevel   = "TopLevel"          // the profile itself
	commonKeys = "CommonPayloadKeys" // of every payload
)

// payloads.json is embedded compressed: it is ten times smaller. A test holds one
// against the other.
//
//go:embed payloads.json.gz
var payloadsGzip []byte

// payloadFacts reads payloads.json at its first use. The file is part of the program: one
// that does not parse is a broken build, which the tests show.
var payloadFacts = sync.OnceValue(func() map[string][]PayloadFacts {
	facts, err := parseFacts(payloadsGzip)
	if err != nil {
		panic(err)
	}
	return facts
})

func parseFacts(compressed []byte) (map[string][]PayloadFacts, error) {
	unzip, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, fmt.Errorf("profile: payloads.json: %w", err)
	}
	var file struct {
		Payloads []PayloadFacts `json:"payloads"`
	}
	dec := json.NewDecoder(unzip)
	dec.UseNumber()
	if err := dec.Decode(&file); err != nil {
		return nil, fmt.Errorf("profile: payloads.json: %w", err)
	}
	facts := make(map[string][]PayloadFacts, len(file.Payloads))
	for _, f := range file.Payloads {
		facts[f.PayloadType] = append(facts[f.PayloadType], f)
	}
	return facts, nil
}

// Lookup returns what is known of a type of payload: nothing of one that is newer than our
// tables, or an app's own.
func Lookup(payloadType string) []PayloadFacts {
	if payloadType == topLevel || payloadType == commonKeys {
		return nil
	}
	return slices.Clip(payloadFacts()[payloadType])
}

// PayloadTypes returns the types of payloads that are known, sorted.
func PayloadTypes() []string {
	types := slices.Collect(maps.Keys(payloadFacts()))
	types = slices.DeleteFunc(types, func(t string) bool { return t == topLevel || t == commonKeys })
	slices.Sort(types)
	return types
}
