package broker

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/homing-mq/homing/internal/clock"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// clockWorld is a world whose clocks the test sets.
type clockWorld struct {
	*world
	wall, elapsed atomic.Int64 // ms
}

const (
	clockToday = int64(1_796_000_000_000) // in November 2026, Unix ms
	clockDay   = int64(24 * time.Hour / time.Millisecond)
	clockYear  = 365 * clockDay
)

func newClockWorld(t testing.TB, wall int64) *clockWorld {
	w := &clockWorld{}
	w.wall.Store(wall)
	w.world = newWorldWith(t, Options{StoreAfter: time.Millisecond}, store.SyncAlways, func() *clock.Clock {
		return clock.New(clock.Options{Wall: w.wall.Load, Elapsed: w.elapsed.Load, Asleep: func() int64 { return 0 }})
	})
	return w
}

// tick is what the housekeeping does.
func (w *clockWorld) tick() {
	w.t.Helper()
	w.b.clock.Check()
	w.settle()
	var batch Batch
	batch.Begin()
	w.b.expireMessages(&batch)
	batch.Flush()
	w.housekeep()
}

// lapse lets time pass on both clocks.
func (w *clockWorld) lapse(ms int64) {
	w.wall.Add(ms)
	w.elapsed.Add(ms)
	w.tick()
}

// TestClockHistories: sessions, wills, kept messages and retained messages, under a
// wall clock that jumps anywhere, with restarts and power losses after which it
// starts anywhere: none ends before its time has passed on the server's clock, and
// when that has passed none is left. That clock is as fast as the monotonic one.
func TestClockHistories(t *testing.T) {
	arrived := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		w := newClockWorld(t, clockToday+rapid.SampledFrom([]int64{0, 0, -50, 5, 50}).Draw(rt, "years")*clockYear)
		m := &clockModel{clockWorld: w, rt: rt, watch: &device{id: "watch", persistent: true, window: 1000}}
		defer func() { w.stop() }()
		w.connect(m.watch, true)
		w.b.Subscribe(m.watch.sess, &mq.Principal{}, []mq.Subscription{{Filter: "news", QoS: 1}}, &w.batch)
		w.batch.Flush()
		for range rapid.IntRange(5, 25).Draw(rt, "steps") {
			m.step()
			m.check()
		}
		m.finish(arrived)
	})
	t.Logf("arrived or lived to the end: %v", arrived)
	for _, kind := range []string{"message", "session", "will", "retained"} {
		if arrived[kind] < 20 {
			t.Errorf("of kind %s only %d arrived", kind, arrived[kind])
		}
	}
}

// clockModel knows what must be there.
type clockModel struct {
	*clockWorld
	rt     *rapid.T
	watch  *device
	things []*mortal
}

// mortal is something that ends at a time of the server's clock.
type mortal struct {
	kind string
	n    int
	ends int64
	over bool // it has ended; the time may go back behind that in a power loss
}

func (x *mortal) id() string { return fmt.Sprintf("%s %d", x.kind, x.n) }

func (m *clockModel) step() {
	w, rt := m.clockWorld, m.rt
	what := rapid.SampledFrom([]string{"message", "session", "will", "retained", "message", "lapse", "lapse", "jump", "jump", "restart", "crash", "power off"}).Draw(rt, "step")
	switch what {
	case "message", "session", "will", "retained":
		m.bear(what, rapid.SampledFrom([]int64{1, 60, 600, 3000, 3 * 24 * 3600}).Draw(rt, "seconds"))
	case "lapse":
		before, d := w.b.clock.Now(), rapid.SampledFrom([]int64{500, 20_000, 120_000, 1_800_000}).Draw(rt, "ms")
		w.lapse(d)
		if moved := w.b.clock.Now() - before; moved < d/2-200 || moved > 2*d+200 {
			rt.Fatalf("the time moved by %d ms in %d", moved, d)
		}
	case "jump":
		w.wall.Store(clockToday + rapid.Int64Range(-50, 50).Draw(rt, "years")*clockYear + rapid.Int64Range(-600, 600).Draw(rt, "seconds")*1000)
	case "restart":
		w.b.clock.Check()
		before := w.b.clock.Now()
		m.watch.receive()
		w.stop()
		w.start()
		m.watch.link = nil
		m.began(before, before, 0)
	case "crash", "power off":
		m.powerOff(what)
	}
}

// bear makes one of a kind that lives for so long.
func (m *clockModel) bear(kind string, seconds int64) {
	w := m.clockWorld
	x := &mortal{kind: kind, n: len(m.things) + 1}
	x.ends = w.b.clock.Now() + seconds*1000
	switch w.batch.Begin(); kind {
	case "message", "retained":
		msg := message("a/p2p/"+x.id(), 1, x.n, 1, true)
		if kind == "retained" {
			msg.Topic, msg.Retain = []byte(x.id()), true
		} else {
			x.ends = min(x.ends, w.b.clock.Now()+3600*1000) // the retention
		}
		msg.Expiry = w.b.Now(&w.batch) + seconds*1000
		var r results
		w.b.Publish(Source{Principal: &mq.Principal{}}, msg, &r, 1, &w.batch)
		w.batch.Flush()
		w.settle()
		if code, ok := r.get(1); !ok || code != mq.OK {
			m.rt.Fatalf("%s: %v, %v", x.id(), code, ok)
		}
	case "session", "will":
		req := ConnectRequest{ClientID: x.id(), Conn: &link{}, Expiry: uint32(seconds), ReceiveMax: 10}
		if kind == "will" {
			req.Expiry = NeverExpires
			req.Will = &Will{Message: *message("news", 1, x.n, 1, false), Delay: uint32(seconds)}
		}
		s, err := w.b.Connect(req, &w.batch)
		if err != nil {
			m.rt.Fatal(err)
		}
		w.b.Disconnect(s, req.Conn, Departure{}, &w.batch)
		w.batch.Flush()
	}
	m.things = append(m.things, x)
}

// powerOff loses what was not synced. The clock has gone on, or starts anywhere.
func (m *clockModel) powerOff(what string) {
	w := m.clockWorld
	w.tick()
	before, down := w.b.clock.Now(), int64(0)
	var known int64 // all that is promised was written then
	for _, x := range m.things {
		if x.kind == "message" {
			known = max(known, x.ends-3600*1000)
		}
	}
	m.watch.receive()
	if down = rapid.Int64Range(0, 100).Draw(m.rt, "hours") * 3600 * 1000; what == "crash" {
		w.wall.Add(down)
	} else {
		w.wall.Store(rapid.Int64Range(1, 400).Draw(m.rt, "boots at day") * clockDay)
	}
	w.crash(rapid.IntRange(0, 100).Draw(m.rt, "unsynced"))
	m.watch.link = nil
	m.began(min(known, before), before, down)
}

// began checks the time after a start.
func (m *clockModel) began(least, before, down int64) {
	now := m.b.clock.Now()
	if now < least {
		m.rt.Fatalf("the time went back by %v", time.Duration(least-now)*time.Millisecond)
	}
	// One that began in 1970 believes a clock that shows days of that year.
	if now > before+down+clock.Tolerance && now > 500*clockDay {
		m.rt.Fatalf("the time leapt by %v", time.Duration(now-before)*time.Millisecond)
	}
	m.connect(m.watch, false)
	m.tick()
}

// check compares what is there with what must be.
func (m *clockModel) check() {
	m.tick()
	m.ack(m.watch, 1000)
	now := m.b.clock.Now()
	for _, x := range m.things {
		switch {
		case x.over:
		case now < x.ends-1000 && !m.there(x):
			m.rt.Fatalf("%s has ended %d s before its time", x.id(), (x.ends-now)/1000)
		case now > x.ends-1000 && !m.there(x):
			x.over = true
		case now > x.ends+1000: // the housekeeping may be looking elsewhere at the moment
			m.eventually(x.id()+" ends", func() bool {
				gone := !m.there(x)
				if !gone {
					m.tick()
					m.ack(m.watch, 1000)
				}
				return gone
			})
		}
	}
}

func (m *clockModel) there(x *mortal) bool {
	switch x.kind {
	case "session":
		_, ok, err := m.st.Session(x.id())
		if err != nil {
			m.rt.Fatal(err)
		}
		return ok
	case "will":
		return !slices.ContainsFunc(m.watch.got, func(p sent) bool { return p.n == x.n })
	case "retained":
		return m.st.Stats(m.st.Inbox(mq.RetainedInbox+x.id())).Count > 0
	}
	return m.st.Stats(m.st.Inbox(x.id())).Count > 0
}

// finish lets what is left arrive.
func (m *clockModel) finish(arrived map[string]int) {
	now := m.b.clock.Now()
	for _, x := range m.things {
		switch {
		case x.kind == "will" && !m.there(x):
			arrived["will"]++
		case x.over || now > x.ends-1000 || x.kind == "will":
		case x.kind == "message":
			d := &device{id: x.id(), persistent: true, window: 10}
			m.connect(d, false)
			m.drainAll(d)
			if len(d.got) != 1 || d.got[0].n != x.n {
				m.rt.Fatalf("%s: %v arrived, want 1 message", x.id(), d.got)
			}
			arrived["message"]++
		default:
			arrived[x.kind]++
		}
	}
}

// A forward jump that the expiry of messages would see first expires nothing: the
// clocks are compared before, and a batch that began before the jump has its time.
func TestClockJumpSeenByHousekeeping(t *testing.T) {
	w := newClockWorld(t, clockToday-10*clockYear)
	defer func() { w.stop() }()
	var r results
	for n := range 10 {
		w.publish("a/p2p/dev", 1, n, 1, true, &r)
	}
	w.settle()
	w.batch.Begin()
	before := w.b.Now(&w.batch)
	w.wall.Store(clockToday)
	w.b.expireMessages(&w.batch)
	var fresh Batch
	fresh.Begin()
	w.b.expireMessages(&fresh) // no Check yet
	w.tick()
	if now := w.b.Now(&w.batch); now != before {
		t.Errorf("the time of a batch went from %d to %d", before, now)
	}
	w.eventually("the housekeeping notices the jump", func() bool { return w.b.clock.Jumps() == 1 })
	d := &device{id: "dev", persistent: true, window: 100}
	w.connect(d, false)
	w.drainAll(d)
	if len(d.got) != 10 {
		t.Errorf("%d of 10 messages arrived", len(d.got))
	}
	if dropped := w.b.Stats.Dropped[mq.DropExpired].Load(); dropped != 0 {
		t.Errorf("%d messages expired", dropped)
	}
}
