package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/homing-mq/homing/internal/mq"
)

// moment is a fault that comes and goes: operations of one kind on files of the
// metadata fail with err while it lasts.
type moment struct {
	kind  errorfs.OpKind
	part  string // of the path
	err   error
	from  int64        // operations of the kind that still work
	seen  atomic.Int64 // operations of the kind
	hit   atomic.Int64 // that failed
	ended atomic.Bool
}

func (m *moment) MaybeError(op errorfs.Op) error {
	if op.Kind != m.kind || !strings.Contains(op.Path, "/"+metaName) || !strings.Contains(op.Path, m.part) {
		return nil
	}
	if m.seen.Add(1) <= m.from || m.ended.Load() {
		return nil
	}
	m.hit.Add(1)
	return m.err
}

func (m *moment) String() string { return "moment" }

// eventually waits until f does not fail any more.
func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// versions is what is known of each session: the value that was acknowledged
// last, and those that were refused since.
type versions struct {
	acked   map[string]uint32
	refused map[string][]uint32
}

func (v *versions) put(s *Store, id string, n uint32, size int) error {
	err := s.PutSession(id, mq.SessionMeta{ExpirySeconds: n, Will: make([]byte, size)})
	if err == nil {
		v.acked[id], v.refused[id] = n, nil
	} else {
		v.refused[id] = append(v.refused[id], n)
	}
	return err
}

// compare fails if the store has lost a session that it acknowledged.
func (v *versions) compare(t testing.TB, what string, s *Store) {
	t.Helper()
	got := sessionsOf(t, s)
	for id, n := range v.acked {
		sm, ok := got[id]
		for _, r := range v.refused[id] {
			if ok && sm.ExpirySeconds == r {
				n = r // it may be done
			}
		}
		if !ok || sm.ExpirySeconds != n {
			t.Fatalf("%s: session %s is %+v %v, want %d", what, id, sm.ExpirySeconds, ok, n)
		}
	}
}

// An error of a moment, at any kind of operation on the metadata's files, ends
// with the moment: what was acknowledged is there, and new changes work, without
// a restart. A power loss afterwards changes nothing.
func TestTransientErrors(t *testing.T) {
	errnos := []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOSPC, syscall.EDQUOT, syscall.EIO}
	kinds := []struct {
		name string
		kind errorfs.OpKind
		part string
	}{
		{"create log", errorfs.OpCreate, ".log"},
		{"create table", errorfs.OpCreate, ".sst"},
		{"create manifest", errorfs.OpCreate, "MANIFEST"},
		{"reuse log", errorfs.OpReuseForWrite, ""},
		{"write log", errorfs.OpFileWrite, ".log"},
		{"write table", errorfs.OpFileWrite, ".sst"},
		{"write manifest", errorfs.OpFileWrite, "MANIFEST"},
		{"sync", errorfs.OpFileSync, ""},
		{"sync data", errorfs.OpFileSyncData, ""},
		{"rename", errorfs.OpRename, ""},
		{"open directory", errorfs.OpOpenDir, ""},
		{"remove", errorfs.OpRemove, ""},
	}
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			for i, errno := range errnos {
				if testing.Short() && i > 0 && i != 2 {
					continue
				}
				for _, from := range []int64{0, 4} {
					if from > 0 && i != 2 {
						continue
					}
					transient(t, &moment{kind: k.kind, part: k.part, err: errno, from: from}, fmt.Sprintf("%v after %d", errno, from))
				}
			}
		})
	}
}

func transient(t *testing.T, m *moment, what string) {
	mem := vfs.NewCrashableMem()
	fs := errorfs.Wrap(mem, m)
	m.ended.Store(true)
	s, err := Open(Options{Dir: testDir, FS: fs, SegmentSize: 64 << 10})
	if err != nil {
		t.Fatal(what, err)
	}
	defer func() { s.Close() }()
	v := &versions{map[string]uint32{}, map[string][]uint32{}}
	var n uint32
	const size = 200 << 10 // some of them fill a log
	put := func() error { n++; return v.put(s, fmt.Sprint("c", n%40), n, size) }
	for range 25 {
		if err := put(); err != nil {
			t.Fatal(what, err)
		}
	}
	m.seen.Store(0)
	m.ended.Store(false)
	for i := 0; i < 25; i++ {
		err := put()
		var e *mq.Error
		if err != nil && (!errors.As(err, &e) || e.Code != mq.StoreFailed && e.Code != mq.StoreFull ||
			(e.Code == mq.StoreFull) != (errors.Is(m.err, syscall.ENOSPC) || errors.Is(m.err, syscall.EDQUOT))) {
			t.Fatalf("%s: put says %v", what, err)
		}
		if err == nil {
			continue
		}
		if _, _, err := s.Session("c1"); err == nil {
			if err := s.Ready(); err == nil { // else it was back in between
				continue
			}
			t.Fatalf("%s: a session is read while the metadata is away", what)
		}
		break
	}
	m.ended.Store(true)
	eventually(t, what+": put after the fault", put)
	v.compare(t, what, s)
	for range 25 {
		if err := put(); err != nil {
			t.Fatalf("%s: put after the fault: %v", what, err)
		}
	}
	v.compare(t, what+", later", s)
	if err := s.Ready(); err != nil {
		t.Fatalf("%s: ready: %v", what, err)
	}
	clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(1, uint64(n)))})
	c := open(t, clone, SyncAlways)
	defer c.Close()
	v.compare(t, what+", after a power loss", c)
}

// With the fewest descriptors the metadata works, however many tables there are.
func TestFewOpenFiles(t *testing.T) {
	s, err := Open(Options{Dir: t.TempDir(), Sync: SyncOS, SegmentSize: 64 << 10, OpenFiles: 11})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range 10 {
		if err := s.PutSession(fmt.Sprint("c", i), mq.SessionMeta{ExpirySeconds: 1}); err != nil {
			t.Fatal(err)
		}
		if err := s.meta.current.Load().db.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(sessionsOf(t, s)); n != 10 {
		t.Errorf("%d sessions", n)
	}
}

// Writes that wait for tables which cannot be written get an answer, all of
// them; and a store whose metadata is away can be closed.
func TestStalledWrites(t *testing.T) {
	for _, heal := range []bool{true, false} {
		m := &moment{kind: errorfs.OpCreate, part: ".sst", err: syscall.EMFILE}
		m.ended.Store(true)
		s, err := Open(Options{Dir: testDir, FS: errorfs.Wrap(vfs.NewMem(), m), SegmentSize: 64 << 10})
		if err != nil {
			t.Fatal(err)
		}
		m.ended.Store(false)
		errs := make(chan error)
		const writers, puts = 8, 20
		for w := range writers {
			go func() {
				for i := range puts {
					errs <- s.PutSession(fmt.Sprint("c", w), mq.SessionMeta{ExpirySeconds: uint32(i), Will: make([]byte, 200<<10)})
				}
			}()
		}
		failed := 0
		for range writers * puts {
			select {
			case err := <-errs:
				if err != nil {
					failed++
					if !errors.Is(err, syscall.EMFILE) || !strings.Contains(err.Error(), "ulimit -n") {
						t.Fatalf("does not say what helps: %v", err)
					}
				}
			case <-time.After(30 * time.Second):
				t.Fatal("a write got no answer")
			}
		}
		if failed == 0 {
			t.Error("no write failed")
		}
		if m.ended.Store(heal); heal {
			eventually(t, "put", func() error { return s.PutSession("c", mq.SessionMeta{}) })
		}
		if err := s.Close(); (err == nil) != heal {
			t.Errorf("healed: %v, close: %v", heal, err)
		}
	}
}
