package auth

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// hash is what a bcrypt hash takes in these tests, of virtual time.
const hash = 50 * time.Millisecond

func addrOf(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}) }

// hostile keeps n log-ins of each of some addresses waiting until stop is closed.
func hostile(wg *sync.WaitGroup, q *hashQueue, addresses, n int, stop chan struct{}) {
	for i := range addresses {
		for range n {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					_ = q.run(context.Background(), addrOf(i), false, func() error { return nil }, func() { time.Sleep(hash) })
				}
			})
		}
	}
}

// TestHashQueueIsFair: beside 50 hostile addresses with 20 log-ins each, somebody who
// has not failed waits for two hashes, and somebody at one of many addresses that
// has for one round of the addresses, not for all that wait.
func TestHashQueueIsFair(t *testing.T) {
	for _, c := range []struct {
		name    string
		trusted bool
		most    time.Duration
	}{{"trusted", true, 3 * hash}, {"not trusted", false, 53 * hash}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newHashQueue(1)
				var wg sync.WaitGroup
				stop := make(chan struct{})
				hostile(&wg, q, 50, 20, stop)
				time.Sleep(10 * time.Second)
				for range 20 {
					begun := time.Now()
					if err := q.run(t.Context(), addrOf(1000), c.trusted, func() error { return nil }, func() { time.Sleep(hash) }); err != nil {
						t.Fatal(err)
					}
					if took := time.Since(begun); took > c.most {
						t.Errorf("it took %v, want %v at most", took, c.most)
					}
				}
				close(stop)
				wg.Wait()
			})
		})
	}
}

// TestHashQueueServesAll: those who have failed get their turns while others come
// without end.
func TestHashQueueServesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newHashQueue(1)
		var wg sync.WaitGroup
		stop := make(chan struct{})
		var done atomic.Int64
		for i := range 20 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					_ = q.run(context.Background(), addrOf(i), true, func() error { return nil }, func() { time.Sleep(hash) })
					done.Add(1)
				}
			})
		}
		time.Sleep(time.Second)
		begun := time.Now()
		if err := q.run(t.Context(), addrOf(1000), false, func() error { return nil }, func() {}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took > (othersEvery+1)*hash {
			t.Errorf("it took %v", took)
		}
		close(stop)
		wg.Wait()
	})
}

// TestHashQueueCores: at no time do more run than there are cores, nobody is
// forgotten, who gives up leaves no hole, and it is bounded.
func TestHashQueueCores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const cores = 3
		q := newHashQueue(cores)
		var wg sync.WaitGroup
		var running, most, ran, gaveUp atomic.Int64
		for i := range 2000 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(i), 1))
				time.Sleep(time.Duration(r.IntN(5000)) * time.Millisecond)
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.IntN(4000))*time.Millisecond)
				defer cancel()
				err := q.run(ctx, addrOf(r.IntN(40)), r.IntN(2) == 0, func() error { return nil }, func() {
					n := running.Add(1)
					most.Store(max(most.Load(), n))
					time.Sleep(hash)
					running.Add(-1)
					ran.Add(1)
				})
				if err != nil {
					gaveUp.Add(1)
				}
			})
		}
		wg.Wait()
		if most.Load() != cores || ran.Load()+gaveUp.Load() != 2000 || ran.Load() < 200 {
			t.Errorf("%d at a time, %d ran, %d gave up", most.Load(), ran.Load(), gaveUp.Load())
		}
		if q.free != cores || q.waiting != 0 || len(q.trusted.at)+len(q.others.at)+len(q.trusted.ring)+len(q.others.ring) != 0 {
			t.Errorf("left behind: %+v", q)
		}
	})
	q := newHashQueue(0)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	refused := make(chan error, 2*maxWaitingHere)
	for range cap(refused) {
		go func() { refused <- q.enter(ctx, addrOf(1), true) }()
	}
	for range maxWaitingHere {
		if err := <-refused; err != errBusy {
			t.Fatal(err)
		}
	}
	select {
	case err := <-refused:
		t.Fatal(fmt.Sprint("one more is refused: ", err))
	case <-time.After(10 * time.Millisecond):
	}
	cancel()
	for range maxWaitingHere {
		<-refused
	}
}
