package inboxlog

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/homing-mq/homing/internal/mq"
)

// swaps does what the broker relies on SubmitGroup for: it replaces the entry
// of retained inboxes ({put new, ack old}), and hands jobs from a shared inbox
// to its members ({put to a member, ack in the shared inbox}). Between them
// goes traffic that makes the log rotate, write hints and compact.
type swaps struct {
	l      *Log
	ch     chan error
	topics [4]swapState        // of retained inboxes
	jobs   map[uint64]*swapJob // by seq in the shared inbox
	member [3]uint64           // the last seq given out
	churn  uint64
}

// swapState is the truth about one retained inbox.
type swapState struct {
	live  uint64   // the entry it has; 0: none was put yet
	tried []uint64 // groups since then that failed: after a restart they may be found
	last  uint64   // the last seq given out
}

// swapJob says where the entry of a job has to be.
type swapJob struct {
	put, maybePut     bool // it is in the log; its put failed, it may be found
	moved, maybeMoved bool // the same of the move to member seq
	member            int
	seq               uint64
}

func topicName(i int) string  { return fmt.Sprint(mq.RetainedInbox, "room/", i) }
func memberName(i int) string { return fmt.Sprint("member-", i) }

const jobsName = mq.SharedInbox + "workers/jobs/#"

func newSwaps(opts Options) (*swaps, error) {
	s := &swaps{ch: make(chan error, 1), jobs: map[uint64]*swapJob{}}
	opts.Done = func(ops []mq.Op, err error) {
		for range ops {
			s.ch <- err
		}
	}
	var err error
	s.l, err = Open(opts)
	return s, err
}

// group submits ops as a unit and waits for it.
func (s *swaps) group(ops ...mq.Op) error {
	ops[len(ops)-1].Owner = s
	s.l.SubmitGroup(ops)
	return <-s.ch
}

func (s *swaps) record(key string, seq uint64) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "%q %d;", key, seq), 20)
}

// retain replaces the entry of a topic.
func (s *swaps) retain(i int) {
	st := &s.topics[i]
	in := s.l.Inbox(topicName(i))
	st.last++
	err := s.group(
		mq.Op{Kind: mq.OpPut, Inbox: in, Seq: st.last, Record: s.record(topicName(i), st.last)},
		mq.Op{Kind: mq.OpAck, Inbox: in, Seq: st.live})
	if err != nil {
		st.tried = append(st.tried, st.last)
		return
	}
	st.live, st.tried = st.last, nil
}

// job puts a job into the shared inbox.
func (s *swaps) job(seq uint64) {
	j := &swapJob{}
	s.jobs[seq] = j
	err := s.group(mq.Op{Kind: mq.OpPut, Inbox: s.l.Inbox(jobsName), Seq: seq, Record: s.record("job", seq)})
	j.put, j.maybePut = err == nil, err != nil
}

// assign moves a job to a member.
func (s *swaps) assign(seq uint64, member int) {
	j := s.jobs[seq]
	s.member[member]++
	at := s.member[member]
	err := s.group(
		mq.Op{Kind: mq.OpPut, Inbox: s.l.Inbox(memberName(member)), Seq: at, Record: s.record("job", seq)},
		mq.Op{Kind: mq.OpAck, Inbox: s.l.Inbox(jobsName), Seq: seq})
	j.member, j.seq = member, at
	j.moved, j.maybeMoved = err == nil, err != nil
}

// noise fills segments with what is acknowledged at once.
func (s *swaps) noise(n int) {
	in := s.l.Inbox("noise")
	for range n {
		s.churn++
		s.l.Submit(mq.Op{Kind: mq.OpPut, Inbox: in, Seq: s.churn, Record: make([]byte, 1500)})
		s.l.Submit(mq.Op{Kind: mq.OpAck, Inbox: in, Seq: s.churn})
	}
}

// step does the i-th piece of work.
func (s *swaps) step(i int) {
	switch seq := uint64(i/4 + 1); i % 4 {
	case 0:
		s.job(seq)
	case 1:
		s.retain(i / 4 % len(s.topics))
	case 2:
		s.noise(3)
	case 3:
		if old := seq - min(seq, 5); old > 0 && s.jobs[old].put { // some stay for a while
			s.assign(old, i%len(s.member))
		}
	}
}

func seqsOf(t testing.TB, l *Log, name string) []uint64 {
	t.Helper()
	es, _, err := l.Read(l.Inbox(name), 0, 1<<62, 1<<40, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var out []uint64
	for _, e := range es {
		out = append(out, e.Seq)
	}
	return out
}

// verify looks for halves of groups in l, which is the log of s or one opened
// from what a fault or crash has left of it. found: what failed may be there.
func (s *swaps) verify(t testing.TB, l *Log, found bool) {
	t.Helper()
	for i := range s.topics {
		st := &s.topics[i]
		seqs := seqsOf(t, l, topicName(i))
		var want []uint64
		if st.live != 0 {
			want = []uint64{st.live}
		}
		if slices.Equal(seqs, want) || found && len(seqs) == 1 && slices.Contains(st.tried, seqs[0]) {
			continue
		}
		t.Errorf("topic %d has entries %v, want %v (tried %v)", i, seqs, want, st.tried)
	}
	shared := seqsOf(t, l, jobsName)
	var members [len(s.member)][]uint64
	for i := range members {
		members[i] = seqsOf(t, l, memberName(i))
	}
	for seq, j := range s.jobs {
		waits := slices.Contains(shared, seq)
		has := j.seq != 0 && slices.Contains(members[j.member], j.seq)
		switch {
		case waits && has:
			t.Errorf("job %d waits and is with a member", seq)
		case j.put && !waits && !has:
			t.Errorf("job %d is lost (%+v)", seq, *j)
		case waits && j.moved, has && !j.moved && !(found && j.maybeMoved), waits && !j.put && !(found && j.maybePut):
			t.Errorf("job %d: waits %v, with a member %v, but %+v", seq, waits, has, *j)
		}
	}
}

const swapSteps = 240

// With each call of the file system failing in turn, once or from then on, no
// half of a group is ever seen: not in the running log, not after a restart.
func TestGroupsUnderFaults(t *testing.T) {
	opts := Options{Dir: dir, SegmentSize: minSegmentSize, slack: 2}
	run := func(fs vfs.FS, inj errorfs.Injector) *swaps {
		opts.FS = errorfs.Wrap(fs, inj)
		s, err := newSwaps(opts)
		if err != nil {
			return nil
		}
		for i := range swapSteps {
			s.step(i)
		}
		return s
	}
	var count atomic.Int64
	s := run(vfs.NewMem(), errorfs.InjectorFunc(func(errorfs.Op) error { count.Add(1); return nil }))
	s.verify(t, s.l, false)
	settleLog(t, s.l)
	if first := s.l.ix.segs[0].epoch; first < 3 {
		t.Errorf("the first segment is %d: nothing was compacted", first)
	}
	s.l.Close()
	stride := int64(1)
	if testing.Short() {
		stride = 11
	}
	failed := 0
	for _, forever := range []bool{false, true} {
		for n := int64(1); n <= count.Load() && !t.Failed(); n += stride {
			var calls atomic.Int64
			fs := vfs.NewMem()
			s := run(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
				// Reads must work, or there is nothing to compare.
				if c := calls.Add(1); op.Kind.ReadOrWrite() == errorfs.OpIsWrite && (c == n || forever && c > n) {
					return errorfs.ErrInjected
				}
				return nil
			}))
			if s == nil {
				continue
			}
			s.verify(t, s.l, false)
			for i := range s.topics {
				failed += len(s.topics[i].tried)
			}
			_ = s.l.Close()
			opts.FS = fs
			l, err := Open(opts)
			if err != nil {
				t.Fatalf("call %d failing, for ever %v: %v", n, forever, err)
			}
			s.verify(t, l, true)
			checkAccounts(t, l)
			l.Close()
			if t.Failed() {
				t.Fatalf("with call %d failing, for ever: %v", n, forever)
			}
		}
	}
	if failed == 0 {
		t.Error("no group ever failed: nothing was tested")
	}
	t.Logf("%d calls, %d groups failed", count.Load(), failed)
}

// A power loss at any time, in the middle of compaction too, leaves whole
// groups only, and all of those that were done.
func TestGroupsUnderPowerLoss(t *testing.T) {
	rounds := 60
	if testing.Short() {
		rounds = 12
	}
	moved := 0
	for round := range rounds {
		rng := rand.New(rand.NewPCG(uint64(round), 3))
		fs := vfs.NewCrashableMem()
		opts := Options{FS: fs, Dir: dir, SegmentSize: minSegmentSize, slack: 2}
		s, err := newSwaps(opts)
		if err != nil {
			t.Fatal(err)
		}
		for i := range rng.IntN(swapSteps) + 20 {
			s.step(i)
		}
		// The last group is under way when the power goes.
		st := &s.topics[0]
		in := s.l.Inbox(topicName(0))
		st.last++
		st.tried = append(st.tried, st.last)
		s.noise(5)
		s.l.SubmitGroup([]mq.Op{
			{Kind: mq.OpPut, Inbox: in, Seq: st.last, Record: s.record(topicName(0), st.last)},
			{Kind: mq.OpAck, Inbox: in, Seq: st.live, Owner: s},
		})
		crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 30, 60, 100}[round%4], RNG: rng})
		<-s.ch
		s.l.Close()
		for range 2 { // and once more, from what the first start has made of it
			opts.FS = crashed
			l, err := Open(opts)
			if err != nil {
				t.Fatal(err)
			}
			if l.ix.segs[0].epoch > 1 {
				moved++
			}
			s.verify(t, l, true)
			checkAccounts(t, l)
			settleLog(t, l)
			s.verify(t, l, true)
			l.Close()
		}
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
	if moved == 0 {
		t.Error("nothing was compacted: nothing was tested")
	}
}

// copies returns how many records of the given size the files of l hold.
func copies(t *testing.T, l *Log, size int) (n int) {
	t.Helper()
	for _, s := range l.ix.segs {
		sc := newScanner(s)
		var h frameHeader
		for {
			frame := sc.pos
			body, ok, err := sc.next(&h)
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			if h.typ != frameOps {
				continue
			}
			if err := sc.ops(&h, body, frame, func(op *diskOp) {
				if len(op.record) == size {
					n++
				}
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return n
}

// A payload for 1000 inboxes, in groups of 64, is written once per group, and
// is there once per group after everything was moved.
func TestFanOutInGroups(t *testing.T) {
	const n, per, size = 1000, 64, 4096
	const groups = (n + per - 1) / per
	r := &results{ch: make(chan error, n)}
	var written atomic.Int64
	l, err := Open(Options{
		FS: vfs.NewMem(), Dir: dir, SegmentSize: 64 << 10, Done: r.done, slack: 2,
		Observer: Observer{Commit: func(i CommitInfo) { written.Add(int64(i.Bytes)) }},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	record := bytes.Repeat([]byte("p"), size)
	var ops []mq.Op
	for i := range n {
		ops = append(ops, mq.Op{Kind: mq.OpPut, Inbox: l.Inbox(fmt.Sprint("c", i)), Seq: 1, Record: record})
	}
	for g := range slices.Chunk(ops, per) {
		g[len(g)-1].Owner = r
		l.SubmitGroup(g)
	}
	for range groups {
		if err := <-r.ch; err != nil {
			t.Fatal(err)
		}
	}
	total := written.Load()
	if c := copies(t, l, size); c != groups || total > groups*size+n*64 {
		t.Errorf("%d copies in %d bytes, want %d", c, total, groups)
	}
	check := func(left int) {
		t.Helper()
		checkAccounts(t, l)
		found := 0
		for i := range n {
			es, _, err := l.Read(l.Inbox(fmt.Sprint("c", i)), 0, 10, 1<<20, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range es {
				if found++; !bytes.Equal(e.Record, record) {
					t.Fatalf("c%d: wrong record", i)
				}
			}
		}
		if found != left {
			t.Errorf("%d entries, want %d", found, left)
		}
	}
	first := l.ix.segs[len(l.ix.segs)-1].epoch
	churn, seq := l.Inbox("churn"), uint64(0)
	compact := func() { // until nothing is where it was
		t.Helper()
		for until := l.ix.segs[len(l.ix.segs)-1].epoch; ; {
			for range 20 {
				seq++
				l.Submit(mq.Op{Kind: mq.OpPut, Inbox: churn, Seq: seq, Record: make([]byte, 8000)})
				l.Submit(mq.Op{Kind: mq.OpAck, Inbox: churn, Seq: seq})
			}
			_ = do(l, r, mq.Op{Kind: mq.OpAck, Inbox: churn, Seq: 1 << 40})
			settleLog(t, l)
			l.ix.mu.Lock()
			oldest := l.ix.segs[0].epoch
			l.ix.mu.Unlock()
			if oldest > until {
				return
			}
		}
	}
	compact()
	c, m := copies(t, l, size), l.Metrics()
	t.Logf("%d bytes written for %d payloads; after compaction %d copies, %d bytes live, %d on disk", total, n, c, m.LiveBytes, m.DiskBytes)
	if first >= l.ix.segs[0].epoch {
		t.Error("nothing was moved")
	}
	if c > 2*groups || m.LiveBytes > total+n*40 {
		t.Errorf("after compaction: %d copies, %d bytes live", c, m.LiveBytes)
	}
	check(n)
	for i := range n { // all but one of each group
		if i%per != 0 {
			l.Submit(mq.Op{Kind: mq.OpAck, Inbox: l.Inbox(fmt.Sprint("c", i)), Seq: 1})
		}
	}
	compact()
	check(groups)
	if c := copies(t, l, size); c > 2*groups {
		t.Errorf("one target left of each group: %d copies", c)
	}
}
