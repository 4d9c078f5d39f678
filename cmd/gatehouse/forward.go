package main

import (
	"context"
	"log/slog"
	"net/url"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm/checkin"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/authproxy"
)

// forwardFlags name other servers that have a part in what devices ask for.
type forwardFlags struct {
	DeclarativeManagementURL string `name:"declarative-management-url" placeholder:"URL" secret:"" group:"Other servers" help:"Where what devices ask of declarative management is forwarded to, as by NanoMDM's -dm: KMFDDM, for one. A password in it is better kept in GATEHOUSE_DECLARATIVE_MANAGEMENT_URL_FILE than on the command line. Default: it is not offered."`
	AuthProxyURL             string `name:"auth-proxy-url" placeholder:"URL" group:"Other servers" help:"Where requests below /authproxy/ that carry the identity of an enrolled device are passed on to, as by NanoMDM's -auth-proxy-url. Default: nowhere."`
}

// forwarding is forwardFlags, checked.
type forwarding struct {
	declarative *url.URL // nil: not offered
	authProxy   *url.URL // nil: there is none
}

func (f forwardFlags) check(cfg *config) error {
	for _, to := range []struct {
		flag, text string
		check      func(*url.URL) error
		into       **url.URL
	}{
		{"declarative-management-url", f.DeclarativeManagementURL, checkin.CheckForwardURL, &cfg.forward.declarative},
		{"auth-proxy-url", f.AuthProxyURL, authproxy.CheckTarget, &cfg.forward.authProxy},
	} {
		if to.text == "" {
			continue
		}
		u, err := url.Parse(to.text)
		if err != nil {
			return invalid(to.flag, "that is no URL such as http://127.0.0.1:9002/") // err would show a password
		}
		if err := to.check(u); err != nil {
			return invalid(to.flag, "%w", err)
		}
		*to.into = u
	}
	return nil
}

// declarativeServer is who answers what devices ask of declarative management; nil: nobody.
func (f forwarding) declarativeServer(ctx context.Context, log *slog.Logger) (checkin.DeclarativeServer, error) {
	if f.declarative == nil {
		return nil, nil
	}
	log.InfoContext(ctx, "declarative management is forwarded", "to", f.declarative.Redacted())
	return checkin.NewForwarder(f.declarative, log)
}

// mountProxy passes requests of enrolled devices on, if somebody is to get them.
func (f forwarding) mountProxy(mux *webui.Mux, devices *enroll.Service, checkins *checkin.Handler, serverURL *url.URL, fail webui.FailFunc, log *slog.Logger) error {
	if f.authProxy == nil {
		return nil
	}
	proxy, err := authproxy.New(authproxy.Config{
		Target: f.authProxy, Sender: checkins.Sender, Recognize: checkins.Recognize, Devices: devices, ServerURL: serverURL, Log: log,
	})
	if err != nil {
		return err
	}
	// It has times of its own, as what it passes on may be large.
	r := mux.Group(webui.Group{BodyLimit: authproxy.MaxBody, Fail: fail})
	r.Handle(authproxy.Path, webui.Plain(proxy))
	return nil
}
