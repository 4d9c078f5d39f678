// Command run runs another command beside a private PostgreSQL server, which all tests of
// that command share:
//
//	GATEHOUSE_TEST_STORE=postgres go run ./storage/storagetest/postgrestest/run -- go test ./...
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/postgrestest"
)

func main() { os.Exit(run(os.Args[1:])) }

// run returns the command's exit code.
func run(args []string) int {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "usage: run -- command [argument...]")
		return 2
	}
	// From here on signals end the command, and with it us: the server goes last.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)

	err := postgrestest.Run(func(dsn string) error {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), postgrestest.Variable+"="+dsn)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		if err := cmd.Start(); err != nil {
			return err
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		for {
			select {
			case s := <-signals:
				_ = cmd.Process.Signal(s)
			case err := <-ended:
				return err
			}
		}
	})
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if code := exit.ExitCode(); code > 0 {
			return code
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "run:", err)
		return 1
	}
	return 0
}
