package inboxlog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/homing-mq/homing/internal/mq"
)

// specimen is a log on disk, and what is in it.
type specimen struct {
	r      *rig
	fs     *vfs.MemFS
	want   *model
	clean  bool            // it was closed in order
	ever   map[string]bool // every message that ever was
	live   []placed        // what is live, and where
	frames map[string][][2]int64
	last   string // path of the segment that is written to
}

// placed is a live message and the place of its record.
type placed struct {
	key    string
	path   string
	offset int64
}

func messageKey(client string, seq uint64, record []byte) string {
	return fmt.Sprintf("%s %d %x", client, seq, record)
}

// makeSpecimen makes a log of several segments with hints, of which the oldest
// were freed, and leaves it as a kill or an orderly end does.
func makeSpecimen(t *testing.T, clean bool) *specimen {
	t.Helper()
	r := newRig(t, Options{SegmentSize: minSegmentSize, slack: 2}, 5)
	for i := range 160 {
		c := r.clients[i%len(r.clients)]
		s := r.put(c, 300+i)
		r.submit(true, s)
		if i < 80 || i%3 == 0 {
			r.submit(true, step{client: c, op: mq.Op{Kind: mq.OpAck, Seq: s.op.Seq}})
		}
		if i%20 == 0 {
			r.submit(true, step{client: c, op: mq.Op{Kind: mq.OpClaim, PacketID: uint16(i + 1)}})
		}
		r.wait()
	}
	settleLog(t, r.l)
	for range 3 { // then nothing is written, nor freed, that says that these are synced
		r.submit(true, r.put(r.clients[1], 200))
		r.wait()
	}
	sp := &specimen{r: r, want: r.base.clone(), clean: clean, ever: map[string]bool{}, frames: map[string][][2]int64{}}
	for _, s := range r.steps {
		sp.want.apply(s)
		if s.op.Kind == mq.OpPut {
			sp.ever[messageKey(s.client, s.op.Seq, s.op.Record)] = true
		}
	}
	sp.look(t)
	if clean {
		if err := r.l.Close(); err != nil {
			t.Fatal(err)
		}
		sp.fs = r.fs
	} else {
		sp.fs = cloneFS(r.fs)
		r.l.Close()
	}
	return sp
}

// look notes where the live messages and the frames are.
func (sp *specimen) look(t *testing.T) {
	t.Helper()
	ix := sp.r.l.ix
	for client, es := range sp.want.inboxes {
		in, _ := sp.r.l.Lookup(client)
		for _, e := range es {
			place := ix.get(ix.slot(uint32(in)), e.Seq)
			sp.live = append(sp.live, placed{messageKey(client, e.Seq, e.Record), ix.seg(place.epoch24()).path, int64(place.offset)})
		}
	}
	var h frameHeader
	for _, s := range ix.segs {
		sc := newScanner(s)
		for {
			start := sc.pos
			if _, ok, err := sc.next(&h); err != nil || !ok {
				break
			}
			sp.frames[s.path] = append(sp.frames[s.path], [2]int64{start, sc.pos})
		}
		sp.last = s.path
	}
	if first := ix.segs[0].epoch; first < 2 || len(ix.segs) < 4 {
		t.Fatalf("segments %d to %d: not what is to be tested", first, ix.segs[len(ix.segs)-1].epoch)
	}
}

// harm is damage to one file: bytes [from, to) are not what they were.
type harm struct {
	name     string
	path     string
	from, to int64
	do       func(fs *vfs.MemFS)
}

// saved returns the live messages that damage h leaves in intact frames.
func (sp *specimen) saved(h harm) map[string]bool {
	out := map[string]bool{}
	for _, p := range sp.live {
		ok := p.path != h.path
		for _, f := range sp.frames[p.path] {
			if f[0] <= p.offset && p.offset < f[1] {
				ok = ok || h.to <= f[0] || f[1] <= h.from
			}
		}
		if ok {
			out[p.key] = true
		}
	}
	return out
}

// harms returns every kind of damage to the files of the log, at many offsets.
func (sp *specimen) harms(t *testing.T, rng *rand.Rand, each int) (out []harm) {
	t.Helper()
	names, err := sp.fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	for _, name := range names {
		path := sp.fs.PathJoin(dir, name)
		data := readAll(t, sp.fs, path)
		size := int64(len(data))
		if size == 0 {
			continue
		}
		add := func(kind string, from, to int64, do func(fs *vfs.MemFS)) {
			out = append(out, harm{fmt.Sprintf("%s %s [%d:%d]", name, kind, from, to), path, from, to, do})
		}
		write := func(b []byte) func(fs *vfs.MemFS) { return func(fs *vfs.MemFS) { writeAll(t, fs, path, b) } }
		whole := int64(1) << 40
		add("deleted", 0, whole, func(fs *vfs.MemFS) { _ = fs.Remove(path) })
		add("emptied", 0, whole, write(nil))
		add("zeroed", 0, whole, write(make([]byte, size)))
		headless := slices.Clone(data)
		clear(headless[:min(size, segmentHeaderSize)])
		add("without header", 0, whole, write(headless))
		for range each {
			// Most of a segment's frames are at its start.
			at := rng.Int64N([]int64{size, min(size, 6000)}[rng.IntN(2)])
			add("cut", at, whole, write(data[:at]))
			bad := slices.Clone(data)
			bad[at] ^= 1 << rng.IntN(8)
			add("flipped", at, at+1, write(bad))
			to := min(at+1+rng.Int64N(2000), size)
			holed := slices.Clone(data)
			clear(holed[at:to])
			if at < segmentHeaderSize {
				add("holed", 0, whole, write(holed)) // both copies of the header, perhaps
			} else {
				add("holed", at, to, write(holed))
			}
		}
	}
	if sp.clean { // a kill leaves nothing that tells this from a torn tail
		frames, data := sp.frames[sp.last], readAll(t, sp.fs, sp.last)
		from := frames[max(len(frames)-4, 0)][0]
		clear(data[from:])
		out = append(out, harm{"last commits and mark zeroed", sp.last, from, int64(len(data)), func(fs *vfs.MemFS) { writeAll(t, fs, sp.last, data) }})
	}
	ready := sp.fs.PathJoin(dir, names[slices.Index(names, sp.fs.PathBase(sp.last))+1]) // for what comes after it
	out = append(out, harm{"last deleted with the one made ready", sp.last, 0, 1 << 40, func(fs *vfs.MemFS) {
		_ = fs.Remove(sp.last)
		if strings.HasSuffix(ready, segmentSuffix) {
			_ = fs.Remove(ready)
		}
	}})
	gap := sp.fs.PathJoin(dir, segmentName(99))
	out = append(out, harm{"last renamed to a gap", "", 0, 0, func(fs *vfs.MemFS) { _ = fs.Rename(sp.last, gap) }})
	return out
}

// Whatever happens to one file, Check says what Open does; nothing is lost in
// silence; and Repair makes the log open with everything that is in intact
// frames.
func TestNothingIsLostInSilence(t *testing.T) {
	each := 12
	if testing.Short() {
		each = 3
	}
	for _, clean := range []bool{false, true} {
		t.Run(fmt.Sprint("clean ", clean), func(t *testing.T) {
			sp := makeSpecimen(t, clean)
			counts := map[string]int{}
			for _, h := range sp.harms(t, rand.New(rand.NewPCG(5, 5)), each) {
				fs := cloneFS(sp.fs)
				h.do(fs)
				if d, err := fs.OpenDir(dir); err != nil || d.Sync() != nil {
					t.Fatal("the damage is not durable")
				}
				counts[sp.try(t, fs, h)]++
				if t.Failed() {
					t.Fatalf("%s", h.name)
				}
			}
			t.Logf("%d messages; outcomes: %v", len(sp.live), counts)
			if counts["refused"] < 20 || counts["started"] < 20 {
				t.Errorf("outcomes %v: not what is to be tested", counts)
			}
		})
	}
}

// try opens the damaged log on fs and repairs it if that is said to be needed.
func (sp *specimen) try(t *testing.T, fs *vfs.MemFS, h harm) string {
	t.Helper()
	rep, err := Check(fs, dir)
	if err != nil {
		t.Fatalf("%s: check: %v", h.name, err)
	}
	refused := slices.ContainsFunc(rep.Problems, func(p Problem) bool { return p.Refused })
	c, err := sp.r.openCopy(t, cloneFS(fs))
	var corrupt *CorruptError
	if (err != nil) != refused || refused && (rep.OK() || !errors.As(err, &corrupt)) {
		t.Fatalf("%s: Open says %v, Check:\n%s", h.name, err, rep.String())
	}
	if err == nil {
		got, err := snapshot(c.l, sp.r.clients)
		c.l.Close()
		if rep.OK() && (err != nil || !sp.same(got, h)) {
			t.Fatalf("%s: started and said nothing, but %v\n%s", h.name, err, sp.want.diff(got))
		}
		if rep.OK() {
			return "started"
		}
		if !sp.silent(h) {
			t.Fatalf("%s: started in spite of\n%s", h.name, rep.String())
		}
	}
	did, err := Repair(fs, dir, "bad")
	if err != nil || len(did) == 0 {
		t.Fatalf("%s: repair: %v %v\n%s", h.name, did, err, rep.String())
	}
	if rep, err := Check(fs, dir); err != nil || !rep.OK() {
		t.Fatalf("%s: after repair (%q): %v\n%s", h.name, did, err, rep.String())
	}
	sp.repaired(t, fs, h, did)
	if refused {
		return "refused"
	}
	return "started with damage"
}

// same reports whether got is what was stored. After a kill the last commits may
// be gone if damage hits all of their frames up to the last one: nothing says
// that they were ever there. What is before them must be.
func (sp *specimen) same(got *model, h harm) bool {
	if sp.want.equal(got) {
		return true
	}
	frames := sp.frames[sp.last]
	if sp.clean || h.path != sp.last || h.from < segmentHeaderSize || h.to <= frames[len(frames)-1][0] {
		return false
	}
	hit := 0 // frames hit
	for _, f := range frames {
		if h.from < f[1] {
			hit++
		}
	}
	// Each commit has a step and the acknowledgement that waits for it.
	state := sp.r.base.clone()
	for i, s := range sp.r.steps {
		state.apply(s)
		if i >= len(sp.r.steps)-4*hit && state.equal(got) {
			return true
		}
	}
	return false
}

// silent reports whether a log with damage h may start: in the frames of a
// segment with a hint, which are read when they are needed.
func (sp *specimen) silent(h harm) bool {
	_, err := sp.fs.Stat(strings.TrimSuffix(h.path, segmentSuffix) + hintSuffix)
	inside := strings.Contains(h.name, "flipped") || strings.Contains(h.name, "holed")
	return err == nil && inside && strings.HasSuffix(h.path, segmentSuffix)
}

// repaired looks what is in the log on fs after a repair.
func (sp *specimen) repaired(t *testing.T, fs *vfs.MemFS, h harm, did []string) {
	t.Helper()
	c, err := sp.r.openCopy(t, fs)
	if err != nil {
		t.Fatalf("%s: open after repair (%q): %v", h.name, did, err)
	}
	defer func() { c.l.Close() }()
	got, err := snapshot(c.l, sp.r.clients)
	if err != nil {
		t.Fatalf("%s: %v", h.name, err)
	}
	checkAccounts(t, c.l)
	there := map[string]bool{}
	for client, es := range got.inboxes {
		for _, e := range es {
			key := messageKey(client, e.Seq, e.Record)
			if there[key] = true; !sp.ever[key] {
				t.Fatalf("%s: a message that never was: %.40s", h.name, key)
			}
		}
	}
	saved := sp.saved(h)
	lost := 0
	for key := range saved {
		if !there[key] {
			lost++
		}
	}
	if lost > 0 {
		t.Fatalf("%s: repair (%q) lost %d of %d messages in intact frames", h.name, did, lost, len(saved))
	}
	// It goes on.
	c.next = map[string]uint64{}
	c.base, c.steps = got, nil
	c.submit(true, step{client: c.clients[0], op: mq.Op{Kind: mq.OpPut, Seq: 1 << 40, Record: []byte("later")}})
	c.reopen()
}

// A kill or power loss at any call of the file system leaves a log that opens,
// with all that was done, and in which Check finds no damage: while it is made,
// while segments are sealed, freed and moved, and while it is closed.
func TestCrashAtEveryCall(t *testing.T) {
	stride := int64(2)
	if testing.Short() {
		stride = 23
	}
	for _, percent := range []int{0, 50, 100} {
		t.Run(fmt.Sprint(percent), func(t *testing.T) {
			mem := vfs.NewCrashableMem()
			var calls, done, opened atomic.Int64
			rng := rand.New(rand.NewPCG(uint64(percent), 9))
			var busy atomic.Bool
			crash := errorfs.InjectorFunc(func(op errorfs.Op) error {
				if op.Kind.ReadOrWrite() != errorfs.OpIsWrite || calls.Add(1)%stride != 0 || !busy.CompareAndSwap(false, true) {
					return nil
				}
				defer busy.Store(false)
				want := done.Load()
				clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
				if err := afterCrash(t, clone, int(want)); err != nil {
					t.Errorf("call %d, %s of %s: %v", calls.Load(), fmt.Sprint(op.Kind), op.Path, err)
				}
				opened.Add(1)
				return nil
			})
			seq := uint64(0)
			for round := range 3 {
				ch := make(chan error, 1)
				opts := Options{FS: errorfs.Wrap(mem, crash), Dir: dir, SegmentSize: minSegmentSize, slack: 2}
				opts.Done = func(ops []mq.Op, err error) {
					for _, op := range ops {
						if op.Token > 0 {
							done.Store(int64(op.Token))
						}
						ch <- err
					}
				}
				l, err := Open(opts)
				if err != nil {
					t.Fatal(err)
				}
				r := &results{ch: ch}
				for i := range 60 {
					seq++
					if err := do(l, r, mq.Op{Kind: mq.OpPut, Inbox: l.Inbox("kept"), Seq: seq, Token: seq, Record: fmt.Appendf(nil, "%d", seq)}); err != nil {
						t.Fatal(err)
					}
					churn := uint64(round*1000 + i + 1)
					l.Submit(mq.Op{Kind: mq.OpPut, Inbox: l.Inbox("churn"), Seq: churn, Record: make([]byte, 3000)})
					l.Submit(mq.Op{Kind: mq.OpAck, Inbox: l.Inbox("churn"), Seq: churn})
				}
				settleLog(t, l)
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if epoch := firstEpoch(t, mem); epoch < 5 || opened.Load() < 20 {
				t.Errorf("%d crashes, the first segment is %d: not what is to be tested", opened.Load(), epoch)
			}
			t.Logf("%d crashes, %d messages", opened.Load(), seq)
		})
	}
}

func firstEpoch(t *testing.T, fs vfs.FS) uint32 {
	t.Helper()
	f, _, ok, _, err := readState(fs, dir)
	if err != nil || !ok {
		t.Fatalf("state: %v, %v", ok, err)
	}
	return f.oldest
}

// afterCrash opens the log on fs, twice, and looks for the messages 1 to n.
func afterCrash(t *testing.T, fs *vfs.MemFS, n int) error {
	if _, err := fs.Stat(dir); err != nil {
		return nil // it was not made yet
	}
	rep, err := Check(fs, dir)
	if err != nil || !rep.OK() {
		return fmt.Errorf("check: %w\n%s", err, rep.String())
	}
	for range 2 {
		l, err := Open(Options{FS: fs, Dir: dir, SegmentSize: minSegmentSize, slack: 2})
		if err != nil {
			return err
		}
		seqs := seqsOf(t, l, "kept")
		l.Close()
		if len(seqs) < n {
			return fmt.Errorf("%d of %d messages that were done are there", len(seqs), n)
		}
	}
	return nil
}

// Repair needs no more room than what it saves: the spares' room is used, and
// without any it changes nothing.
func TestRepairOnFullDisk(t *testing.T) {
	for _, spare := range []bool{true, false} {
		d := newSmallDisk(1 << 20)
		f := newFiller(t, d, Options{SegmentSize: 32 << 10, slack: 8}, 3)
		in := f.l.Inbox("c1")
		for seq := uint64(1); seq <= 40; seq++ {
			if err := do(f.l, f.r, mq.Op{Kind: mq.OpPut, Inbox: in, Seq: seq, Record: make([]byte, 2000)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := FreeSpares(d, dir); err != nil {
			t.Fatal(err)
		}
		path := segmentsOf(t, d)[0]
		data := readAll(t, d, path)
		data[segmentHeaderSize+5000] ^= 1
		writeAll(t, d, path, data)
		dropHints(t, d)
		if spare {
			writeAll(t, d, d.PathJoin(dir, spareName(500)), make([]byte, 40<<10))
		}
		d.fill(0)
		did, err := Repair(d, dir, "bad")
		if spare != (err == nil) {
			t.Fatalf("with spare %v: %v %v", spare, did, err)
		}
		rep, err := Check(d, dir)
		if err != nil || rep.OK() != spare {
			t.Fatalf("with spare %v: %v\n%s", spare, err, rep.String())
		}
		if !spare {
			continue
		}
		f.open()
		if n := len(seqsOf(t, f.l, "c1")); n != 39 {
			t.Errorf("%d of 39 messages in intact frames are there", n)
		}
		f.l.Close()
	}
}
