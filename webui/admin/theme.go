package admin

import (
	"net/http"
	"time"
)

// themeCookie remembers, in a browser, how pages look there. It says nothing of who looks.
const themeCookie = "gatehouse-theme"

func theme(r *http.Request) string {
	c, err := r.Cookie(themeCookie)
	if err != nil || c.Value != "light" && c.Value != "dark" {
		return ""
	}
	return c.Value
}

// setTheme has pages look light or dark in this browser, or as the device prefers.
func (d *Desk) setTheme(w http.ResponseWriter, r *http.Request) error {
	cookie := &http.Cookie{
		Name: themeCookie, Value: r.PostFormValue("theme"), Path: "/", MaxAge: int((365 * 24 * time.Hour).Seconds()),
		HttpOnly: true, Secure: d.ServerURL.Scheme == "https", SameSite: http.SameSiteLaxMode,
	}
	if cookie.Value != "light" && cookie.Value != "dark" {
		cookie.Value, cookie.MaxAge = "", -1
	}
	http.SetCookie(w, cookie)
	http.Redirect(w, r, backTo(r), http.StatusSeeOther)
	return nil
}
