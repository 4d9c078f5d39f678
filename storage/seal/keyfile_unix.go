//go:build unix

package seal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// openKeyFile opens path unless it is a symbolic link: who may change the link
// may choose the key.
func openKeyFile(path string) (*os.File, error) {
	// Not blocking: a named pipe is found out, not waited for.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%s is a symbolic link: name the file itself", path)
	}
	return f, err
}

// checkOwner refuses a file of another user, who could read and exchange it.
func checkOwner(path string, info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if ok && int(stat.Uid) != os.Geteuid() && stat.Uid != 0 {
		return fmt.Errorf("secrets key file %s belongs to user %d, and this process runs as %d", path, stat.Uid, os.Geteuid())
	}
	return nil
}
