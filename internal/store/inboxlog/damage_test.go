package inboxlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/homing-mq/homing/internal/mq"
)

// cloneFS returns a copy of fs as it is now.
func cloneFS(fs *vfs.MemFS) *vfs.MemFS {
	return fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
}

func readAll(t *testing.T, fs vfs.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeAll(t *testing.T, fs vfs.FS, path string, b []byte) {
	t.Helper()
	f, err := fs.Create(path, category)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(slices.Clone(b)); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// segmentsOf returns the paths of the segments, oldest first.
func segmentsOf(t *testing.T, fs vfs.FS) []string {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, n := range names {
		if strings.HasSuffix(n, segmentSuffix) {
			out = append(out, fs.PathJoin(dir, n))
		}
	}
	slices.Sort(out)
	return out
}

// put is a step that puts a record of the given size.
func (r *rig) put(client string, size int) step {
	seq := r.seq(client)
	return step{client: client, op: mq.Op{
		Kind: mq.OpPut, Seq: seq, Record: bytes.Repeat([]byte{byte(seq), byte(len(client))}, (size+1)/2)[:size],
	}}
}

// openCopy opens a log on fs with the steps and clients of r.
func (r *rig) openCopy(t *testing.T, fs *vfs.MemFS) (*rig, error) {
	c := &rig{t: t, fs: fs, opts: r.opts, next: map[string]uint64{}, base: r.base.clone(), clients: r.clients}
	c.cond.L = &c.mu
	c.steps = slices.Clone(r.steps)
	return c, c.tryOpen()
}

// A last segment whose frames end anywhere is a torn tail: the log opens with a
// state it once had. A file that ends there, likewise if it is of a version
// that could leave it so; otherwise it was cut.
func TestTornTailAtEveryByte(t *testing.T) {
	for _, mode := range []SyncMode{SyncAlways, SyncOS} {
		r := newRig(t, Options{Sync: mode}, 2)
		for i := range 6 {
			r.submit(true, r.put(r.clients[i%2], 10+i))
			r.submit(true, step{client: r.clients[0], op: mq.Op{Kind: mq.OpAck, Seq: uint64(i) / 2}})
			r.wait()
		}
		r.submit(false, r.put(r.clients[0], 5), r.put(r.clients[1], 6)) // a group
		r.wait()
		fs := cloneFS(r.fs)
		end := r.l.tail.end
		r.l.Close()
		path := segmentsOf(t, fs)[0]
		data := readAll(t, fs, path)
		for cut := int64(segmentHeaderSize); cut <= end; cut++ {
			for _, how := range []string{"zeros", "old", "cut"} {
				torn := slices.Clone(data[:cut])
				if how == "zeros" {
					torn = append(torn, make([]byte, int64(len(data))-cut)...)
				}
				c := cloneFS(fs)
				writeAll(t, c, path, torn)
				if how == "old" {
					downgrade(t, c)
				}
				r2, err := r.openCopy(t, c)
				var corrupt *CorruptError
				if how == "cut" {
					if !errors.As(err, &corrupt) || corrupt.Offset != cut {
						t.Fatalf("cut at %d of %d: %v", cut, end, err)
					}
					continue
				}
				if err != nil {
					t.Fatalf("cut at %d of %d: %v", cut, end, err)
				}
				r2.recovered(0)
				r2.submit(true, step{client: r.clients[0], op: mq.Op{Kind: mq.OpClaim, PacketID: 9}}) // goes on
				r2.reopen()
				r2.l.Close()
			}
		}
	}
}

// A frame that was synced and is gone is damage, also in the last segment; one
// that was not is a torn tail, even with later ones behind it.
func TestHoleInLastSegment(t *testing.T) {
	for mode, damaged := range map[SyncMode]bool{SyncAlways: true, SyncOS: false} {
		r := newRig(t, Options{Sync: mode}, 1)
		var ends []int64
		for range 4 {
			r.submit(true, r.put(r.clients[0], 100))
			r.wait()
			ends = append(ends, r.l.tail.end)
		}
		fs := cloneFS(r.fs)
		r.l.Close()
		path := segmentsOf(t, fs)[0]
		data := readAll(t, fs, path)
		data[ends[0]+frameHeaderSize+10] ^= 1
		writeAll(t, fs, path, data)
		rep, err := Check(fs, dir)
		if err != nil {
			t.Fatal(err)
		}
		if rep.OK() == damaged {
			t.Errorf("mode %d: Check says OK: %v\n%s", mode, rep.OK(), rep.String())
		}
		r2, err := r.openCopy(t, fs)
		var corrupt *CorruptError
		if damaged {
			if !errors.As(err, &corrupt) || corrupt.File != path || corrupt.Offset != ends[0] {
				t.Errorf("mode %d: got error %v, want damage in %s at %d", mode, err, path, ends[0])
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		r2.recovered(0)
		if len(r2.base.inboxes[r.clients[0]]) != 1 {
			t.Errorf("mode %d: %d entries after the hole", mode, len(r2.base.inboxes[r.clients[0]]))
		}
		// What was dropped must not come back when frames of the same size
		// are written over the hole.
		r2.next[r.clients[0]] = 10
		for range 2 {
			r2.submit(true, r2.put(r.clients[0], 100))
			r2.wait()
			r2.crash(100, rand.New(rand.NewPCG(1, 2)), true)
		}
		r2.l.Close()
	}
}

// damaged is a log of a few sealed segments, with hints, closed in order.
func damagedRig(t *testing.T) (*rig, *vfs.MemFS) {
	r := newRig(t, Options{SegmentSize: minSegmentSize}, 5)
	for i := range 60 {
		c := r.clients[i%len(r.clients)]
		switch i % 6 {
		case 3:
			r.submit(true, step{client: c, op: mq.Op{Kind: mq.OpAck, Seq: 1 + uint64(i)/6}})
		case 4:
			r.submit(true, step{client: c, op: mq.Op{Kind: mq.OpClaim, PacketID: uint16(i)}})
		case 5:
			s := r.put(c, 300)
			g := []step{s}
			for _, o := range r.clients {
				if o != c {
					g = append(g, step{client: o, op: mq.Op{Kind: mq.OpPut, Seq: r.seq(o), Record: s.op.Record}})
				}
			}
			r.submit(true, g...)
		default:
			r.submit(true, r.put(c, 700))
		}
		r.wait()
	}
	r.check()
	r.l.Close()
	return r, r.fs
}

// Every flipped byte of the log is detected when it is opened or read, or has
// no effect. Repair then makes it open, and no record is ever wrong.
func TestFlippedBytes(t *testing.T) {
	r, fs := damagedRig(t)
	want := newModel()
	everything := map[string]bool{} // every entry that ever was
	for _, s := range r.steps {
		if s.op.Kind == mq.OpPut {
			everything[fmt.Sprintf("%s %d %x", s.client, s.op.Seq, s.op.Record)] = true
		}
		want.apply(s)
	}
	segs := segmentsOf(t, fs)
	if len(segs) < 3 {
		t.Fatalf("only %d segments", len(segs))
	}
	stride := 151
	if testing.Short() {
		stride = 997
	}
	detected, harmless := 0, 0
	for _, path := range segs {
		data := readAll(t, fs, path)
		for off := 0; off < len(data); off += 1 + rand.IntN(2*stride) {
			for _, hints := range []bool{true, false} {
				c := cloneFS(fs)
				bad := slices.Clone(data)
				bad[off] ^= byte(1 << rand.IntN(8))
				writeAll(t, c, path, bad)
				if !hints {
					dropHints(t, c)
				}
				if flipDetected(t, r, c, want) {
					detected++
					repairAndCheck(t, r, c, everything, path)
				} else {
					harmless++
				}
			}
		}
	}
	t.Logf("%d detected, %d harmless", detected, harmless)
	if detected == 0 || harmless == 0 {
		t.Errorf("%d detected, %d harmless", detected, harmless)
	}
}

func dropHints(t *testing.T, fs vfs.FS) {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if strings.HasSuffix(n, hintSuffix) {
			if err := fs.Remove(fs.PathJoin(dir, n)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// flipDetected opens the log on fs, which has a flipped byte, and fails unless
// that is found or has no effect.
func flipDetected(t *testing.T, r *rig, fs *vfs.MemFS, want *model) bool {
	t.Helper()
	rep, err := Check(fs, dir)
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	found := !rep.OK()
	var corrupt *CorruptError
	r2, err := r.openCopy(t, fs)
	if err != nil {
		if !errors.As(err, &corrupt) || !found {
			t.Fatalf("open: %v; Check found: %v", err, found)
		}
		return true
	}
	defer r2.l.Close()
	got, err := snapshot(r2.l, r.clients)
	if err != nil {
		if !errors.As(err, &corrupt) || !found {
			t.Fatalf("read: %v; Check found: %v", err, found)
		}
		return true
	}
	if d := want.diff(got); d != "" {
		t.Fatalf("a flipped byte had an effect: %s\n%s", d, rep.String())
	}
	return found
}

// repairAndCheck repairs the log on fs and looks what is left.
func repairAndCheck(t *testing.T, r *rig, fs *vfs.MemFS, everything map[string]bool, path string) {
	t.Helper()
	before := readAll(t, fs, path)
	did, err := Repair(fs, dir, "bad")
	if err != nil || len(did) == 0 {
		t.Fatalf("repair: %v %v", did, err)
	}
	names, err := fs.List("bad")
	if err != nil || len(names) != 1 || !bytes.Equal(readAll(t, fs, fs.PathJoin("bad", names[0])), before) {
		t.Fatalf("the damaged segment was not kept: %v %v", names, err)
	}
	if rep, err := Check(fs, dir); err != nil || !rep.OK() {
		t.Fatalf("after repair: %v\n%s", err, rep.String())
	}
	r2, err := r.openCopy(t, fs)
	if err != nil {
		t.Fatalf("open after repair (%v): %v", did, err)
	}
	defer r2.l.Close()
	got, err := snapshot(r2.l, r.clients)
	if err != nil {
		t.Fatal(err)
	}
	checkAccounts(t, r2.l)
	n := 0
	for c, es := range got.inboxes {
		for _, e := range es {
			n++
			if !everything[fmt.Sprintf("%s %d %x", c, e.Seq, e.Record)] {
				t.Fatalf("after repair there is a message that never was: %s %d", c, e.Seq)
			}
		}
	}
	if n < len(everything)/3 {
		t.Fatalf("repair saved %d of %d", n, len(everything))
	}
}

// A segment file that is gone is named, and replaced by Repair.
func TestMissingSegment(t *testing.T) {
	r, fs := damagedRig(t)
	segs := segmentsOf(t, fs)
	if err := fs.Remove(segs[1]); err != nil {
		t.Fatal(err)
	}
	_, err := r.openCopy(t, fs)
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) || corrupt.File != segs[1] || !strings.Contains(err.Error(), "homing store repair") {
		t.Fatalf("got %v", err)
	}
	if did, err := Repair(fs, dir, "bad"); err != nil || len(did) == 0 {
		t.Fatal(did, err)
	}
	r2, err := r.openCopy(t, fs)
	if err != nil {
		t.Fatal(err)
	}
	r2.l.Close()
}

// A newer format is refused without touching anything.
func TestNewerVersion(t *testing.T) {
	r, fs := damagedRig(t)
	s := &segment{epoch: 1, size: minSegmentSize, path: segmentsOf(t, fs)[0]}
	data := readAll(t, fs, s.path)
	for _, at := range []int{0, headerCopyAt} {
		h := data[at : at+headerBytes]
		h[8] = formatVersion + 1
		putHeaderCRC(h)
	}
	writeAll(t, fs, s.path, data)
	_, err := r.openCopy(t, fs)
	var version *VersionError
	if !errors.As(err, &version) {
		t.Fatalf("got %v", err)
	}
}

// Bytes of an earlier life of a recycled segment never come back: here a whole
// valid segment's frames lie behind the header of a new one.
func TestStaleBytesOfRecycledSegment(t *testing.T) {
	r := newRig(t, Options{SegmentSize: minSegmentSize, slack: 2}, 2)
	for round := range 6 {
		for range 30 {
			c := r.clients[round%2]
			s := r.put(c, 600)
			r.submit(false, s)
			r.submit(true, step{client: c, op: mq.Op{Kind: mq.OpAck, Seq: s.op.Seq}})
		}
		r.wait()
		r.crash(100, rand.New(rand.NewPCG(3, uint64(round))), true)
		r.check()
		r.reopen()
	}
	if len(r.l.ix.segs) > 4 || r.l.tail.active.epoch < 5 {
		t.Errorf("%d segments, epoch %d: nothing was recycled", len(r.l.ix.segs), r.l.tail.active.epoch)
	}
	r.l.Close()
}
