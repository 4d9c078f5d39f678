// Package browsertest looks at pages in a real browser, for tests.
package browsertest

import (
	"context"
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// patience is how long a test may take to see what it waits for, everything
// together, and oneWait how long for one thing: a browser on a busy machine is
// slow, but not that slow.
const (
	patience = 10 * time.Minute
	oneWait  = 2 * time.Minute
)

// Browser is one tab of a browser of its own, without cookies.
type Browser struct {
	t      testing.TB
	ctx    context.Context
	record *record
}

// Open starts a browser, which ends with the test. Where none is installed the test
// is skipped; in CI it fails.
func Open(t testing.TB) *Browser {
	t.Helper()
	program := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			program = path
			break
		}
	}
	if program == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("no chromium is installed, and CI skips nothing")
		}
		t.Skip("no chromium is installed")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	ctx, stop := chromedp.NewExecAllocator(ctx, append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(program),
		chromedp.NoSandbox, // which root can't have
		chromedp.DisableGPU,
		chromedp.IgnoreCertErrors,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
	)...)
	t.Cleanup(stop)
	ctx, closeTab := chromedp.NewContext(ctx)
	t.Cleanup(closeTab)
	b := &Browser{t, ctx, &record{}}
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil { // with whose context the tab ends
		t.Fatal(err)
	}
	if err := chromedp.Listen(ctx, b.record.hear); err != nil {
		t.Fatal(err)
	}
	return b
}

// In returns the same tab for a subtest, which then is the one that fails.
func (b *Browser) In(t testing.TB) *Browser { return &Browser{t, b.ctx, b.record} }

// oneWait is for something that the browser may take its time with.
func (b *Browser) oneWait() (context.Context, context.CancelFunc) {
	return context.WithTimeout(b.ctx, oneWait)
}

// Do runs steps, and fails the test if one does.
func (b *Browser) Do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, done := b.oneWait()
	defer done()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.t.Fatalf("%v\n%s", err, b.text())
	}
}

// Go opens url.
func (b *Browser) Go(url string) {
	b.t.Helper()
	b.Do(chromedp.Navigate(url))
}

// Submit clicks the element at a CSS selector and waits for the page that it leads to.
// It returns the page's status.
func (b *Browser) Submit(selector string) int {
	b.t.Helper()
	ctx, done := b.oneWait()
	defer done()
	resp, err := chromedp.RunResponse(ctx, chromedp.Click(chromedp.CSS(selector)))
	if err != nil {
		b.t.Fatalf("click %s: %v\n%s", selector, err, b.text())
	}
	return int(resp.Status)
}

// Download clicks the element at a CSS selector and returns the file that the browser
// then saves, as Safari hands a profile to Settings. The page stays.
func (b *Browser) Download(selector string) []byte {
	b.t.Helper()
	dir, events := b.t.TempDir(), true
	_, err := chromedp.Call(b.ctx, browser.SetDownloadBehavior, browser.SetDownloadBehaviorParams{
		Behavior: browser.SetDownloadBehaviorBehaviorAllowAndName, DownloadPath: dir, EventsEnabled: &events,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, enough := b.oneWait()
	defer enough()
	done, err := chromedp.Run(ctx, chromedp.WaitEvent(browser.DownloadProgress, func(e browser.EventDownloadProgress) bool {
		return e.State != browser.DownloadProgressStateInProgress
	}, chromedp.Click(chromedp.CSS(selector))))
	if err != nil || done.State != browser.DownloadProgressStateCompleted {
		b.t.Fatalf("download by %s: %s, %v\n%s", selector, done.State, err, b.text())
	}
	file, err := os.ReadFile(filepath.Join(dir, done.GUID))
	if err != nil {
		b.t.Fatal(err)
	}
	return file
}

// Choose puts a file of that name and content into the file input at a CSS selector, as if
// somebody had picked it.
func (b *Browser) Choose(selector, name string, content []byte) {
	b.t.Helper()
	path := filepath.Join(b.t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		b.t.Fatal(err)
	}
	b.Do(chromedp.SetUploadFiles(chromedp.CSS(selector), []string{path}))
}

// Pose has the browser say that it is another one, and which languages its user reads
// ("de-AT,de;q=0.9"; empty: as it is).
func (b *Browser) Pose(userAgent, languages string) {
	b.t.Helper()
	_, err := chromedp.Call(b.ctx, emulation.SetUserAgentOverride, emulation.SetUserAgentOverrideParams{UserAgent: userAgent, AcceptLanguage: languages})
	if err != nil {
		b.t.Fatal(err)
	}
}

// Type types text into the input at a CSS selector, after what is there.
func (b *Browser) Type(selector, text string) {
	b.t.Helper()
	b.focus(selector, `e.setSelectionRange?.call(e, e.value.length, e.value.length)`)
	b.Do(chromedp.KeyEvent(text))
}

// Fill types text into the input at a CSS selector, in place of what is there.
func (b *Browser) Fill(selector, text string) {
	b.t.Helper()
	b.focus(selector, `e.select()`)
	if text == "" {
		text = kb.Delete
	}
	b.Do(chromedp.KeyEvent(text))
}

// focus waits until the input at a CSS selector can be seen, and puts the cursor into it
// and where a statement about e has it. It does not ask chromedp for the element, whose
// SendKeys reads what a page's events are changing.
func (b *Browser) focus(selector, statement string) {
	b.t.Helper()
	b.Await(`(() => {
		const e = document.querySelector(` + strconv.Quote(selector) + `);
		if (!e || e.disabled || e.getClientRects().length === 0) return false;
		e.scrollIntoView({block: "nearest"});
		e.focus();
		try { ` + statement + ` } catch {} // inputs for numbers have no cursor
		return document.activeElement === e;
	})()`)
}

// Click clicks the element at a CSS selector, which leads nowhere else.
func (b *Browser) Click(selector string) {
	b.t.Helper()
	b.Do(chromedp.Click(chromedp.CSS(selector)))
}

// Await waits until a JavaScript expression is true of a page that is there as a whole, with its
// script. The page may change meanwhile.
func (b *Browser) Await(expression string) {
	b.t.Helper()
	expression = `document.readyState === "complete" && (` + expression + `)`
	ctx, done := b.oneWait()
	defer done()
	for {
		_, err := chromedp.Run(ctx, chromedp.Poll[bool](expression, chromedp.WithPollingTimeout(0)))
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			b.t.Fatalf("never true: %s\n%s", expression, b.text())
		}
		// The page went away under the question: ask its successor.
	}
}

// Eval returns the value of a JavaScript expression; of a promise, what it becomes.
func Eval[T any](b *Browser, expression string) T {
	b.t.Helper()
	for {
		v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
		if err == nil {
			return v
		}
		// The page went away under the question: ask its successor.
		if gone := strings.Contains(err.Error(), "context was destroyed") || strings.Contains(err.Error(), "navigated or closed"); !gone || b.ctx.Err() != nil {
			b.t.Fatalf("%s: %v\n%s", expression, err, b.text())
		}
	}
}

// Screen sets the size of the window in CSS pixels, with touch and a phone's
// rendering below 700, and whether the user prefers dark pages.
func (b *Browser) Screen(width, height int64, dark bool) {
	b.t.Helper()
	_, err := chromedp.Call(b.ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: width, Height: height, DeviceScaleFactor: 1, Mobile: width < 700,
	})
	if err == nil {
		scheme := "light"
		if dark {
			scheme = "dark"
		}
		_, err = chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}},
		})
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// WithoutScripts lets pages run no script from now on.
func (b *Browser) WithoutScripts() {
	b.t.Helper()
	_, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	if err != nil {
		b.t.Fatal(err)
	}
}

// Picture returns the page as it is on the screen, as a PNG: all of it, not only what
// fits the window.
func (b *Browser) Picture() []byte {
	b.t.Helper()
	whole := true
	shot, err := chromedp.Call(b.ctx, page.CaptureScreenshot, page.CaptureScreenshotParams{Format: page.CaptureScreenshotFormatPng, CaptureBeyondViewport: &whole})
	if err != nil {
		b.t.Fatal(err)
	}
	return shot.Data
}

// text is what the page says, for the messages of tests that failed.
func (b *Browser) text() string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.ctx), 2*time.Second)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`location.href + "\n" + document.body.innerText`))
	if err != nil {
		return "(the page can't be read: " + err.Error() + ")"
	}
	return text
}

//go:embed defects.js
var defects string

// Check reports what is wrong with the page as it is on the screen: landmarks,
// headings, labels, contrast, targets too small for a finger, text cut off, and
// anything wider than the window. It stands for what is mechanical in WCAG 2.2 AA.
func (b *Browser) Check() {
	b.t.Helper()
	if found := Eval[[]string](b, defects); len(found) > 0 {
		b.t.Errorf("%s:\n\t%s", Eval[string](b, "document.title + ' at ' + innerWidth + ' px'"), strings.Join(found, "\n\t"))
	}
}
