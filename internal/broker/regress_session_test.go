package broker

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// A clean session is taken over with clean=0: its subscriptions are promised
// (session present) and not durable.
// [MQTT-3.1.2-5] [MQTT3-3.1.2-4]
func TestLoseSubscriptions(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncAlways)
	defer func() { w.stop() }()
	d := &device{id: "dev", window: 10}
	w.connect(d, true)
	w.b.Subscribe(d.sess, &mq.Principal{}, []mq.Subscription{{Filter: "x", QoS: 1}}, &w.batch)
	d.persistent = true
	w.connect(d, false) // takes over: resumes
	var r results
	w.publish("x", 1, 1, 1, true, &r)
	w.drainAll(d)
	before := len(d.got)
	w.crash(0)
	w.connect(d, false)
	d.got = nil
	w.publish("x", 1, 2, 1, true, &r)
	w.settle()
	w.drainAll(d)
	if before != len(d.got) {
		t.Fatalf("subscribed before the crash: %v, after: %v", before == 1, len(d.got) == 1)
	}
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
	m.Expiry = w.b.Now(&w.batch) + 1000
	w.b.Publish(Source{Principal: &mq.Principal{}}, m, &r, 1, &w.batch)
	w.batch.Flush()
	w.settle()
	w.ack(d, 1) // PUBREC; the PUBREL does not arrive
	w.settle()
	w.disconnect(d)
	time.Sleep(2 * time.Second)
	w.connect(d, false)
	w.drainAll(d)
	if len(d.held) > 0 {
		t.Fatalf("PUBREL for %v never comes: expired %d", d.held, w.b.Stats.Dropped[mq.DropExpired].Load())
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
	go func() {
		time.Sleep(50 * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		stalled = false
		for _, op := range late {
			inner.Submit(op)
		}
	}()
	w.connect(d, false)
	w.drainAll(d)
	if got := numbers(d.got); !slices.Equal(got, []int{2}) {
		t.Fatalf("the device acknowledged 1 and gets %v", got)
	}
}
