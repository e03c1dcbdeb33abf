package broker

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// A session without expiry ends when a connection takes over: it is not promised
// (session present), and nothing of it comes. What the next session subscribes to
// is there after a crash. [MQTT-3.1.2-5] [MQTT3-3.1.2-4]
func TestLoseSubscriptions(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncAlways)
	defer func() { w.stop() }()
	p := w.online(&peer{id: "dev"}, true)
	var r results
	n := 0
	came := func(want ...string) { // of what is published from 0 on, once more at each call
		t.Helper()
		w.send("x", fmt.Sprint(n), 1, false, &r, n)
		n++
		w.drain(p)
		if got := slices.Compact(payloads(p.got)); !slices.Equal(got, want) { // the last before a crash may come again
			t.Fatalf("of %d messages came %q, want %q", n, got, want)
		}
	}
	p.subscribe(w, mq.Subscription{Filter: "x", QoS: 1})
	came("0")
	p.expiry = NeverExpires
	if w.online(p, false); p.wire.present { // takes over
		t.Fatal("a session without expiry is there after its connection")
	}
	came("0")
	p.subscribe(w, mq.Subscription{Filter: "x", QoS: 1})
	came("0", "2")
	p.wire, p.owes = nil, nil
	w.crash(0)
	if w.online(p, false); !p.wire.present {
		t.Fatal("the session is lost")
	}
	came("0", "2", "3")
}

// A QoS 2 delivery that has begun is thrown away by its expiry while the target is offline.
// [MQTT-4.3.3-7]
func TestStallExpiredRelease(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncOS)
	defer func() { w.stop() }()
	d := &device{id: "dev", persistent: true, window: 10}
	w.connect(d, true)
	var r results
	w.batch.Begin()
	m := message("a/p2p/dev", 1, 1, 2, true)
	expiry := w.b.Now(&w.batch) + 1000
	m.Expiry = expiry
	w.b.Publish(Source{Principal: &mq.Principal{}}, m, &r, 1, &w.batch)
	w.batch.Flush()
	w.settle()
	w.ack(d, 1) // PUBREC; the PUBREL does not arrive
	if !slices.Equal(numbers(d.got), []int{1}) || len(d.held) != 1 {
		t.Fatalf("got %v, of which %v are begun; want 1", numbers(d.got), d.held)
	}
	w.settle()
	w.disconnect(d)
	w.batch.Begin()
	m = message("a/p2p/dev", 1, 2, 1, true)
	m.Expiry = expiry + 1 // when it is gone, the first has been looked at
	w.b.Publish(Source{Principal: &mq.Principal{}}, m, &r, 2, &w.batch)
	w.batch.Flush()
	w.eventually("the message after it expires", func() bool { return w.b.Stats.Dropped[mq.DropExpired].Load() > 0 })
	w.connect(d, false)
	w.drainAll(d)
	if len(d.held) > 0 || !slices.Equal(numbers(d.got), []int{1}) {
		t.Fatalf("got %v; PUBREL for %v never comes: expired %d", numbers(d.got), d.held, w.b.Stats.Dropped[mq.DropExpired].Load())
	}
}

// TestConnectWaitsForStalledStore: a device whose acknowledgement the store has
// not taken yet is not sent the entry again; it waits for the store.
func TestConnectWaitsForStalledStore(t *testing.T) {
	var mu sync.Mutex
	var stalled bool
	var late []mq.Op
	var inner mq.Store
	w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncOS)
	w.wrap = func(st mq.Store) mq.Store {
		inner = st
		return &hook{Store: st, submit: func(op mq.Op) bool {
			mu.Lock()
			defer mu.Unlock()
			if stalled {
				late = append(late, op)
			}
			return stalled
		}}
	}
	w.stop()
	w.start()
	defer func() { w.stop() }()
	d := &device{id: "dev", persistent: true, window: 10}
	w.connect(d, true)
	w.disconnect(d)
	var r results
	w.publish("a/p2p/dev", 1, 1, 1, true, &r)
	w.publish("a/p2p/dev", 1, 2, 1, true, &r)
	w.settle()
	mu.Lock()
	stalled = true
	mu.Unlock()
	w.connect(d, false)
	w.ack(d, 1)
	w.disconnect(d)
	d.got = nil
	mu.Lock()
	begun := len(late) // the connection before has gone
	mu.Unlock()
	connected := make(chan struct{})
	var waits sync.WaitGroup
	waits.Go(func() {
		if !poll(10*time.Second, func() bool { mu.Lock(); defer mu.Unlock(); return len(late) > begun }) {
			t.Error("CONNECT does not ask the store")
		}
		mu.Lock()
		defer mu.Unlock()
		select {
		case <-connected:
			t.Error("CONNECT does not wait for the store")
		default:
		}
		stalled = false
		for _, op := range late {
			inner.Submit(op)
		}
	})
	w.connect(d, false)
	close(connected)
	waits.Wait()
	w.drainAll(d)
	if got := numbers(d.got); !slices.Equal(got, []int{2}) {
		t.Fatalf("the device acknowledged 1 and gets %v", got)
	}
}
