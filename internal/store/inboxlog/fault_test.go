package inboxlog

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/homing-mq/homing/internal/mq"
)

// outcome is what Done said of each put of a faultRun.
type outcome struct {
	mu      sync.Mutex
	records map[string]string // "client seq" -> record, of those done without error
	failed  map[string]bool
	pending sync.WaitGroup
}

func (o *outcome) done(ops []mq.Op, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, op := range ops {
		key := op.Owner.(string)
		if err != nil {
			o.failed[key] = true
		} else if op.Kind == mq.OpPut {
			o.records[key] = string(op.Record)
		} else {
			delete(o.records, key) // acknowledged
		}
		o.pending.Done()
	}
}

// faultRun does a fixed piece of work on a log on fs. It returns what may be
// relied on; errors are expected and only must not be lies.
func faultRun(t *testing.T, fs vfs.FS) *outcome {
	t.Helper()
	o := &outcome{records: map[string]string{}, failed: map[string]bool{}}
	l, err := Open(Options{FS: fs, Dir: dir, SegmentSize: minSegmentSize, slack: 2, Done: o.done})
	if err != nil {
		return o
	}
	for i := range 40 {
		client := fmt.Sprint("c", i%3)
		in := l.Inbox(client)
		seq := uint64(i + 1)
		key := fmt.Sprint(client, " ", seq)
		o.pending.Add(1)
		l.Submit(mq.Op{Kind: mq.OpPut, Inbox: in, Seq: seq, Record: fmt.Appendf(nil, "%s %0600d", key, i), Owner: key})
		if i%4 == 3 {
			o.pending.Wait()
		}
		if i%2 == 1 { // acknowledge, waiting for it
			o.pending.Add(1)
			l.Submit(mq.Op{Kind: mq.OpAck, Inbox: in, Seq: seq, Owner: key})
		}
		if i%5 == 4 {
			if _, _, err := l.Read(in, 0, 1<<62, 1<<20, nil, nil); err != nil {
				var e *mq.Error
				if !errors.As(err, &e) {
					t.Errorf("Read: %T %v", err, err)
				}
			}
		}
		l.Forget(in)
	}
	o.pending.Wait()
	_ = l.Close()
	return o
}

// verifyOutcome opens the log on fs without faults and looks for what was done.
func verifyOutcome(t *testing.T, fs vfs.FS, o *outcome) {
	t.Helper()
	l, err := Open(Options{FS: fs, Dir: dir, SegmentSize: minSegmentSize})
	if err != nil {
		t.Fatalf("open after the faults: %v", err)
	}
	defer l.Close()
	found := map[string]string{}
	for i := range 3 {
		client := fmt.Sprint("c", i)
		in := l.Inbox(client)
		es, _, err := l.Read(in, 0, 1<<62, 1<<30, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range es {
			found[fmt.Sprint(client, " ", e.Seq)] = string(e.Record)
		}
	}
	for key, record := range o.records {
		if found[key] != record && !o.failed[key] { // a failed acknowledgement may or may not be found
			t.Errorf("%s was done and is not there (found %d bytes)", key, len(found[key]))
		}
	}
	for key := range found {
		if _, ok := o.records[key]; !ok && !o.failed[key] {
			t.Errorf("%s was acknowledged and is there", key)
		}
	}
}

// Each call of the file system fails in turn, once or from then on. What was
// done is there after a reopening without faults; nothing hangs or panics.
func TestEveryFileSystemCallFails(t *testing.T) {
	var count atomic.Int64
	faultRun(t, errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(errorfs.Op) error { count.Add(1); return nil })))
	stride := int64(1)
	if testing.Short() {
		stride = 7
	}
	for _, forever := range []bool{false, true} {
		for n := int64(1); n <= count.Load(); n += stride {
			var calls atomic.Int64
			fail := errorfs.InjectorFunc(func(errorfs.Op) error {
				if c := calls.Add(1); c == n || forever && c > n {
					return errorfs.ErrInjected
				}
				return nil
			})
			fs := vfs.NewMem()
			o := faultRun(t, errorfs.Wrap(fs, fail))
			verifyOutcome(t, fs, o)
			if t.Failed() {
				t.Fatalf("with call %d failing, for ever: %v", n, forever)
			}
		}
	}
	t.Logf("%d calls", count.Load())
}

// faulty is a file system whose writes, or syncs, of segments fail on demand.
type faulty struct {
	writes atomic.Pointer[error]
	syncs  atomic.Pointer[error]
}

func (f *faulty) String() string { return "faulty" }

// MaybeError implements errorfs.Injector.
func (f *faulty) MaybeError(op errorfs.Op) error {
	p := &f.writes
	switch op.Kind {
	case errorfs.OpFileWriteAt, errorfs.OpCreate:
	case errorfs.OpFileSyncData, errorfs.OpFileSync:
		p = &f.syncs
	default:
		return nil
	}
	if err := p.Load(); err != nil {
		return *err
	}
	return nil
}

// results collects the errors of Done.
type results struct {
	mu   sync.Mutex
	ch   chan error
	seen []mq.Op
}

func (r *results) done(ops []mq.Op, err error) {
	r.mu.Lock()
	r.seen = append(r.seen, ops...)
	r.mu.Unlock()
	for range ops {
		r.ch <- err
	}
}

func codeOf(err error) mq.Code {
	var e *mq.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return mq.OK
}

func do(l *Log, r *results, op mq.Op) error {
	op.Owner = r
	l.Submit(op)
	return <-r.ch
}

// A full disk fails puts with StoreFull; acknowledgements come through as soon
// as they can, and so do later puts.
func TestDiskFull(t *testing.T) {
	fs, f := vfs.NewMem(), &faulty{}
	r := &results{ch: make(chan error, 100)}
	opts := Options{FS: errorfs.Wrap(fs, f), Dir: dir, SegmentSize: minSegmentSize, Done: r.done}
	l, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	in := l.Inbox("c")
	for seq := uint64(1); seq <= 3; seq++ {
		if err := do(l, r, mq.Op{Kind: mq.OpPut, Inbox: in, Seq: seq, Record: []byte("kept")}); err != nil {
			t.Fatal(err)
		}
	}
	full := error(syscall.ENOSPC)
	f.writes.Store(&full)
	for seq := uint64(4); seq <= 5; seq++ {
		if err := do(l, r, mq.Op{Kind: mq.OpPut, Inbox: in, Seq: seq, Record: make([]byte, 2000)}); codeOf(err) != mq.StoreFull {
			t.Errorf("got %v", err)
		}
	}
	l.Submit(mq.Op{Kind: mq.OpAck, Inbox: in, Seq: 1}) // lazy
	if err := do(l, r, mq.Op{Kind: mq.OpAck, Inbox: in, Seq: 2}); codeOf(err) != mq.StoreFull {
		t.Errorf("got %v", err)
	}
	f.writes.Store(nil)
	if err := do(l, r, mq.Op{Kind: mq.OpPut, Inbox: in, Seq: 6, Record: []byte("later")}); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		es, _, err := l.Read(l.Inbox("c"), 0, 100, 1<<20, nil, nil)
		var seqs []uint64
		for _, e := range es {
			seqs = append(seqs, e.Seq)
		}
		if err != nil || !slices.Equal(seqs, []uint64{2, 3, 6}) {
			t.Errorf("there are %v, %v", seqs, err)
		}
	}
	check()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = Open(opts); err != nil {
		t.Fatal(err)
	}
	check()
	l.Close()
}

// A commit of puts and acknowledgements that does not fit the disk fails the
// puts only.
func TestAcksSurviveFailedPuts(t *testing.T) {
	fs := vfs.NewMem()
	r := &results{ch: make(chan error, 100)}
	var armed atomic.Bool
	fail := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileWriteAt && armed.CompareAndSwap(true, false) {
			return syscall.ENOSPC
		}
		return nil
	})
	l, err := Open(Options{FS: errorfs.Wrap(fs, fail), Dir: dir, SegmentSize: minSegmentSize, Done: r.done})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	in := l.Inbox("c")
	if err := do(l, r, mq.Op{Kind: mq.OpPut, Inbox: in, Seq: 1, Record: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	armed.Store(true)
	l.queue.mu.Lock() // so that both are in one commit
	l.queue.ops = append(l.queue.ops,
		mq.Op{Kind: mq.OpPut, Inbox: in, Seq: 2, Record: []byte("y"), Owner: r, Token: 2},
		mq.Op{Kind: mq.OpAck, Inbox: in, Seq: 1, Owner: r, Token: 1})
	l.queue.mu.Unlock()
	l.queue.signal()
	if err := <-r.ch; codeOf(err) != mq.StoreFull {
		t.Errorf("put: %v", err)
	}
	if err := <-r.ch; err != nil {
		t.Errorf("ack: %v", err)
	}
	if st := l.Stats(in); st.Count != 0 {
		t.Errorf("%+v", st)
	}
}

// An op that is tried again after a failed commit still has its inbox, though
// that is empty and was forgotten in between; then it goes.
func TestForgetAfterFailedCommit(t *testing.T) {
	fs := vfs.NewMem()
	r := &results{ch: make(chan error, 1)}
	var broken atomic.Bool
	fail := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if broken.Load() && (op.Kind == errorfs.OpCreate || op.Kind == errorfs.OpRename) {
			return syscall.ENOSPC
		}
		return nil
	})
	opts := Options{FS: errorfs.Wrap(fs, fail), Dir: dir, SegmentSize: minSegmentSize, Done: r.done}
	l, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	downgrade(t, fs) // so that the first op needs a new segment
	if l, err = Open(opts); err != nil {
		t.Fatal(err)
	}
	broken.Store(true)
	in, other := l.Inbox("c"), l.Inbox("other")
	l.Submit(mq.Op{Kind: mq.OpClear, Inbox: in, Seq: 100})
	l.Forget(in)
	if err := do(l, r, mq.Op{Kind: mq.OpAck, Inbox: other, Seq: 1}); codeOf(err) != mq.StoreFull {
		t.Fatalf("got %v", err)
	}
	l.ix.mu.Lock()
	kept := l.ix.valid(uint32(in)) != nil
	l.ix.mu.Unlock()
	if !kept {
		t.Error("the inbox of an op under way is gone")
	}
	broken.Store(false)
	if err := do(l, r, mq.Op{Kind: mq.OpAck, Inbox: other, Seq: 1}); err != nil {
		t.Fatal(err)
	}
	if _, ok := l.Lookup("c"); ok {
		t.Error("the inbox is still there")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if n := len(l.commit.carry); n > 0 {
		t.Errorf("%d ops would be tried for ever", n)
	}
}

// A failed sync is final: the op it was for and all later ones fail, with the
// file in the text, and reading goes on.
func TestFailedSyncIsFinal(t *testing.T) {
	fs, f := vfs.NewMem(), &faulty{}
	r := &results{ch: make(chan error, 100)}
	l, err := Open(Options{FS: errorfs.Wrap(fs, f), Dir: dir, SegmentSize: minSegmentSize, Done: r.done})
	if err != nil {
		t.Fatal(err)
	}
	in := l.Inbox("c")
	if err := do(l, r, mq.Op{Kind: mq.OpPut, Inbox: in, Seq: 1, Record: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	broken := error(syscall.EIO)
	f.syncs.Store(&broken)
	err = do(l, r, mq.Op{Kind: mq.OpPut, Inbox: in, Seq: 2, Record: []byte("y")})
	if codeOf(err) != mq.StoreFailed || !errors.Is(err, syscall.EIO) {
		t.Errorf("got %v", err)
	}
	f.syncs.Store(nil)
	for seq := uint64(3); seq < 5; seq++ {
		if err := do(l, r, mq.Op{Kind: mq.OpPut, Inbox: in, Seq: seq, Record: []byte("z")}); codeOf(err) != mq.StoreFailed {
			t.Errorf("got %v", err)
		}
	}
	if err := do(l, r, mq.Op{Kind: mq.OpAck, Inbox: in, Seq: 1}); codeOf(err) != mq.StoreFailed {
		t.Errorf("got %v", err)
	}
	if codeOf(l.Admit(1)) != mq.StoreFailed {
		t.Error("Admit admits")
	}
	l.Throttle()
	if es, _, err := l.Read(in, 0, 100, 100, nil, nil); err != nil || len(es) != 1 {
		t.Errorf("read %v, %v", es, err)
	}
	l.Forget(in)
	if err := l.Close(); codeOf(err) != mq.StoreFailed {
		t.Errorf("Close: %v", err)
	}
}

// Over the disk limit puts are refused and acknowledgements are not; space that
// they free is usable again.
func TestDiskLimit(t *testing.T) {
	r := &results{ch: make(chan error, 100)}
	const limit = 12 * minSegmentSize
	l, err := Open(Options{FS: vfs.NewMem(), Dir: dir, SegmentSize: minSegmentSize, DiskLimit: limit, Done: r.done})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	in := l.Inbox("c")
	var seq uint64
	fill := func() (n int) {
		for {
			seq++
			err := do(l, r, mq.Op{Kind: mq.OpPut, Inbox: in, Seq: seq, Record: make([]byte, 1000)})
			if err == nil {
				n++
				continue
			}
			if codeOf(err) != mq.StoreFull {
				t.Fatal(err)
			}
			if settleLog(t, l); codeOf(l.Admit(1000)) != mq.StoreFull {
				continue // the keeper has freed something since
			}
			if d := l.Metrics().DiskBytes; d > limit {
				t.Errorf("%d bytes on disk, limit %d", d, limit)
			}
			return n
		}
	}
	if n := fill(); n < 80 {
		t.Errorf("full after %d records", n)
	}
	for range 3 {
		es, _, err := l.Read(in, 0, 1<<62, 1<<30, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(es); i += 2 {
			if err := do(l, r, mq.Op{Kind: mq.OpAck, Inbox: in, Seq: es[i].Seq}); err != nil {
				t.Fatal(err)
			}
		}
		if !poll(10*time.Second, func() bool { return l.Admit(1000) == nil }) {
			t.Fatalf("no space was freed: %+v", l.Metrics())
		}
		fill()
	}
}

// With no limit given, puts stop while the file system is 95 % full.
func TestFileSystemFull(t *testing.T) {
	r := &results{ch: make(chan error, 100)}
	fs := vfs.NewMem()
	l, err := Open(Options{FS: fs, Dir: dir, SegmentSize: minSegmentSize, Done: r.done})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	in := l.Inbox("c")
	for _, full := range []bool{false, true, false} {
		use := uint64(94)
		if full {
			use = 96
		}
		fs.TestingSetDiskUsage(vfs.DiskUsage{TotalBytes: 100 << 20, UsedBytes: use << 20, AvailBytes: (100 - use) << 20})
		l.disk.looked.Store(0)
		_ = do(l, r, mq.Op{Kind: mq.OpAck, Inbox: in, Seq: 1}) // looks at the disk
		err := do(l, r, mq.Op{Kind: mq.OpPut, Inbox: in, Seq: 1, Record: []byte("x")})
		if full != (codeOf(err) == mq.StoreFull) || full != (codeOf(l.Admit(1)) == mq.StoreFull) {
			t.Errorf("full: %v, put: %v, Admit: %v", full, err, l.Admit(1))
		}
	}
}
