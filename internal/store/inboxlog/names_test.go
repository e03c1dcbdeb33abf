package inboxlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/homing-mq/homing/internal/mq"
)

// namesOf returns how often Names yields each name.
func namesOf(t testing.TB, l *Log, prefix string) map[string]int {
	t.Helper()
	out := map[string]int{}
	if err := l.Names(prefix, func(name string) error { out[name]++; return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

// Names yields what has entries and the prefix, once, without a lock, and stops
// at the first error.
func TestNames(t *testing.T) {
	const n = 3 * nameChunk
	r := &results{ch: make(chan error, 1)}
	l, err := Open(Options{FS: vfs.NewMem(), Dir: dir, Done: r.done})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i := range n {
		topic := l.Inbox(fmt.Sprint(mq.RetainedInbox, "t/", i))
		l.Submit(mq.Op{Kind: mq.OpPut, Inbox: topic, Seq: 1, Record: []byte("x")})
		if i%4 == 0 {
			l.Submit(mq.Op{Kind: mq.OpAck, Inbox: topic, Seq: 1})
		}
		l.Submit(mq.Op{Kind: mq.OpPut, Inbox: l.Inbox(fmt.Sprint("c", i)), Seq: 1, Record: []byte("x")})
		l.Inbox(fmt.Sprint(mq.RetainedInbox, "empty/", i))
		l.Submit(mq.Op{Kind: mq.OpClaim, Inbox: l.Inbox(fmt.Sprint(mq.RetainedInbox, "claim/", i)), PacketID: 1})
	}
	if err := do(l, r, mq.Op{Kind: mq.OpPut, Inbox: l.Inbox(mq.SharedInbox + "g/t"), Seq: 1, Record: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	got := namesOf(t, l, mq.RetainedInbox)
	if len(got) != n*3/4 {
		t.Errorf("%d retained, want %d", len(got), n*3/4)
	}
	for i := range n {
		want := 1
		if i%4 == 0 {
			want = 0
		}
		if name := fmt.Sprint(mq.RetainedInbox, "t/", i); got[name] != want {
			t.Fatalf("%q was yielded %d times", name, got[name])
		}
	}
	if got := namesOf(t, l, mq.InternalInbox); len(got) != n*3/4+1 {
		t.Errorf("%d internal", len(got))
	}
	if got := namesOf(t, l, ""); len(got) != n*3/4+1+n {
		t.Errorf("%d in all", len(got))
	}
	stop, calls := errors.New("stop"), 0
	err = l.Names("c", func(name string) error {
		if calls++; l.Stats(l.Inbox(name)).Count != 1 { // would hang with a lock
			t.Errorf("%q has no entry", name)
		}
		return stop
	})
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

// A name may have MaxInboxName bytes, through put, claim, move, hint and
// restart; a longer one has no inbox.
func TestLongNames(t *testing.T) {
	fs := vfs.NewMem()
	r := &results{ch: make(chan error, 1)}
	opts := Options{FS: fs, Dir: dir, SegmentSize: 256 << 10, Done: r.done, slack: 2}
	l, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	long := func(n int) string { return mq.RetainedInbox + strings.Repeat("t", n-len(mq.RetainedInbox)) }
	names := []string{long(mq.MaxClientID), long(mq.MaxClientID + 1), long(mq.MaxClientID + 2), long(mq.MaxInboxName)}
	for _, name := range names {
		in := l.Inbox(name)
		if err := do(l, r, mq.Op{Kind: mq.OpPut, Inbox: in, Origin: in, PacketID: 7, Seq: 1, Record: []byte(name[:9])}); err != nil {
			t.Fatal(err)
		}
	}
	if in := l.Inbox(long(mq.MaxInboxName + 1)); in != mq.NoInbox {
		t.Errorf("a name that is too long has handle %d", in)
	}
	check := func() {
		t.Helper()
		checkAccounts(t, l)
		if got := namesOf(t, l, mq.RetainedInbox); len(got) != len(names) {
			t.Errorf("%d names", len(got))
		}
		for _, name := range names {
			in, ok := l.Lookup(name)
			es, _, err := l.Read(in, 0, 10, 1000, nil, nil)
			if !ok || err != nil || len(es) != 1 || len(l.Claims(in)) != 1 {
				t.Errorf("%d bytes: %v %v %v, claims %v", len(name), ok, es, err, l.Claims(in))
			}
		}
	}
	check()
	reopen := func() {
		t.Helper()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if rep, err := Check(fs, dir); err != nil || !rep.OK() {
			t.Fatalf("%v\n%s", err, rep.String())
		}
		if l, err = Open(opts); err != nil {
			t.Fatal(err)
		}
	}
	reopen()
	check()
	first := l.ix.segs[0].epoch
	churn := l.Inbox("churn")
	for seq := uint64(1); seq < 150; seq++ {
		if err := do(l, r, mq.Op{Kind: mq.OpPut, Inbox: churn, Seq: seq, Record: make([]byte, 20_000)}); err != nil {
			t.Fatal(err)
		}
		l.Submit(mq.Op{Kind: mq.OpAck, Inbox: churn, Seq: seq})
	}
	_ = do(l, r, mq.Op{Kind: mq.OpAck, Inbox: churn, Seq: 1000})
	settleLog(t, l)
	if l.ix.segs[0].epoch == first {
		t.Error("nothing was moved")
	}
	check()
	reopen()
	check()
	for _, name := range names {
		l.Submit(mq.Op{Kind: mq.OpReleaseAll, Inbox: l.Inbox(name)})
		if err := do(l, r, mq.Op{Kind: mq.OpAck, Inbox: l.Inbox(name), Seq: 1}); err != nil {
			t.Fatal(err)
		}
		l.Forget(l.Inbox(name))
	}
	reopen()
	if m := l.Metrics(); m.Entries != 0 || m.Inboxes != 0 {
		t.Errorf("%+v", m)
	}
	l.Close()
}

// A million of slots are as large as this.
func TestSlotSize(t *testing.T) {
	if n := unsafe.Sizeof(slot{}); n != 64 {
		t.Errorf("a slot takes %d bytes", n)
	}
}

// List says of every entry what Read says, without the record, before and after a
// restart; and a DelayedInbox does not expire.
func TestListDelayed(t *testing.T) {
	fs, r := vfs.NewMem(), &results{ch: make(chan error, 1)}
	opts := Options{FS: fs, Dir: dir, Retention: time.Hour, Done: r.done}
	l, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	name := mq.DelayedInbox + "07"
	in := l.Inbox(name)
	const n = 100
	for i := uint64(1); i <= n; i++ {
		l.Submit(mq.Op{Kind: mq.OpPut, Inbox: in, Seq: 64 * i, Flags: mq.Flags(i % 3), Expiry: int64(1000 - i), Record: []byte("x")})
	}
	for i := uint64(3); i < n; i += 7 {
		l.Submit(mq.Op{Kind: mq.OpAck, Inbox: in, Seq: 64 * i})
	}
	if err := do(l, r, mq.Op{Kind: mq.OpAck, Inbox: in, Seq: 64}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		want, _, err := l.Read(in, 0, 1<<40, 1<<20, nil, nil)
		if err != nil || len(want) != n-15 {
			t.Fatal(len(want), err)
		}
		var got []mq.Entry
		for more := true; more; {
			after, had := uint64(0), len(got)
			if had > 0 {
				after = got[had-1].Seq
			}
			got = l.List(in, after, 10, got)
			if more = len(got) > had; len(got) > had+10 {
				t.Fatal("more than asked for")
			}
		}
		for i := range want {
			want[i].Record = nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		l.Expired(time.Now().Add(1000*time.Hour), func(name string, seq uint64) bool {
			t.Errorf("%d of %q expires", seq, name)
			return true
		})
		l.Close()
		if l, err = Open(opts); err != nil {
			t.Fatal(err)
		}
		in = l.Inbox(name)
	}
	if got := l.List(mq.NoInbox, 0, 10, nil); len(got) != 0 {
		t.Error("entries of no inbox", got)
	}
	l.Close()
}

// The retention spares retained messages, whose own expiry holds.
func TestRetentionSparesRetained(t *testing.T) {
	r := &results{ch: make(chan error, 1)}
	l, err := Open(Options{FS: vfs.NewMem(), Dir: dir, Retention: time.Hour, Done: r.done})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	now := time.Now()
	for _, name := range []string{"c", mq.RetainedInbox, mq.RetainedInbox + "t", mq.SharedInbox + "g/t", mq.InternalInbox, "r"} {
		in := l.Inbox(name)
		l.Submit(mq.Op{Kind: mq.OpPut, Inbox: in, Seq: 1, Record: []byte("x")})
		op := mq.Op{Kind: mq.OpPut, Inbox: in, Seq: 2, Record: []byte("x"), Expiry: now.Add(2 * time.Hour).UnixMilli()}
		if err := do(l, r, op); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		after              time.Duration
		retained, ordinary int // expired entries of each inbox
	}{{time.Minute, 0, 0}, {90 * time.Minute, 0, 2}, {3 * time.Hour, 1, 2}} {
		got := map[string]int{}
		l.Expired(now.Add(c.after), func(name string, _ uint64) bool { got[name]++; return true })
		for _, name := range []string{"c", mq.SharedInbox + "g/t", mq.InternalInbox, "r"} {
			if got[name] != c.ordinary {
				t.Errorf("after %v: %d of %q expired, want %d", c.after, got[name], name, c.ordinary)
			}
		}
		for _, name := range []string{mq.RetainedInbox, mq.RetainedInbox + "t"} {
			if got[name] != c.retained {
				t.Errorf("after %v: %d of %q expired, want %d", c.after, got[name], name, c.retained)
			}
		}
	}
}

// downgrade gives the headers of all segments and hints format version 1. What
// is in them is the same, as long as no name is long.
func downgrade(t *testing.T, fs vfs.FS) {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		path := fs.PathJoin(dir, name)
		b := readAll(t, fs, path)
		switch {
		case strings.HasSuffix(name, segmentSuffix):
			binary.LittleEndian.PutUint32(b[8:], 1)
			putHeaderCRC(b)
			copy(b[headerCopyAt:], b[:headerBytes])
		case strings.HasSuffix(name, hintSuffix):
			binary.LittleEndian.PutUint32(b[8:], 1)
			putHeaderCRC(b)
		case name == stateName: // there was none
			if err := fs.Remove(path); err != nil {
				t.Fatal(err)
			}
			continue
		default:
			continue
		}
		writeAll(t, fs, path, b)
	}
}

// versions returns the format version of each segment.
func versions(t *testing.T, fs vfs.FS) (out []uint32) {
	t.Helper()
	for _, path := range segmentsOf(t, fs) {
		out = append(out, binary.LittleEndian.Uint32(readAll(t, fs, path)[8:]))
	}
	return out
}

// A log of format version 1 is read, its hints are used, and what is written
// to it goes to segments of the current version.
func TestOldFormat(t *testing.T) {
	r := newRig(t, Options{Sync: SyncAlways}, 3)
	for i := range 40 {
		r.submit(i%7 == 0, r.put(r.clients[i%3], 2000))
	}
	r.check()
	settleLog(t, r.l)
	if err := r.l.Close(); err != nil {
		t.Fatal(err)
	}
	downgrade(t, r.fs)
	r.open()
	hinted, old := 0, r.l.tail.active
	r.l.ix.mu.Lock()
	for _, s := range r.l.ix.segs {
		if s.sealed && s.hinted {
			hinted++
		}
	}
	r.l.ix.mu.Unlock()
	if hinted < 3 || old.version != 1 || old.size-r.l.tail.end < 1000 {
		t.Fatalf("%d hints were used, the last segment has version %d", hinted, old.version)
	}
	r.check() // the first write
	if now := r.l.tail.active; !old.sealed || now.version != formatVersion {
		t.Errorf("ops go to a segment of version %d", now.version)
	}
	r.reopen()
	if all := versions(t, r.fs); slices.Min(all) != 1 || slices.Max(all) != formatVersion {
		t.Errorf("versions are %v", all)
	}
	for range 60 { // the old segments are compacted away
		for _, c := range r.clients {
			s := r.put(c, 2000)
			r.submit(false, s)
			r.submit(false, step{client: c, op: mq.Op{Kind: mq.OpAck, Seq: s.op.Seq}})
		}
	}
	r.check()
	settleLog(t, r.l)
	for _, v := range versions(t, r.fs) {
		if v != formatVersion {
			t.Errorf("versions are %v", versions(t, r.fs))
			break
		}
	}
	r.reopen()
	r.l.Close()
}

// Check names the server's own inboxes readably.
func TestCheckNamesInternalInbox(t *testing.T) {
	fs := vfs.NewMem()
	r := &results{ch: make(chan error, 1)}
	l, err := Open(Options{FS: fs, Dir: dir, SegmentSize: minSegmentSize, Done: r.done})
	if err != nil {
		t.Fatal(err)
	}
	in := l.Inbox(mq.RetainedInbox + "room/1")
	if err := do(l, r, mq.Op{Kind: mq.OpPut, Inbox: in, Seq: 3, Record: []byte("21 degrees")}); err != nil {
		t.Fatal(err)
	}
	l.Close()
	path := segmentsOf(t, fs)[0]
	b := readAll(t, fs, path)
	at := strings.Index(string(b), "21 degrees")
	b[at]++
	// The frame checks all the same: the record was bad when it was written.
	var h frameHeader
	s := &segment{path: path, epoch: 1}
	if s.file, err = fs.Open(path); err != nil {
		t.Fatal(err)
	}
	defer s.file.Close()
	if err := s.readHeader(); err != nil || !h.parse(b[segmentHeaderSize:], s.key, segmentHeaderSize) {
		t.Fatal("no frame", err)
	}
	body := b[segmentHeaderSize+frameHeaderSize:]
	h.bodyCRC = bodyCRC(body[:h.length], s.key)
	h.put(b[segmentHeaderSize:], s.key, segmentHeaderSize)
	writeAll(t, fs, path, b)
	rep, err := Check(fs, dir)
	if want := `message 3 of inbox "\x00rroom/1" does not match`; err != nil || !strings.Contains(rep.String(), want) {
		t.Errorf("%v\n%s", err, rep.String())
	}
}

func BenchmarkNames(b *testing.B) {
	l, err := Open(Options{FS: vfs.NewMem(), Dir: dir, Sync: SyncOS})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	const n = 1_000_000
	for i := range n {
		l.Throttle()
		l.Submit(mq.Op{Kind: mq.OpPut, Inbox: l.Inbox(fmt.Sprintf("%splant/line/%07d", mq.RetainedInbox, i)), Seq: 1, Record: []byte("x")})
	}
	written(l)
	b.ResetTimer()
	for b.Loop() {
		names := 0
		if err := l.Names(mq.RetainedInbox, func(string) error { names++; return nil }); err != nil || names != n {
			b.Fatal(names, err)
		}
	}
}
