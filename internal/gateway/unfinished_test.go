package gateway

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/homing-mq/homing/internal/mq"
)

// holder is a connection that receives one packet: its reader is the goroutine of
// receive.
type holder struct {
	u       *Unfinished
	by      mq.Account
	part    Part
	evicted atomic.Bool
	gone    chan struct{} // closed by Evict
}

func newHolder(u *Unfinished, by mq.Account) *holder {
	return &holder{u: u, by: by, gone: make(chan struct{})}
}

func (h *holder) Evict() {
	if !h.evicted.Swap(true) {
		close(h.gone)
	}
}

func (h *holder) alive() bool { return !h.evicted.Load() }

// receive takes a packet of want bytes, of which step come every pause, and stops
// for good at stop bytes. It reports whether all came.
func (h *holder) receive(want, step, stop int64, pause time.Duration) bool {
	defer h.u.Set(&h.part, h, h.by, 0, 0)
	size := int64(16)
	for got := int64(0); ; got += step {
		if got >= want {
			return true
		}
		h.u.Set(&h.part, h, h.by, size, got)
		if got >= size {
			if h.u.Grow(&h.part, want, h.alive) != nil {
				return false
			}
			size = want
		}
		if got >= stop {
			<-h.gone
			return false
		}
		select {
		case <-h.gone:
			return false
		case <-time.After(pause):
		}
	}
}

func newUnfinished(limit int64, share int) (u *Unfinished, total *atomic.Int64) {
	total = &atomic.Int64{}
	return NewUnfinished(UnfinishedOptions{Limit: limit, Share: share, Total: total.Add, Patience: 2 * time.Second}), total
}

// Many that keep sending all get through, though together they have several times
// the room: who is over it waits, and nobody is closed.
func TestUnfinishedHonest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 8000
		u, total := newUnfinished(limit, 100)
		var arrived atomic.Int64
		var wg sync.WaitGroup
		for i := range 60 {
			h := newHolder(u, mq.Account(i))
			wg.Go(func() {
				if h.receive(1000, 100, 1<<40, time.Millisecond) {
					arrived.Add(1)
				}
				if n := u.Held.Load(); n > limit/2 {
					t.Errorf("%d bytes are held, the limit is %d", n, limit/2)
				}
			})
		}
		wg.Wait()
		if n := arrived.Load(); n != 60 || u.Closed.Load() != 0 || u.Waits.Load() == 0 {
			t.Errorf("%d of 60 arrived, %d were closed, %d times one waited", n, u.Closed.Load(), u.Waits.Load())
		}
		if u.Held.Load() != 0 || total.Load() != 0 || u.dying != 0 {
			t.Errorf("%d bytes are left, %d in the total, %d dying", u.Held.Load(), total.Load(), u.dying)
		}
	})
}

// Those that stop are closed, but only while somebody waits; those that go on get
// through behind them, and those that drip do not hold them up for long.
func TestUnfinishedStalled(t *testing.T) {
	for name, attack := range map[string]struct{ step, stop int64 }{"stalled": {100, 900}, "dripping": {1, 1 << 40}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u, total := newUnfinished(8000, 100)
				var wg sync.WaitGroup
				var bad []*holder
				for i := range 20 {
					h := newHolder(u, mq.Account(1+i))
					bad = append(bad, h)
					wg.Go(func() { h.receive(1000, attack.step, attack.stop, time.Second) })
				}
				time.Sleep(20 * time.Minute)
				arrived := 0
				start := time.Now()
				for i := range 20 {
					if newHolder(u, mq.Account(100+i)).receive(1000, 100, 1<<40, time.Millisecond) {
						arrived++
					}
				}
				t.Logf("%d of 20 arrived after %v; %d were closed", arrived, time.Since(start), u.Closed.Load())
				if arrived != 20 {
					t.Errorf("%d of 20 arrived", arrived)
				}
				for _, h := range bad {
					h.Evict()
				}
				wg.Wait()
				if u.Held.Load() != 0 || total.Load() != 0 || u.dying != 0 {
					t.Errorf("%d bytes are left, %d in the total, %d dying", u.Held.Load(), total.Load(), u.dying)
				}
			})
		})
	}
}

// Nobody is closed for being slow while there is room.
func TestUnfinishedSlowIsNoCrime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, _ := newUnfinished(8000, 100)
		if !newHolder(u, 1).receive(1000, 1, 1<<40, time.Minute) {
			t.Error("0 of 1 arrived")
		}
	})
}

// Of two that have half of what they want and wait for each other, one is closed
// and the other gets through.
func TestUnfinishedDeadlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, _ := newUnfinished(2*1500, 100)
		var arrived atomic.Int64
		var wg sync.WaitGroup
		for i := range 2 {
			h := newHolder(u, mq.Account(1+i))
			wg.Go(func() {
				u.Set(&h.part, h, h.by, 700, 700)
				time.Sleep(time.Second) // until both have
				if u.Grow(&h.part, 1400, h.alive) == nil {
					arrived.Add(1)
				}
				u.Set(&h.part, h, h.by, 0, 0)
			})
		}
		wg.Wait()
		if arrived.Load() != 1 || u.Closed.Load() != 1 {
			t.Errorf("%d of 2 arrived, %d closed; want 1 and 1", arrived.Load(), u.Closed.Load())
		}
	})
}

// An account that fills its share keeps no other from its own, at once.
func TestUnfinishedShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, _ := newUnfinished(8000, 75)
		var wg sync.WaitGroup
		var bad []*holder
		for range 20 {
			h := newHolder(u, 1)
			bad = append(bad, h)
			wg.Go(func() { h.receive(1000, 100, 900, time.Millisecond) })
		}
		time.Sleep(time.Second)
		start := time.Now()
		if !newHolder(u, 2).receive(1000, 100, 1<<40, time.Millisecond) || time.Since(start) > time.Second {
			t.Errorf("another account's packet: %d closed, after %v", u.Closed.Load(), time.Since(start))
		}
		for _, h := range bad {
			h.Evict()
		}
		wg.Wait()
	})
}

// Messages that fill memory leave an eighth for packets to arrive in, and packets
// leave half to messages.
func TestUnfinishedAndMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, total := newUnfinished(8000, 100)
		total.Add(100_000)
		if !newHolder(u, 1).receive(1000, 100, 1<<40, time.Millisecond) {
			t.Error("0 of 1 arrived while messages fill memory")
		}
		total.Add(-100_000)
		var bad []*holder
		var wg sync.WaitGroup
		for range 20 {
			h := newHolder(u, 1)
			bad = append(bad, h)
			wg.Go(func() { h.receive(1000, 100, 900, time.Millisecond) })
		}
		time.Sleep(time.Second)
		if n := total.Load(); n > 4000 {
			t.Errorf("packets take %d of 8000", n)
		}
		for _, h := range bad {
			h.Evict()
		}
		wg.Wait()
	})
}

// Small beginnings, for which nobody waits, are bounded, too: the one that has
// been silent for longest is closed.
func TestUnfinishedSmall(t *testing.T) {
	u, total := newUnfinished(8000, 100)
	var all []*holder
	for range 100 {
		h := newHolder(u, 1)
		u.Set(&h.part, h, 1, 100, 100)
		all = append(all, h)
	}
	closed := 0
	for i, h := range all {
		if h.evicted.Load() {
			closed++
		}
		if i >= 60 && h.evicted.Load() {
			t.Errorf("%d of 100 is closed", i)
		}
	}
	if closed != 60 {
		t.Errorf("%d of 100 are closed, want 60: 40 have 100 bytes of 4000", closed)
	}
	for _, h := range all {
		u.Set(&h.part, h, 1, 0, 0)
	}
	if u.Held.Load() != 0 || total.Load() != 0 || u.dying != 0 {
		t.Errorf("%d bytes are left, %d in the total, %d dying", u.Held.Load(), total.Load(), u.dying)
	}
}

// Random senders of all kinds: the sums are right at the end, whatever happened.
func TestUnfinishedModel(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 3))
				u, total := newUnfinished(int64(2000+rng.IntN(20_000)), 50+rng.IntN(51))
				var arrived, honest atomic.Int64
				var wg sync.WaitGroup
				for range 100 {
					h := newHolder(u, mq.Account(rng.IntN(4)))
					want, step, stop := int64(10+rng.IntN(990)), int64(1+rng.IntN(100)), int64(1<<40)
					if rng.IntN(3) == 0 {
						stop = int64(rng.IntN(1000))
					}
					pause, begin := time.Duration(rng.IntN(50))*time.Millisecond, time.Duration(rng.IntN(5000))*time.Millisecond
					wg.Go(func() {
						time.Sleep(begin)
						if stop < want {
							time.AfterFunc(time.Minute, h.Evict)
						} else {
							honest.Add(1)
						}
						if h.receive(want, step, stop, pause) {
							arrived.Add(1)
						}
					})
				}
				wg.Wait()
				t.Logf("%d arrived of %d that did not stop, %d closed, %d waits", arrived.Load(), honest.Load(), u.Closed.Load(), u.Waits.Load())
				if arrived.Load() < honest.Load()/2 {
					t.Errorf("%d of %d arrived", arrived.Load(), honest.Load())
				}
				if u.Held.Load() != 0 || total.Load() != 0 || u.dying != 0 || len(u.line) != 0 || u.parts.next != &u.parts {
					t.Errorf("%d bytes are left, %d in the total, %d dying, %d wait", u.Held.Load(), total.Load(), u.dying, len(u.line))
				}
			})
		})
	}
}
