//go:build !unix

package postgrestest

import "syscall"

func detached() (*syscall.SysProcAttr, error) { return nil, errNotInstalled }
