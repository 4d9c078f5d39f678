package oidc

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// drip is a body of which nothing comes until its request is given up.
type drip struct{ ctx context.Context }

func (d drip) Read([]byte) (int, error) {
	<-d.ctx.Done()
	return 0, d.ctx.Err()
}

func (drip) Close() error { return nil }

func TestNobodyWaitsLongerThanTenSeconds(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, answer := range map[string]roundTripper{
		"for an answer": func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		},
		"for the end of an answer": func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK, Body: struct {
				io.Reader
				io.Closer
			}{io.MultiReader(strings.NewReader(`{"issuer":`), drip{r.Context()}), drip{}}}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := providers{settings: settings{Issuer: "https://login.example.com"}, client: &http.Client{Transport: wire{answer}}, now: time.Now}
				start := time.Now()
				_, err := p.get(t.Context())
				if !errors.Is(err, identity.ErrSource) || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("get = %v, want %v by a deadline", err, identity.ErrSource)
				}
				if waited := time.Since(start); waited > 10*time.Second {
					t.Errorf("it took %v", waited)
				}
			})
		})
	}
}

func TestManyWhoAskAtOnceAskOnce(t *testing.T) {
	storagetest.AnyEngine(t)
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		p := providers{
			settings: settings{Issuer: "https://login.example.com"}, now: time.Now,
			client: &http.Client{Transport: wire{roundTripper(func(*http.Request) (*http.Response, error) {
				asked++
				time.Sleep(time.Second)
				return &http.Response{StatusCode: http.StatusServiceUnavailable, Body: http.NoBody}, nil
			})}},
		}
		errs := make(chan error)
		for range 10 {
			go func() {
				_, err := p.get(t.Context())
				errs <- err
			}()
		}
		for range 10 {
			if err := <-errs; !errors.Is(err, identity.ErrSource) {
				t.Errorf("get = %v, want %v", err, identity.ErrSource)
			}
		}
		if asked != 1 {
			t.Errorf("the provider was asked %d times, want once", asked)
		}
		if _, err := p.get(t.Context()); !errors.Is(err, identity.ErrSource) || asked != 2 {
			t.Errorf("later: get = %v, asked %d times; a failure is not remembered", err, asked)
		}
	})
}
