package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestChangesOfTemplatesTellNoSecret(t *testing.T) {
	storagetest.AnyEngine(t)
	const sentinel = "hunter2"
	before := template.Template{Retries: 2, Challenge: sentinel, Upstream: template.Upstream{URL: "https://ca.example.com", Challenge: sentinel, Password: sentinel}}
	after := before
	after.Retries, after.Challenge, after.Upstream.Challenge, after.Upstream.Password = 4, sentinel+"2", "", sentinel+"3"
	got := event.Changes(auditedTemplate(before), auditedTemplate(after))
	if text := fmt.Sprint(got, event.Changes(nil, auditedTemplate(after))); strings.Contains(text, sentinel) {
		t.Errorf("a secret is told: %s", text)
	}
	for _, want := range []event.Change{
		{Field: "retries", Before: "2", After: "4"}, {Field: "challenge", After: "changed"},
		{Field: "upstream.challenge", After: "removed"}, {Field: "upstream.password", After: "changed"},
	} {
		if !slices.Contains(got, want) {
			t.Errorf("%+v is not told among %+v", want, got)
		}
	}
}
