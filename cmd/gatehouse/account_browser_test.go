package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	cdplog "github.com/chromedp/cdproto/log"
	cdpnetwork "github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui/browsertest"
)

// webSession is a real browser as the view that a device opens for a sign-in.
type webSession struct {
	*browsertest.Browser
	// pages does what the person does, up to the click that ends the session, and returns
	// what they click.
	pages func(v *webSession) (last string)

	mu         sync.Mutex
	complaints []string
}

// SignIn is the person's.
func (v *webSession) SignIn(ctx context.Context, session mdmtest.WebSession) (mdmtest.Redirect, error) {
	v.Go(session.URL)
	last := v.pages(v)
	// A click by mouse has Chromium ask whether an application may be opened, and until it
	// is told it takes no other.
	var back mdmtest.Redirect
	v.Do(func(ctx context.Context, target *chromedp.Target) (chromedp.Void, error) {
		answer, err := chromedp.WaitEvent(cdpnetwork.ResponseReceivedExtraInfo, func(e cdpnetwork.EventResponseReceivedExtraInfo) bool {
			return strings.HasPrefix(location(e), "apple-")
		}, chromedp.Evaluate[any](fmt.Sprintf("void document.querySelector(%q).click()", last)))(ctx, target)
		back = mdmtest.Redirect{Status: int(answer.StatusCode), Location: location(answer)}
		return chromedp.Void{}, err
	})
	return back, nil
}

func location(e cdpnetwork.EventResponseReceivedExtraInfo) string {
	for name, value := range e.Headers {
		if text, ok := value.(string); ok && strings.EqualFold(name, "Location") {
			return text
		}
	}
	return ""
}

// listen notes what the browser complains of from now on, such as a form that a page's
// policy keeps from leading to the device.
func (v *webSession) listen() {
	v.Do(func(ctx context.Context, target *chromedp.Target) (chromedp.Void, error) {
		if _, err := cdp.Call(ctx, target, cdplog.Enable, cdp.Empty{}); err != nil {
			return chromedp.Void{}, err
		}
		return chromedp.Void{}, chromedp.Listen(ctx, func(ev any) {
			if e, ok := ev.(*cdplog.EventEntryAdded); ok && strings.Contains(e.Entry.Text, "Content Security Policy") {
				v.mu.Lock()
				defer v.mu.Unlock()
				v.complaints = append(v.complaints, e.Entry.Text)
			}
		})
	})
}

// TestARealBrowserSignsInForADevice has Chromium be the view that a device opens: once by
// each method, first by a password and then by the session that is left of it.
func TestARealBrowserSignsInForADevice(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	v := &webSession{Browser: browsertest.Open(t)}
	c := newComposed(t, nil)
	c.member(t, "ana")
	v.Screen(390, 844, false)
	v.Pose(iPhoneSafari26, "en")
	v.listen()
	byPassword := func(v *webSession) string {
		v.Check()
		if typed := browsertest.Eval[string](v.Browser, `document.querySelector("#email").value`); typed != "ana@example.com" {
			t.Errorf("the login has %q filled in", typed)
		}
		v.Fill("#password", "wrong")
		if status := v.Submit("main form button[type=submit]"); status != http.StatusUnauthorized {
			t.Errorf("a wrong password = %d", status)
		}
		v.Check()
		v.Fill("#password", anaPassword)
		return "main form button[type=submit]"
	}
	asBefore := func(v *webSession) string {
		v.Check()
		if text := browsertest.Eval[string](v.Browser, "document.body.innerText"); !strings.Contains(text, "ana@apple.example.com") {
			t.Errorf("who is signed in is not asked whether that is right:\n%s", text)
		}
		return "main form button[type=submit]"
	}
	for _, tt := range []struct {
		method string
		model  mdmtest.Model
		pages  func(*webSession) string
	}{
		{mdmtest.MethodWeb, mdmtest.IPhone, byPassword},
		{mdmtest.MethodOAuth2, mdmtest.IPad, asBefore},
	} {
		c.byAccount(t, tt.method)
		v.pages = tt.pages
		d := c.accountDevice(t, "ana@example.com", v, mdmtest.Options{Model: tt.model})
		if err := d.EnrollAccount(t.Context()); err != nil {
			t.Fatalf("by %s: %v", tt.method, err)
		}
		if item := c.deviceItem(t, d); item.State != "enrolled" {
			t.Errorf("by %s: the device is %s", tt.method, item.State)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, text := range v.complaints {
		t.Errorf("the browser says: %s", text)
	}
}
