package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/gatehouse-mdm/gatehouse/webui"
)

// deviceEach are devices to do something with, one after the other.
type deviceEach struct {
	apiServer
	IDs []string `arg:"" name:"id" help:"Ids of devices, as device list -o id prints them; - reads them from standard input, one a line."`
}

// do sends a request about each device, and says of how many it was done. Those of which the
// server says that it can't be end it with an error when the others are done.
func (c *deviceEach) do(ctx context.Context, p *process, method, path, done string) error {
	ids, err := readIDs(p, c.IDs)
	if err != nil {
		return err
	}
	n := 0
	say := func() { fmt.Fprintf(p.stdout, "%s %s.\n", count(n, "device"), done) }
	var rejected []rejectedDevice
	for _, id := range ids {
		err := c.call(ctx, p, apiRequest{method: method, path: "/api/v1/devices/" + url.PathEscape(id) + path}, nil)
		var problem *webui.Problem
		switch {
		case err == nil:
			n++
		case errors.As(err, &problem) && (problem.Status == http.StatusConflict || problem.Status == http.StatusNotFound):
			rejected = append(rejected, rejectedDevice{DeviceID: id, Code: problem.Code, Reason: problem.Title + "."})
		default:
			say()
			printRejected(p.stderr, rejected)
			return fmt.Errorf("%s: %w", id, err)
		}
	}
	say()
	return notAll(p, rejected)
}

type deviceUnenrollCommand struct{ deviceEach }

// Run ends enrollments.
func (c *deviceUnenrollCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("device unenroll", c.do(ctx, p, http.MethodPost, "/unenroll", "unenrolled"))
}

type deviceBlockCommand struct{ deviceEach }

// Run ends enrollments for good.
func (c *deviceBlockCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("device block", c.do(ctx, p, http.MethodPost, "/block", "blocked"))
}

type deviceUnblockCommand struct{ deviceEach }

// Run lets devices enroll again.
func (c *deviceUnblockCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("device unblock", c.do(ctx, p, http.MethodDelete, "/block", "unblocked"))
}

type deviceDeleteCommand struct{ deviceEach }

// Run deletes records of devices that have left.
func (c *deviceDeleteCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("device delete", c.do(ctx, p, http.MethodDelete, "", "deleted"))
}
