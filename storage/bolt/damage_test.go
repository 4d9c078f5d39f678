package bolt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/bolt"
)

// sample makes a database with branches, leaves, overflow pages, inline buckets and free
// pages, and returns its file's bytes, how many pages of which size are in use, and
// what it holds.
func sample(t testing.TB) (file []byte, pages, pageSize int, want map[string]string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gatehouse.db")
	db := open(t, path)
	for round := range 4 {
		err := db.Update(t.Context(), func(tx storage.Tx) error {
			for i := range 300 {
				key, value := fmt.Appendf(nil, "%04d", i), bytes.Repeat([]byte{byte(i)}, 50+round)
				if err := tx.Put("many", key, value); err != nil {
					return err
				}
				if i%3 == round {
					if err := tx.Delete("many", key); err != nil {
						return err
					}
				}
			}
			return errors.Join(
				tx.Put("large", []byte("k"), bytes.Repeat([]byte("large"), 3000+round)),
				tx.Put("few", fmt.Appendf(nil, "%d", round), []byte("inline")))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	// Once more, so that both meta pages stand for the same content.
	if err := db.Update(t.Context(), func(tx storage.Tx) error { return tx.Put("few", []byte("0"), []byte("inline")) }); err != nil {
		t.Fatal(err)
	}
	want, err := content(db)
	if err != nil {
		t.Fatal(err)
	}
	pages, pageSize = db.Pages(), db.PageSize()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if file, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	return file[:pages*pageSize], pages, pageSize, want // the rest was never used
}

// content reads all of a sample, by Scan and by Get.
func content(db storage.DB) (map[string]string, error) {
	all := map[string]string{}
	err := db.View(context.Background(), func(tx storage.Tx) error {
		for _, bucket := range []string{"many", "large", "few"} {
			for item, err := range tx.Scan(bucket, storage.Range{}) {
				if err != nil {
					return err
				}
				all[bucket+" "+string(item.Key)] = string(item.Value)
				if _, err := tx.Get(bucket, item.Key); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return all, err
}

func writeFile(t testing.TB, data []byte) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "gatehouse.db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A damaged file either does not open, with an error that says what to do, or everything
// that is read from it is right. Were it a fault, this test would not live to say so.
func TestADamagedFileIsRefusedOrRight(t *testing.T) {
	file, pages, pageSize, want := sample(t)
	opened := 0
	try := func(t *testing.T, data []byte) {
		t.Helper()
		path := writeFile(t, data)
		db, err := bolt.Open(t.Context(), path, bolt.Options{})
		if err != nil {
			if !errors.Is(err, storage.ErrCorrupt) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "restore a backup") {
				t.Errorf("Open: %v, want ErrCorrupt with the file's name and what to do", err)
			}
			return
		}
		opened++
		defer db.Close()
		got, err := content(db)
		if err != nil {
			t.Fatalf("it opens, but: %v", err)
		}
		if len(got) != len(want) {
			t.Errorf("it opens with %d records, want %d", len(got), len(want))
		}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("it opens with a wrong value of %s", k)
			}
		}
		if err := db.Check(t.Context()); err != nil {
			t.Errorf("it opens, but Check: %v", err)
		}
		if err := db.Update(t.Context(), put("new")); err != nil {
			t.Errorf("it opens, but Update: %v", err)
		}
	}
	t.Run("whole", func(t *testing.T) {
		try(t, file)
		if opened != 1 {
			t.Error("an undamaged file does not open")
		}
	})
	opened = 0
	t.Run("cut off at each page", func(t *testing.T) {
		for n := range pages {
			try(t, file[:n*pageSize])
			if n > 0 {
				try(t, file[:n*pageSize-1])
				try(t, file[:(n-1)*pageSize+17])
			}
		}
		if opened > 0 {
			t.Errorf("%d files that were cut off were opened", opened)
		}
	})
	t.Run("a page of zeros", func(t *testing.T) {
		for n := range pages {
			data := bytes.Clone(file)
			clear(data[n*pageSize : (n+1)*pageSize])
			if n*pageSize+pageSize <= len(data) && isOverflow(file, n, pageSize) {
				continue // these are bytes of one value, which nothing can tell from others
			}
			try(t, data)
		}
	})
	t.Run("another page in its place", func(t *testing.T) {
		for n := range pages {
			data := bytes.Clone(file)
			copy(data[n*pageSize:(n+1)*pageSize], file[(n+1)%pages*pageSize:])
			if isOverflow(file, n, pageSize) {
				continue
			}
			try(t, data)
		}
	})
	for name, data := range map[string][]byte{
		"empty":                          {},
		"one byte":                       {0},
		"text":                           []byte(strings.Repeat("this is no database\n", 1000)),
		"only zeros":                     make([]byte, 1<<16),
		"only random":                    randomBytes(1 << 16),
		"meta pages with nothing behind": file[:2*pageSize],
		"random behind the meta pages":   append(bytes.Clone(file[:2*pageSize]), randomBytes(len(file)-2*pageSize)...),
	} {
		t.Run(name, func(t *testing.T) {
			opened = 0
			try(t, data)
			if opened > 0 {
				t.Error("it was opened")
			}
		})
	}
}

// isOverflow says whether page n is in the middle of a long value.
func isOverflow(file []byte, n, pageSize int) bool {
	return bytes.Contains(file[n*pageSize:n*pageSize+16], []byte("large")[:3])
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{})
	_, _ = r.Read(b)
	return b
}

// Flipped bits can't all be noticed, since values have no checksum here, but none of them
// may take the process down, or make it hang.
func TestNoFlippedBitIsAFault(t *testing.T) {
	file, pages, pageSize, _ := sample(t)
	r := rand.New(rand.NewPCG(1, 2))
	for range 400 {
		data := bytes.Clone(file)
		page := r.IntN(pages)
		for range 1 + r.IntN(4) { // mostly where the structure is
			data[page*pageSize+r.IntN(64+r.IntN(pageSize-64))] ^= 1 << r.IntN(8)
		}
		db, err := bolt.Open(t.Context(), writeFile(t, data), bolt.Options{})
		if err != nil {
			if !errors.Is(err, storage.ErrCorrupt) {
				t.Errorf("Open: %v, want ErrCorrupt", err)
			}
			continue
		}
		if _, err := content(db); err != nil && !errors.Is(err, storage.ErrCorrupt) {
			t.Errorf("read: %v, want ErrCorrupt", err)
		}
		_ = db.Update(t.Context(), put("new"))
		_ = db.Check(t.Context())
		if err := db.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

// A file may also be damaged while it is open, by a disk that fails or by a person.
func TestDamageToAnOpenFileIsAnError(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, path string, pages, pageSize int){
		"zeros behind the meta pages": func(t *testing.T, path string, pages, pageSize int) {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt(make([]byte, (pages-2)*pageSize), int64(2*pageSize)); err != nil {
				t.Fatal(err)
			}
		},
		"cut off behind the meta pages": func(t *testing.T, path string, _, pageSize int) {
			if err := os.Truncate(path, int64(2*pageSize)); err != nil {
				t.Fatal(err)
			}
		},
		"cut off altogether": func(t *testing.T, path string, _, _ int) {
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			file, pages, pageSize, _ := sample(t)
			path := writeFile(t, file)
			db, err := bolt.Open(t.Context(), path, bolt.Options{})
			if err != nil {
				t.Fatal(err)
			}
			damage(t, path, pages, pageSize)
			for range 3 {
				if _, err := content(db); !errors.Is(err, storage.ErrCorrupt) {
					t.Errorf("read: %v, want ErrCorrupt", err)
				}
				if err := db.Update(t.Context(), put("new")); !errors.Is(err, storage.ErrCorrupt) {
					t.Errorf("Update: %v, want ErrCorrupt", err)
				}
			}
			if err := db.Check(t.Context()); !errors.Is(err, storage.ErrCorrupt) {
				t.Errorf("Check: %v, want ErrCorrupt", err)
			}
			_ = db.Close() // must return
		})
	}
}

func TestCheckReadsWhatIsBeingWritten(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "gatehouse.db"))
	stop := make(chan struct{})
	done := make(chan error)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err := db.Update(context.Background(), put(fmt.Sprint(i%1000))); err != nil {
				done <- err
				return
			}
		}
	}()
	for range 50 {
		if err := db.Check(t.Context()); err != nil {
			t.Errorf("Check beside a writer: %v", err)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Errorf("Update beside Check: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.Check(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("Check: %v, want context.Canceled", err)
	}
}

func TestOnlyTheOwnerMayReadTheFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "gatehouse.db")
	mode := func() fs.FileMode {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode()
	}
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	if mode() != 0o600 {
		t.Errorf("a new file has mode %v, want 0600", mode())
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("beside it there is something left: %v, %v", names, err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	db, err := bolt.Open(t.Context(), path, bolt.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if mode() != 0o600 || !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), path) {
		t.Errorf("a file open to others has mode %v now, and the log says %q", mode(), log.String())
	}
}

func TestAPathThatIsNoFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "target.db")
	if err := open(t, target).Close(); err != nil {
		t.Fatal(err)
	}
	link, dangling := filepath.Join(dir, "link.db"), filepath.Join(dir, "dangling.db")
	if err := errors.Join(os.Symlink(target, link), os.Symlink(filepath.Join(dir, "none"), dangling)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		link:                          "symbolic link",
		dangling:                      "symbolic link",
		dir:                           "directory",
		filepath.Join(dir, "no", "x"): "no such file",
	} {
		db, err := bolt.Open(t.Context(), path, bolt.Options{})
		if err == nil {
			_ = db.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open(%s): %v, want %q", path, err, want)
		}
	}
}
