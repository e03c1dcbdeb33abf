package broker

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// several senders, several targets, goroutines, slow sockets, windows that change
func TestConcurrent(t *testing.T) {
	for seed := uint64(1); seed <= 6; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { concurrent(t, seed) })
	}
}

func concurrent(t *testing.T, seed uint64) {
	after := []time.Duration{0, time.Millisecond, 5 * time.Millisecond}[seed%3]
	w := newWorld(t, Options{StoreAfter: after, PendingSize: 8 << 10, PendingAll: 1 << 20}, []store.SyncMode{store.SyncOS, store.SyncAlways}[seed%2])
	defer w.stop()
	const targets, senders, each = 2, 3, 600
	devs := make([]*device, targets)
	for i := range devs {
		devs[i] = &device{id: fmt.Sprintf("dev%d", i), persistent: true, window: 5}
		w.connect(devs[i], true)
	}
	var res [senders][targets]results
	var pubs, recv sync.WaitGroup
	for sn := range senders {
		pubs.Go(func() {
			var b Batch
			r := rng(seed*100 + uint64(sn))
			for n := 1; n <= each; n++ {
				tg := r.IntN(targets)
				b.Begin()
				m := message(fmt.Sprintf("a/p2p/dev%d", tg), sn, n, mq.QoS(r.IntN(3)), false)
				w.b.Publish(Source{Principal: &mq.Principal{}}, m, &res[sn][tg], uint64(n), &b)
				clear(m.Payload)
				if r.IntN(4) == 0 {
					b.Flush()
				}
				if r.IntN(20) == 0 {
					b.Flush()
					dawdle(r, 2*time.Millisecond)
				}
			}
			b.Flush()
		})
	}
	stop := make(chan struct{})
	var rounds [targets]atomic.Int64
	for i, d := range devs {
		recv.Go(func() {
			lw := *w
			lw.batch = Batch{}
			r := rng(seed*7 + uint64(i))
			for {
				select {
				case <-stop:
					return
				default:
				}
				rounds[i].Add(1)
				switch k := r.IntN(40); {
				case k < 24:
					lw.ack(d, 1+r.IntN(8))
				case k < 28:
					dawdle(r, 800*time.Microsecond)
				case k < 30:
					d.receive()
					d.window = []int{1, 2, 5, 100, 65535}[r.IntN(5)]
					lw.connect(d, false)
				case k < 31:
					d.receive()
					lw.disconnect(d)
					dawdle(r, 3*time.Millisecond)
					lw.connect(d, false)
				case k < 34:
					d.link.mu.Lock()
					d.link.full = !d.link.full
					open := !d.link.full
					d.link.mu.Unlock()
					if open {
						lw.batch.Begin()
						lw.b.Drained(d.sess, d.link, &lw.batch)
						lw.batch.Flush()
					}
				}
			}
		})
	}
	pubs.Wait()
	for i := range rounds { // they go on for a while
		end := rounds[i].Load() + 100
		w.eventually("the targets go on", func() bool { return rounds[i].Load() >= end })
	}
	close(stop)
	recv.Wait()
	for i, d := range devs {
		d.receive()
		w.connect(d, false)
		w.drainAll(d)
		seen := map[[2]int]int{}
		last := map[int]int{}
		for _, p := range d.got {
			k := [2]int{p.sender, p.n}
			seen[k]++
			if seen[k] > 1 {
				if p.qos != 1 {
					t.Errorf("dev%d: %v qos %d twice", i, k, p.qos)
				}
				continue
			}
			if p.n < last[p.sender] {
				t.Errorf("dev%d: sender %d: %d after %d", i, p.sender, p.n, last[p.sender])
			}
			last[p.sender] = p.n
		}
		for sn := range senders {
			for n, c := range snapshot(&res[sn][i]).code {
				if c != mq.OK {
					t.Errorf("code %v", c)
				} else if seen[[2]int{sn, n}] == 0 {
					t.Errorf("dev%d: %d/%d acknowledged and lost", i, sn, n)
				}
			}
		}
		d.sess.mu.Lock()
		st := w.b.store.Stats(d.sess.inbox)
		if d.sess.count != 0 || d.sess.held != 0 || d.sess.heldBytes != 0 || d.sess.bytes != 0 || d.sess.pendingBytes != 0 {
			t.Errorf("drift: count %d bytes %d held %d heldBytes %d pending %d store %+v", d.sess.count, d.sess.bytes, d.sess.held, d.sess.heldBytes, d.sess.pendingBytes, st)
		}
		d.sess.mu.Unlock()
	}
	if n := w.b.PendingBytes(); n != 0 {
		t.Errorf("pending bytes %d", n)
	}
}
