package scep

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"net/http"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/gatehouse-mdm/gatehouse/depot/template"
)

// Challenge fetches a fresh challenge from the page that u names, with Basic
// authentication if there is a user name. The page is that of NDES (mscep_admin), one
// line of text, or JSON: a string, or an object with a "challenge".
func (c *Client) Challenge(ctx context.Context, u template.Upstream) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.ChallengeURL, nil)
	if err != nil {
		return "", notNow("the challenge URL is none")
	}
	if u.Username != "" {
		req.SetBasicAuth(u.Username, u.Password.Reveal())
	}
	resp, body, err := c.do(u, req)
	if err != nil {
		return "", err
	}
	switch {
	case resp.StatusCode == http.StatusUnauthorized && !asksForBasic(resp.Header):
		return "", refusal("its challenge page does not take Basic authentication: NTLM and Negotiate are not spoken here, so switch Basic on for that page")
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		return "", refusal("its challenge page does not accept the user name and password: status %d", resp.StatusCode)
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return "", refusal("its challenge page has moved (status %d), and redirects are not followed", resp.StatusCode)
	case resp.StatusCode != http.StatusOK:
		return "", notNow("its challenge page answers with status %d", resp.StatusCode)
	}
	text, err := readText(body)
	if err != nil {
		return "", refusal("its challenge page: %w", err)
	}
	challenge, err := findChallenge(text)
	if err != nil {
		return "", refusal("its challenge page: %w", err)
	}
	if n := utf8.RuneCountInString(challenge); n == 0 || n > maxChallenge || strings.ContainsFunc(challenge, unicode.IsControl) {
		return "", refusal("its challenge page names a challenge that is not 1 to %d printable characters", maxChallenge)
	}
	return challenge, nil
}

// asksForBasic says whether a 401 offers Basic, also if it says nothing at all.
func asksForBasic(h http.Header) bool {
	offers := h.Values("WWW-Authenticate")
	for _, offer := range offers {
		for part := range strings.SplitSeq(offer, ",") {
			if scheme, _, _ := strings.Cut(strings.TrimSpace(part), " "); strings.EqualFold(scheme, "Basic") {
				return true
			}
		}
	}
	return len(offers) == 0
}

// readText decodes UTF-8, and UTF-16 as NDES writes it.
func readText(body []byte) (string, error) {
	var order binary.ByteOrder
	switch {
	case bytes.HasPrefix(body, []byte{0xff, 0xfe}):
		order, body = binary.LittleEndian, body[2:]
	case bytes.HasPrefix(body, []byte{0xfe, 0xff}):
		order, body = binary.BigEndian, body[2:]
	case len(body) >= 2 && body[0] != 0 && body[1] == 0: // its first letter is ASCII
		order = binary.LittleEndian
	case len(body) >= 2 && body[0] == 0 && body[1] != 0:
		order = binary.BigEndian
	default:
		body = bytes.TrimPrefix(body, []byte("\ufeff"))
		if !utf8.Valid(body) {
			return "", errors.New("is neither UTF-8 nor UTF-16")
		}
		return string(body), nil
	}
	if len(body)%2 != 0 {
		return "", errors.New("is UTF-16 with half a character")
	}
	units := make([]uint16, len(body)/2)
	for i := range units {
		units[i] = order.Uint16(body[2*i:])
	}
	return string(utf16.Decode(units)), nil
}

var (
	// ndesEnglish is what NDES says in English; ndesAny what it says in any language:
	// digits in bold. The thumbprint of the authority, which stands before them, has spaces
	// in between.
	ndesEnglish = regexp.MustCompile(`(?i)challenge password is:\s*(?:<[^<>]*>\s*)*([^<>\s]+)\s*<`)
	ndesAny     = regexp.MustCompile(`(?i)<b>\s*([0-9a-f]{8,64})\s*</b>`)
)

// findChallenge finds the challenge in a page.
func findChallenge(text string) (string, error) {
	text = strings.TrimSpace(text)
	switch {
	case text == "":
		return "", errors.New("is empty")
	case text[0] == '{' || text[0] == '"':
		return challengeOfJSON(text)
	case text[0] == '<':
		if found := ndesEnglish.FindStringSubmatch(text); found != nil {
			return html.UnescapeString(found[1]), nil
		}
		switch found := ndesAny.FindAllStringSubmatch(text, -1); {
		case len(found) == 1:
			return found[0][1], nil
		case strings.Contains(strings.ToLower(text), "password cache is full"):
			return "", errors.New("says that its password cache is full: challenges that nobody has used fill it until they expire")
		case strings.Contains(strings.ToLower(text), "permission"):
			return "", errors.New("says that the user lacks the permission to enroll")
		}
		return "", errors.New("is HTML without a challenge as NDES shows it")
	case strings.ContainsAny(text, "\r\n"):
		return "", errors.New("has several lines of text, and the challenge should be all of it")
	}
	return text, nil
}

func challengeOfJSON(text string) (string, error) {
	var answer any
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return "", errors.New("is not the JSON that it begins as")
	}
	if object, ok := answer.(map[string]any); ok {
		answer = object["challenge"]
	}
	if challenge, ok := answer.(string); ok {
		return challenge, nil
	}
	return "", fmt.Errorf("is JSON without a text %q", "challenge")
}
