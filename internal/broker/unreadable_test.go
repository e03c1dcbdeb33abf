package broker

import (
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// poisoned is a store some of whose entries cannot be read.
type poisoned struct {
	mq.Store
	mu    sync.Mutex
	fault mq.ReadFault
	bad   map[uint64]int // seq: how often reading fails yet; below 0: always
	tried int            // failed reads
	only  string         // of inboxes whose name starts so
	names map[mq.Inbox]string
}

func (p *poisoned) name(in mq.Inbox, name string) mq.Inbox {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.names == nil {
		p.names = map[mq.Inbox]string{}
	}
	p.names[in] = name
	return in
}

func (p *poisoned) Inbox(name string) mq.Inbox { return p.name(p.Store.Inbox(name), name) }

func (p *poisoned) Occupy(name string, by mq.Account) (mq.Inbox, error) {
	in, err := p.Store.Occupy(name, by)
	return p.name(in, name), err
}

func (p *poisoned) Lookup(name string) (mq.Inbox, bool) {
	in, ok := p.Store.Lookup(name)
	return p.name(in, name), ok
}

func (p *poisoned) Read(in mq.Inbox, after, to uint64, n int, dst []mq.Entry, buf []byte) ([]mq.Entry, []byte, error) {
	first := len(dst)
	dst, buf, err := p.Store.Read(in, after, to, n, dst, buf)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil || !strings.HasPrefix(p.names[in], p.only) {
		return dst, buf, err
	}
	for i := first; i < len(dst); i++ {
		seq := dst[i].Seq
		if p.bad[seq] == 0 {
			continue
		}
		if i > first {
			return dst[:i], buf, nil
		}
		p.bad[seq]--
		p.tried++
		return dst[:first], buf, &mq.Error{Code: mq.StoreFailed, Text: "store failed",
			Err: &mq.UnreadableError{Seq: seq, Fault: p.fault, Err: fmt.Errorf("x.seg is damaged at offset %d", seq)}}
	}
	return dst, buf, nil
}

// poison makes entries of w unreadable, from now on.
func (w *world) poison(fault mq.ReadFault, only string, bad map[uint64]int) *poisoned {
	p := &poisoned{fault: fault, only: only}
	w.wrap = func(st mq.Store) mq.Store { p.Store = st; return p }
	w.restart()
	p.mu.Lock()
	p.bad = bad
	p.mu.Unlock()
	return p
}

// TestDamagedRecord: a damaged record costs its message, which is counted, and
// no more: those before and behind it are delivered, on one connection, with one
// line in the log. Real damage: a byte of the file.
func TestDamagedRecord(t *testing.T) {
	const messages, bad = 30, 12
	w := newWorld(t, Options{Keep: KeepAlways}, store.SyncOS)
	var r results
	for n := 1; n <= messages; n++ {
		w.publish("o/p2p/dev", 7, n, 1, true, &r)
	}
	w.settle()
	w.restart()
	defer func() { w.stop() }()
	damage(t, w.fs, message("o/p2p/dev", 7, bad, 1, true).Payload) // a start would find it, in a segment without hint
	lines := &counter{}
	w.b.log = slog.New(slog.NewTextHandler(lines, &slog.HandlerOptions{Level: slog.LevelError}))
	d := &device{id: "dev", persistent: true, window: 10}
	w.connect(d, false)
	w.eventually("all but one are delivered", func() bool { w.ack(d, 1<<30); return len(d.got) == messages-1 })
	var want []int
	for n := 1; n <= messages; n++ {
		if n != bad {
			want = append(want, n)
		}
	}
	if got := numbers(d.got); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if d.link.closed {
		t.Error("the connection was closed")
	}
	if n := w.b.Stats.Dropped[mq.DropStoreFailed].Load(); n != 1 {
		t.Errorf("%d counted as store_failed, want 1", n)
	}
	if text := lines.text(); strings.Count(text, "\n") != 1 || !strings.Contains(text, ".seg is damaged at offset") || !strings.Contains(text, "homing store repair") {
		t.Errorf("log: %s", text)
	}
	// It is gone for good.
	w.disconnect(d)
	w.connect(d, false)
	w.settle()
	if d.receive(); len(d.got) != messages-1 || w.b.Stats.Dropped[mq.DropStoreFailed].Load() != 1 {
		t.Errorf("%d delivered after it has come back", len(d.got))
	}
}

// damage changes a byte of the place where text is, in the segments.
func damage(t *testing.T, fs *vfs.MemFS, text []byte) {
	t.Helper()
	names, err := fs.List("data/inbox")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		f, err := fs.OpenReadWrite("data/inbox/"+name, vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		data, _ := io.ReadAll(f)
		if at := strings.Index(string(data), string(text)); at >= 0 && strings.HasSuffix(name, ".seg") {
			if _, err := f.WriteAt([]byte{data[at] ^ 0x55}, int64(at)); err != nil {
				t.Fatal(err)
			}
			_ = f.Close()
			return
		}
		_ = f.Close()
	}
	t.Fatal("the message is in no segment")
}

// counter is what a log writes to.
type counter struct {
	mu  sync.Mutex
	buf []byte
}

func (c *counter) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf = append(c.buf, b...)
	return len(b), nil
}

func (c *counter) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.buf)
}

// TestReadFaults: what fails in passing drops nothing and closes nothing; it is
// delivered, in order, when it can be read. What is damaged, or what the disk
// does not give for long, is given up.
func TestReadFaults(t *testing.T) {
	t.Run("passing", func(t *testing.T) { readFault(t, mq.FaultPassing, 2, []int{1, 2, 3, 4, 5}) })
	t.Run("disk fails once", func(t *testing.T) { readFault(t, mq.FaultMedium, 1, []int{1, 2, 3, 4, 5}) })
	t.Run("damaged once", func(t *testing.T) { readFault(t, mq.FaultDamage, 1, []int{1, 2, 3, 4, 5}) })
	t.Run("damaged", func(t *testing.T) { readFault(t, mq.FaultDamage, -1, []int{1, 2, 4, 5}) })
}

func readFault(t *testing.T, fault mq.ReadFault, times int, want []int) {
	w := newWorld(t, Options{Keep: KeepAlways}, store.SyncOS)
	var r results
	for n := 1; n <= 5; n++ {
		w.publish("o/p2p/dev", 0, n, 1, true, &r)
	}
	w.settle()
	p := w.poison(fault, "dev", map[uint64]int{3: times})
	defer func() { w.stop() }()
	d := &device{id: "dev", persistent: true, window: 10}
	w.connect(d, false)
	w.eventually(fmt.Sprintf("%d messages", len(want)), func() bool { w.ack(d, 1<<30); return len(d.got) == len(want) })
	if got := numbers(d.got); !slices.Equal(got, want) || d.link.closed {
		t.Errorf("got %v, want %v; connection closed: %v", got, want, d.link.closed)
	}
	dropped := w.b.Stats.Dropped[mq.DropStoreFailed].Load()
	if int(dropped) != 5-len(want) {
		t.Errorf("%d counted as store_failed", dropped)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tried > 5 {
		t.Errorf("%d failed reads: a loop without delay", p.tried)
	}
}

// TestMediumPatience: the disk must fail to give a record for two minutes before
// its message is dropped, one that fails in passing never is.
func TestMediumPatience(t *testing.T) {
	w := newWorld(t, Options{}, store.SyncOS)
	defer w.stop()
	err := func(fault mq.ReadFault) error {
		return &mq.Error{Code: mq.StoreFailed, Err: &mq.UnreadableError{Seq: uint64(fault) + 1, Fault: fault, Err: io.EOF}}
	}
	for _, fault := range []mq.ReadFault{mq.FaultPassing, mq.FaultMedium} {
		waited, given := int64(0), false
		for range 100 {
			_, giveUp, at := w.b.judge("dev", err(fault))
			if given = giveUp; given {
				break
			}
			waited += at - monotonic()
			if _, early, _ := w.b.judge("dev", err(fault)); early {
				t.Fatal("a try before its time counts")
			}
			w.b.unreadable.mu.Lock()
			w.b.unreadable.list[unreadKey{"dev", uint64(fault) + 1}].next = 0 // the time passes
			w.b.unreadable.mu.Unlock()
		}
		if given != (fault == mq.FaultMedium) || given && waited < 100_000_000 {
			t.Errorf("fault %d: given up: %v, after %d s", fault, given, waited/1_000_000)
		}
	}
}

// TestDamagedRetained: a damaged retained message keeps nobody from the others.
// It is counted once, and there is none of that topic then.
func TestDamagedRetained(t *testing.T) {
	for _, filter := range []string{"news/#", "news/2"} {
		t.Run(filter, func(t *testing.T) {
			w := newWorld(t, Options{}, store.SyncOS)
			var r results
			for n := 1; n <= 4; n++ {
				w.send(fmt.Sprintf("news/%d", n), fmt.Sprint(n), 1, true, &r, n)
			}
			w.settle()
			w.poison(mq.FaultDamage, mq.RetainedInbox+"news/2", map[uint64]int{1: -1})
			defer func() { w.stop() }()
			want := []string{"1", "3", "4"}
			if filter == "news/2" {
				want = nil
			}
			for round := range 2 {
				p := w.online(&peer{id: fmt.Sprint("p", round)}, true)
				p.subscribe(w, mq.Subscription{Filter: filter, QoS: 1})
				w.eventually("what can be read has come", func() bool {
					w.drain(p)
					return len(p.got) >= len(want) && w.b.Stats.Dropped[mq.DropStoreFailed].Load() == 1
				})
				// Live messages come, too: nothing is owed any more.
				w.send("news/live", "live", 1, false, &r, 100+2*round)
				w.send("news/2", "live", 1, false, &r, 101+2*round)
				w.drain(p)
				if got := payloads(p.got); !slices.Equal(got[:len(want)], want) || !slices.Contains(got[len(want):], "live") {
					t.Errorf("got %q, want %q and live", got, want)
				}
			}
		})
	}
}

// TestDamagedShared: a member that has left gives back a message that is damaged
// by now; the group goes on without it.
func TestDamagedShared(t *testing.T) {
	w := newWorld(t, Options{}, store.SyncOS)
	p := w.poison(mq.FaultDamage, mq.SharedInbox, nil)
	defer func() { w.stop() }()
	a := w.online(&peer{id: "a", receiveMax: 10}, true)
	a.subscribe(w, mq.Subscription{Filter: "$share/g/jobs", QoS: 1})
	var r results
	for n := 1; n <= 5; n++ {
		w.send("jobs", fmt.Sprint(n), 1, false, &r, n)
	}
	w.settle() // stored, while a has them
	b := w.online(&peer{id: "b", receiveMax: 10}, true)
	b.subscribe(w, mq.Subscription{Filter: "$share/g/jobs", QoS: 1})
	p.mu.Lock()
	p.bad = map[uint64]int{3: -1}
	p.mu.Unlock()
	a.leave(w, Departure{})
	w.eventually("the others have come", func() bool { w.drain(b); return len(b.got) == 4 })
	if got := payloads(b.got); !slices.Equal(got, []string{"1", "2", "4", "5"}) {
		t.Errorf("got %q", got)
	}
	w.send("jobs", "6", 1, false, &r, 6)
	w.drain(b)
	if got := payloads(b.got); !slices.Equal(got, []string{"1", "2", "4", "5", "6"}) || w.b.Stats.Dropped[mq.DropStoreFailed].Load() != 1 {
		t.Errorf("got %q, %d dropped", got, w.b.Stats.Dropped[mq.DropStoreFailed].Load())
	}
}

// TestDamagedDelayed: a damaged delayed message is dropped at its second try, and
// counts no longer.
func TestDamagedDelayed(t *testing.T) {
	w := newDelayWorld(t, Options{}, store.SyncOS)
	p := &poisoned{fault: mq.FaultDamage, only: mq.DelayedInbox}
	w.wrap = func(st mq.Store) mq.Store { p.Store = st; return p }
	w.stop()
	w.start()
	defer w.stop()
	p.mu.Lock()
	p.bad = map[uint64]int{2: -1}
	p.mu.Unlock()
	d := w.subscriber("dev", 1)
	var r results
	for n := 1; n <= 3; n++ {
		w.later("news", n, 1, 10, &r)
	}
	w.elapse(10)
	w.eventually("the others have come", func() bool { w.ack(d, 100); return len(d.got) == 2 })
	w.eventually("it is given up", func() bool {
		w.elapse(delayRetry)
		return w.b.Stats.Delayed.Load() == 0 && w.b.Stats.Dropped[mq.DropStoreFailed].Load() == 1
	})
	if got := numbers(d.got); !slices.Equal(got, []int{1, 3}) {
		t.Errorf("got %v", got)
	}
}
