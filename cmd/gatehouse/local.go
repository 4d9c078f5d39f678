package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
)

// socketName is the Unix socket in the data directory. Who may open it is the
// server's user on its own machine, and is trusted as an owner.
const socketName = "gatehouse.sock"

// maxSocketPath is what sun_path holds on Linux, less the final zero; elsewhere
// it is a few bytes shorter.
const maxSocketPath = 103

// withSocketPath calls fn with a path of the socket in dir that is short enough
// for the kernel.
func withSocketPath(dir string, fn func(path string) error) error {
	path := filepath.Join(dir, socketName)
	if len(path) <= maxSocketPath {
		return fn(path)
	}
	if runtime.GOOS != "linux" {
		return fmt.Errorf("%s: longer than a Unix socket's path may be (%d bytes); use a shorter --data-dir", path, maxSocketPath)
	}
	// The same directory under a short name: that of its open file.
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return fn(fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), socketName))
}

// listenLocal opens the socket in dir, unless another server answers there.
func listenLocal(ctx context.Context, dir string) (net.Listener, error) {
	var l net.Listener
	err := withSocketPath(dir, func(path string) error {
		info, err := os.Lstat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case info.Mode().Type() != fs.ModeSocket:
			return fmt.Errorf("%s: is in the way of the local socket", filepath.Join(dir, socketName))
		default:
			if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
				conn.Close()
				return fmt.Errorf("%s: another process answers there", filepath.Join(dir, socketName))
			}
			if err := os.Remove(path); err != nil { // left over by a server that was killed
				return err
			}
		}
		var config net.ListenConfig
		if l, err = config.Listen(ctx, "unix", path); err != nil {
			return err
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false) // its path may be gone by then: see Close
		if err := os.Chmod(path, 0o600); err != nil {
			l.Close()
			return err
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("local socket: %w", err)
	}
	return localListener{l, filepath.Join(dir, socketName)}, nil
}

// localListener removes the socket when it is closed.
type localListener struct {
	net.Listener
	path string
}

func (l localListener) Close() error {
	err := l.Listener.Close()
	_ = os.Remove(l.path) // a stale one does no harm
	return err
}

// callLocal sends a POST to the server that runs on dir, and decodes its answer.
func callLocal(ctx context.Context, dir, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return withSocketPath(dir, func(socket string) error {
		client := &http.Client{
			Timeout: 30 * time.Second,
			Transport: &http.Transport{
				DisableKeepAlives: true,
				DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					var d net.Dialer
					return d.DialContext(ctx, "unix", socket)
				},
			},
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost"+path, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			return explainDial(dir, err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		if err != nil {
			return err
		}
		if resp.StatusCode/100 != 2 {
			var problem webui.Problem
			if json.Unmarshal(answer, &problem) == nil && problem.Title != "" {
				return &problem
			}
			return fmt.Errorf("the server answered %s", resp.Status)
		}
		return json.Unmarshal(answer, out)
	})
}

// explainDial says why nobody answers on the socket in dir, and what to do.
func explainDial(dir string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no server is running on %s; start one with: gatehouse serve --data-dir %s", dir, dir)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s belongs to another user; run this as the user who runs the server, for example with sudo", dir)
	}
	return err
}
