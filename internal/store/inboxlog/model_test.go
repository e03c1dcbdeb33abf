package inboxlog

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"github.com/homing-mq/homing/internal/mq"
)

// model is the naive log: what a Log must look like from outside.
type model struct {
	inboxes map[string][]mq.Entry
	claims  map[string][]uint16
}

func newModel() *model {
	return &model{inboxes: map[string][]mq.Entry{}, claims: map[string][]uint16{}}
}

// step is an op with client IDs instead of handles. Steps with the same group
// other than 0 are one unit.
type step struct {
	op     mq.Op
	client string
	origin string
	group  int
}

func (m *model) apply(s step) {
	es := m.inboxes[s.client]
	switch s.op.Kind {
	case mq.OpPut:
		es = append(es, mq.Entry{Seq: s.op.Seq, Flags: s.op.Flags, Expiry: s.op.Expiry, Record: s.op.Record})
		if s.origin != "" {
			m.claim(s.origin, s.op.PacketID)
		}
	case mq.OpAck:
		es = slices.DeleteFunc(es, func(e mq.Entry) bool { return e.Seq == s.op.Seq })
	case mq.OpSent:
		for i := range es {
			if es[i].Seq <= s.op.Seq {
				es[i].Flags |= mq.FlagSent
			}
		}
	case mq.OpReceived:
		for i := range es {
			if es[i].Seq == s.op.Seq {
				es[i].Flags |= mq.FlagReceived
			}
		}
	case mq.OpClear:
		var keep []mq.Entry
		for _, e := range es {
			if e.Seq > s.op.Seq {
				keep = append(keep, e)
			} else if e.Flags&mq.FlagKeep != 0 && e.Flags&mq.FlagReceived == 0 {
				e.Flags &^= mq.FlagSent
				keep = append(keep, e)
			}
		}
		es = keep
	case mq.OpClaim:
		m.claim(s.client, s.op.PacketID)
	case mq.OpRelease:
		m.claims[s.client] = slices.DeleteFunc(m.claims[s.client], func(p uint16) bool { return p == s.op.PacketID })
	case mq.OpReleaseAll:
		delete(m.claims, s.client)
	}
	m.inboxes[s.client] = es
	if len(es) == 0 {
		delete(m.inboxes, s.client)
	}
	if len(m.claims[s.client]) == 0 {
		delete(m.claims, s.client)
	}
}

func (m *model) claim(client string, packet uint16) {
	if cs := m.claims[client]; !slices.Contains(cs, packet) {
		cs = append(slices.Clone(cs), packet)
		slices.Sort(cs)
		m.claims[client] = cs
	}
}

func (m *model) clone() *model {
	c := newModel()
	for k, v := range m.inboxes {
		c.inboxes[k] = slices.Clone(v)
	}
	for k, v := range m.claims {
		c.claims[k] = slices.Clone(v)
	}
	return c
}

// snapshot reads everything from l.
func snapshot(l *Log, clients []string) (*model, error) {
	m := newModel()
	for _, c := range clients {
		in, ok := l.Lookup(c)
		if !ok {
			continue
		}
		st := l.Stats(in)
		es, _, err := l.Read(in, 0, 1<<63, 1<<40, nil, nil)
		if err == nil && 0 < len(es) && len(es) < st.Count { // stopped at damage
			_, _, err = l.Read(in, es[len(es)-1].Seq, 1<<63, 1<<40, nil, nil)
		}
		if err != nil {
			return nil, err
		}
		if len(es) != st.Count {
			return nil, fmt.Errorf("%s: %d entries read, Stats says %d", c, len(es), st.Count)
		}
		if len(es) > 0 {
			m.inboxes[c] = es
		}
		if cs := l.Claims(in); len(cs) > 0 {
			m.claims[c] = cs
		}
		l.Forget(in)
	}
	return m, m.checkNames(l)
}

// checkNames compares what Names yields with the inboxes of m.
func (m *model) checkNames(l *Log) error {
	for _, prefix := range []string{"", "client", mq.InternalInbox, mq.RetainedInbox, mq.SharedInbox, mq.SharedInbox + "g/2/+x"} {
		var want, got []string
		for c := range m.inboxes {
			if strings.HasPrefix(c, prefix) {
				want = append(want, c)
			}
		}
		if err := l.Names(prefix, func(name string) error { got = append(got, name); return nil }); err != nil {
			return err
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(want, got) {
			return fmt.Errorf("names with %q: %q, want %q", prefix, got, want)
		}
	}
	return nil
}

func sameEntry(a, b mq.Entry) bool {
	return a.Seq == b.Seq && a.Flags == b.Flags && a.Expiry == b.Expiry && bytes.Equal(a.Record, b.Record)
}

func (m *model) equal(o *model) bool {
	return maps.EqualFunc(m.inboxes, o.inboxes, func(a, b []mq.Entry) bool { return slices.EqualFunc(a, b, sameEntry) }) &&
		maps.EqualFunc(m.claims, o.claims, slices.Equal)
}

func (m *model) String() string {
	var b strings.Builder
	for _, c := range slices.Sorted(maps.Keys(m.inboxes)) {
		for _, e := range m.inboxes[c] {
			fmt.Fprintf(&b, "%q %d flags %02x expiry %d record %d %08x\n", c, e.Seq, e.Flags, e.Expiry, len(e.Record), recordCRC(e.Record))
		}
	}
	for _, c := range slices.Sorted(maps.Keys(m.claims)) {
		fmt.Fprintf(&b, "%q claims %v\n", c, m.claims[c])
	}
	return b.String()
}

func (m *model) diff(o *model) string {
	if m.equal(o) {
		return ""
	}
	return cmp.Diff(strings.Split(m.String(), "\n"), strings.Split(o.String(), "\n"))
}

// tb is what testing.T and rapid.T have in common here.
type tb interface {
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
	Helper()
}

// rig runs a Log and remembers what was submitted to it.
type rig struct {
	t       tb
	fs      *vfs.MemFS
	opts    Options
	l       *Log
	clients []string
	next    map[string]uint64

	// base is the state at the last (re)opening, steps what was submitted
	// since, done how many of steps surely are durable or lost on purpose.
	base  *model
	steps []step
	group int

	mu   sync.Mutex
	cond sync.Cond
	done int // steps up to here were reported done
	errs []error
}

const dir = "log"

func newRig(t tb, opts Options, clients int) *rig {
	r := &rig{t: t, fs: vfs.NewCrashableMem(), opts: opts, next: map[string]uint64{}, base: newModel()}
	r.cond.L = &r.mu
	for i := range clients {
		r.clients = append(r.clients, fmt.Sprintf([]string{"client-%d", mq.RetainedInbox + "a/%d", mq.SharedInbox + "g/%d/+"}[i%3], i))
	}
	r.open()
	return r
}

// token marks the ops of a rig: Token is the number of steps up to it.
type token struct{ r *rig }

func (r *rig) open() {
	r.t.Helper()
	if err := r.tryOpen(); err != nil {
		r.t.Fatalf("open: %v", err)
	}
}

func (r *rig) tryOpen() error {
	r.opts.FS, r.opts.Dir = r.fs, dir
	if r.opts.SegmentSize == 0 {
		r.opts.SegmentSize = minSegmentSize
	}
	r.opts.Done = func(ops []mq.Op, err error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, op := range ops {
			if op.Owner.(*token).r != r {
				panic("someone else's op")
			}
			if err != nil {
				r.errs = append(r.errs, err)
			} else if int(op.Token) <= r.done {
				panic(fmt.Sprintf("op %d done after %d", op.Token, r.done))
			} else {
				r.done = int(op.Token)
			}
		}
		r.cond.Broadcast()
	}
	l, err := Open(r.opts)
	r.l = l
	return err
}

// submit submits steps as one unit; if owned, its last op has an owner.
func (r *rig) submit(owned bool, steps ...step) {
	if len(steps) > 1 {
		r.group++
	}
	var ops []mq.Op
	var held []mq.Inbox
	for i := range steps {
		s := &steps[i]
		if len(steps) > 1 {
			s.group = r.group
		}
		s.op.Inbox = r.l.Inbox(s.client)
		held = append(held, s.op.Inbox)
		if s.origin != "" {
			s.op.Origin = r.l.Inbox(s.origin)
			held = append(held, s.op.Origin)
		}
		ops = append(ops, s.op)
	}
	r.steps = append(r.steps, steps...)
	if owned {
		last := &ops[len(ops)-1]
		last.Owner, last.Token = &token{r}, uint64(len(r.steps))
	}
	if len(ops) == 1 {
		r.l.Submit(ops[0])
	} else {
		r.l.SubmitGroup(ops)
	}
	for _, in := range held {
		r.l.Forget(in)
	}
}

func (r *rig) seq(client string) uint64 {
	r.next[client]++
	return r.next[client]
}

// wait waits until all owned steps are done and everything submitted is
// visible.
func (r *rig) wait() {
	r.t.Helper()
	r.submit(true, step{client: r.clients[0], op: mq.Op{Kind: mq.OpAck, Seq: 1 << 60}})
	r.mu.Lock()
	defer r.mu.Unlock()
	timer := time.AfterFunc(20*time.Second, func() { panic("nothing done for 20 s") })
	defer timer.Stop()
	for r.done < len(r.steps) && len(r.errs) == 0 {
		r.cond.Wait()
	}
	if len(r.errs) > 0 {
		r.t.Fatalf("done with error: %v", r.errs[0])
	}
}

// check compares the log with the model after all steps.
func (r *rig) check() {
	r.t.Helper()
	r.wait()
	want := r.base.clone()
	for _, s := range r.steps {
		want.apply(s)
	}
	got, err := snapshot(r.l, r.clients)
	if err != nil {
		r.t.Fatalf("%v", err)
	}
	if d := want.diff(got); d != "" {
		r.t.Fatalf("the log differs from the model (-want +got):\n%s", d)
	}
	checkAccounts(r.t, r.l)
}

// reopen closes and opens the log: nothing may change.
func (r *rig) reopen() {
	r.t.Helper()
	r.wait()
	if err := r.l.Close(); err != nil {
		r.t.Fatalf("close: %v", err)
	}
	r.open()
	r.check()
	r.rebase(len(r.steps))
}

// rebase makes the state after n steps the base.
func (r *rig) rebase(n int) {
	for _, s := range r.steps[:n] {
		r.base.apply(s)
	}
	r.steps, r.done = nil, 0
}

// crash opens a log from what a crash now would leave of the files: of what
// was written and not synced, each block with the given probability. The result
// must be the state after some number of steps, not fewer than were done.
func (r *rig) crash(percent int, rng *rand.Rand, minDone bool) {
	r.t.Helper()
	r.mu.Lock()
	done := r.done
	fs := r.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
	r.mu.Unlock()
	if err := r.l.Close(); err != nil {
		r.t.Fatalf("close: %v", err)
	}
	if !minDone {
		done = 0
	}
	r.fs = fs
	r.open()
	r.recovered(done)
}

// recovered checks the state after a crash: see crash.
func (r *rig) recovered(done int) {
	r.t.Helper()
	got, err := snapshot(r.l, r.clients)
	if err != nil {
		r.t.Fatalf("%v", err)
	}
	checkAccounts(r.t, r.l)
	state := r.base.clone()
	var nearest string
	for n := 0; n <= len(r.steps); n++ {
		if n > 0 {
			state.apply(r.steps[n-1])
		}
		inGroup := n > 0 && n < len(r.steps) && r.steps[n].group != 0 && r.steps[n].group == r.steps[n-1].group
		if n < done || inGroup {
			continue
		}
		if state.equal(got) {
			r.rebase(n)
			return
		}
		if nearest == "" {
			nearest = fmt.Sprintf("after %d of %d steps (%d done):\n%s", n, len(r.steps), done, state.diff(got))
		}
	}
	r.t.Fatalf("after the crash the log is in no state it ever had; nearest (-want +got): %s", nearest)
}

// checkAccounts recounts what the index and segments count.
func checkAccounts(t tb, l *Log) {
	t.Helper()
	ix := l.ix
	ix.mu.Lock()
	defer ix.mu.Unlock()
	entries, claims := map[uint32]int{}, map[uint32]int{}
	size24 := map[uint32]int64{}
	shared := map[uint64]uint32{}
	var live int64
	slots := 0
	for id := uint32(1); id < ix.top; id++ {
		s := ix.slot(id)
		if s.name == 0 {
			continue
		}
		slots++
		var count uint32
		var size int64
		var last uint64
		for i, es := 0, ix.view(s); i < len(es); i++ {
			e := &es[i]
			if i > 0 && e.seq <= last {
				t.Fatalf("slot %d: seqs %d, %d", id, last, e.seq)
			}
			last = e.seq
			if e.dead() {
				if i == 0 || i == len(es)-1 {
					t.Fatalf("slot %d: dead entry at the edge", id)
				}
				continue
			}
			count++
			size += int64(e.size)
			entries[e.epoch24()]++
			b := int64(s.nameLen()) + liveExtra
			if e.where&entryShared == 0 || shared[e.place()] == 0 {
				b += int64(e.size)
			}
			if e.where&entryShared != 0 {
				shared[e.place()]++
			}
			size24[e.epoch24()] += b
			live += b
		}
		if count != s.count || size != s.bytes {
			t.Fatalf("slot %d: counted %d, %d; it says %d, %d", id, count, size, s.count, s.bytes)
		}
		for _, c := range ix.claimView(s) {
			claims[c.epoch]++
			size24[c.epoch] += claimBytes
			live += claimBytes
		}
		if id != ix.lookup(ix.name(s)) {
			t.Fatalf("slot %d: not found by its name", id)
		}
	}
	if slots != ix.table.count || slots+len(ix.vacant) != int(ix.top-1) {
		t.Fatalf("%d slots used, table has %d, %d vacant of %d", slots, ix.table.count, len(ix.vacant), ix.top-1)
	}
	checkHolders(t, ix)
	for _, s := range ix.segs {
		if s.entries != entries[s.epoch] || s.claims != claims[s.epoch] || s.bytes != size24[s.epoch] {
			t.Fatalf("segment %d: has %d, %d, %d; it says %d, %d, %d", s.epoch,
				entries[s.epoch], claims[s.epoch], size24[s.epoch], s.entries, s.claims, s.bytes)
		}
	}
	var sealed int64
	for _, s := range ix.segs {
		if s.sealed {
			sealed += s.sealAt - segmentHeaderSize
		}
	}
	if sealed != ix.sealed {
		t.Fatalf("sealed: counted %d, it says %d", sealed, ix.sealed)
	}
	if live != ix.live {
		t.Fatalf("live: counted %d, it says %d", live, ix.live)
	}
	if d := cmp.Diff(shared, ix.shared); d != "" {
		t.Fatalf("shared records: %s", d)
	}
}

func TestMain(m *testing.M) { leakMain(m) }
