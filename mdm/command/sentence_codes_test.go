package command

import (
	"strings"
	"testing"
	"unicode"
)

// Every meaning stands in a sentence that is put together: a part of one, with what to do
// as sentences of their own.
func TestMeaningsFitIntoSentences(t *testing.T) {
	t.Parallel()
	for domain, codes := range meanings {
		for code, m := range codes {
			if m.means == "" || !unicode.IsUpper([]rune(m.means)[0]) || strings.HasSuffix(m.means, ".") {
				t.Errorf("%s %d means %q", domain, code, m.means)
			}
			if m.next != "" && (!unicode.IsUpper([]rune(m.next)[0]) || !strings.HasSuffix(m.next, ".")) {
				t.Errorf("%s %d asks to do %q", domain, code, m.next)
			}
			got := Sentence("InstallProfile", []ChainedError{{ErrorCode: code, ErrorDomain: domain, USEnglishDescription: "Said so."}})
			if strings.Contains(got, "..") || strings.Contains(got, ". (") || !strings.HasSuffix(got, ".") {
				t.Errorf("%s %d reads %q", domain, code, got)
			}
		}
	}
	for alias, domain := range sameDomain {
		if meanings[alias] != nil || meanings[domain] == nil {
			t.Errorf("%s stands for %s", alias, domain)
		}
	}
}

// What the issue names, and what administrators ask for most.
func TestTheCommonCodesAreKnown(t *testing.T) {
	t.Parallel()
	for means, e := range map[string]ChainedError{
		"rights do not cover":     {ErrorDomain: "MCMDMErrorDomain", ErrorCode: 12007},
		"does not know the":       {ErrorDomain: "MCMDMErrorDomain", ErrorCode: 12021},
		"no license for the app":  {ErrorDomain: "MCMDMErrorDomain", ErrorCode: 12064},
		"user declined":           {ErrorDomain: "MCMDMErrorDomain", ErrorCode: 12063},
		"no such profile":         {ErrorDomain: "MCMDMErrorDomain", ErrorCode: 12075},
		"passcode must be":        {ErrorDomain: "MCMDMErrorDomain", ErrorCode: 12049},
		"not supervised":          {ErrorDomain: "MCChaperoneErrorDomain", ErrorCode: 29000},
		"needs a supervised":      {ErrorDomain: "MCInstallationErrorDomain", ErrorCode: 4025},
		"not allowed on this dev": {ErrorDomain: "MCInstallationErrorDomain", ErrorCode: 4023},
		"payload is damaged":      {ErrorDomain: "MCPayloadErrorDomain", ErrorCode: 2000},
		"being installed already": {ErrorDomain: "ASDErrorDomain", ErrorCode: 506},
		"There is no license":     {ErrorDomain: "ASDServerErrorDomain", ErrorCode: 9610},
		"lacks a key":             {ErrorDomain: "ConfigProfilePluginDomain", ErrorCode: -307},
		"did not answer in time":  {ErrorDomain: "NSURLErrorDomain", ErrorCode: -1001},
	} {
		if got := e.Sentence(); !strings.Contains(got, means) {
			t.Errorf("%s %d reads %q, want %q in it", e.ErrorDomain, e.ErrorCode, got, means)
		}
	}
}
