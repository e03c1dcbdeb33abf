package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/homing-mq/homing/internal/mq"
)

// With not one byte free, because something else has filled the disk, sessions
// that exist come and go; a restart works; when there is room again all does.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=300m"); err != nil {
		t.Skipf("needs the right to mount a tmpfs: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	o := Options{Dir: filepath.Join(dir, "data"), SegmentSize: 64 << 10}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Close() }()
	exists := func() error { _, err := os.Stat(filepath.Join(o.Dir, ballastName)); return err }
	eventually(t, "ballast", func() error {
		fi, err := os.Stat(filepath.Join(o.Dir, ballastName))
		if err == nil && fi.Size() < 9<<20 {
			err = errors.New("not written yet")
		}
		return err
	})
	for i := range 200 {
		if err := s.PutSession(fmt.Sprint("c", i), mq.SessionMeta{ExpirySeconds: 5}); err != nil {
			t.Fatal(err)
		}
	}
	hog := filepath.Join(dir, "hog")
	fillDisk(t, hog)
	comeAndGo := func(n int) {
		t.Helper()
		for i := range n {
			sm := mq.SessionMeta{ExpirySeconds: 5, Deadline: int64(i), Will: make([]byte, 400)}
			if err := s.PutSession(fmt.Sprint("c", i%200), sm); err != nil {
				t.Fatalf("put %d: %v", i, err)
			}
		}
	}
	comeAndGo(6000) // more than a log holds
	if exists() == nil {
		t.Error("the ballast is still there")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(o); err != nil {
		t.Fatal(err)
	}
	comeAndGo(200)
	if n := len(sessionsOf(t, s)); n != 200 {
		t.Errorf("%d sessions", n)
	}
	if err := os.Remove(hog); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a new session", func() error { return s.PutSession("new", mq.SessionMeta{ExpirySeconds: 5}) })
	eventually(t, "new ballast", exists)
}

func fillDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 4096)
	for err == nil {
		_, err = f.Write(b)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}
