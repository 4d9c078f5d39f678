package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxKeyFile is more than a key file ever has.
const maxKeyFile = 1 << 10

// Load returns the Box of the key file at path: 64 hexadecimal digits, and
// perhaps a newline. The file must be a regular one that belongs to us and that
// nobody else may read or write.
func Load(path string) (*Box, error) {
	key, err := readKey(path)
	if err != nil {
		return nil, err
	}
	return New(key)
}

// LoadOrCreate is Load, except that a file that is missing is made with a new
// random key; created says so. Of several processes that try at once, all get the
// same key.
func LoadOrCreate(path string) (box *Box, created bool, err error) {
	box, err = Load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return box, false, err
	}
	key := make([]byte, KeySize)
	rand.Read(key) // never fails
	switch err := writeKey(path, key); {
	case errors.Is(err, fs.ErrExist):
		box, err = Load(path)
		return box, false, err
	case err != nil:
		return nil, false, fmt.Errorf("make secrets key file: %w", err)
	}
	box, err = New(key)
	return box, err == nil, err
}

func readKey(path string) ([]byte, error) {
	f, err := openKeyFile(path)
	if err != nil {
		return nil, fmt.Errorf("secrets key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("secrets key file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("secrets key file %s is not a regular file", path)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("secrets key file %s can be used by others (mode %04o): make it yours alone with `chmod 600 %[1]s`, and consider its key known if others have accounts here", path, perm)
	}
	if err := checkOwner(path, info); err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("secrets key file: %w", err)
	}
	key, err := hex.DecodeString(string(bytes.TrimSpace(content)))
	if err != nil || len(key) != KeySize {
		// The error of hex quotes the key.
		return nil, fmt.Errorf("secrets key file %s does not hold %d hexadecimal digits", path, 2*KeySize)
	}
	return key, nil
}

// writeKey makes the file at path, which must not exist, whole or not at all.
func writeKey(path string, key []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := fmt.Fprintf(f, "%x\n", key); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	// A link, unlike a rename, never replaces a key that is already in use.
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
