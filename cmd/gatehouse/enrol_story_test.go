package main

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/webui/browsertest"
)

// scan reads the QR code on a browser's screen as a camera does that is held to it: by no
// more than what is seen, and from several angles, since no reader gets each at once.
func scan(t *testing.T, screen *browsertest.Browser) string {
	t.Helper()
	screen.Await(`document.querySelector("main img.qr")?.complete`)
	at := browsertest.Eval[[]int](screen, `(r => [r.left + scrollX, r.top + scrollY, r.width, r.height].map(Math.round))(document.querySelector("main img.qr").getBoundingClientRect())`)
	whole, err := png.Decode(bytes.NewReader(screen.Picture()))
	must(t, err)
	for _, tilt := range []float64{0, .1, .2, .4, -.1, -.2} {
		seen := image.NewGray(image.Rect(0, 0, at[2], at[3]))
		for y := range at[3] {
			for x := range at[2] {
				dx, dy := float64(x-at[2]/2), float64(y-at[3]/2)
				from := image.Pt(x+int(tilt*dy), y-int(tilt*dx))
				seen.Set(x, y, color.White)
				if from.In(seen.Rect) {
					seen.Set(x, y, whole.At(at[0]+from.X, at[1]+from.Y))
				}
			}
		}
		bitmap, err := gozxing.NewBinaryBitmapFromImage(seen)
		must(t, err)
		read, err := qrcode.NewQRCodeReader().Decode(bitmap, map[gozxing.DecodeHintType]any{gozxing.DecodeHintType_TRY_HARDER: true})
		if err == nil {
			return read.GetText()
		}
		t.Logf("tilted by %v: %v", tilt, err)
	}
	t.Fatal("no QR code can be read from the screen")
	return ""
}

// TestAPersonIsEnrolledByTheQRCodeOnTheScreen is an administrator with somebody at their desk
// who has no account: from the form to the device's page, on a desktop and on a phone, while
// nobody reloads.
func TestAPersonIsEnrolledByTheQRCodeOnTheScreen(t *testing.T) {
	d := startDesk(t)
	for name, tt := range map[string]struct {
		width, height int64
		dark          bool
		email         string
		ownership     string // as the administrator says; ask: the person says personal
		userAgent     string
		device        mdmtest.Options
	}{
		"an iPhone of the organisation, from a desktop": {
			1280, 900, false, "kim@example.com", "institutional", iPhoneSafari26, mdmtest.Options{Serial: "ENROLSTORY1", OSVersion: "26.0"},
		},
		"one’s own iPhone, from an administrator’s phone": {
			390, 844, true, "ben@example.com", "ask", iPhoneSafari18, mdmtest.Options{Serial: "ENROLSTORY2", OSVersion: "18.2"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			desk := browsertest.Open(t)
			sound := func() {
				t.Helper()
				desk.Check()
				desk.Quiet()
			}
			says := func(text string) {
				t.Helper()
				desk.Await(`document.querySelector("main").innerText.includes(` + jsonText(t, text) + `)`)
			}
			desk.Screen(tt.width, tt.height, tt.dark)
			d.signInBy(desk, ownerEmail, ownerPassword)

			desk.Submit(`nav.sections a[href="/admin/devices"]`)
			sound() // one of the two finds the list empty
			desk.Submit(`nav.sections a[href="/admin/enrollment"]`)
			if got, want := scan(t, desk), d.url+"/enroll"; got != want {
				t.Errorf("the portal’s QR code says %q, want %q", got, want)
			}
			sound()
			desk.Submit(`.head a[href="/admin/enrollment/people/new"]`)
			desk.Fill("input[name=email]", tt.email)
			desk.Fill("input[name=full_name]", "New Person")
			desk.Click(`label:has(input[name=ownership][value=` + tt.ownership + `])`)
			sound()
			desk.Submit("main form button[type=submit]")
			desk.Await(`(window.watched = true) && !document.querySelector("[data-print]").hidden`)
			says("Enroll New Person")
			says("Not opened yet")
			sound()
			code := scan(t, desk)
			link := browsertest.Eval[string](desk, `document.querySelector("main img.qr").src.replace(/.qr.svg$/, "")`)
			desk.Go(link)
			sound()
			desk.Do(chromedp.NavigateBack())
			desk.Await(`(window.watched = true) && location.pathname.startsWith("/admin/enrollment/people/")`)
			if !strings.HasPrefix(code, d.url+"/enroll/l/") {
				t.Fatalf("the QR code says %q", code)
			}

			// The person scans it, and goes through the portal without a password.
			v := &visitor{browsertest.Open(t), t, d.running}
			v.Screen(390, 844, false)
			v.Pose(tt.userAgent, "en")
			v.Go(code)
			v.Check()
			v.next()
			if tt.ownership == "ask" {
				v.at("device")
				v.Click("label[for=ownership-personal]")
				v.next()
			}
			v.trust(true)
			v.at("profile")
			says("signed in")
			signed := v.Download(profileLink)
			says("downloaded the profile")
			sound()
			v.Go(d.url + strings.TrimSuffix(v.path(), "profile") + "status")
			v.stage("profile_downloaded")
			phone := d.phone(t, tt.device)
			must(t, phone.EnrollProfile(t.Context(), signed))
			v.Await(`document.querySelector("[data-stage]").dataset.stage === "enrolled"`)
			v.Check()
			v.Quiet()

			says("New Person has come with a device")
			if !browsertest.Eval[bool](desk, "window.watched === true") {
				t.Error("the administrator’s page was loaded again")
			}
			if browsertest.Eval[bool](desk, `!!document.querySelector("main img")`) {
				t.Error("a QR code that is used up is still to be scanned")
			}
			sound()
			desk.Submit(`main .actions a[href^="/admin/devices/"]`)
			says(tt.device.Serial)
			sound()
		})
	}
}
