package inboxlog

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/homing-mq/homing/internal/mq"
)

// smallDisk is a file system with a size. It counts blocks as a disk does: what
// was never written in the middle of a file takes none.
type smallDisk struct {
	vfs.FS
	mem *vfs.MemFS

	mu      sync.Mutex // guards the rest
	total   int64
	foreign int64 // bytes that others take
	used    int64
	files   map[string]map[int64]bool // the blocks of each file
}

const diskBlock = 4096

func newSmallDisk(total int64) *smallDisk {
	mem := vfs.NewCrashableMem()
	return &smallDisk{FS: mem, mem: mem, total: total, files: map[string]map[int64]bool{}}
}

// killed returns a disk with the files as they are now, for after a kill.
func (d *smallDisk) killed() *smallDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	mem := cloneFS(d.mem)
	k := &smallDisk{FS: mem, mem: mem, total: d.total, foreign: d.foreign, used: d.used, files: map[string]map[int64]bool{}}
	for name, blocks := range d.files {
		k.files[name] = map[int64]bool{}
		for b := range blocks {
			k.files[name][b] = true
		}
	}
	return k
}

// fill lets others take all but rest bytes of what is free, or give it back.
func (d *smallDisk) fill(rest int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.foreign = max(d.total-d.used-rest, 0)
}

func (d *smallDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	used := d.used + d.foreign
	return vfs.DiskUsage{TotalBytes: uint64(d.total), UsedBytes: uint64(used), AvailBytes: uint64(max(d.total-used, 0))}, nil
}

func (d *smallDisk) forget(name string) {
	d.used -= int64(len(d.files[name])) * diskBlock
	delete(d.files, name)
}

func (d *smallDisk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, err := d.FS.Create(name, c)
	if err != nil {
		return nil, err
	}
	d.forget(name)
	d.files[name] = map[int64]bool{}
	return &smallFile{File: f, d: d, blocks: d.files[name]}, nil
}

func (d *smallDisk) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, err := d.FS.OpenReadWrite(name, c, o...)
	if err != nil {
		return nil, err
	}
	if d.files[name] == nil {
		d.files[name] = map[int64]bool{}
	}
	return &smallFile{File: f, d: d, blocks: d.files[name]}, nil
}

func (d *smallDisk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.FS.Remove(name)
	if err == nil {
		d.forget(name)
	}
	return err
}

func (d *smallDisk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.FS.Rename(from, to)
	if err == nil {
		blocks := d.files[from]
		delete(d.files, from)
		d.forget(to)
		d.files[to] = blocks
	}
	return err
}

type smallFile struct {
	vfs.File
	d      *smallDisk
	blocks map[int64]bool
	pos    int64
}

// take takes the blocks of n bytes at off.
func (f *smallFile) take(off, n int64) error {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	var fresh []int64
	for b := off / diskBlock; b*diskBlock < off+n; b++ {
		if !f.blocks[b] {
			fresh = append(fresh, b)
		}
	}
	need := int64(len(fresh)) * diskBlock
	if need > 0 && d.used+d.foreign+need > d.total {
		return syscall.ENOSPC
	}
	for _, b := range fresh {
		f.blocks[b] = true
	}
	d.used += need
	return nil
}

func (f *smallFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.take(off, int64(len(p))); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *smallFile) Write(p []byte) (int, error) {
	if err := f.take(f.pos, int64(len(p))); err != nil {
		return 0, err
	}
	f.pos += int64(len(p))
	return f.File.Write(p)
}

// filler fills and drains a log on a small disk.
type filler struct {
	t    *testing.T
	d    *smallDisk
	opts Options
	r    *results
	l    *Log
	rng  *rand.Rand
	seq  uint64
	live map[string][]uint64
	size map[uint64]int

	waits   int // acknowledgements refused
	foreign bool
	rescued int // times that others had to give room back
}

func newFiller(t *testing.T, d *smallDisk, opts Options, seed uint64) *filler {
	f := &filler{
		t: t, d: d, opts: opts, r: &results{ch: make(chan error, 1000)},
		rng: rand.New(rand.NewPCG(seed, 1)), live: map[string][]uint64{}, size: map[uint64]int{},
	}
	f.open()
	return f
}

func (f *filler) open() {
	f.t.Helper()
	f.opts.FS, f.opts.Dir, f.opts.Done = f.d, dir, f.r.done
	var err error
	if f.l, err = Open(f.opts); err != nil {
		f.t.Fatalf("open: %v", err)
	}
}

// fill puts until the store is full and returns how many bytes it took.
func (f *filler) fill(largest int) (stored int64) {
	f.t.Helper()
	for {
		client := fmt.Sprint("c", f.rng.IntN(10))
		f.seq++
		size := 1 + f.rng.IntN(largest)
		err := do(f.l, f.r, mq.Op{Kind: mq.OpPut, Inbox: f.l.Inbox(client), Seq: f.seq, Record: bytes.Repeat([]byte{byte(f.seq)}, size)})
		switch codeOf(err) {
		case mq.OK:
			f.live[client] = append(f.live[client], f.seq)
			f.size[f.seq] = size
			stored += int64(size)
		case mq.StoreFull:
			return stored
		default:
			f.t.Fatalf("put: %v", err)
		}
	}
}

// verify reads everything and says how many messages there are.
func (f *filler) verify() {
	f.t.Helper()
	for client, seqs := range f.live {
		es, _, err := f.l.Read(f.l.Inbox(client), 0, 1<<62, 1<<40, nil, nil)
		if err != nil || len(es) != len(seqs) {
			f.t.Fatalf("%s: %d messages, %v; %d were stored", client, len(es), err, len(seqs))
		}
		for i, e := range es {
			if e.Seq != seqs[i] || !bytes.Equal(e.Record, bytes.Repeat([]byte{byte(e.Seq)}, f.size[e.Seq])) {
				f.t.Fatalf("%s: message %d is wrong", client, e.Seq)
			}
		}
	}
}

// drain acknowledges everything, one inbox after the other; each waits. On a
// disk without room acknowledgements may have to wait for the keeper to make
// some, but never for ever. A segment that was made in a hurry has no blocks of its
// own yet: if others take the last byte of the disk at that moment, it is they who
// must give some back.
func (f *filler) drain() {
	f.t.Helper()
	for client, seqs := range f.live {
		for _, seq := range seqs {
			for begun := time.Now(); ; {
				err := do(f.l, f.r, mq.Op{Kind: mq.OpAck, Inbox: f.l.Inbox(client), Seq: seq})
				if err == nil {
					break
				}
				if f.foreign && time.Since(begun) > 5*time.Second {
					f.d.fill(1 << 40)
					f.rescued++
					f.foreign = false
				}
				if f.waits++; codeOf(err) != mq.StoreFull || time.Since(begun) > 30*time.Second { // other tests may have the processors
					f.t.Fatalf("acknowledge %s %d: %v (%+v)", client, seq, err, f.l.Metrics())
				}
				time.Sleep(time.Millisecond)
			}
			delete(f.size, seq)
		}
		delete(f.live, client)
	}
}

// admitted waits until what is drained is freed and a put would be taken.
func (f *filler) admitted() {
	f.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		err := f.l.Admit(1)
		if err == nil && f.l.Metrics().Segments <= 3 {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("everything is drained, and a put would still be refused: %v (%+v)", err, f.l.Metrics())
		}
	}
}

func (f *filler) restart(kill bool) {
	f.t.Helper()
	if kill {
		d := f.d.killed()
		f.l.Close()
		f.d = d
	} else if err := f.l.Close(); err != nil {
		f.t.Fatalf("close: %v", err)
	}
	f.open()
}

// A small disk that is filled and drained again and again, by the log alone or
// with others' files beside, with restarts at any time, is never stuck: what
// was acknowledged is there, devices can always drain, and then there is room.
func TestFillAndDrainSmallDisks(t *testing.T) {
	for _, c := range []struct {
		total, segment, keep int64
		largest              int
		look                 time.Duration
		foreign              bool // others fill the disk to the last byte
		rounds               int
	}{
		{512 << 10, 16 << 10, 32 << 10, 1000, time.Millisecond, true, 100},
		{512 << 10, 16 << 10, 32 << 10, 60, time.Millisecond, false, 30}, // acknowledgements as large as messages
		{1 << 20, 16 << 10, 64 << 10, 4000, time.Millisecond, true, 100},
		{4 << 20, 64 << 10, 256 << 10, 20_000, time.Millisecond, true, 40},
	} {
		t.Run(fmt.Sprint(c.total>>10, "KiB-", c.largest), func(t *testing.T) {
			f := newFiller(t, newSmallDisk(c.total), Options{SegmentSize: c.segment, KeepFree: c.keep, look: c.look, slack: 2}, 7)
			defer func() { f.l.Close() }()
			var least, full int64 = 1 << 40, 0
			if testing.Short() {
				c.rounds = 12
			}
			for round := range c.rounds {
				f.admitted()
				stored := f.fill(c.largest)
				if round > 0 {
					least = min(least, stored)
				}
				full = max(full, stored)
				if round%3 == 1 {
					f.restart(round%2 == 0)
				}
				f.verify()
				if round%4 == 2 && c.foreign {
					f.d.fill(0) // somebody else takes the rest
					f.foreign = true
				}
				if round%5 == 4 {
					f.restart(round%2 == 0)
				}
				f.drain()
				f.d.fill(1 << 40)
				f.foreign = false
				if round%7 == 6 {
					f.restart(false)
				}
			}
			t.Logf("between %d and %d bytes stored per round, %d acknowledgements refused: %+v", least, full, f.waits, f.l.Metrics())
			if f.rescued > c.rounds/20 {
				t.Errorf("acknowledgements were stuck in %d of %d rounds until others freed the disk", f.rescued, c.rounds)
			}
			if least < c.total/8 {
				t.Errorf("only %d bytes of %d were taken in some round", least, c.total)
			}
		})
	}
}

// On a disk of ordinary size the default is 64 MiB; on a small one segments are
// small, but hold the largest record.
func TestSegmentSizeFollowsDisk(t *testing.T) {
	for _, c := range []struct {
		total  uint64
		record int64
		limit  int64
		want   int64
	}{
		{1 << 40, 4 << 20, 0, 64 << 20},
		{4 << 30, 4 << 20, 0, 64 << 20},
		{1 << 30, 4 << 20, 0, 16 << 20},
		{130 << 20, 4 << 20, 0, 8 << 20},
		{130 << 20, 64 << 10, 0, 2 << 20},
		{32 << 20, 64 << 10, 0, 512 << 10},
		{32 << 20, 0, 0, 512 << 10},
		{1 << 20, 0, 0, 256 << 10},
		{1 << 40, 256 << 20, 0, 512 << 20},
		{1 << 40, 4 << 20, 64 << 20, 8 << 20},
		{0, 4 << 20, 0, 64 << 20}, // the file system cannot tell
	} {
		fs := vfs.NewMem()
		fs.TestingSetDiskUsage(vfs.DiskUsage{TotalBytes: c.total, AvailBytes: c.total})
		o := Options{FS: fs, MaxRecord: c.record, DiskLimit: c.limit}
		if o.setDefaults(); o.SegmentSize != c.want {
			t.Errorf("disk of %d, record of %d: segments of %d, want %d", c.total, c.record, o.SegmentSize, c.want)
		}
	}
}

// Somebody else's file fills the disk and goes. Nobody puts anything in between
// that would reach the committer: the log sees that there is room again when it
// is asked, and by itself.
func TestDiskFreeAgain(t *testing.T) {
	for name, asked := range map[string]bool{"asked": true, "by itself": false} {
		t.Run(name, func(t *testing.T) {
			d := newSmallDisk(1 << 20)
			f := newFiller(t, d, Options{SegmentSize: minSegmentSize, look: time.Millisecond}, 1)
			defer func() { f.l.Close() }()
			f.admitted()
			d.fill(0)
			for deadline := time.Now().Add(10 * time.Second); !f.l.Metrics().DiskFull; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("nobody saw that the disk is full")
				}
			}
			if codeOf(f.l.Admit(1)) != mq.StoreFull {
				t.Error("the disk is full, and a put is admitted")
			}
			d.fill(1 << 40)
			for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
				if asked && f.l.Admit(1) == nil || !asked && !f.l.disk.full.Load() {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("the disk is free again, and puts are refused for ever")
				}
			}
			if stored := f.fill(1000); stored < 100<<10 {
				t.Errorf("only %d bytes were taken", stored)
			}
			f.verify()
		})
	}
}

// Whoever would be refused because the disk was full looks again first.
func TestAdmitLooksAgain(t *testing.T) {
	f := newFiller(t, newSmallDisk(1<<20), Options{SegmentSize: minSegmentSize, look: time.Hour}, 1)
	defer func() { f.l.Close() }()
	f.l.disk.full.Store(true)
	if codeOf(f.l.Admit(1)) != mq.StoreFull {
		t.Error("looked more than once in an hour")
	}
	f.l.disk.looked.Store(0) // the hour is over
	if err := f.l.Admit(1); err != nil {
		t.Errorf("nobody looked: %v", err)
	}
}

// Spares are given back when the file system is short of room, and count as
// free until then.
func TestSparesAreGivenBack(t *testing.T) {
	d := newSmallDisk(2 << 20)
	f := newFiller(t, d, Options{SegmentSize: 64 << 10, look: time.Millisecond, slack: 2}, 1)
	defer func() { f.l.Close() }()
	for range 30 {
		f.seq++
		in := f.l.Inbox("c")
		if err := do(f.l, f.r, mq.Op{Kind: mq.OpPut, Inbox: in, Seq: f.seq, Record: make([]byte, 30_000)}); err != nil {
			t.Fatal(err)
		}
		if err := do(f.l, f.r, mq.Op{Kind: mq.OpAck, Inbox: in, Seq: f.seq}); err != nil {
			t.Fatal(err)
		}
	}
	settleLog(t, f.l)
	before := f.l.spares.count()
	if before < 2 {
		t.Fatalf("%d spares: nothing to give back", before)
	}
	d.fill(60 << 10) // less than two segments, but with the spares more
	for deadline := time.Now().Add(10 * time.Second); f.l.Metrics().SparesGiven == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no spare was given back: %+v", f.l.Metrics())
		}
	}
	for deadline := time.Now().Add(10 * time.Second); f.l.spares.count() > keptSpares; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d spares are kept", f.l.spares.count())
		}
	}
	d.fill(100 << 10) // two segments with the spare only
	if f.l.lookNow(); f.l.Admit(1) != nil {
		t.Errorf("with the spare there is room: %+v", f.l.Metrics())
	}
	if err := f.l.Close(); err != nil {
		t.Fatal(err)
	}
	spares := f.l.spares.bytes()
	freed, err := FreeSpares(d, dir)
	if err != nil || freed < spares || freed == 0 {
		t.Errorf("freed %d of %d bytes, %v", freed, spares, err)
	}
	f.open()
	f.verify()
}

// A segment made after the limit of records was lowered still holds those that
// are stored: they must be movable.
func TestSegmentSizeFitsWhatIsStored(t *testing.T) {
	fs := vfs.NewMem()
	fs.TestingSetDiskUsage(vfs.DiskUsage{TotalBytes: 32 << 20, AvailBytes: 32 << 20})
	r := &results{ch: make(chan error, 1)}
	l, err := Open(Options{FS: fs, Dir: dir, MaxRecord: 1 << 20, Done: r.done})
	if err != nil {
		t.Fatal(err)
	}
	if err := do(l, r, mq.Op{Kind: mq.OpPut, Inbox: l.Inbox("c"), Seq: 1, Record: make([]byte, 1<<20)}); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if l, err = Open(Options{FS: fs, Dir: dir, MaxRecord: 1 << 10, Done: r.done}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l.opts.SegmentSize < 2<<20 {
		t.Errorf("segments of %d bytes", l.opts.SegmentSize)
	}
	if n := len(seqsOf(t, l, "c")); n != 1 {
		t.Errorf("%d of 1 message is there", n)
	}
}
