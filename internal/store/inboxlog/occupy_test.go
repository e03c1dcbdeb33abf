package inboxlog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/homing-mq/homing/internal/mq"
)

// checkHolders recounts the inboxes that hold messages. Locked: mu.
func checkHolders(t tb, ix *index) {
	t.Helper()
	var n, names int64
	by := map[mq.Account]int64{}
	for id := uint32(1); id < ix.top; id++ {
		s := ix.slot(id)
		if s.name == 0 || !s.counts() || !limited(string(ix.name(s))) {
			if a := ix.holders.owner(id); a != mq.Nobody {
				t.Fatalf("slot %d does not hold messages, and is on account %d", id, a)
			}
			continue
		}
		n++
		names += int64(s.nameLen())
		by[ix.holders.owner(id)]++
	}
	h := &ix.holders
	if h.inboxes.Used() != n || h.names.Used() != names {
		t.Fatalf("%d inboxes hold messages, with names of %d bytes; counted are %d and %d", n, names, h.inboxes.Used(), h.names.Used())
	}
	for a, want := range by {
		if got := h.inboxes.Of(a); a != mq.Nobody && got != want {
			t.Fatalf("account %d has %d inboxes; counted are %d", a, want, got)
		}
	}
}

// occupier submits puts as the core does, and knows what must be counted.
type occupier struct {
	t    *testing.T
	opts Options
	l    *Log
	done chan error
	live map[string][]uint64 // seqs by name
	next map[string]uint64
}

func (o *occupier) open() {
	o.t.Helper()
	o.opts.Dir, o.opts.SegmentSize = dir, max(o.opts.SegmentSize, minSegmentSize)
	o.opts.Done = func(ops []mq.Op, err error) {
		for range ops {
			o.done <- err
		}
	}
	var err error
	if o.l, err = Open(o.opts); err != nil {
		o.t.Fatal(err)
	}
}

// put stores a message as the core does. It reports whether there was a place.
func (o *occupier) put(name string, by mq.Account) bool {
	o.t.Helper()
	in, err := o.l.Occupy(name, by)
	if e := new(mq.Error); errors.As(err, &e) && e.Code == mq.InboxesFull {
		return false
	} else if err != nil {
		o.t.Fatal(err)
	}
	o.next[name]++
	seq := max(o.next[name], o.l.NextSeq(in))
	o.next[name] = seq
	o.l.Submit(mq.Op{Kind: mq.OpPut, Inbox: in, Seq: seq, Flags: mq.FlagKeep, Record: []byte("hello"), Owner: o})
	o.live[name] = append(o.live[name], seq)
	return true
}

// wait waits for the last put.
func (o *occupier) wait() {
	o.t.Helper()
	if err := <-o.done; err != nil {
		o.t.Fatal(err)
	}
}

// ack removes the oldest message of an inbox, and waits until it is gone.
func (o *occupier) ack(name string) {
	o.t.Helper()
	in := o.l.Inbox(name)
	o.l.Submit(mq.Op{Kind: mq.OpAck, Inbox: in, Seq: o.live[name][0], Owner: o})
	o.wait()
	if o.live[name] = o.live[name][1:]; len(o.live[name]) == 0 {
		delete(o.live, name)
		delete(o.next, name)
	}
	o.l.Forget(in)
}

// check compares what is counted with the model.
func (o *occupier) check(when string) {
	o.t.Helper()
	var names int64
	for name := range o.live {
		names += int64(len(name))
	}
	m := o.l.Metrics()
	if m.Holding != int64(len(o.live)) || m.NameBytes != names {
		o.t.Fatalf("%s: %d inboxes hold messages, with names of %d bytes; want %d and %d", when, m.Holding, m.NameBytes, len(o.live), names)
	}
	checkAccounts(o.t, o.l)
}

// The counts are exact over puts, acknowledgements, orderly restarts and losses
// of power; at the limit no more inboxes hold messages, and an empty one makes
// room. Account 1 sends most, account 2 always gets its part.
func TestOccupyModel(t *testing.T) {
	const most = 40
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 1))
		fs := vfs.NewCrashableMem()
		o := &occupier{t: t, done: make(chan error, 1), live: map[string][]uint64{}, next: map[string]uint64{}}
		o.opts = Options{FS: fs, Inboxes: mq.Limit{Max: most, Share: 75}, InboxNames: mq.Limit{Max: 2000}}
		o.open()
		arrived, refused, other := 0, 0, 0
		for step := range 1500 {
			name := fmt.Sprintf("device-%d", rng.IntN(3*most))
			switch k := rng.IntN(100); {
			case k < 55:
				before := len(o.live[name])
				ok := o.put(name, 1+mq.Account(rng.IntN(20)/19))
				if ok {
					o.wait()
					arrived++
				} else if refused++; before > 0 {
					t.Fatalf("seed %d, step %d: an inbox that holds messages was refused another", seed, step)
				}
			case k < 90:
				for victim := range o.live {
					o.ack(victim)
					break
				}
			case k < 93:
				fs = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
				if err := o.l.Close(); err != nil {
					t.Fatal(err)
				}
				o.opts.FS = fs
				o.open()
			case k < 95:
				if err := o.l.Close(); err != nil {
					t.Fatal(err)
				}
				o.open()
			default:
				if o.put(fmt.Sprintf("other-%d", rng.IntN(2)), 2) {
					o.wait()
					other++
				}
			}
			o.check(fmt.Sprintf("seed %d, step %d", seed, step))
			if n := len(o.live); n > most {
				t.Fatalf("seed %d, step %d: %d inboxes, the limit is %d", seed, step, n, most)
			}
		}
		if arrived == 0 || refused == 0 || other == 0 {
			t.Fatalf("seed %d: %d arrived, %d refused, %d of the other account", seed, arrived, refused, other)
		}
		t.Logf("seed %d: %d arrived, %d refused, %d of the other account", seed, arrived, refused, other)
		if err := o.l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A pipeline of puts is admitted up to the limit exactly, before the first is
// done, and not one more.
func TestOccupyBeforeDone(t *testing.T) {
	const most = 100
	o := &occupier{t: t, done: make(chan error, 2*most), live: map[string][]uint64{}, next: map[string]uint64{}}
	o.opts = Options{FS: vfs.NewMem(), Inboxes: mq.Limit{Max: most}}
	o.open()
	defer o.l.Close()
	arrived := 0
	for i := range 2 * most {
		if o.put(fmt.Sprint("device-", i), 1) {
			arrived++
		}
	}
	for range arrived {
		o.wait()
	}
	if arrived != most {
		t.Fatalf("%d of %d arrived, want %d", arrived, 2*most, most)
	}
	o.check("at the limit")
	if n := o.l.Metrics().Inboxes; n != most {
		t.Fatalf("%d inboxes are in memory, want %d: those refused take none", n, most)
	}
}

// Long names fill the limit on their bytes long before that on inboxes.
func TestOccupyNames(t *testing.T) {
	o := &occupier{t: t, done: make(chan error, 1), live: map[string][]uint64{}, next: map[string]uint64{}}
	o.opts = Options{FS: vfs.NewMem(), SegmentSize: 1 << 20, Inboxes: mq.Limit{Max: 1 << 20}, InboxNames: mq.Limit{Max: 1 << 20}}
	o.open()
	defer o.l.Close()
	arrived := 0
	for i := range 100 {
		if o.put(fmt.Sprint(i, strings.Repeat("x", 60_000)), 1) {
			o.wait()
			arrived++
		}
	}
	if arrived != 17 {
		t.Fatalf("%d of 100 arrived, want 17: names of 60 kB in 1 MiB", arrived)
	}
	if !o.put("short", 1) {
		t.Fatal("a short name was refused")
	}
	o.wait()
	o.check("at the end")
}

// One account that takes all it gets leaves something to another, also after
// restarts, when it is not known any more what was whose.
func TestOccupyShare(t *testing.T) {
	const most = 1000
	o := &occupier{t: t, done: make(chan error, 1), live: map[string][]uint64{}, next: map[string]uint64{}}
	o.opts = Options{FS: vfs.NewMem(), Inboxes: mq.Limit{Max: most, Share: 75}}
	o.open()
	greedy, modest := 0, 0
	for life, want := range []int{750, 938, 985} { // 3/4 of what is left
		for i := range 2 * most {
			if o.put(fmt.Sprintf("greedy-%d-%d", life, i), 1) {
				o.wait()
				greedy++
			}
		}
		if greedy > want+1 || greedy < want-3 {
			t.Fatalf("life %d: %d of the greedy account arrived, want about %d", life, greedy, want)
		}
		if !o.put(fmt.Sprint("modest-", life), 2) {
			t.Fatalf("life %d: the other account gets nothing", life)
		}
		o.wait()
		modest++
		if err := o.l.Close(); err != nil {
			t.Fatal(err)
		}
		o.open()
	}
	o.check("at the end")
	t.Logf("%d of the greedy account arrived, %d of the other", greedy, modest)
	_ = o.l.Close()
}

// A put that fails gives its place back.
func TestOccupyFailedPut(t *testing.T) {
	o := &occupier{t: t, done: make(chan error, 1), live: map[string][]uint64{}, next: map[string]uint64{}}
	o.opts = Options{FS: vfs.NewMem(), Inboxes: mq.Limit{Max: 1}}
	o.open()
	defer o.l.Close()
	in, err := o.l.Occupy("big", 1)
	if err != nil {
		t.Fatal(err)
	}
	o.l.Submit(mq.Op{Kind: mq.OpPut, Inbox: in, Seq: 1, Record: make([]byte, 2*minSegmentSize), Owner: o})
	if err := <-o.done; err == nil {
		t.Fatal("a record larger than a segment was stored")
	}
	o.l.Forget(in)
	o.check("after the failure")
	if !o.put("small", 1) {
		t.Fatal("0 of 1 arrived: the put that failed has kept its place")
	}
	o.wait()
	o.check("at the end")
}
