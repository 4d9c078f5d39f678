package mdmtest

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"io"
	"strings"
)

// Model is a family of devices, named as Apple's discovery does (PROTOCOL 1).
type Model string

// The families that this package plays.
const (
	IPhone  Model = "iPhone"
	IPad    Model = "iPad"
	Mac     Model = "Mac"
	AppleTV Model = "AppleTV" // enrols by profile alone
	Vision  Model = "RealityDevice"
	Watch   Model = "Watch"
)

// hardware is what a typical device of a model says of itself.
type hardware struct {
	product, name, number, os, build, browser string
}

func (m Model) hardware() hardware {
	switch m {
	case Mac:
		return hardware{"Mac16,1", "MacBook Pro", "MW2U3LL/A", "26.1", "25B78",
			"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1 Safari/605.1.15"}
	case IPad: // asks for desktop pages, so Safari calls itself a Mac
		return hardware{"iPad16,3", "iPad", "MVV83LL/A", "26.1", "23B85",
			"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1 Safari/605.1.15"}
	case Vision:
		return hardware{"RealityDevice14,1", "Apple Vision Pro", "MQL83LL/A", "26.1", "23N47",
			"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1 Safari/605.1.15"}
	case AppleTV: // has no browser: a computer brings it its profile
		return hardware{"AppleTV14,1", "Apple TV", "MN873LL/A", "26.1", "23J582", Mac.hardware().browser}
	case Watch: // its web session runs on the phone
		return hardware{"Watch7,5", "Apple Watch", "MC7A4LW/A", "26.1", "23S37", IPhone.hardware().browser}
	default:
		return hardware{"iPhone17,3", "iPhone", "MYED3LL/A", "26.1", "23B85",
			"Mozilla/5.0 (iPhone; CPU iPhone OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1 Mobile/15E148 Safari/604.1"}
	}
}

// target is the TargetDeviceType of a profile for this model.
func (m Model) target() int64 {
	switch m {
	case Mac:
		return 5
	case AppleTV:
		return 4
	case Vision:
		return 6
	case Watch:
		return 2
	}
	return 1
}

// newUDID has the form that each family gives its UDID.
func (m Model) newUDID(r io.Reader) (string, error) {
	if m == Mac {
		return newUUID(r)
	}
	b, err := readRandom(r, 8)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("00008140-%016X", b), nil
}

// newSerial is ten characters, as Apple's randomised serial numbers are.
func newSerial(r io.Reader) (string, error) {
	b, err := readRandom(r, 10)
	if err != nil {
		return "", err
	}
	const letters = "0123456789CDFGHJKLMNPQRTVWXY"
	for i := range b {
		b[i] = letters[int(b[i])%len(letters)]
	}
	return string(b), nil
}

// seeded is an endless stream that depends on its seed alone; it gives a demo
// device the same UDID and serial number after each start.
type seeded struct {
	seed string
	n    int
	rest []byte
}

func (s *seeded) Read(p []byte) (int, error) {
	for i := range p {
		if len(s.rest) == 0 {
			sum := sha256.Sum256(fmt.Appendf(nil, "%d %s", s.n, s.seed))
			s.rest, s.n = sum[:], s.n+1
		}
		p[i], s.rest = s.rest[0], s.rest[1:]
	}
	return len(p), nil
}

// easID is an EASDeviceIdentifier: an opaque word.
func easID(serial string) string {
	sum := sha256.Sum256([]byte(serial))
	return strings.TrimRight(base32.StdEncoding.EncodeToString(sum[:16]), "=")
}
