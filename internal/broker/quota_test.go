package broker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// newLimited is newWorld with a limit on inboxes that hold messages.
func newLimited(t testing.TB, opt Options, inboxes mq.Limit) *world {
	w := &world{t: t, fs: vfs.NewCrashableMem(), opt: opt, sync: store.SyncAlways, inboxes: inboxes}
	w.start()
	return w
}

// as publishes as somebody, and returns what the sender is told once the store has
// answered.
func (w *world) as(who *mq.Principal, m *mq.Message) mq.Code {
	w.t.Helper()
	done := make(answer, 1)
	w.batch.Begin()
	code := w.b.Publish(Source{Principal: who}, m, done, 1, &w.batch)
	w.batch.Flush()
	if m.QoS > 0 {
		return <-done
	}
	return code
}

func p2p(target, payload string) *mq.Message {
	return &mq.Message{Topic: []byte("t/p2p/" + target), Payload: []byte(fmt.Sprintf("%8s", payload)), QoS: 1, Keep: true}
}

func retainedOn(topic, payload string) *mq.Message {
	return &mq.Message{Topic: []byte(topic), Payload: []byte(payload), QoS: 1, Retain: true}
}

var (
	greedy = &mq.Principal{User: "greedy", ClientID: "g"}
	modest = &mq.Principal{AccessKey: "modest", ClientID: "m"}
)

// Invented client IDs fill no memory: at the limit, a message that would make one
// more inbox hold messages is refused and counted; those that have messages go on
// to get them, and an inbox that becomes empty makes room. So it is after restarts
// and losses of power.
func TestInboxesLimit(t *testing.T) {
	const most = 20
	w := newLimited(t, Options{}, mq.Limit{Max: most})
	defer func() { w.stop() }()
	arrived, refused := 0, 0
	for i := range 5 * most {
		switch code := w.as(greedy, p2p(fmt.Sprint("dev", i), "x")); code {
		case mq.OK:
			arrived++
		case mq.InboxesFull:
			refused++
		default:
			t.Fatalf("message %d: %s", i, code)
		}
	}
	if n := w.b.Stats.Dropped[mq.DropInboxesFull].Load(); arrived != most || n != uint64(refused) {
		t.Fatalf("%d of %d arrived, %d refused, %d counted; want %d to arrive", arrived, 5*most, refused, n, most)
	}
	if n := w.b.Sessions(); n != 0 {
		t.Fatalf("%d sessions are in memory", n)
	}
	if code := w.as(greedy, p2p("dev3", "y")); code != mq.OK {
		t.Fatalf("an inbox that holds messages: %s", code)
	}
	for life := range 3 {
		got := 0
		d := &device{id: fmt.Sprint("dev", 3+life), window: 10}
		w.connect(d, false)
		w.drainAll(d)
		got += len(d.got)
		w.disconnect(d)
		w.settle()
		if want := 1 + (3-life)/3; got != want {
			t.Fatalf("life %d: %d arrived, want %d", life, got, want)
		}
		w.eventually("the place is free", func() bool { return w.st.Metrics().Holding == most-1 })
		if a, b := w.as(modest, p2p(fmt.Sprint("new", life), "x")), w.as(modest, p2p("more", "x")); a != mq.OK || b != mq.InboxesFull {
			t.Fatalf("life %d: the free place: %s, one more: %s", life, a, b)
		}
		if life == 0 {
			w.restart()
		} else {
			w.crash(50)
		}
		if n := w.st.Metrics().Holding; n != most {
			t.Fatalf("life %d: %d inboxes hold messages after the start, want %d", life, n, most)
		}
	}
}

// A message that was sent to a connected client, and is to be stored because that
// does not acknowledge it, is refused at the limit, too; a subscriber without a
// place misses the message, and the publisher is not refused for it.
func TestInboxesLimitOnline(t *testing.T) {
	w := newLimited(t, Options{}, mq.Limit{Max: 1})
	defer func() { w.stop() }()
	if code := w.as(greedy, p2p("first", "x")); code != mq.OK {
		t.Fatal(code)
	}
	d := &device{id: "dev", persistent: true, window: 10}
	w.connect(d, true)
	if code := w.as(greedy, p2p("dev", "x")); code != mq.InboxesFull { // after store-after
		t.Fatalf("to a client that does not acknowledge: %s", code)
	}
	d.receive()
	if len(d.got) != 1 {
		t.Fatalf("%d of 1 arrived", len(d.got))
	}
	w.b.Subscribe(d.sess, &mq.Principal{}, []mq.Subscription{{Filter: "news", QoS: 1}}, &w.batch)
	w.disconnect(d)
	if code := w.as(greedy, &mq.Message{Topic: []byte("news"), Payload: []byte("12345678"), QoS: 1}); code != mq.OK {
		t.Fatalf("a publish with a subscriber that has no place: %s", code)
	}
	if n := w.b.Stats.Dropped[mq.DropInboxesFull].Load(); n != 1 {
		t.Fatalf("%d counted, want 1: the subscriber's", n)
	}
	w.connect(&device{id: "first", window: 10}, false)
	if n := w.b.PendingBytes(); n < 0 {
		t.Fatalf("%d bytes are pending", n)
	}
}

// One principal fills its share of each quota; another still gets its part.
func TestShares(t *testing.T) {
	const most, share = 40, 75
	opt := Options{RetainedLimit: most, DelayedLimit: most, WillLimit: most, Share: share}
	w := newLimited(t, opt, mq.Limit{Max: most, Share: share})
	defer func() { w.stop() }()
	for _, q := range []struct {
		name string
		try  func(who *mq.Principal, i int) mq.Code
		full mq.Code
	}{
		{"inboxes", func(who *mq.Principal, i int) mq.Code {
			return w.as(who, p2p(fmt.Sprint("dev", who.User, i), "x"))
		}, mq.InboxesFull},
		{"retained", func(who *mq.Principal, i int) mq.Code {
			return w.as(who, retainedOn(fmt.Sprint("r/", who.User, i), "x"))
		}, mq.RetainedFull},
		{"delayed", func(who *mq.Principal, i int) mq.Code { return w.delayed(who, fmt.Sprint(i)) }, mq.DelayedFull},
		{"wills", func(who *mq.Principal, i int) mq.Code {
			return w.willing(*who, fmt.Sprint("w", who.User, i), "x")
		}, mq.WillsFull},
	} {
		arrived := map[*mq.Principal]int{}
		for _, who := range []*mq.Principal{greedy, modest} {
			for i := range 2 * most {
				switch code := q.try(who, i); code {
				case mq.OK, mq.NoTarget: // nobody has subscribed to the retained ones
					arrived[who]++
				case q.full:
				default:
					t.Fatalf("%s: %s", q.name, code)
				}
			}
		}
		if g, m := arrived[greedy], arrived[modest]; g != most*share/100 || m != most-g {
			t.Errorf("%s: %d and %d arrived, want %d and %d", q.name, g, m, most*share/100, most-most*share/100)
		}
	}
}

// delayed sends a message that waits for an hour.
func (w *world) delayed(who *mq.Principal, payload string) mq.Code {
	done := make(answer, 1)
	w.batch.Begin()
	w.b.PublishAfter(Source{Principal: who}, p2p("later", payload), 3_600_000, done, 1, &w.batch)
	w.batch.Flush()
	return <-done
}

// willing connects a client with a will, for good.
func (w *world) willing(who mq.Principal, id, payload string) mq.Code {
	p := &peer{id: id, expiry: NeverExpires}
	who.ClientID = id
	err := p.connect(w, false, &Will{Principal: who, Message: mq.Message{Topic: []byte("will"), Payload: []byte(payload), QoS: 1}})
	if e := new(mq.Error); errors.As(err, &e) {
		return e.Code
	}
	return mq.OK
}

// Bytes are bounded as numbers are; what takes the place of something counts the
// difference.
func TestByteLimits(t *testing.T) {
	big := strings.Repeat("x", 10_000)
	t.Run("retained", func(t *testing.T) {
		w := newWorld(t, Options{RetainedBytes: 100_000}, store.SyncOS)
		defer func() { w.stop() }()
		arrived := 0
		for i := range 20 {
			if code := w.as(greedy, retainedOn(fmt.Sprint("r/", i), big)); code == mq.OK {
				arrived++
			} else if code != mq.RetainedBytes {
				t.Fatal(code)
			}
		}
		if n := w.b.Stats.Dropped[mq.DropRetainedBytes].Load(); arrived != 9 || n != 11 {
			t.Fatalf("%d of 20 arrived, %d counted; want 9 and 11", arrived, n)
		}
		for _, step := range []struct {
			topic, payload string
			want           mq.Code
		}{
			{"r/0", big, mq.OK}, {"r/0", big + big, mq.RetainedBytes}, {"r/0", "", mq.OK}, {"r/1", big + big, mq.OK}, {"r/1", "small", mq.OK}, {"r/99", big, mq.OK},
		} {
			if code := w.as(greedy, retainedOn(step.topic, step.payload)); code != step.want {
				t.Fatalf("%s with %d bytes: %s, want %s", step.topic, len(step.payload), code, step.want)
			}
			w.settle()
		}
		before := w.b.Stats.RetainedBytes.Load()
		w.restart()
		if after := w.b.Stats.RetainedBytes.Load(); after != before || w.b.Stats.Retained.Load() != 9 {
			t.Fatalf("%d bytes before the restart, %d after, of %d messages", before, after, w.b.Stats.Retained.Load())
		}
	})
	t.Run("topic names", func(t *testing.T) { // which are in memory
		w := newWorld(t, Options{RetainedBytes: 1 << 20}, store.SyncOS)
		defer func() { w.stop() }()
		arrived := 0
		for i := range 50 {
			if w.as(greedy, retainedOn(fmt.Sprint(i, "/", strings.Repeat("y", 60_000)), "1")) == mq.OK {
				arrived++
			}
		}
		if arrived != 8 {
			t.Fatalf("%d of 50 arrived, want 8: topic names of 60 kB, in the record and in memory, in 1 MiB", arrived)
		}
	})
	t.Run("delayed", func(t *testing.T) {
		w := newWorld(t, Options{DelayedBytes: 100_000}, store.SyncOS)
		defer func() { w.stop() }()
		arrived := 0
		for range 20 {
			if code := w.delayed(greedy, big); code == mq.OK {
				arrived++
			} else if code != mq.DelayedBytes {
				t.Fatal(code)
			}
		}
		if n := w.b.Stats.Dropped[mq.DropDelayedBytes].Load(); arrived != 9 || n != 11 {
			t.Fatalf("%d of 20 arrived, %d counted; want 9 and 11", arrived, n)
		}
		before := w.b.Stats.DelayedBytes.Load()
		w.restart()
		if after := w.b.Stats.DelayedBytes.Load(); after != before || w.b.Stats.Delayed.Load() != 9 {
			t.Fatalf("%d bytes before the restart, %d after, of %d messages", before, after, w.b.Stats.Delayed.Load())
		}
	})
	t.Run("wills", func(t *testing.T) {
		w := newWorld(t, Options{WillBytes: 100_000}, store.SyncOS)
		defer func() { w.stop() }()
		arrived := 0
		for i := range 20 {
			if code := w.willing(*greedy, fmt.Sprint("c", i), big); code == mq.OK {
				arrived++
			} else if code != mq.WillsFull {
				t.Fatal(code)
			}
		}
		if n := w.b.Stats.WillsRefused.Load(); arrived != 9 || n != 11 {
			t.Fatalf("%d of 20 were let in, %d refusals counted; want 9 and 11", arrived, n)
		}
		// Who comes back with a will as large needs no more room, who has none does not either.
		if a, b := w.willing(*greedy, "c3", big), w.willing(*greedy, "c3", big+big); a != mq.OK || b != mq.WillsFull {
			t.Fatalf("back with the same will: %s, with a larger one: %s", a, b)
		}
		p := w.online(&peer{id: "c4", expiry: NeverExpires}, false)
		w.settle()
		if n := w.b.Stats.Wills.Load(); n != 8 {
			t.Fatalf("%d wills, want 8: one client came back without", n)
		}
		p.leave(w, proper)
		if code := w.willing(*modest, "c19", big); code != mq.OK {
			t.Fatal(code)
		}
		w.restart()
		if n := w.b.Stats.Wills.Load(); n != 9 {
			t.Fatalf("%d wills after the restart, want 9", n)
		}
	})
}

// checkQuotas compares what is counted with what is there.
func (w *world) checkQuotas(when string) {
	w.t.Helper()
	w.settle()
	w.eventually("the store has done all", func() bool { return w.st.Metrics().Queued == 0 })
	var held, names, retained, retainedBytes, delayed, delayedBytes int64
	_ = w.st.Names("", func(name string) error {
		in := w.st.Inbox(name)
		st := w.st.Stats(in)
		switch {
		case strings.HasPrefix(name, mq.RetainedInbox):
			retained++
			_, size, _ := w.st.Oldest(in, st.Last-1)
			retainedBytes += int64(size + len(name) - len(mq.RetainedInbox))
		case strings.HasPrefix(name, mq.DelayedInbox):
			delayed += int64(st.Count)
			delayedBytes += st.Bytes
		case strings.HasPrefix(name, mq.IdentifierInbox):
		default:
			held++
			names += int64(len(name))
		}
		return nil
	})
	var wills, willBytes int64
	for i := range w.b.registry.shards {
		for _, s := range w.b.registry.shards[i].snapshot() {
			s.mu.Lock()
			if s.will != nil {
				wills++
				willBytes += s.will.size
			}
			s.mu.Unlock()
		}
	}
	m, s := w.st.Metrics(), &w.b.Stats
	for _, q := range []struct {
		name      string
		got, want int64
	}{
		{"inboxes", m.Holding, held}, {"bytes of names", m.NameBytes, names},
		{"retained messages", s.Retained.Load(), retained}, {"bytes of them", s.RetainedBytes.Load(), retainedBytes},
		{"delayed messages", s.Delayed.Load(), delayed}, {"bytes of them", s.DelayedBytes.Load(), delayedBytes},
		{"wills", s.Wills.Load(), wills}, {"bytes of them", s.WillBytes.Load(), willBytes},
	} {
		if q.got != q.want {
			w.t.Fatalf("%s: %d %s are counted, there are %d", when, q.got, q.name, q.want)
		}
	}
}

// The counts are those of what is there, over random histories of senders,
// clients with and without wills, restarts and losses of power.
func TestQuotaModel(t *testing.T) {
	for seed := range uint64(torture(4)) {
		rng := rand.New(rand.NewPCG(seed, 11))
		opt := Options{
			RetainedLimit: 9, RetainedBytes: 4000, DelayedLimit: 20, DelayedBytes: 3000, WillLimit: 6, WillBytes: 600, Share: 75,
		}
		w := newLimited(t, opt, mq.Limit{Max: 15, Share: 75})
		told := map[mq.Code]int{}
		var arrived, left int
		peers := make([]*peer, 8)
		for i := range peers {
			peers[i] = &peer{id: fmt.Sprint("c", i), expiry: []uint32{0, NeverExpires}[i%2], receiveMax: 5}
		}
		for step := range 400 {
			who := []*mq.Principal{greedy, greedy, modest}[rng.IntN(3)]
			text := strings.Repeat("z", 8+rng.IntN(300))
			p := peers[rng.IntN(len(peers))]
			switch k := rng.IntN(100); {
			case k < 30:
				told[w.as(who, p2p(fmt.Sprint("c", rng.IntN(40)), text))]++
			case k < 50:
				if rng.IntN(3) == 0 {
					text = ""
				}
				told[w.as(who, retainedOn(fmt.Sprint("r/", rng.IntN(30)), text))]++
			case k < 60:
				told[w.delayed(who, text)]++
			case k < 80:
				var will *Will
				if rng.IntN(2) == 0 {
					will = &Will{Principal: *who, Message: *p2p(fmt.Sprint("c", rng.IntN(40)), text), Delay: []uint32{0, 1000}[rng.IntN(2)]}
					will.Principal.ClientID = p.id
				}
				if err := p.connect(w, rng.IntN(3) == 0, will); err != nil {
					e := new(mq.Error)
					if !errors.As(err, &e) || e.Code != mq.WillsFull {
						t.Fatal(err)
					}
					told[e.Code]++
				}
			case k < 90:
				p.receive()
				p.ack(w, 1+rng.IntN(3))
			case k < 96:
				p.leave(w, []Departure{proper, abrupt}[rng.IntN(2)])
				left++
			default:
				w.settle()
				crash := rng.IntN(2) == 0
				if crash {
					w.crash(rng.IntN(101))
				} else {
					for _, p := range peers {
						p.leave(w, abrupt)
					}
					w.restart()
				}
				for _, p := range peers {
					p.wire, p.owes = nil, nil
				}
			}
			w.checkQuotas(fmt.Sprintf("seed %d, step %d", seed, step))
		}
		for _, p := range peers {
			arrived += len(p.got)
		}
		for _, code := range []mq.Code{mq.OK, mq.InboxesFull, mq.RetainedFull, mq.DelayedBytes, mq.WillsFull} {
			if told[code] == 0 {
				t.Errorf("seed %d: nobody was told %q", seed, code)
			}
		}
		t.Logf("seed %d: %d arrived, %d left; told %v", seed, arrived, left, told)
		if arrived == 0 {
			t.Errorf("seed %d: 0 messages arrived", seed)
		}
		w.stop()
	}
}

// Clients that do not read keep messages in memory. Those of one account may have
// a share of pending-bytes-total; what another's clients do not read yet is kept.
func TestShareOfMemory(t *testing.T) {
	const all, share = 4 << 20, 75
	w := newWorld(t, Options{PendingSize: 1 << 20, PendingAll: all, Share: share}, store.SyncOS)
	defer func() { w.stop() }()
	slow := func(who *mq.Principal, id string, n int) *link {
		l := &link{full: true}
		w.batch.Begin()
		s, err := w.b.Connect(ConnectRequest{ClientID: id, Principal: who, Conn: l, CleanStart: true, ReceiveMax: 10}, &w.batch)
		if err != nil {
			t.Fatal(err)
		}
		w.b.Subscribe(s, who, []mq.Subscription{{Filter: id, QoS: 1}}, &w.batch)
		for range n {
			w.b.Publish(Source{Principal: who}, &mq.Message{Topic: []byte(id), Payload: make([]byte, 100_000), QoS: 1}, &results{}, 0, &w.batch)
		}
		w.batch.Flush()
		return l
	}
	for i := range 12 {
		slow(greedy, fmt.Sprint("g", i), 10)
	}
	if n := w.b.PendingBytes(); n > all*share/100+12*chargeStep || n < all/2 {
		t.Errorf("%d bytes of one account are in memory, its share is %d", n, all*share/100)
	}
	dropped := w.b.Stats.Dropped[mq.DropSlowConsumer].Load()
	l := slow(modest, "m", 5)
	if n := w.b.Stats.Dropped[mq.DropSlowConsumer].Load() - dropped; n != 0 {
		t.Errorf("%d messages of another account were dropped", n)
	}
	l.mu.Lock()
	l.full = false
	l.mu.Unlock()
	w.batch.Begin()
	w.b.Drained(l.sess, l, &w.batch)
	w.batch.Flush()
	if in, _, _ := l.take(); len(in) != 5 {
		t.Errorf("%d of 5 arrived", len(in))
	}
	for i := range 12 {
		s := w.b.registry.find([]byte(fmt.Sprint("g", i)))
		w.b.Disconnect(s, s.conn, Departure{}, &w.batch)
		w.batch.Flush()
	}
	w.b.Disconnect(l.sess, l, Departure{}, &w.batch)
	w.batch.Flush()
	if n, held := w.b.PendingBytes(), w.b.memory.used.Used(); n != 0 || held != 0 {
		t.Errorf("%d bytes are left, %d on accounts", n, held)
	}
}
