package seal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage/seal"
)

func box(t *testing.T, fill byte) *seal.Box {
	t.Helper()
	b, err := seal.New(bytes.Repeat([]byte{fill}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAuthenticationCodes(t *testing.T) {
	code := box(t, 1).MAC("a", []byte("bc"))
	if len(code) != seal.MACSize || !bytes.Equal(code, box(t, 1).MAC("a", []byte("bc"))) {
		t.Errorf("the code of the same is another one, of %d bytes", len(code))
	}
	for name, other := range map[string][]byte{
		"another key":                     box(t, 2).MAC("a", []byte("bc")),
		"another purpose":                 box(t, 1).MAC("b", []byte("bc")),
		"other data":                      box(t, 1).MAC("a", []byte("b")),
		"a purpose with some of the data": box(t, 1).MAC("ab", []byte("c")),
	} {
		if bytes.Equal(code, other) {
			t.Errorf("the code of %s is the same", name)
		}
	}
}

func TestWhatIsSealedOpensAgain(t *testing.T) {
	b := box(t, 1)
	for name, plaintext := range map[string][]byte{
		"a key":     []byte("-----BEGIN PRIVATE KEY-----"),
		"nothing":   {},
		"megabytes": bytes.Repeat([]byte{7}, 3<<20),
	} {
		t.Run(name, func(t *testing.T) {
			sealed := b.Seal("test", plaintext)
			if len(plaintext) > 0 && bytes.Contains(sealed, plaintext) {
				t.Fatal("the sealed value holds the plain one")
			}
			if bytes.Equal(sealed, b.Seal("test", plaintext)) {
				t.Error("two seals of one value are equal")
			}
			got, err := b.Open("test", sealed)
			if err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("Open = %d bytes, %v, want the %d that were sealed", len(got), err, len(plaintext))
			}
		})
	}
}

func TestSealedValuesThatDoNotOpen(t *testing.T) {
	b := box(t, 1)
	sealed := b.Seal("push key of topic A", []byte("key"))
	change := func(at int) []byte {
		c := bytes.Clone(sealed)
		c[at] ^= 1
		return c
	}
	for name, tt := range map[string]struct {
		box     *seal.Box
		purpose string
		sealed  []byte
		want    error
	}{
		"another key":        {box(t, 2), "push key of topic A", sealed, seal.ErrWrongKey},
		"another purpose":    {b, "push key of topic B", sealed, seal.ErrTampered},
		"a changed last bit": {b, "push key of topic A", change(len(sealed) - 1), seal.ErrTampered},
		"a changed nonce":    {b, "push key of topic A", change(10), seal.ErrTampered},
		"a changed version":  {b, "push key of topic A", change(0), seal.ErrTampered},
		"cut short":          {b, "push key of topic A", sealed[:len(sealed)-1], seal.ErrTampered},
		"only a header":      {b, "push key of topic A", sealed[:9], seal.ErrTampered},
		"nothing":            {b, "push key of topic A", nil, seal.ErrTampered},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := tt.box.Open(tt.purpose, tt.sealed); !errors.Is(err, tt.want) || got != nil {
				t.Errorf("Open = %q, %v, want %v", got, err, tt.want)
			}
		})
	}
}

func TestKeyFiles(t *testing.T) {
	good := strings.Repeat("ab", seal.KeySize) + "\n"
	for name, tt := range map[string]struct {
		make func(t *testing.T, path string)
		want string // in the error; empty for none
	}{
		"a good one":                {write(good, 0o600), ""},
		"read-only":                 {write(good, 0o400), ""},
		"without a newline":         {write(good[:64], 0o600), ""},
		"missing":                   {func(*testing.T, string) {}, "no such file"},
		"empty":                     {write("", 0o600), "64 hexadecimal digits"},
		"too short":                 {write(good[:62], 0o600), "64 hexadecimal digits"},
		"too long":                  {write("ab"+good, 0o600), "64 hexadecimal digits"},
		"not hexadecimal":           {write(strings.Repeat("xy", seal.KeySize), 0o600), "64 hexadecimal digits"},
		"readable by its group":     {write(good, 0o640), "chmod 600"},
		"readable by all":           {write(good, 0o644), "chmod 600"},
		"writable by others":        {write(good, 0o602), "chmod 600"},
		"a directory":               {func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o700)) }, "not a regular file"},
		"a named pipe":              {func(t *testing.T, path string) { must(t, syscall.Mkfifo(path, 0o600)) }, "not a regular file"},
		"a link to a good one":      {linked(write(good, 0o600)), "symbolic link"},
		"a link that leads nowhere": {linked(func(*testing.T, string) {}), "symbolic link"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "secrets.key")
			tt.make(t, path)
			_, err := seal.Load(path)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("Load = %v, want %q", err, tt.want)
			}
			if err != nil && (strings.Contains(err.Error(), "abab") || strings.Contains(err.Error(), "xyxy")) {
				t.Errorf("Load = %v: it quotes the key", err)
			}
			if tt.want == "" || name == "missing" {
				return
			}
			if _, created, err := seal.LoadOrCreate(path); err == nil || created {
				t.Errorf("LoadOrCreate = %v, %v, want Load's error", created, err)
			}
		})
	}
}

func write(content string, mode fs.FileMode) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		must(t, os.WriteFile(path, []byte(content), 0o600))
		must(t, os.Chmod(path, mode))
	}
}

func linked(make func(*testing.T, string)) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		make(t, path+".real")
		must(t, os.Symlink(path+".real", path))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestAKeyFileIsMadeOnce(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "secrets.key")
	first, created, err := seal.LoadOrCreate(path)
	if err != nil || !created {
		t.Fatalf("LoadOrCreate = %v, %v, want a new key", created, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, %v, want 0600", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("the directory has %d entries, want the key file alone", len(entries))
	}
	second, created, err := seal.LoadOrCreate(path)
	if err != nil || created {
		t.Fatalf("LoadOrCreate again = %v, %v, want the same key", created, err)
	}
	if _, err := second.Open("p", first.Seal("p", nil)); err != nil {
		t.Errorf("the second box does not open what the first one sealed: %v", err)
	}
}

func TestProcessesThatMakeAKeyFileAtOnceAgree(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secrets.key")
	boxes := make([]*seal.Box, 16)
	var made sync.Map
	var wg sync.WaitGroup
	for i := range boxes {
		wg.Go(func() {
			b, created, err := seal.LoadOrCreate(path)
			if err != nil {
				t.Error(err)
			}
			if created {
				made.Store(i, true)
			}
			boxes[i] = b
		})
	}
	wg.Wait()
	n := 0
	made.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("%d made the file, want one", n)
	}
	sealed := boxes[0].Seal("p", nil)
	for i, b := range boxes {
		if _, err := b.Open("p", sealed); err != nil {
			t.Errorf("box %d: %v", i, err)
		}
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	secret := seal.Secret("hunter2")
	inside := struct{ Token seal.Secret }{secret}
	asJSON, err := json.Marshal(inside)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "token", secret, "inside", inside, "pointer", &secret)
	var text bytes.Buffer
	slog.New(slog.NewTextHandler(&text, nil)).Info("x", "token", secret, "inside", inside)
	for name, got := range map[string]string{
		"printed":             fmt.Sprint(secret),
		"printed in a struct": fmt.Sprintf("%v %+v %#v", inside, inside, inside),
		"printed by any verb": fmt.Sprintf("%s %q %x %X %d %v", secret, secret, secret, secret, secret, &secret),
		"in JSON":             string(asJSON),
		"in a log as JSON":    log.String(),
		"in a log as text":    text.String(),
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Contains(got, "hunter2") || strings.Contains(got, fmt.Sprintf("%x", "hunter2")) || !strings.Contains(got, "[secret]") {
				t.Errorf("got %s", got)
			}
		})
	}
	if string(secret) != "hunter2" {
		t.Error("the secret is lost")
	}
}
