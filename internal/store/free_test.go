package store

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/homing-mq/homing/internal/mq"
)

// fullFS is a file system that others have filled: what is free is what removed
// spare segments have given back.
type fullFS struct {
	vfs.FS
	free atomic.Uint64
}

const fullTotal = 128 << 20

func (f *fullFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	free := f.free.Load()
	return vfs.DiskUsage{TotalBytes: fullTotal, AvailBytes: free, UsedBytes: fullTotal - free}, nil
}

func (f *fullFS) Remove(name string) error {
	fi, err := f.Stat(name)
	if err == nil {
		err = f.FS.Remove(name)
	}
	if err == nil && strings.Contains(name, "spare-") {
		f.free.Add(uint64(fi.Size()))
	}
	return err
}

// A store opens when its own spare segments are all that fills the disk; when
// that is not enough it says how much to free. Another's spares are not touched.
func TestOpenGivesSparesBack(t *testing.T) {
	fs := &fullFS{FS: vfs.NewMem()}
	fs.free.Store(fullTotal)
	open := func() (*Store, error) { return Open(Options{Dir: testDir, FS: fs, SegmentSize: 1 << 20}) }
	s, err := open()
	if err != nil {
		t.Fatal(err)
	}
	spare := func(name string) {
		t.Helper()
		f, err := fs.Create(fs.PathJoin(testDir, inboxName, name), vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(make([]byte, 9<<20)); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	spare("spare-0000000077")
	fs.free.Store(0)
	if _, err := open(); err == nil || fs.free.Load() != 0 {
		t.Fatalf("opened twice: %v, %d bytes freed", err, fs.free.Load())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = open(); err != nil {
		t.Fatalf("with 9 MiB in spares: %v", err)
	}
	s.Close()
	fs.free.Store(0)
	_, err = open()
	var e *mq.Error
	if !errors.As(err, &e) || e.Code != mq.StoreFull || !strings.Contains(err.Error(), "free at least") {
		t.Fatalf("on a full disk: %v", err)
	}
}
