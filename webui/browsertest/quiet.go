package browsertest

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
)

// record is what a tab has complained about: in its console, and where others look only
// with the developer's tools open.
type record struct {
	mu         sync.Mutex
	complaints []string
}

// hear notes what is worth it. It runs between two messages of the tab.
func (r *record) hear(event any) {
	said := ""
	switch e := event.(type) {
	case log.EventEntryAdded:
		said = entry(e.Entry)
	case *log.EventEntryAdded:
		said = entry(e.Entry)
	case runtime.EventConsoleAPICalled:
		said = call(e)
	case *runtime.EventConsoleAPICalled:
		said = call(*e)
	case runtime.EventExceptionThrown:
		said = exception(e.ExceptionDetails)
	case *runtime.EventExceptionThrown:
		said = exception(e.ExceptionDetails)
	}
	if said == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.complaints = append(r.complaints, said)
}

// entry is a line of the browser's own, among them what the content security policy refused.
func entry(e *log.Entry) string {
	if e == nil || e.Level != log.EntryLevelError && e.Level != log.EntryLevelWarning {
		return ""
	}
	return fmt.Sprintf("%s: %s %s", e.Source, e.Text, e.URL)
}

// call is what a script wrote to the console.
func call(e runtime.EventConsoleAPICalled) string {
	if e.Type != runtime.ConsoleAPICalledTypeError && e.Type != runtime.ConsoleAPICalledTypeWarning && e.Type != runtime.ConsoleAPICalledTypeAssert {
		return ""
	}
	text := "console." + string(e.Type)
	for _, arg := range e.Args {
		text += " " + string(arg.Value) + arg.Description
	}
	return text
}

func exception(e *runtime.ExceptionDetails) string {
	if e == nil {
		return ""
	}
	text := fmt.Sprintf("%s:%d: %s", e.URL, e.LineNumber+1, e.Text)
	if e.Exception != nil {
		text += " " + e.Exception.Description
	}
	return text
}

// Quiet fails the test if pages have complained since it was asked last: errors and warnings
// in the console, uncaught exceptions, files that could not be loaded, and whatever the
// content security policy refused. What contains one of the texts in but was to be expected.
func (b *Browser) Quiet(but ...string) {
	b.t.Helper()
	for _, said := range b.complaints() {
		if !slices.ContainsFunc(but, func(text string) bool { return strings.Contains(said, text) }) {
			b.t.Errorf("the browser complains: %s", said)
		}
	}
}

// complaints returns what was complained about since it was asked last.
func (b *Browser) complaints() []string {
	b.t.Helper()
	Eval[bool](b, "true") // what a page said before it answers is heard
	b.record.mu.Lock()
	defer b.record.mu.Unlock()
	defer func() { b.record.complaints = nil }()
	return b.record.complaints
}
