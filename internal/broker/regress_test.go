package broker

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

type hook struct {
	mq.Store
	submit func(op mq.Op) bool // true: swallowed or passed on by itself
	forget func(in mq.Inbox)
	read   func()

	expired func(now time.Time) // it is looked for what is over
}

func (h *hook) Expired(now time.Time, each func(name string, seq uint64) bool) {
	if h.expired != nil {
		h.expired(now)
	}
	h.Store.Expired(now, each)
}

func (h *hook) Submit(op mq.Op) {
	if h.submit != nil && h.submit(op) {
		return
	}
	h.Store.Submit(op)
}
func (h *hook) Forget(in mq.Inbox) {
	if h.forget != nil {
		h.forget(in)
	}
	h.Store.Forget(in)
}
func (h *hook) Read(in mq.Inbox, after, to uint64, n int, dst []mq.Entry, buf []byte) ([]mq.Entry, []byte, error) {
	a, b, c := h.Store.Read(in, after, to, n, dst, buf)
	if h.read != nil {
		h.read()
	}
	return a, b, c
}

func (w *world) pub2(d *device, topic string, n int, pid uint16) ClaimResult {
	w.batch.Begin()
	defer w.batch.Flush()
	m := message(topic, 1, n, 2, true)
	p := QoS2Publish{Conn: d.link, PacketID: pid, Room: 65535}
	return w.b.PublishQoS2(Source{Principal: &mq.Principal{}, Session: d.sess}, m, p, &w.batch)
}

// claims come back from the dead after a crash.
func TestLoseReleaseAll(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncAlways)
	defer func() { w.stop() }()
	s := &device{id: "sender", persistent: true, window: 10}
	w.connect(s, true)
	w.pub2(s, "a/p2p/dev", 1, 1)
	w.settle()
	w.disconnect(s)
	w.connect(s, true) // new session: nothing of the old one may count
	w.settle()
	w.crash(0)
	w.connect(s, false)
	result := w.pub2(s, "a/p2p/dev", 2, 1)
	w.settle()
	_, _, acks := s.link.take()
	t.Log("result", result, "acks", acks)
	d := &device{id: "dev", window: 10}
	w.connect(d, true)
	w.drainAll(d)
	if got := numbers(d.got); !slices.Contains(got, 2) {
		t.Fatalf("message 2 got PUBREC %v and is lost; device got %v", acks, got)
	}
}

// TestFanoutIsOneUnit: a QoS 2 message of a persistent sender is stored for its
// subscribers together with the claim, or not at all.
func TestFanoutIsOneUnit(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncAlways)
	h := &groupHook{}
	w.wrap = func(st mq.Store) mq.Store { h.Store = st; return h }
	w.stop()
	w.start()
	defer func() { w.stop() }()
	s := &device{id: "sender", persistent: true, window: 10}
	for _, id := range []string{"A", "B"} {
		d := &device{id: id, persistent: true, window: 10}
		w.connect(d, true)
		w.b.Subscribe(d.sess, &mq.Principal{}, []mq.Subscription{{Filter: "news", QoS: 2}}, &w.batch)
		w.disconnect(d)
	}
	w.connect(s, true)
	w.pub2(s, "news", 1, 1)
	w.settle()
	if len(h.groups) != 1 || len(h.groups[0]) != 3 || h.groups[0][2].Kind != mq.OpClaim {
		t.Fatalf("submitted %+v", h.groups)
	}
	if _, _, acks := s.link.take(); len(acks) != 1 || acks[0].kind != Pubrec {
		t.Fatalf("the sender gets %+v", acks)
	}
}

type groupHook struct {
	mq.Store
	groups [][]mq.Op
}

func (h *groupHook) SubmitGroup(ops []mq.Op) {
	h.groups = append(h.groups, slices.Clone(ops))
	h.Store.SubmitGroup(ops)
}

func TestLosePromisedNotKept(t *testing.T) {
	w := newWorld(t, Options{Keep: KeepSender, StoreAfter: time.Millisecond}, store.SyncOS)
	defer w.stop()
	d := &device{id: "dev", persistent: true, window: 1}
	w.connect(d, true)
	var r results
	w.publish("a/p2p/dev", 1, 1, 1, false, &r) // sent, not acknowledged: stored after store-after
	w.publish("a/p2p/dev", 1, 2, 1, false, &r) // window is full
	w.settle()
	c1, ok1 := r.get(1)
	c2, ok2 := r.get(2)
	w.disconnect(d)
	d.got = nil
	w.connect(d, true)
	w.drainAll(d)
	t.Log(c1, ok1, c2, ok2, numbers(d.got))
	if len(d.got) != 2 {
		t.Fatalf("acknowledged with %v %v; after the clean start only %v", c1, c2, numbers(d.got))
	}
}

// the disk stalls, housekeeping expires the same entry twice.
func TestLoseSlowDiskExpiry(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncOS)
	var mu sync.Mutex
	var stalled bool
	var late []mq.Op
	var inner mq.Store
	var expiry, looks atomic.Int64
	w.wrap = func(st mq.Store) mq.Store {
		inner = st
		h := &hook{Store: st, expired: func(now time.Time) {
			if at := expiry.Load(); at > 0 && now.UnixMilli() > at {
				looks.Add(1)
			}
		}}
		h.submit = func(op mq.Op) bool {
			mu.Lock()
			defer mu.Unlock()
			if stalled {
				late = append(late, op)
			}
			return stalled
		}
		return h
	}
	w.stop()
	w.start()
	defer w.stop()
	d := &device{id: "dev", persistent: true, window: 10}
	w.connect(d, true)
	w.disconnect(d)
	var r results
	w.batch.Begin()
	m := message("a/p2p/dev", 1, 1, 1, true)
	m.Expiry = w.b.Now(&w.batch) + 700
	expiry.Store(m.Expiry)
	w.b.Publish(Source{Principal: &mq.Principal{}}, m, &r, 1, &w.batch)
	w.batch.Flush()
	w.publish("a/p2p/dev", 1, 2, 1, true, &r)
	w.settle()
	mu.Lock()
	stalled = true // one slow fsync
	mu.Unlock()
	from := looks.Load()
	w.eventually("it is looked twice for what is over", func() bool { return looks.Load() > from+2 })
	mu.Lock()
	stalled = false
	for _, op := range late {
		inner.Submit(op)
	}
	mu.Unlock()
	w.settle()
	in := inner.Inbox("dev")
	w.eventually("the store has only the second", func() bool { return inner.Stats(in).Count == 1 })
	w.connect(d, false)
	w.drainAll(d)
	d.sess.mu.Lock()
	t.Log("count", d.sess.count, "expired", w.b.Stats.Dropped[mq.DropExpired].Load(), "store", inner.Stats(d.sess.inbox))
	d.sess.mu.Unlock()
	if !slices.Equal(numbers(d.got), []int{2}) {
		t.Fatalf("message 2 is acknowledged and stored, and the device gets %v", numbers(d.got))
	}
	if n := w.b.Stats.Dropped[mq.DropExpired].Load(); n != 1 {
		t.Errorf("message 1 is counted as expired %d times", n)
	}
}

// expiry while the pump reads.
func TestLoseExpireWhilePumping(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncOS)
	var once sync.Once
	var armed bool
	w.wrap = func(st mq.Store) mq.Store {
		h := &hook{Store: st}
		h.read = func() {
			if armed {
				once.Do(func() { // what housekeeping does
					s := w.b.lockedSession([]byte("dev"))
					s.expire([]expired{{"dev", 1}})
					s.unlock()
				})
			}
		}
		return h
	}
	w.stop()
	w.start()
	defer w.stop()
	d := &device{id: "dev", persistent: true, window: 10}
	w.connect(d, true)
	w.disconnect(d)
	var r results
	w.publish("a/p2p/dev", 1, 1, 1, true, &r)
	w.publish("a/p2p/dev", 1, 2, 1, true, &r)
	w.settle()
	armed = true
	w.connect(d, false)
	w.ack(d, 1)
	w.disconnect(d)
	d.got = nil
	w.connect(d, false)
	w.drainAll(d)
	if !slices.Contains(numbers(d.got), 2) {
		t.Fatalf("message 2 was not acknowledged and is not sent again: %v", numbers(d.got))
	}
}

// an error of the store on OpRelease.
func TestStallRelease(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncOS)
	fail := 1
	failed := make(chan struct{})
	w.wrap = func(st mq.Store) mq.Store {
		h := &hook{Store: st}
		h.submit = func(op mq.Op) bool {
			if op.Kind == mq.OpRelease && fail > 0 {
				fail--
				go func() {
					var b Batch
					w.b.Committed([]mq.Op{op}, &mq.Error{Code: mq.StoreFull, Text: "ENOSPC"}, &b)
					close(failed)
				}()
				return true
			}
			return false
		}
		return h
	}
	w.stop()
	w.start()
	defer w.stop()
	s := &device{id: "sender", persistent: true, window: 10}
	w.connect(s, true)
	w.pub2(s, "a/p2p/dev", 1, 1)
	w.settle()
	s.link.take()
	rel := func() {
		w.batch.Begin()
		if w.b.Pubrel(s.sess, s.link, 1, &w.batch) == AckUnknown {
			t.Log("unknown id: 0x92")
		}
		w.batch.Flush()
	}
	rel()
	<-failed
	w.disconnect(s)
	w.connect(s, false)
	rel()
	w.eventually("PUBREL is answered again", func() bool {
		_, _, acks := s.link.take()
		return len(acks) > 0
	})
	d := &device{id: "dev", window: 10}
	w.connect(d, true)
	if w.drainAll(d); !slices.Equal(numbers(d.got), []int{1}) {
		t.Errorf("the device got %v, want 1", numbers(d.got))
	}
}

func TestGrowGaps(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond, InboxLimit: 100, PendingSize: 16 << 10, PendingAll: 1 << 20}, store.SyncOS)
	defer w.stop()
	d := &device{id: "dev", window: 1}
	w.connect(d, true)
	w.b.Subscribe(d.sess, &mq.Principal{}, []mq.Subscription{{Filter: "x", QoS: 1}}, &w.batch)
	var r results
	w.publish("x", 1, 1, 1, true, &r)
	w.publish("x", 1, 2, 1, true, &r)
	if d.receive(); !slices.Equal(numbers(d.got), []int{1}) {
		t.Fatalf("got %v, want 1: the window is full", numbers(d.got))
	}
	start := time.Now()
	last := start
	for n := 3; n < 30000; n++ {
		w.publish("a/p2p/dev", 1, n, 1, true, &r)
		if n%5000 == 0 {
			d.sess.mu.Lock()
			tail := d.sess.tail.n
			t.Log(n, "tail.n", tail, "slots bytes", len(d.sess.tail.ring)*int(queuedSize), "5000 took", time.Since(last))
			d.sess.mu.Unlock()
			last = time.Now()
			if tail > 1000 {
				t.Fatalf("%d entries in a tail limited to 100 messages", tail)
			}
		}
	}
	w.settle()
	d.sess.mu.Lock()
	tail := d.sess.tail.n
	d.sess.mu.Unlock()
	if tail > 1000 {
		t.Fatalf("%d entries in a tail limited to 100 messages", tail)
	}
	w.drainAll(d)
	dropped := w.b.Stats.Dropped[mq.DropInboxFull].Load() + w.b.Stats.Dropped[mq.DropSlowConsumer].Load()
	if got := numbers(d.got); len(got) < 101 || len(got)+int(dropped) != 29999 || got[len(got)-100] != 29900 || got[len(got)-1] != 29999 {
		t.Errorf("%d of 29999 came: %v; %d were dropped", len(got), got, dropped)
	}
}

func TestGrowExpiries(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncOS)
	defer w.stop()
	for range 10000 {
		w.batch.Begin()
		l := &link{}
		s, _ := w.b.Connect(ConnectRequest{ClientID: "x", Conn: l, Expiry: 1 << 30, ReceiveMax: 1}, &w.batch)
		w.batch.Flush()
		w.b.Disconnect(s, l, Departure{}, &w.batch)
		w.batch.Flush()
	}
	if n := len(w.b.expiries.heap); n > 100 {
		t.Fatalf("%d deadlines for one client", n)
	}
}

func TestGrowEndedSessions(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncOS)
	defer w.stop()
	for i := range 300 {
		p := w.online(&peer{id: fmt.Sprint("p", i), expiry: 1 << 30}, true)
		p.leave(w, proper)
		w.online(p, false)
		p.leave(w, Departure{Expiry: new(uint32)})
	}
	if n := len(w.b.expiries.heap); n > 10 {
		t.Fatalf("%d deadlines of sessions that have ended", n)
	}
}

// A session whose expiry becomes shorter ends at the new time. [MQTT-4.1.0-2]
func TestSessionEndsEarlier(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncOS)
	defer w.stop()
	p := w.online(&peer{id: "p", expiry: 600}, true)
	p.leave(w, proper)
	p.expiry = 60
	w.online(p, false)
	p.leave(w, proper)
	w.pass(100 * time.Second)
	if w.online(p, false); p.wire.present {
		t.Fatal("the session outlives its expiry")
	}
}

func TestDropOldestAfterReconnect(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond, InboxLimit: 5}, store.SyncOS)
	defer w.stop()
	d := &device{id: "dev", persistent: true, window: 5}
	w.connect(d, true)
	var r results
	for n := 1; n <= 12; n++ {
		w.publish("a/p2p/dev", 1, n, 1, true, &r)
		w.settle()
	}
	d.receive() // 1..5, not acknowledged
	w.disconnect(d)
	for n := 13; n <= 30; n++ {
		w.publish("a/p2p/dev", 1, n, 1, true, &r)
		w.settle()
	}
	d.got = nil
	d.window = 100
	w.connect(d, false)
	w.drainAll(d)
	t.Log(numbers(d.got))
	if got := numbers(d.got); !slices.Equal(got, []int{26, 27, 28, 29, 30}) {
		t.Fatalf("drop-oldest with limit 5 left %v", got)
	}
}

// The same without a hook: two goroutines connect and disconnect one client,
// others publish to it and to bystanders.
func TestRaceForget(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncOS)
	defer w.stop()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var r results
	var rounds atomic.Int64
	for g := range 3 {
		wg.Go(func() {
			var b Batch
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				b.Begin()
				l := &link{}
				s, err := w.b.Connect(ConnectRequest{ClientID: "dev", Conn: l, CleanStart: true, ReceiveMax: 100}, &b)
				if err != nil {
					t.Error(err)
				}
				b.Flush()
				b.Begin()
				w.b.Publish(Source{Principal: &mq.Principal{}}, message("a/p2p/dev", g, 1, 2, true), nil, 0, &b)
				b.Flush()
				w.b.Disconnect(s, l, Departure{}, &b)
				b.Flush()
				rounds.Add(1)
			}
		})
	}
	meanwhile := func() { // let the others connect and disconnect some more
		for from := rounds.Load(); rounds.Load() < from+10; {
			runtime.Gosched()
		}
	}
	bad, came := 0, 0
	for i := 0; i < 400; i++ {
		id := "v" + string(rune('a'+i%26)) + string(rune('a'+i/26%26))
		var b Batch
		b.Begin()
		m := message("a/p2p/"+id, 77, i, 1, true)
		w.b.Publish(Source{Principal: &mq.Principal{}}, m, &r, uint64(i), &b)
		b.Flush()
		w.eventually("it is stored", func() bool { _, told := r.get(i); return told })
		meanwhile()
		l := &link{}
		s, _ := w.b.Connect(ConnectRequest{ClientID: id, Conn: l, CleanStart: true, ReceiveMax: 100}, &b)
		b.Flush()
		w.eventually("it comes", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.in) > 0 })
		meanwhile()
		in, _, _ := l.take()
		for _, p := range in {
			b.Begin()
			w.b.Puback(s, l, p.pid, &b)
			b.Flush()
			if p.sender != 77 || p.n != i {
				bad++
			} else {
				came++
			}
		}
		w.b.Disconnect(s, l, Departure{}, &b)
		b.Flush()
	}
	close(stop)
	wg.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	fails := 0
	for _, c := range r.code {
		if c != mq.OK {
			fails++
		}
	}
	t.Log("came", came, "wrong", bad, "failed", fails, "sessions", w.b.Sessions(), "dropped store_failed", w.b.Stats.Dropped[mq.DropStoreFailed].Load())
	if bad > 0 || w.b.Stats.Dropped[mq.DropStoreFailed].Load() > 0 {
		t.Fatal("handle mixed up")
	}
	if came != 400 || fails > 0 {
		t.Errorf("%d of 400 came, %d were refused", came, fails)
	}
}
