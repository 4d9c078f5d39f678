// Command gatehouse is an MDM server for Apple devices in one binary.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}

// Exit codes, the same for every command.
const (
	exitDone     = 0
	exitFailed   = 1
	exitUsage    = 2 // or warnings found
	exitNotFound = 3
)

// commands is the command line: one field a subcommand, each in a file of its own.
type commands struct {
	Serve     serveCommand     `cmd:"" help:"Run the server."`
	DB        dbCommand        `cmd:"" name:"db" help:"Copy the database."`
	Device    deviceCommand    `cmd:"" help:"The devices of the running server."`
	Group     groupCommand     `cmd:"" help:"Groups of devices."`
	Command   commandCommand   `cmd:"" help:"Send commands to devices, and see what became of them."`
	Profile   profileCommand   `cmd:"" help:"Configuration profiles: lint, keep, send and remove them."`
	Events    eventsCommand    `cmd:"" help:"Show what happened, and with --follow what happens."`
	Audit     auditCommand     `cmd:"" help:"Export the audit log, and verify that nothing in it was changed."`
	Pushcert  pushcertCommand  `cmd:"" help:"Push certificates: request, upload, renew and watch them."`
	Token     tokenCommand     `cmd:"" help:"API tokens, by which scripts sign in."`
	Webhook   webhookCommand   `cmd:"" help:"Servers that are told what happens."`
	Import    importCommand    `cmd:"" help:"Take over devices of another MDM server."`
	SetupLink setupLinkCommand `cmd:"" help:"Print a fresh one-time link to the setup page of the running server."`
	Simulate  simulateCommand  `cmd:"" help:"Enroll simulated devices at a server and let them poll."`
	WellKnown wellknownCommand `cmd:"" name:"wellknown" help:"How devices find the MDM server from the domain of an account."`
	Explain   explainCommand   `cmd:"" help:"Say what a command does, what it takes, and which devices may get it."`
	Version   versionCommand   `cmd:"" help:"Say which version this is."`
}

// process is what a command may use of the process that it runs in.
type process struct {
	env            environment
	stdin          io.Reader
	stdout, stderr io.Writer
	settings       *settings // where each flag's value came from
	elsewhere      elsewhere
	thrift         thrift
}

// run is the program: it returns the exit code. SIGINT and SIGTERM end ctx.
func run(ctx context.Context, args, env []string, stdin io.Reader, stdout, stderr io.Writer) int {
	p := &process{env: newEnvironment(env), stdin: stdin, stdout: stdout, stderr: stderr}
	return p.run(ctx, args)
}

func (p *process) run(ctx context.Context, args []string) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once

	var cli commands
	p.settings = &settings{env: p.env}
	exited := false
	parser, err := kong.New(&cli,
		kong.Name("gatehouse"),
		kong.Description("A lightweight MDM server for Apple devices, with its own certificate authority.\n\n"+
			"Every flag of serve can also be set in the environment (--data-dir is GATEHOUSE_DATA_DIR) and in the YAML file that --config names (data_dir)."),
		kong.Writers(p.stdout, p.stderr),
		kong.Exit(func(int) { exited = true }), // --help: printed already
		kong.Resolvers(p.settings),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
	)
	if err != nil {
		return report(p.stderr, err) // the struct tags above are wrong
	}
	kctx, err := parser.Parse(args)
	switch {
	case exited:
		return exitDone
	case p.settings.err != nil:
		return report(p.stderr, usageError(p.settings.err))
	case err != nil:
		return report(p.stderr, usageError(p.settings.explain(err)))
	}
	kctx.BindTo(ctx, (*context.Context)(nil))
	return report(p.stderr, kctx.Run(p))
}

// exitError is an error with the exit code that it ends the program with.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// usageError marks err as a mistake in the command line or the configuration.
func usageError(err error) error { return &exitError{exitUsage, err} }

// report prints err and returns the exit code that goes with it.
func report(stderr io.Writer, err error) int {
	if err == nil {
		return exitDone
	}
	fmt.Fprintln(stderr, "gatehouse:", strings.TrimSpace(err.Error()))
	var exit *exitError
	if errors.As(err, &exit) {
		return exit.code
	}
	return exitFailed
}
