package broker

import (
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// gate is a store whose queue can be held up: ops keep their order, and the
// store gets them when it is opened. It opens by itself for who waits for one.
type gate struct {
	mq.Store
	mu     sync.Mutex
	before func(op mq.Op) // called by Submit first; nil: nothing
	closed bool
	held   [][]mq.Op
}

func (g *gate) Submit(op mq.Op) {
	g.mu.Lock()
	before := g.before
	g.mu.Unlock()
	if before != nil {
		before(op)
	}
	g.pass([]mq.Op{op})
}

func (g *gate) SubmitGroup(ops []mq.Op) { g.pass(append([]mq.Op(nil), ops...)) }

func (g *gate) pass(ops []mq.Op) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = append(g.held, ops)
	if _, waits := ops[len(ops)-1].Owner.(*waiter); waits {
		g.closed = false
	}
	if !g.closed {
		g.drain()
	}
}

// drain hands on what is held. g is locked.
func (g *gate) drain() {
	for _, ops := range g.held {
		if len(ops) == 1 {
			g.Store.Submit(ops[0])
		} else {
			g.Store.SubmitGroup(ops)
		}
	}
	g.held = nil
}

func (g *gate) shut() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
}

func (g *gate) open() {
	g.mu.Lock()
	g.closed = false
	g.drain()
	g.mu.Unlock()
}

func (g *gate) hook(before func(op mq.Op)) {
	g.mu.Lock()
	g.before = before
	g.mu.Unlock()
}

func gated(t *testing.T, opt Options) (*world, *gate) {
	w := newWorld(t, opt, store.SyncAlways)
	g := &gate{}
	w.wrap = func(st mq.Store) mq.Store { g.Store = st; return g }
	w.stop()
	w.start()
	return w, g
}

// slowly runs act, and holds its op of a kind inside Submit until another
// message, submitted well after that began, is in the store. From then on the
// store gets nothing.
func slowly(t *testing.T, w *world, g *gate, kind mq.OpKind, n int, act func(b *Batch)) {
	t.Helper()
	entered, release := make(chan int64, 1), make(chan struct{})
	g.hook(func(op mq.Op) {
		if op.Kind == kind {
			entered <- monotonic()
			<-release
		}
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		var b Batch
		b.Begin()
		act(&b)
		b.Flush()
	}()
	for since := <-entered; monotonic() < since+1500; {
		runtime.Gosched()
	}
	g.hook(nil)
	var r results
	w.publish("a/p2p/other", 9, n, 1, true, &r)
	until(t, "the other message is stored", func() bool { _, ok := r.get(n); return ok })
	g.shut()
	close(release)
	<-done
}

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("it does not come to be that %s", what)
		}
	}
}

// TestAcknowledgedIsConfirmed: what a client has acknowledged does not come
// again on its next connection, however slowly the acknowledgement gets into
// the queue of the store, and whatever else is stored meanwhile.
func TestAcknowledgedIsConfirmed(t *testing.T) {
	for _, qos := range []mq.QoS{1, 2} {
		w, g := gated(t, Options{})
		again, released := 0, 0
		for n := 1; n <= 20; n++ {
			d := &device{id: "dev", persistent: true, window: 10}
			var r results
			w.publish("a/p2p/dev", 1, n, qos, true, &r)
			w.settle()
			w.connect(d, false)
			d.receive()
			if len(d.got) != 1 || d.got[0].n != n {
				t.Fatalf("qos %d: the device got %v, want message %d", qos, numbers(d.got), n)
			}
			pid, kind := d.got[0].pid, mq.OpAck
			if qos == 2 {
				kind = mq.OpReceived
			}
			slowly(t, w, g, kind, n, func(b *Batch) {
				if qos == 1 {
					w.b.Puback(d.sess, d.link, pid, b)
				} else {
					w.b.Pubrec(d.sess, d.link, pid, false, b)
				}
			})
			next := &device{id: "dev", persistent: true, window: 10}
			if n%2 == 0 { // else it is a takeover
				w.disconnect(d)
			}
			w.connect(next, false)
			in, rel, _ := next.link.take()
			again += len(in)
			released += len(rel)
			g.open()
			if qos == 2 {
				w.batch.Begin()
				w.b.Pubcomp(next.sess, next.link, pid, &w.batch)
				w.batch.Flush()
			}
			w.disconnect(next)
		}
		if again != 0 {
			t.Errorf("qos %d: %d of 20 acknowledged messages came again", qos, again)
		}
		if want := int(qos-1) * 20; released != want {
			t.Errorf("qos %d: %d PUBREL on the new connection, want %d", qos, released, want)
		}
		w.stop()
	}
}

// TestReceivedCountsAtOnce: a PUBREC counts from the moment it was received: a
// connection that takes over before it is in the store gets PUBREL, and not the
// message.
func TestReceivedCountsAtOnce(t *testing.T) {
	w, g := gated(t, Options{})
	defer w.stop()
	d := &device{id: "dev", persistent: true, window: 10}
	w.connect(d, true)
	var r results
	w.publish("a/p2p/dev", 1, 1, 2, true, &r)
	w.settle()
	d.receive()
	if len(d.got) != 1 {
		t.Fatalf("the device got %v, want one message", numbers(d.got))
	}
	g.shut()
	w.batch.Begin()
	w.b.Pubrec(d.sess, d.link, d.got[0].pid, false, &w.batch)
	w.batch.Flush()
	w.connect(d, false)
	in, rel, _ := d.link.take()
	if len(in) != 0 || len(rel) != 1 {
		t.Errorf("after the takeover %d PUBLISH and %d PUBREL came, want 0 and 1", len(in), len(rel))
	}
}

// TestExpireWaitsForAcknowledged: what was acknowledged is not dropped as
// expired because the store shows it yet.
func TestExpireWaitsForAcknowledged(t *testing.T) {
	w, g := gated(t, Options{})
	defer w.stop()
	d := &device{id: "dev", persistent: true, window: 10}
	w.connect(d, true)
	for n := 1; n <= 20; n++ {
		w.disconnect(d)
		w.batch.Begin()
		m := message("a/p2p/dev", 1, n, 1, true)
		m.Expiry = w.b.Now(&w.batch) + 60_000
		var r results
		w.b.Publish(Source{Principal: &mq.Principal{}}, m, &r, uint64(n), &w.batch)
		w.batch.Flush()
		w.settle()
		d.got = nil
		w.connect(d, false)
		d.receive()
		if len(d.got) != 1 {
			t.Fatalf("the device got %v, want message %d", numbers(d.got), n)
		}
		slowly(t, w, g, mq.OpAck, n, func(b *Batch) { w.b.Puback(d.sess, d.link, d.got[0].pid, b) })
		w.batch.Begin()
		w.batch.now = w.b.Now(&w.batch) + 120_000
		w.b.expireMessages(&w.batch)
		w.batch.Flush()
		g.open()
		if dropped := w.b.Stats.Dropped[mq.DropExpired].Load(); dropped != 0 {
			t.Fatalf("message %d was acknowledged, and %d are dropped as expired", n, dropped)
		}
		d.sess.mu.Lock()
		count := d.sess.count
		d.sess.mu.Unlock()
		if count != 0 {
			t.Fatalf("the inbox counts %d messages, want 0", count)
		}
	}
}

// TestEvictedIsConfirmed: a session that is evicted while the store does not
// show yet what was acknowledged leaves that behind: who makes it again waits.
func TestEvictedIsConfirmed(t *testing.T) {
	w, g := gated(t, Options{})
	defer w.stop()
	d := &device{id: "dev", window: 10}
	var r results
	w.batch.Begin()
	m := message("a/p2p/dev", 1, 1, 1, true)
	m.Expiry = w.b.Now(&w.batch) + 60_000
	w.b.Publish(Source{Principal: &mq.Principal{}}, m, &r, 1, &w.batch)
	w.batch.Flush()
	w.settle()
	w.connect(d, false)
	d.receive()
	if len(d.got) != 1 {
		t.Fatalf("the device got %v, want one message", numbers(d.got))
	}
	g.shut()
	w.ack(d, 1)
	w.disconnect(d) // a clean session: nothing of it stays in memory
	if s := w.b.registry.find([]byte("dev")); s != nil {
		t.Fatal("the session is not evicted")
	}
	w.batch.Begin()
	w.batch.now = w.b.Now(&w.batch) + 120_000
	w.b.expireMessages(&w.batch)
	w.batch.Flush()
	if dropped := w.b.Stats.Dropped[mq.DropExpired].Load(); dropped != 0 {
		t.Errorf("%d are dropped as expired, want 0: it was acknowledged", dropped)
	}
	d.got = nil
	w.connect(d, false)
	d.receive()
	if len(d.got) != 0 {
		t.Errorf("the acknowledged message came again")
	}
	g.open()
}

// TestGroupIsConfirmed: the same for a shared subscription that ends with its
// last member and is made again.
func TestGroupIsConfirmed(t *testing.T) {
	w, g := gated(t, Options{})
	defer w.stop()
	p := w.online(&peer{id: "member"}, true)
	share := mq.Subscription{Filter: "$share/g/t", QoS: 1}
	p.subscribe(w, share)
	var r results
	w.send("t", "x", 1, false, &r, 1)
	w.settle()
	p.receive()
	if len(p.got) != 1 {
		t.Fatalf("the member got %v, want one message", p.got)
	}
	g.shut()
	p.ack(w, 1)
	p.unsubscribe(w, share.Filter)
	g.shut()
	p.subscribe(w, share)
	if p.receive(); len(p.got) != 1 {
		t.Errorf("the acknowledged message came again: %v", p.got)
	}
	g.open()
}

// TestExpiredIsConfirmed: what has expired is dropped and counted once, though
// the store shows it yet: to the device that makes room, and to the inbox limit.
func TestExpiredIsConfirmed(t *testing.T) {
	for _, limited := range []bool{false, true} {
		w, g := gated(t, Options{InboxLimit: 4})
		d := &device{id: "dev", persistent: true, window: 1}
		w.connect(d, true)
		var r results
		w.publish("a/p2p/dev", 1, 1, 1, true, &r)
		w.settle()
		for n := 2; n <= 5; n++ {
			w.batch.Begin()
			m := message("a/p2p/dev", 1, n, 1, true)
			m.Expiry = w.b.Now(&w.batch) + 60_000
			w.b.Publish(Source{Principal: &mq.Principal{}}, m, &r, uint64(n), &w.batch)
			w.batch.Flush()
		}
		w.settle()
		if d.receive(); len(d.got) != 1 {
			t.Fatalf("the device got %v, want one message", numbers(d.got))
		}
		g.shut()
		later := func() {
			w.batch.Begin()
			w.batch.now = w.b.Now(&w.batch) + 120_000
		}
		later()
		w.b.expireMessages(&w.batch)
		w.batch.Flush()
		pushed := uint64(0)
		if limited {
			for n := 6; n <= 10; n++ { // room for four: those before have expired
				w.publish("a/p2p/dev", 1, n, 1, true, &r)
			}
			pushed = 1
		} else {
			later()
			w.b.Puback(d.sess, d.link, d.got[0].pid, &w.batch)
			w.batch.Flush()
			if d.receive(); len(d.got) != 1 {
				t.Errorf("an expired message was sent: %v", numbers(d.got))
			}
			d.sess.mu.Lock()
			if n := d.sess.count; n != 0 {
				t.Errorf("the inbox counts %d messages, want 0", n)
			}
			d.sess.mu.Unlock()
		}
		g.open()
		w.settle()
		if n := w.b.Stats.Dropped[mq.DropExpired].Load(); n != 4 {
			t.Errorf("%d are counted as expired, want 4", n)
		}
		if n := w.b.Stats.Dropped[mq.DropInboxFull].Load(); n != pushed {
			t.Errorf("%d are counted as pushed out, want %d", n, pushed)
		}
		if limited {
			w.drainAll(d)
			if got := numbers(d.got); !slices.Equal(got, []int{1, 7, 8, 9, 10}) {
				t.Errorf("the device got %v, want 1 and 7 to 10", got)
			}
		}
		w.stop()
	}
}
