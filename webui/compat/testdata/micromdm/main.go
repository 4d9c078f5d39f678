// Command micromdm reads commands in MicroMDM's JSON, one a line, and prints what MicroMDM's
// own code makes of each: a JSON array of {"plist":…,"error":…}, property lists in base64.
package main

import (
	"bufio"
	"encoding/json"
	"log"
	"os"

	"github.com/micromdm/micromdm/mdm/mdm"
	"github.com/micromdm/plist"
)

type made struct {
	Plist []byte `json:"plist,omitempty"`
	Error string `json:"error,omitempty"`
}

func main() {
	all := []made{}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		b, err := translate(lines.Bytes())
		m := made{Plist: b}
		if err != nil {
			m.Error = err.Error()
		}
		all = append(all, m)
	}
	if err := lines.Err(); err != nil {
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(all); err != nil {
		log.Fatal(err)
	}
}

func translate(in []byte) ([]byte, error) {
	var request mdm.CommandRequest
	if err := json.Unmarshal(in, &request); err != nil {
		return nil, err
	}
	payload, err := mdm.NewCommandPayload(&request)
	if err != nil {
		return nil, err
	}
	return plist.Marshal(payload)
}
