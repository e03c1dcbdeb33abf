package broker

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// delayWorld is a world whose delayed messages see a clock of their own.
type delayWorld struct {
	*world
	clock *atomic.Int64
}

const delayStart = 1_000_000 // of the clock, Unix ms

func newDelayWorld(t testing.TB, opt Options, sync store.SyncMode) *delayWorld {
	clock := &atomic.Int64{}
	clock.Store(delayStart)
	opt.wall = clock.Load
	return &delayWorld{newWorld(t, opt, sync), clock}
}

// later sends message n of a sender without a session, for a time from now on.
func (w *delayWorld) later(topic string, n int, qos mq.QoS, in int64, r *results) mq.Code {
	w.batch.Begin()
	m := message(topic, 1, n, qos, false)
	code := w.b.PublishLater(Source{Principal: &mq.Principal{}}, m, w.clock.Load()+in, r, uint64(n), &w.batch)
	clear(m.Topic) // borrowed until PublishLater returns
	clear(m.Payload)
	w.batch.Flush()
	return code
}

// elapse lets time go by for delayed messages, and waits until what is due is
// published and answered.
func (w *delayWorld) elapse(ms int64) {
	w.t.Helper()
	w.settle()
	w.clock.Add(ms)
	w.b.delays.poke()
	w.eventually("delayed messages are published", func() bool { return !w.b.delays.pending(w.clock.Load()) })
	w.settle()
}

// pending reports whether something is due at now, or being published.
func (q *delays) pending(now int64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	_, _, in, some := q.first([timings]int64{now, q.b.clock.Now()})
	return q.busy > 0 || some && in <= 0
}

func (w *world) eventually(what string, is func() bool) {
	w.t.Helper()
	if !poll(20*time.Second, is) {
		w.t.Fatal("it never comes that " + what)
	}
}

// subscriber connects a persistent device that also subscribes to news.
func (w *world) subscriber(id string, qos mq.QoS) *device {
	d := &device{id: id, persistent: true, window: 1000}
	w.connect(d, true)
	w.b.Subscribe(d.sess, &mq.Principal{}, []mq.Subscription{{Filter: "news", QoS: qos}}, &w.batch)
	w.batch.Flush()
	return d
}

// TestDelayedModel runs random histories of delayed messages, a device that comes
// and goes, restarts and power losses: what was acknowledged comes, not before its
// time, in the order of times, and with QoS 2 and 0 not twice.
func TestDelayedModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		after := rapid.SampledFrom([]time.Duration{0, time.Millisecond}).Draw(rt, "store-after")
		w := newDelayWorld(t, Options{StoreAfter: after}, store.SyncAlways)
		defer func() { w.stop() }()
		d := w.subscriber("dev", 2)
		d.window = rapid.SampledFrom([]int{1, 3, 1000}).Draw(rt, "window")
		w.connect(d, false)
		m := &delayModel{delayWorld: w, rt: rt, d: d, told: []*results{{}}, at: map[int]int64{}, qos: map[int]mq.QoS{}}
		for range rapid.IntRange(5, 40).Draw(rt, "steps") {
			m.step()
			m.receive()
		}
		m.finish()
	})
}

type delayModel struct {
	*delayWorld
	rt   *rapid.T
	d    *device
	told []*results // by life of the server
	next int
	at   map[int]int64
	qos  map[int]mq.QoS
	seen int // of d.got
}

func (m *delayModel) step() {
	w, rt, d := m.delayWorld, m.rt, m.d
	switch rapid.SampledFrom([]string{"pub", "pub", "pub", "pub", "pass", "pass", "rush", "ack", "ack", "off", "on", "restart", "crash"}).Draw(rt, "step") {
	case "pub":
		for range rapid.IntRange(1, 6).Draw(rt, "burst") {
			m.next++
			in := int64(rapid.IntRange(0, 30).Draw(rt, "in"))
			m.at[m.next], m.qos[m.next] = m.clock.Load()+in, mq.QoS(rapid.IntRange(0, 2).Draw(rt, "qos"))
			topic := rapid.SampledFrom([]string{"a/p2p/dev", "news"}).Draw(rt, "topic")
			w.later(topic, m.next, m.qos[m.next], in, m.told[len(m.told)-1])
		}
	case "pass":
		w.elapse(int64(rapid.IntRange(1, 20).Draw(rt, "ms")))
	case "rush": // and do not wait; but what is not stored when its time comes is late
		w.settle()
		w.clock.Add(int64(rapid.IntRange(1, 20).Draw(rt, "ms")))
		w.b.delays.poke()
	case "ack":
		w.ack(d, rapid.IntRange(1, 6).Draw(rt, "acks"))
	case "off":
		d.receive()
		w.disconnect(d)
	case "on":
		d.receive()
		w.connect(d, false)
	case "restart":
		d.receive()
		w.b.Drain(10 * time.Second)
		d.receive()
		w.disconnect(d)
		w.stop()
		w.start()
		m.told = append(m.told, &results{})
	case "crash":
		// What the sender was told by now must survive; freeze it.
		frozen := snapshot(m.told[len(m.told)-1])
		d.receive()
		w.crash(rapid.IntRange(0, 100).Draw(rt, "unsynced"))
		m.told[len(m.told)-1] = frozen
		m.told = append(m.told, &results{})
		d.link, d.sess = nil, nil
	}
}

func (m *delayModel) receive() {
	m.d.receive()
	for ; m.seen < len(m.d.got); m.seen++ {
		if n := m.d.got[m.seen].n; m.at[n] > m.clock.Load() {
			m.rt.Fatalf("message %d comes %d ms early", n, m.at[n]-m.clock.Load())
		}
	}
}

func (m *delayModel) finish() {
	m.connect(m.d, false)
	m.elapse(1000)
	m.drainAll(m.d)
	m.receive()
	first := map[int]bool{}
	last := 0
	for _, p := range m.d.got {
		if first[p.n] {
			if p.qos != 1 {
				m.rt.Fatalf("message %d with QoS %d comes twice", p.n, p.qos)
			}
			continue
		}
		first[p.n] = true
		if m.at[p.n] < m.at[last] || m.at[p.n] == m.at[last] && p.n < last {
			m.rt.Fatalf("message %d of %d comes after %d of %d", p.n, m.at[p.n], last, m.at[last])
		}
		last = p.n
	}
	for _, r := range m.told {
		for n, code := range snapshot(r).code {
			if code != mq.OK || m.qos[n] > 0 && !first[n] {
				m.rt.Fatalf("message %d with QoS %d: %v, delivered %v", n, m.qos[n], code, first[n])
			}
		}
	}
	if len(m.told) == 1 && len(m.told[0].code) != m.next {
		m.rt.Fatalf("%d of %d were answered", len(m.told[0].code), m.next)
	}
	if n := m.b.Stats.Delayed.Load(); n != 0 {
		m.rt.Fatalf("%d are counted as waiting", n)
	}
}

// crashPoint is what a power loss would leave: a device and a disk.
type crashPoint struct {
	what string
	got  map[string][]sent
	fs   *vfs.MemFS
}

// crashPoints keeps one of every moment at which the store is asked for something,
// or has done it.
type crashPoints struct {
	mq.Store
	w       *world
	devices []*device
	mu      sync.Mutex
	armed   bool
	list    []crashPoint
}

func (c *crashPoints) keep(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.armed {
		return
	}
	for _, unsynced := range []int{0, 50, 100} {
		p := crashPoint{what: fmt.Sprint(what, ", ", unsynced, " % of the rest"), got: map[string][]sent{}}
		for _, d := range c.devices { // before the disk: it may have missed what was sent, not the reverse
			if d.link == nil {
				continue
			}
			d.link.mu.Lock()
			p.got[d.id] = slices.Clone(d.link.in)
			d.link.mu.Unlock()
		}
		p.fs = c.w.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: unsynced, RNG: rng(uint64(len(c.list)))})
		c.list = append(c.list, p)
	}
}

func (c *crashPoints) Submit(op mq.Op) {
	c.keep(fmt.Sprint("before op ", op.Kind))
	c.Store.Submit(op)
	c.keep(fmt.Sprint("after op ", op.Kind))
}

func (c *crashPoints) SubmitGroup(ops []mq.Op) {
	c.keep(fmt.Sprint("before a group of ", len(ops)))
	c.Store.SubmitGroup(ops)
	c.keep(fmt.Sprint("after a group of ", len(ops)))
}

func (c *crashPoints) Read(in mq.Inbox, after, to uint64, n int, dst []mq.Entry, buf []byte) ([]mq.Entry, []byte, error) {
	c.keep("reading")
	return c.Store.Read(in, after, to, n, dst, buf)
}

// TestDelayedOnce loses power at every step of publishing a delayed message: with
// QoS 2 and 0 no target gets it twice, with QoS 1 and 2 every one gets it.
func TestDelayedOnce(t *testing.T) {
	watchdog(t, time.Duration(torture(120))*time.Second)
	for _, topic := range []string{"a/p2p/A", "news"} {
		for qos := mq.AtMostOnce; qos <= 2; qos++ {
			for _, online := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/qos%d/online=%v", topic, qos, online), func(t *testing.T) { delayedOnce(t, topic, qos, online) })
			}
		}
	}
}

func delayedOnce(t *testing.T, topic string, qos mq.QoS, online bool) {
	w := newDelayWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncAlways)
	c := &crashPoints{w: w.world}
	w.wrap = func(st mq.Store) mq.Store { c.Store = st; return c }
	w.stop()
	w.start()
	for _, id := range []string{"A", "B"} {
		d := w.subscriber(id, 2)
		if !online {
			w.disconnect(d)
		}
		c.devices = append(c.devices, d)
	}
	var r results
	w.later(topic, 1, qos, 10, &r)
	w.settle()
	if code, ok := r.get(1); !ok || code != mq.OK {
		t.Fatal("not accepted", code, ok)
	}
	c.mu.Lock()
	c.armed = true
	c.mu.Unlock()
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { // also moments at which nobody calls
		for i := 0; i < 40; i++ {
			select {
			case <-stop:
				return
			case <-time.After(300 * time.Microsecond):
				c.keep("later")
			}
		}
	})
	w.elapse(10)
	w.publish("a/p2p/other", 2, 1, 1, true, &results{}) // carries lazy notes to the disk
	w.settle()
	c.keep("at the end")
	close(stop)
	watching.Wait()
	c.mu.Lock()
	c.armed = false
	c.mu.Unlock()
	w.stop()
	for _, p := range c.list {
		p.check(t, c.devices, topic, qos)
	}
	t.Logf("%d crash points", len(c.list))
}

// check starts from what is left, with the devices as they were.
func (p *crashPoint) check(t *testing.T, devices []*device, topic string, qos mq.QoS) {
	clock := &atomic.Int64{}
	clock.Store(delayStart)
	w := &delayWorld{&world{t: t, fs: p.fs, sync: store.SyncAlways, opt: Options{StoreAfter: time.Millisecond, wall: clock.Load}}, clock}
	w.start()
	defer w.stop()
	var back []*device
	for _, old := range devices {
		d := &device{id: old.id, persistent: true, window: 1000, link: &link{in: p.got[old.id]}}
		d.receive()
		w.connect(d, false)
		back = append(back, d)
	}
	w.elapse(10)
	for _, d := range back {
		w.drainAll(d)
		want := 1
		if topic == "a/p2p/A" && d.id != "A" {
			want = 0
		}
		if got := len(d.got); got > want && qos != 1 || got < want && qos > 0 {
			t.Errorf("power lost %s: %s got it %d times", p.what, d.id, got)
		}
	}
	if n := w.b.Stats.Delayed.Load(); n != 0 {
		t.Errorf("power lost %s: %d are counted as waiting", p.what, n)
	}
}

// TestDelayedRefused: what is refused is refused now, and counted; what is
// accepted needs no right later.
func TestDelayedRefused(t *testing.T) {
	w := newDelayWorld(t, Options{DelayedLimit: 2}, store.SyncOS)
	full := &fullStore{}
	allowed := &rules{}
	allow := func(yes bool) {
		allowed.mu.Lock()
		defer allowed.mu.Unlock()
		allowed.allowed = map[string]bool{" a/p2p/dev": yes, " $SYS/x": true}
	}
	allow(true)
	w.auth = allowed
	w.wrap = func(st mq.Store) mq.Store { full.Store = st; return full }
	w.stop()
	w.start()
	defer w.stop()
	d := w.subscriber("dev", 2)
	n := 0
	try := func(topic string, qos mq.QoS, want mq.Code, why mq.DropReason) {
		t.Helper()
		n++
		var r results
		before := w.b.Stats.Dropped[why].Load()
		code := w.later(topic, n, qos, 10, &r)
		w.settle()
		told, ok := r.get(n)
		if code != want || told != want || !ok {
			t.Errorf("%s with QoS %d: %v, told %v, want %v", topic, qos, code, told, want)
		}
		if got := w.b.Stats.Dropped[why].Load() - before; want != mq.OK && got != 1 {
			t.Errorf("%s: counted %d times as %v", topic, got, why)
		}
	}
	for qos := mq.AtMostOnce; qos <= 2; qos++ {
		try("a/p2p/", qos, mq.BadTopic, mq.DropBadTopic)
		try("a/+", qos, mq.Malformed, mq.DropBadTopic)
		try("$SYS/x", qos, mq.NotAuthorized, mq.DropNotAuthorized)
	}
	allow(false)
	try("a/p2p/dev", 0, mq.NotAuthorized, mq.DropNotAuthorized)
	allow(true)
	full.full.Store(true)
	try("a/p2p/dev", 1, mq.StoreFull, mq.DropStoreFull)
	full.full.Store(false)
	try("a/p2p/dev", 0, mq.OK, 0)
	try("a/p2p/dev", 1, mq.OK, 0)
	try("a/p2p/dev", 1, mq.DelayedFull, mq.DropDelayedFull)
	if got := w.b.Stats.Delayed.Load(); got != 2 {
		t.Errorf("%d wait, want 2", got)
	}
	w.elapse(10)
	if w.drainAll(d); len(d.got) != 2 {
		t.Errorf("%d delivered, want 2", len(d.got))
	}
	allow(true)
	try("a/p2p/dev", 1, mq.OK, 0) // there is room again
	w.b.closing.Store(true)
	try("a/p2p/dev", 1, mq.ShuttingDown, mq.DropShutdown)
	w.b.closing.Store(false)
}

// TestDelayedStoreFull: a message that the store cannot take when its time has
// come is not lost, not counted as dropped, and holds nobody else up.
func TestDelayedStoreFull(t *testing.T) {
	for qos := mq.AtLeastOnce; qos <= 2; qos++ {
		w := newDelayWorld(t, Options{StoreAfter: time.Hour}, store.SyncOS)
		full := &fullStore{}
		w.wrap = func(st mq.Store) mq.Store { full.Store = st; return full }
		w.stop()
		w.start()
		away, here := w.subscriber("away", 2), w.subscriber("here", 0)
		w.disconnect(away)
		var r results
		w.later("a/p2p/away", 1, qos, 10, &r)
		w.later("news", 2, qos, 10, &r)
		w.later("a/p2p/here", 3, 1, 11, &r)
		w.settle()
		full.full.Store(true)
		w.clock.Add(11)
		w.b.delays.poke()
		w.eventually("the next is delivered", func() bool { w.ack(here, 10); return slices.Contains(numbers(here.got), 3) })
		w.elapse(delayRetry)
		if n := w.b.Stats.Delayed.Load(); n != 2 {
			t.Errorf("QoS %d: %d wait, want 2", qos, n)
		}
		for why := range w.b.Stats.Dropped {
			if n := w.b.Stats.Dropped[why].Load(); n != 0 {
				t.Errorf("QoS %d: %d dropped: %v", qos, n, mq.DropReason(why))
			}
		}
		full.full.Store(false)
		w.elapse(delayRetry)
		w.connect(away, false)
		if w.drainAll(away); !slices.Equal(numbers(away.got), []int{1, 2}) {
			t.Errorf("QoS %d: got %v, want 1 2", qos, numbers(away.got))
		}
		w.stop()
	}
}

// TestDelayedExpiry: a message whose expiry comes before its time is dropped then,
// and the retention of the store does not end the wait.
func TestDelayedExpiry(t *testing.T) {
	w := newDelayWorld(t, Options{}, store.SyncOS)
	defer w.stop()
	d := w.subscriber("dev", 1)
	w.batch.Begin()
	var r results
	m := message("a/p2p/dev", 1, 1, 1, true)
	m.Expiry = w.clock.Load() + 10
	w.b.PublishLater(Source{Principal: &mq.Principal{}}, m, w.clock.Load()+20, &r, 1, &w.batch)
	w.batch.Flush()
	w.later("a/p2p/dev", 2, 1, 20, &r)
	w.settle()
	w.st.Expired(time.Now().Add(1000*time.Hour), func(name string, seq uint64) bool {
		t.Errorf("the store lets %d of %q expire", seq, name)
		return true
	})
	w.elapse(9)
	if n := w.b.Stats.Delayed.Load(); n != 2 {
		t.Errorf("%d wait, want 2", n)
	}
	w.elapse(1)
	if n, dropped := w.b.Stats.Delayed.Load(), w.b.Stats.Dropped[mq.DropExpired].Load(); n != 1 || dropped != 1 {
		t.Errorf("%d wait, %d expired, want 1 and 1", n, dropped)
	}
	w.elapse(10)
	if w.drainAll(d); !slices.Equal(numbers(d.got), []int{2}) {
		t.Errorf("got %v, want 2", numbers(d.got))
	}
}

// TestDelayedBounded: however many are due at once, few are in memory; and targets
// that do not answer hold up others only as far as publishing must wait for them.
func TestDelayedBounded(t *testing.T) {
	for _, policy := range []KeepPolicy{KeepEither, KeepNever} {
		w := newDelayWorld(t, Options{StoreAfter: time.Hour, Keep: policy}, store.SyncOS)
		d, other := &device{id: "dev", persistent: true, window: 65535}, w.subscriber("other", 1)
		w.connect(d, true)
		var r results
		const many = (listSize + 10) * delayedInboxes
		for n := 1; n <= many; n++ {
			w.later("a/p2p/dev", n, 1, 10, &r)
		}
		w.later("a/p2p/other", many+1, 1, 11, &r)
		w.settle()
		w.disconnect(d)
		w.disconnect(other)
		w.stop()
		w.start()
		w.connect(d, true)
		w.connect(other, false)
		w.clock.Add(20)
		w.b.delays.poke()
		if policy == KeepNever { // the publish is never answered but by the target
			w.eventually("the other gets its message", func() bool { other.receive(); return len(other.got) == 1 })
		} else {
			w.eventually("many are published", func() bool { d.receive(); return len(d.got) >= maxFlying })
			w.looked()
			if d.receive(); len(d.got) != maxFlying {
				t.Errorf("%d are published at a time, want %d", len(d.got), maxFlying)
			}
		}
		for len(d.got) < many || len(other.got) == 0 {
			w.eventually("more come", func() bool { d.receive(); other.receive(); return len(d.unacked)+len(other.unacked) > 0 })
			w.ack(d, 700)
			w.ack(other, 1)
		}
		if !slices.IsSorted(numbers(d.got)) {
			t.Error("out of order")
		}
		w.ack(d, many)
		w.eventually("nothing waits", func() bool { return w.b.Stats.Delayed.Load() == 0 })
		w.stop()
	}
}

// TestDelayedClosing: once the server begins to close, while connections go, no
// delayed message is published to nobody.
func TestDelayedClosing(t *testing.T) {
	w := newDelayWorld(t, Options{}, store.SyncOS)
	d := &device{id: "dev", window: 10} // for which nothing is kept
	w.connect(d, true)
	var r results
	for n := 1; n <= 3; n++ {
		w.later("a/p2p/dev", n, mq.QoS(n-1), 10, &r)
	}
	w.settle()
	w.b.Drain(10 * time.Second)
	w.disconnect(d)
	w.clock.Add(10)
	w.looked()
	w.stop()
	w.clock.Add(-10)
	w.start()
	defer w.stop()
	if n := w.b.Stats.Delayed.Load(); n != 3 {
		t.Errorf("%d wait after the restart, want 3", n)
	}
	w.connect(d, true)
	w.elapse(10)
	if w.drainAll(d); !slices.Equal(numbers(d.got), []int{1, 2, 3}) {
		t.Errorf("got %v, want 1 2 3", numbers(d.got))
	}
	w.eventually("nothing is left in the store", func() bool {
		n := 0
		for _, in := range w.b.delays.boxes {
			n += w.st.Stats(in).Count
		}
		return n == 0
	})
}

// TestDelayedClosingMeanwhile: what was begun when the server begins to close is
// published wholly and in order.
func TestDelayedClosingMeanwhile(t *testing.T) {
	w := newDelayWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncOS)
	h := &hook{}
	w.wrap = func(st mq.Store) mq.Store { h.Store = st; return h }
	w.stop()
	w.start()
	d := w.subscriber("dev", 2)
	var r results
	for n := 1; n <= 3; n++ {
		w.later("a/p2p/dev", n, mq.QoS(n%2), 10, &r) // the second has QoS 0
	}
	w.settle()
	drained := make(chan struct{})
	b := w.b
	h.submit = func(op mq.Op) bool {
		if _, waits := op.Owner.(*waiter); waits && op.Kind == mq.OpAck { // it is removed before it is published
			go func() {
				b.Drain(10 * time.Second)
				close(drained)
			}()
			if !poll(10*time.Second, b.delays.held.Load) {
				t.Error("the server does not begin to close")
			}
		}
		return false
	}
	w.clock.Add(10)
	w.b.delays.poke()
	<-drained
	if d.receive(); !slices.Equal(numbers(d.got), []int{1, 2, 3}) {
		t.Errorf("got %v, want 1 2 3", numbers(d.got))
	}
	w.stop()
}

// TestDelayedClock: nobody tells the broker that time goes by, or that the clock
// was set.
func TestDelayedClock(t *testing.T) {
	w := newWorld(t, Options{}, store.SyncOS)
	defer func() { w.stop() }()
	d := w.subscriber("dev", 1)
	var r results
	at := time.Now().Add(60 * time.Millisecond)
	w.batch.Begin()
	for n := range 2 {
		w.b.PublishLater(Source{Principal: &mq.Principal{}}, message("news", 1, n, 1, false), at.UnixMilli(), &r, uint64(n), &w.batch)
		at = at.Add(20 * time.Millisecond)
	}
	w.batch.Flush()
	for n := 1; n <= 2; n++ {
		w.eventually("its time has come", func() bool { w.ack(d, 1); return len(d.got) == n })
		if late := time.Since(at.Add(time.Duration(n-3) * 20 * time.Millisecond)); late < -time.Millisecond {
			t.Errorf("message %d comes %v early", n, -late)
		} else {
			t.Logf("message %d comes %v late", n, late)
		}
	}
	v := newDelayWorld(t, Options{}, store.SyncOS)
	defer v.stop()
	d = v.subscriber("dev", 1)
	v.later("news", 1, 1, 3_600_000, &results{})
	v.settle()
	v.clock.Add(-3_600_000)
	v.looked()
	if d.receive(); len(d.got) != 0 {
		t.Error("it comes early after the clock was set back")
	}
	v.clock.Add(2 * 3_600_000)
	v.eventually("it is noticed that the clock was set", func() bool { d.receive(); return len(d.got) == 1 })
}

// damaged is a store that cannot read some entries.
type damaged struct {
	mq.Store
	bad atomic.Uint64 // seq of entries that cannot be read
}

func (s *damaged) Read(in mq.Inbox, after, to uint64, n int, dst []mq.Entry, buf []byte) ([]mq.Entry, []byte, error) {
	if after+1 == s.bad.Load() {
		return dst, buf, mq.Errorf(mq.StoreFailed, "test")
	}
	return s.Store.Read(in, after, to, n, dst, buf)
}

// TestDelayedDamaged: one that cannot be read is tried again, and holds nobody up.
func TestDelayedDamaged(t *testing.T) {
	w := newDelayWorld(t, Options{}, store.SyncOS)
	bad := &damaged{}
	w.wrap = func(st mq.Store) mq.Store { bad.Store = st; return bad }
	w.stop()
	w.start()
	defer w.stop()
	d := w.subscriber("dev", 1)
	var r results
	bad.bad.Store(2)
	for n := 1; n <= 3; n++ {
		w.later("news", n, 1, 10, &r)
	}
	w.elapse(10)
	if w.drainAll(d); !slices.Equal(numbers(d.got), []int{1, 3}) {
		t.Errorf("got %v, want 1 3", numbers(d.got))
	}
	bad.bad.Store(0)
	w.elapse(delayRetry)
	if w.drainAll(d); !slices.Equal(numbers(d.got), []int{1, 3, 2}) {
		t.Errorf("got %v, want 1 3 2", numbers(d.got))
	}
}
