package broker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

func rng(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

func numbers(list []sent) (n []int) {
	for _, p := range list {
		n = append(n, p.n)
	}
	return n
}

// TestKeepTable is the table of contract section 4, every row.
func TestKeepTable(t *testing.T) {
	for policy, name := range []string{"either", "sender", "target", "always", "never"} {
		for _, senderAsks := range []bool{false, true} {
			for _, targetAsks := range []bool{false, true} {
				for qos := mq.AtMostOnce; qos <= 2; qos++ {
					want := map[string]bool{
						"either": senderAsks || targetAsks, "sender": senderAsks, "target": targetAsks, "always": true, "never": false,
					}[name] && qos > 0
					t.Run(fmt.Sprintf("%s/sender=%v/target=%v/qos%d", name, senderAsks, targetAsks, qos), func(t *testing.T) {
						w := newWorld(t, Options{Keep: KeepPolicy(policy), StoreAfter: 5 * time.Millisecond}, store.SyncOS)
						defer w.stop()
						d := &device{id: "dev", persistent: targetAsks, window: 10}
						w.connect(d, true)
						w.disconnect(d)
						var r results
						w.publish("a/p2p/dev", 1, 1, qos, senderAsks, &r)
						w.settle()
						code, told := r.get(1)
						if told != (qos > 0) {
							t.Fatalf("sender told: %v", told)
						}
						if qos > 0 && (code == mq.OK) != want {
							t.Fatalf("sender got %v, want kept=%v", code, want)
						}
						w.connect(d, !targetAsks)
						w.drainAll(d)
						if got := len(d.got) == 1; got != want {
							t.Fatalf("delivered: %v, want %v", got, want)
						}
						if n := w.b.Stats.Dropped[mq.DropOffline].Load(); (n == 0) != want {
							t.Fatalf("%d dropped, delivered: %v", n, want)
						}
					})
				}
			}
		}
	}
}

// TestCleanStart: what was kept for the session goes, what the sender asked to
// keep stays.
// [MQTT-3.1.2-4] [MQTT3-3.1.2-6]
func TestCleanStart(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: 5 * time.Millisecond}, store.SyncOS)
	defer w.stop()
	d := &device{id: "dev", persistent: true, window: 10}
	w.connect(d, true)
	w.disconnect(d)
	var r results
	for n := 1; n <= 6; n++ {
		w.publish("a/p2p/dev", 1, n, mq.QoS(1+n%2), n > 3, &r)
	}
	w.settle()
	w.connect(d, true)
	w.drainAll(d)
	if got := numbers(d.got); !slices.Equal(got, []int{4, 5, 6}) {
		t.Fatalf("got %v after a clean start, want 4 5 6", got)
	}
	if n := w.b.Stats.Dropped[mq.DropSessionEnded].Load(); n != 3 {
		t.Errorf("counted %d dropped, want 3", n)
	}
}

// TestDirect: a prompt target's acknowledgement is the sender's, and nothing
// is written.
func TestDirect(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Second}, store.SyncOS)
	defer w.stop()
	d := &device{id: "dev", persistent: true, window: 10}
	w.connect(d, true)
	var r results
	w.publish("a/p2p/dev", 1, 1, 1, true, &r)
	if _, told := r.get(1); told {
		t.Fatal("acknowledged before the target or the store had it")
	}
	w.ack(d, 1)
	if code, told := r.get(1); !told || code != mq.OK {
		t.Fatalf("told %v code %v", told, code)
	}
	if n := w.b.Stats.Stored.Load(); n != 0 {
		t.Fatalf("%d stored", n)
	}
}

// TestStoreFallback: every way in which a target does not answer makes the
// store answer for it.
func TestStoreFallback(t *testing.T) {
	for _, how := range []string{"deadline", "disconnect", "takeover", "window", "drain"} {
		t.Run(how, func(t *testing.T) {
			after := time.Hour
			if how == "deadline" {
				after = 5 * time.Millisecond
			}
			w := newWorld(t, Options{StoreAfter: after}, store.SyncAlways)
			defer w.stop()
			d := &device{id: "dev", persistent: true, window: 2}
			w.connect(d, true)
			var r results
			w.publish("a/p2p/dev", 1, 1, 1, false, &r)
			w.publish("a/p2p/dev", 1, 2, 1, false, &r)
			switch how {
			case "disconnect":
				w.disconnect(d)
			case "takeover":
				w.connect(d, false)
			case "window":
				w.publish("a/p2p/dev", 1, 3, 1, false, &r)
			case "drain":
				w.b.Drain(time.Second)
			}
			w.eventually("the sender is acknowledged", func() bool {
				c1, ok1 := r.get(1)
				c2, ok2 := r.get(2)
				return ok1 && ok2 && c1 == mq.OK && c2 == mq.OK
			})
			w.crash(0)
			d.got = nil
			w.connect(d, false)
			w.drainAll(d)
			if got := numbers(d.got); len(got) < 2 || got[0] != 1 || got[1] != 2 {
				t.Fatalf("after the crash the device got %v", got)
			}
		})
	}
}

// TestNotKeptTellsSender: neither side asks, the target goes before it has
// acknowledged: the sender is told, nothing comes later.
func TestNotKeptTellsSender(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Hour}, store.SyncOS)
	defer w.stop()
	d := &device{id: "dev", window: 10}
	w.connect(d, true)
	var r results
	w.publish("a/p2p/dev", 1, 1, 1, false, &r)
	w.disconnect(d)
	if code, told := r.get(1); !told || code != mq.NoTarget {
		t.Fatalf("told %v, code %v; want no target", told, code)
	}
	d.got = nil
	w.connect(d, true)
	w.drainAll(d)
	if len(d.got) != 0 {
		t.Fatalf("got %v", d.got)
	}
}

// TestInboxLimit: both policies, by count and by bytes.
func TestInboxLimit(t *testing.T) {
	t.Run("drop-oldest", func(t *testing.T) {
		w := newWorld(t, Options{InboxLimit: 5, StoreAfter: time.Millisecond}, store.SyncOS)
		defer w.stop()
		var r results
		for n := 1; n <= 12; n++ {
			w.publish("a/p2p/dev", 1, n, 1, true, &r)
		}
		w.settle()
		d := &device{id: "dev", window: 2}
		w.connect(d, true)
		w.drainAll(d)
		if got := numbers(d.got); !slices.Equal(got, []int{8, 9, 10, 11, 12}) {
			t.Fatalf("got %v", got)
		}
		if n := w.b.Stats.Dropped[mq.DropInboxFull].Load(); n != 7 {
			t.Fatalf("%d counted", n)
		}
	})
	t.Run("reject", func(t *testing.T) {
		w := newWorld(t, Options{InboxLimit: 5, RejectFull: true, StoreAfter: time.Millisecond}, store.SyncOS)
		defer w.stop()
		var r results
		for n := 1; n <= 8; n++ {
			w.publish("a/p2p/dev", 1, n, 1, true, &r)
		}
		w.settle()
		for n := 6; n <= 8; n++ {
			if code, _ := r.get(n); code != mq.InboxFull {
				t.Fatalf("message %d: %v", n, code)
			}
		}
		d := &device{id: "dev", window: 2}
		w.connect(d, true)
		w.drainAll(d)
		if got := numbers(d.got); !slices.Equal(got, []int{1, 2, 3, 4, 5}) {
			t.Fatalf("got %v", got)
		}
	})
	t.Run("bytes", func(t *testing.T) {
		w := newWorld(t, Options{InboxBytes: 150, StoreAfter: time.Millisecond}, store.SyncOS)
		defer w.stop()
		var r results
		for n := 1; n <= 20; n++ {
			w.publish("a/p2p/dev", 1, n, 1, true, &r)
		}
		w.settle()
		d := &device{id: "dev", window: 2}
		w.connect(d, true)
		w.drainAll(d)
		if got := numbers(d.got); len(got) < 2 || len(got) > 7 || got[len(got)-1] != 20 {
			t.Fatalf("got %v", got)
		}
	})
}

// TestP2PIsPrivate: no subscription sees P2P, and nobody may subscribe to
// another client's.
// [MQTT-4.7.1-1] [MQTT3-4.7.1-2]
func TestP2PIsPrivate(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncOS)
	defer w.stop()
	spy, dev := &device{id: "spy", window: 10}, &device{id: "dev", window: 10}
	w.connect(spy, true)
	w.connect(dev, true)
	filters := []struct {
		filter string
		want   SubscribeResult
	}{
		{"#", Granted}, {"a/#", Granted}, {"a/+/dev", Granted}, {"+/+/+", Granted}, {"a/p2p/dev", Refused}, {"a/p2p", Refused},
		{"a/p2p/#", Refused}, {"a/p2p/+", Refused}, {"+/p2p/dev", Refused}, {"a/p2p/spy", Granted}, {"a/p2p/spy/#", Granted},
		{"a/b#", FilterInvalid}, {"$share/g/x", Granted}, {"$share/g", FilterInvalid}, {"$share//x", FilterInvalid}, {"$share/g+/x", FilterInvalid}, {"$share/g/", FilterInvalid}, {"$share/g/a/p2p/spy", Refused}, {"/p2p/x", Granted},
	}
	for _, f := range filters {
		if got := w.b.Subscribe(spy.sess, &mq.Principal{}, []mq.Subscription{{Filter: f.filter, QoS: 1}}, &w.batch); got[0] != f.want {
			t.Errorf("%s: %v, want %v", f.filter, got[0], f.want)
		}
	}
	var r results
	w.publish("a/p2p/dev", 1, 1, 1, false, &r)
	w.publish("a/p2p/spy", 1, 2, 1, false, &r)
	w.publish("a/x/dev", 1, 3, 1, false, &r)
	w.drainAll(dev)
	w.drainAll(spy)
	if got := numbers(dev.got); !slices.Equal(got, []int{1}) {
		t.Errorf("device got %v", got)
	}
	if got := numbers(spy.got); !slices.Equal(got, []int{2, 3}) {
		t.Errorf("spy got %v, want its own P2P once, and the ordinary one once", got)
	}
}

// TestDupAfterReconnect: a redelivery has DUP and the identifier of the first
// delivery, also after a crash; a first delivery has not.
// [MQTT-3.3.1-1] [MQTT-3.3.1-3] [MQTT-4.3.2-2] [MQTT-4.3.3-2] [MQTT-4.4.0-1] [MQTT3-3.3.1-1] [MQTT3-3.3.1-3]
// [MQTT3-2.3.1-4] [MQTT3-4.4.0-1]
func TestDupAfterReconnect(t *testing.T) {
	for _, crash := range []bool{false, true} {
		for qos := mq.QoS(1); qos <= 2; qos++ {
			t.Run(fmt.Sprintf("crash=%v/qos%d", crash, qos), func(t *testing.T) {
				w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncOS)
				defer func() { w.stop() }()
				d := &device{id: "dev", persistent: true, window: 1}
				w.connect(d, true)
				var r results
				w.publish("a/p2p/dev", 1, 1, qos, true, &r)
				w.publish("a/p2p/dev", 1, 2, qos, true, &r)
				w.settle()
				d.receive()
				if len(d.got) != 1 || d.got[0].dup {
					t.Fatalf("first delivery: %+v", d.got)
				}
				first := d.got[0]
				if crash {
					w.publish("a/p2p/other", 1, 3, 1, true, &r) // carries lazy notes to the disk
					w.settle()
					w.crash(100)
				} else {
					w.disconnect(d)
				}
				d.got, d.held, d.window = nil, nil, 2 // forget, to see the packets
				w.connect(d, false)
				w.settle()
				d.receive()
				if len(d.got) != 2 || d.got[0].n != 1 || d.got[0].pid != first.pid || !d.got[0].dup || d.got[1].dup {
					t.Fatalf("after the reconnect: %+v, first was %+v", d.got, first)
				}
			})
		}
	}
}

// TestSlowConsumer: a target that takes nothing does not hold the memory of
// what is sent to it.
func TestSlowConsumer(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond, PendingSize: 4 << 10, PendingAll: 1 << 20}, store.SyncOS)
	defer w.stop()
	d := &device{id: "dev", persistent: true, window: 1000}
	w.connect(d, true)
	d.link.full = true
	var r results
	for n := 1; n <= 3000; n++ {
		w.publish("a/p2p/dev", 1, n, mq.QoS(n%2), true, &r)
	}
	w.settle()
	d.sess.mu.Lock()
	held := d.sess.tail.bytes
	d.sess.mu.Unlock()
	if held > 8<<10 {
		t.Errorf("%d bytes held for a stuck target", held)
	}
	if n := w.b.Stats.Dropped[mq.DropSlowConsumer].Load(); n == 0 {
		t.Error("no QoS 0 message was dropped")
	}
	d.link.full = false
	w.batch.Begin()
	w.b.Drained(d.sess, d.link, &w.batch)
	w.batch.Flush()
	w.drainAll(d)
	var q1 []int
	for _, p := range d.got {
		if p.qos == 1 {
			q1 = append(q1, p.n)
		}
	}
	if len(q1) != 1500 || !slices.IsSorted(q1) {
		t.Errorf("%d QoS 1 messages, in order: %v", len(q1), slices.IsSorted(q1))
	}
}

// TestModel runs random histories of senders, devices, slow sockets, takeovers,
// reconnects and crashes against what the contract promises.
// [MQTT-4.3.2-3] [MQTT-4.6.0-5] [MQTT-4.6.0-6] [MQTT3-4.3.2-1] [MQTT3-4.6.0-1] [MQTT3-4.6.0-5] [MQTT3-4.6.0-6]
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		mode := rapid.SampledFrom([]store.SyncMode{store.SyncOS, store.SyncAlways}).Draw(rt, "sync")
		after := rapid.SampledFrom([]time.Duration{0, time.Millisecond, time.Hour}).Draw(rt, "store-after")
		w := newWorld(t, Options{StoreAfter: after}, mode)
		defer func() { w.stop() }()
		d := &device{id: "dev", persistent: true, window: rapid.SampledFrom([]int{1, 2, 5, 1000}).Draw(rt, "window")}
		w.connect(d, true)
		next := 0
		var told []*results // by life of the server: after a crash nobody answers any more
		told = append(told, &results{})
		steps := rapid.IntRange(5, 60).Draw(rt, "steps")
		for range steps {
			switch rapid.SampledFrom([]string{"pub", "pub", "pub", "pub", "ack", "ack", "settle", "off", "on", "takeover", "full", "crash"}).Draw(rt, "step") {
			case "pub":
				for range rapid.IntRange(1, 8).Draw(rt, "burst") {
					next++
					w.publish("a/p2p/dev", 1, next, mq.QoS(rapid.IntRange(0, 2).Draw(rt, "qos")), false, told[len(told)-1])
				}
			case "ack":
				w.ack(d, rapid.IntRange(1, 6).Draw(rt, "acks"))
			case "settle":
				if after < time.Hour {
					w.settle()
				}
				d.receive()
			case "off":
				d.receive()
				w.disconnect(d)
			case "on", "takeover":
				d.receive()
				w.connect(d, false)
			case "full":
				if d.link != nil {
					d.link.mu.Lock()
					d.link.full = !d.link.full
					open := !d.link.full
					d.link.mu.Unlock()
					if open {
						w.batch.Begin()
						w.b.Drained(d.sess, d.link, &w.batch)
						w.batch.Flush()
					}
				}
			case "crash":
				if mode == store.SyncAlways {
					// What the sender was told by now must survive; freeze it.
					frozen := snapshot(told[len(told)-1])
					d.receive()
					w.crash(rapid.IntRange(0, 100).Draw(rt, "unsynced"))
					told[len(told)-1] = frozen
					told = append(told, &results{})
					d.link, d.sess = nil, nil
				}
			}
		}
		d.receive()
		w.connect(d, false)
		w.b.Drain(5 * time.Second)
		w.drainAll(d)
		check(rt, d, told)
	})
}

func snapshot(r *results) *results {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &results{code: map[int]mq.Code{}}
	for n, code := range r.code {
		c.code[n] = code
	}
	return c
}

// check: acknowledged is delivered; QoS 2 once; first deliveries in order.
func check(t interface{ Fatalf(string, ...any) }, d *device, told []*results) {
	first := map[int]bool{}
	last := 0
	for _, p := range d.got {
		if first[p.n] {
			if p.qos == 2 {
				t.Fatalf("QoS 2 message %d delivered twice", p.n)
			}
			if p.qos == 0 {
				t.Fatalf("QoS 0 message %d delivered twice", p.n)
			}
			continue
		}
		first[p.n] = true
		if p.n < last {
			t.Fatalf("message %d after %d: %v", p.n, last, numbers(d.got))
		}
		last = p.n
	}
	for _, r := range told {
		for n, code := range snapshot(r).code {
			if code == mq.OK && !first[n] {
				t.Fatalf("message %d acknowledged and lost", n)
			}
			if code != mq.OK {
				t.Fatalf("message %d: %v", n, code)
			}
		}
	}
}

// TestQuickReconnect: a device that acknowledges and reconnects at once, again
// and again, before the store has seen the acknowledgements, gets everything.
func TestQuickReconnect(t *testing.T) {
	for qos := mq.QoS(1); qos <= 2; qos++ {
		for _, takeover := range []bool{false, true} {
			t.Run(fmt.Sprintf("qos%d/takeover=%v", qos, takeover), func(t *testing.T) {
				w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncOS)
				defer w.stop()
				d := &device{id: "dev", persistent: true, window: 2}
				w.connect(d, true)
				w.disconnect(d)
				var r results
				for n := 1; n <= 50; n++ {
					w.publish("a/p2p/dev", 1, n, qos, false, &r)
				}
				w.settle()
				for range 40 {
					w.connect(d, false)
					w.ack(d, 1)
					w.ack(d, 1)
					if !takeover {
						w.disconnect(d)
					}
				}
				w.connect(d, false)
				w.drainAll(d)
				seen := map[int]int{}
				for _, p := range d.got {
					seen[p.n]++
				}
				for n := 1; n <= 50; n++ {
					if seen[n] == 0 || qos == 2 && seen[n] > 1 {
						t.Errorf("message %d came %d times", n, seen[n])
					}
				}
			})
		}
	}
}
