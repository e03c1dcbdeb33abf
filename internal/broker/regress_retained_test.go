package broker

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// TestRetainedMixedQoS: retained messages that are stored before they are sent,
// and ones that are sent at once, keep their order.
// [MQTT-3.3.1-1] [MQTT-3.3.1-2] [MQTT3-3.3.1-2]
func TestRetainedMixedQoS(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncOS)
	defer w.stop()
	var r results
	for i, qos := range []mq.QoS{2, 1, 2, 0, 2, 1} {
		w.send(fmt.Sprint("r/", i), fmt.Sprint(i), qos, true, &r, i)
	}
	w.settle()
	p := w.online(&peer{id: "p", expiry: 100}, true)
	p.subscribe(w, mq.Subscription{Filter: "r/#", QoS: 2})
	w.drain(p)
	if len(p.got) != 6 || len(p.held) != 0 || !firstsInOrder(p.got) {
		t.Fatalf("got %v, held %v", p.packets, p.held)
	}
	for _, k := range p.packets {
		if k.dup {
			t.Errorf("the first time with DUP: %v", k)
		}
	}
}

// TestRetainedInboxLimit: the inbox limit does not push retained messages out by
// which a new subscription is followed.
func TestRetainedInboxLimit(t *testing.T) {
	for _, opt := range []Options{{InboxLimit: 5}, {InboxLimit: 5, RejectFull: true}, {InboxBytes: 100}} {
		for qos := mq.QoS(1); qos <= 2; qos++ {
			opt.StoreAfter = time.Millisecond
			w := newWorld(t, opt, store.SyncOS)
			for i := range 50 {
				w.send(fmt.Sprintf("r/%d", i), "x", qos, true, &results{}, i)
			}
			w.settle()
			p := w.online(&peer{id: "p", expiry: 100}, true)
			p.subscribe(w, mq.Subscription{Filter: "r/#", QoS: 2})
			if w.drain(p); len(p.got) != 50 {
				t.Errorf("%+v qos %d: %d of 50 came", opt, qos, len(p.got))
			}
			w.stop()
		}
	}
}

// TestSharedInboxLimit: nor does it push out what a shared subscription has
// moved to a member.
func TestSharedInboxLimit(t *testing.T) {
	for _, reject := range []bool{false, true} {
		w := newWorld(t, Options{StoreAfter: time.Millisecond, InboxLimit: 5, RejectFull: reject}, store.SyncOS)
		p := w.online(&peer{id: "p", expiry: 100, receiveMax: 50}, true)
		p.subscribe(w, shared(2))
		for n := range 100 {
			w.send("t/x", fmt.Sprint(n), 2, false, &results{}, n)
			if n%5 == 4 {
				w.settle()
			}
		}
		w.drain(p)
		if dropped := w.b.Stats.Dropped[mq.DropInboxFull].Load(); len(p.got)+int(dropped) != 100 || len(p.got) < 50 {
			t.Errorf("reject %v: %d came, %d counted as dropped", reject, len(p.got), dropped)
		}
		w.stop()
	}
}

// TestWillAtClose: a will that is due when the server closes is published after
// the restart.
func TestWillAtClose(t *testing.T) {
	for qos := mq.QoS(0); qos <= 2; qos++ {
		for _, expiry := range []uint32{1, 100} { // the will is due with the session, or before
			w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncAlways)
			s := w.online(&peer{id: "s", expiry: 1000}, true)
			s.subscribe(w, mq.Subscription{Filter: "w", QoS: 2})
			p := &peer{id: "p", expiry: expiry}
			if err := p.connect(w, true, &Will{Delay: 20, Message: mq.Message{Topic: []byte("w"), Payload: []byte("will"), QoS: qos}}); err != nil {
				t.Fatal(err)
			}
			p.leave(w, abrupt)
			s.leave(w, proper)
			w.b.closing.Store(true) // Close has begun, housekeeping still runs
			w.pass(30 * time.Second)
			w.stop()
			w.start()
			w.online(s, false)
			w.pass(30 * time.Second)
			if w.drain(s); len(s.got) != 1 {
				t.Errorf("qos %d expiry %d: the will came %d times", qos, expiry, len(s.got))
			}
			w.stop()
		}
	}
}

// TestWillWaitsForNobody: where nothing is stored, the end of a client does not
// wait for the target of its will.
func TestWillWaitsForNobody(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond, Keep: KeepNever}, store.SyncOS)
	defer w.stop()
	target := w.online(&peer{id: "target"}, true)
	p := &peer{id: "p"}
	if err := p.connect(w, true, &Will{Message: mq.Message{Topic: []byte("a/p2p/target"), Payload: []byte("will"), QoS: 1}}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.leave(w, abrupt)
	}()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Error("it does")
		target.leave(w, abrupt)
		<-done
	}
	if target.receive(); len(target.got) != 1 {
		t.Errorf("the target got %v", target.got)
	}
}

// TestRetainedClearedMeanwhile: a topic is cleared and set again while a
// subscriber's look-up reads; it does not get the old message.
func TestRetainedClearedMeanwhile(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncOS)
	var armed atomic.Bool
	w.wrap = func(st mq.Store) mq.Store {
		return &hook{Store: st, read: func() {
			if armed.CompareAndSwap(true, false) {
				for n, text := range []string{"", "new"} {
					w.send("r", text, 1, true, &results{}, n)
					w.settle()
				}
			}
		}}
	}
	w.stop()
	w.start()
	defer w.stop()
	w.send("r", "old", 1, true, &results{}, 1)
	w.settle()
	p := w.online(&peer{id: "p"}, true)
	armed.Store(true)
	p.subscribe(w, mq.Subscription{Filter: "r", QoS: 1})
	w.drain(p)
	if got := payloads(p.got); len(got) == 0 || got[len(got)-1] != "new" || slices.Contains(got, "old") {
		t.Fatalf("got %q", got)
	}
}

// failingGroups fails the next groups of ops.
type failingGroups struct {
	mq.Store
	w     *world
	fail  atomic.Int32
	after atomic.Uint32 // how many groups have come
}

func (h *failingGroups) SubmitGroup(ops []mq.Op) {
	came := h.after.Add(1)
	if h.fail.Load() == 0 {
		h.Store.SubmitGroup(ops)
		return
	}
	h.fail.Add(-1)
	owned := slices.DeleteFunc(slices.Clone(ops), func(op mq.Op) bool { return op.Owner == nil })
	go func() {
		if !poll(10*time.Second, func() bool { return h.after.Load() > came }) { // it fails after the next has come
			h.w.t.Error("no other group comes")
		}
		var b Batch
		h.w.b.Committed(owned, &mq.Error{Code: mq.StoreFull, Text: "ENOSPC"}, &b)
	}()
}

// TestRetainedStaysCleared: of three messages for a topic the store fails the
// second; when the third is cleared, the first does not come back.
func TestRetainedStaysCleared(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncAlways)
	h := &failingGroups{w: w}
	w.wrap = func(st mq.Store) mq.Store { h.Store = st; return h }
	w.stop()
	w.start()
	var r results
	w.send("r", "A", 1, true, &r, 1)
	w.settle()
	h.fail.Store(1)
	w.send("r", "B", 1, true, &r, 2)
	w.send("r", "C", 1, true, &r, 3)
	w.settle()
	w.send("r", "", 1, true, &r, 4)
	w.settle()
	if code, _ := r.get(2); code != mq.StoreFull {
		t.Errorf("the publisher of the second is told %v", code)
	}
	w.crash(100)
	defer w.stop()
	p := w.online(&peer{id: "p"}, true)
	p.subscribe(w, mq.Subscription{Filter: "#", QoS: 1})
	if w.drain(p); len(p.got) != 0 {
		t.Fatalf("cleared, and back after a restart: %v", p.got)
	}
}

// TestRetainedOwedResubscribe: a client that subscribes again with retain
// handling 1 or 2 before all was sent gets the rest, also after a crash.
func TestRetainedOwedResubscribe(t *testing.T) {
	for handling := uint8(1); handling <= 2; handling++ {
		w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncAlways)
		for i := range 10 {
			w.send(fmt.Sprintf("r/%d", i), "x", 1, true, &results{}, i)
		}
		w.settle()
		p := w.online(&peer{id: "p", expiry: 100, receiveMax: 1}, true)
		p.subscribe(w, mq.Subscription{Filter: "r/#", QoS: 1})
		p.subscribe(w, mq.Subscription{Filter: "r/#", QoS: 1, RetainHandling: handling})
		p.receive()
		p.wire, p.owes = nil, nil
		w.crash(100)
		w.online(p, false)
		w.drain(p)
		got := map[string]bool{}
		for _, k := range p.got {
			got[k.topic] = true
		}
		if len(got) != 10 {
			t.Errorf("retain handling %d: %d of 10 topics came", handling, len(got))
		}
		w.stop()
	}
}

// TestRetainedAndLive: what is published while a look-up of retained messages
// reads comes too, and the rest of them.
func TestRetainedAndLive(t *testing.T) {
	for qos := mq.QoS(0); qos <= 2; qos++ {
		for _, expiry := range []uint32{0, 100} {
			w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncOS)
			var armed atomic.Bool
			w.wrap = func(st mq.Store) mq.Store {
				return &hook{Store: st, read: func() {
					if armed.CompareAndSwap(true, false) {
						w.send("r/1", "live", qos, true, &results{}, 1)
						w.settle()
					}
				}}
			}
			w.stop()
			w.start()
			for i := range 5 {
				w.send(fmt.Sprint("r/", i), "old", max(qos, 1), true, &results{}, i)
			}
			w.settle()
			p := w.online(&peer{id: "p", expiry: expiry}, true)
			armed.Store(true)
			p.subscribe(w, mq.Subscription{Filter: "r/#", QoS: 2})
			w.drain(p)
			last := map[string]string{}
			for _, k := range p.got {
				last[k.topic] = k.payload
			}
			if !slices.Contains(payloads(p.got), "live") || len(last) != 5 || last["r/1"] != "live" {
				t.Errorf("live qos %d, expiry %d: got %v", qos, expiry, p.got)
			}
			w.stop()
		}
	}
}

// fullStore says that it is full, when told to.
type fullStore struct {
	mq.Store
	full atomic.Bool
}

func (h *fullStore) Admit(size int) error {
	if h.full.Load() {
		return &mq.Error{Code: mq.StoreFull, Text: "full"}
	}
	return h.Store.Admit(size)
}

// TestWillStoreFull: a session whose will the store cannot take ends
// nevertheless, wholly.
func TestWillStoreFull(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncOS)
	h := &fullStore{}
	w.wrap = func(st mq.Store) mq.Store { h.Store = st; return h }
	w.stop()
	w.start()
	defer w.stop()
	watcher := w.online(&peer{id: "watcher", expiry: 100}, true)
	watcher.subscribe(w, mq.Subscription{Filter: "w", QoS: 1})
	watcher.leave(w, proper)
	p := &peer{id: "p"}
	if err := p.connect(w, true, &Will{Message: mq.Message{Topic: []byte("w"), Payload: []byte("will"), QoS: 1}}); err != nil {
		t.Fatal(err)
	}
	p.subscribe(w, mq.Subscription{Filter: "x", QoS: 1}, mq.Subscription{Filter: "$share/g/y", QoS: 1})
	h.full.Store(true)
	p.leave(w, abrupt)
	h.full.Store(false)
	w.housekeep()
	if n := len(w.b.topics.match([]byte("x"), nil, nil)) + len(w.b.topics.match([]byte("y"), nil, nil)); n != 0 {
		t.Errorf("%d subscriptions of a session that has ended", n)
	}
	if n := w.b.Stats.Subs.Load(); n != 1 {
		t.Errorf("%d subscriptions counted, want 1", n)
	}
	w.online(p, false)
	if p.wire.present {
		t.Error("the session is there again")
	}
	witness := w.online(&peer{id: "witness"}, true)
	witness.subscribe(w, mq.Subscription{Filter: "y", QoS: 1})
	w.send("y", "1", 1, false, &results{}, 1)
	if w.drain(p, witness); len(p.got) > 0 || len(witness.got) != 1 {
		t.Errorf("got %v, who has subscribed %v", p.got, witness.got)
	}
}

// TestRetainedOwedOnce: when all retained messages were sent, a restart does not
// make them come again.
func TestRetainedOwedOnce(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncAlways)
	for i := range 50 {
		w.send(fmt.Sprint("r/", i), "x", mq.QoS(i%3), true, &results{}, i)
	}
	w.settle()
	p := w.online(&peer{id: "p", expiry: 100}, true)
	p.subscribe(w, mq.Subscription{Filter: "r/#", QoS: 2})
	if w.drain(p); len(p.got) != 50 {
		t.Errorf("%d came", len(p.got))
	}
	p.leave(w, proper)
	w.restart()
	defer w.stop()
	w.online(p, false)
	if w.drain(p); len(p.got) != 50 {
		t.Errorf("%d came after a restart", len(p.got)-50)
	}
}

// TestWillTriedAgain: a will without delay that the store could not take is
// published when it can, if its session goes on, like one with a delay; and the
// deadline of the session is stored all the same.
func TestWillTriedAgain(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncAlways)
	h := &fullStore{}
	w.wrap = func(st mq.Store) mq.Store { h.Store = st; return h }
	w.stop()
	w.start()
	defer w.stop()
	watcher := w.online(&peer{id: "watcher", expiry: 100}, true)
	watcher.subscribe(w, mq.Subscription{Filter: "w", QoS: 1})
	watcher.leave(w, proper)
	p := &peer{id: "p", expiry: 100}
	if err := p.connect(w, true, &Will{Message: mq.Message{Topic: []byte("w"), Payload: []byte("will"), QoS: 1}}); err != nil {
		t.Fatal(err)
	}
	h.full.Store(true)
	p.leave(w, abrupt)
	h.full.Store(false)
	_ = w.st.Sessions(func(id string, meta mq.SessionMeta) error {
		if id == "p" && (meta.Deadline == 0 || len(meta.Will) == 0) {
			t.Errorf("stored: deadline %d, will of %d bytes", meta.Deadline, len(meta.Will))
		}
		return nil
	})
	w.b.fireWills(time.Now().UnixMilli() + willRetry + 1000)
	in := w.st.Inbox("watcher")
	w.eventually("the will is stored for the watcher", func() bool { return w.st.Stats(in).Count == 1 })
	w.settle()
	w.online(watcher, false)
	if w.drain(watcher); len(watcher.got) != 1 {
		t.Errorf("the watcher has %v", watcher.got)
	}
}
