package inboxlog

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/homing-mq/homing/internal/mq"
)

// badSector is a file system that fails reads which touch some bytes of its
// files with an error.
type badSector struct {
	vfs.FS
	from, to atomic.Int64
	err      atomic.Pointer[error]
}

func (b *badSector) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := b.FS.Open(name, opts...)
	return b.file(f, err)
}

func (b *badSector) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := b.FS.OpenReadWrite(name, c, opts...)
	return b.file(f, err)
}

func (b *badSector) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := b.FS.Create(name, c)
	return b.file(f, err)
}

func (b *badSector) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := b.FS.ReuseForWrite(from, to, c)
	return b.file(f, err)
}

func (b *badSector) file(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return badFile{f, b}, nil
}

type badFile struct {
	vfs.File
	b *badSector
}

func (f badFile) ReadAt(p []byte, at int64) (int, error) {
	if err := f.b.err.Load(); err != nil && at < f.b.to.Load() && at+int64(len(p)) > f.b.from.Load() {
		return 0, *err
	}
	return f.File.ReadAt(p, at)
}

// TestOneUnreadableRecord: whatever is wrong with one record, those before and
// behind it are read, and the error names the entry and says what kind of fault
// it is. Records lie side by side, so they are read with one call.
func TestOneUnreadableRecord(t *testing.T) {
	const entries, bad = 100, 50
	rows := []struct {
		name  string
		err   error // of reads; nil: a byte is flipped
		fault mq.ReadFault
	}{
		{"flipped byte", nil, mq.FaultDamage},
		{"bad sector", syscall.EIO, mq.FaultMedium},
		{"checksum of the file system", syscall.EBADMSG, mq.FaultMedium},
		{"no descriptor", syscall.EMFILE, mq.FaultPassing},
		{"no memory", syscall.ENOMEM, mq.FaultPassing},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			fs := &badSector{FS: vfs.NewMem()}
			r := &results{ch: make(chan error, 1)}
			l, err := Open(Options{FS: fs, Dir: dir, SegmentSize: 1 << 20, Done: r.done})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			in := l.Inbox("dev")
			for seq := uint64(1); seq <= entries; seq++ {
				if err := do(l, r, mq.Op{Kind: mq.OpPut, Inbox: in, Seq: seq, Record: fmt.Appendf(nil, "record %d", seq)}); err != nil {
					t.Fatal(err)
				}
			}
			offset, path := placeOf(l, in, bad)
			if row.err == nil {
				f, err := fs.FS.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := f.WriteAt([]byte{'R'}, offset); err != nil {
					t.Fatal(err)
				}
				_ = f.Close()
			} else {
				fs.from.Store(offset)
				fs.to.Store(offset + 1)
				fs.err.Store(&row.err)
			}
			got, failed := readOver(t, l, in, row.fault)
			if len(got) != entries-1 || slices.Contains(got, bad) || !slices.Equal(failed, []uint64{bad}) {
				t.Fatalf("read %d of %d entries, failed at %v, want all but %d", len(got), entries, failed, bad)
			}
		})
	}
}

// placeOf returns where the record of an entry starts.
func placeOf(l *Log, in mq.Inbox, seq uint64) (offset int64, path string) {
	l.ix.mu.Lock()
	defer l.ix.mu.Unlock()
	es := l.ix.after(l.ix.valid(uint32(in)), seq-1)
	return int64(es[0].offset), l.ix.seg(es[0].epoch24()).path
}

// readOver reads an inbox and passes over what cannot be read.
func readOver(t *testing.T, l *Log, in mq.Inbox, fault mq.ReadFault) (got, failed []uint64) {
	t.Helper()
	for after := uint64(0); ; {
		es, _, err := l.Read(in, after, 1<<62, 1<<20, nil, nil)
		var u *mq.UnreadableError
		var e *mq.Error
		switch {
		case err != nil && (!errors.As(err, &u) || !errors.As(err, &e) || u.Fault != fault):
			t.Fatalf("Read: %v (%+v), want an UnreadableError with fault %d in an mq.Error", err, u, fault)
		case err != nil:
			failed = append(failed, u.Seq)
			after = u.Seq
		case len(es) == 0:
			return got, failed
		}
		for _, e := range es {
			if want := fmt.Sprintf("record %d", e.Seq); string(e.Record) != want {
				t.Fatalf("entry %d is %q", e.Seq, e.Record)
			}
			got = append(got, e.Seq)
			after = e.Seq
		}
	}
}
