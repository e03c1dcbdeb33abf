package gateway

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	here  = netip.MustParseAddr("127.0.0.1")
	there = netip.MustParseAddr("127.0.0.2")
)

func TestLimiter(t *testing.T) {
	p := NewPlaces(4)
	a, b := p.Limiter(3, 2), p.Limiter(0, 0)
	for i, step := range []struct {
		l    *Limiter
		addr netip.Addr
		want bool
	}{
		{a, here, true}, {a, here, true}, {a, here, false}, // per address
		{a, there, true}, {a, there, false}, // of this protocol
		{b, here, true}, {b, here, false}, // of all
	} {
		if got := step.l.Enter(step.addr); got != step.want {
			t.Errorf("step %d: %v", i, got)
		}
	}
	if a.Open() != 3 || b.Open() != 1 || p.Taken() != 4 {
		t.Errorf("%d %d %d open", a.Open(), b.Open(), p.Taken())
	}
	a.Leave(here)
	if a.Enter(there) != true || a.Enter(there) {
		t.Error("the place that was left is not given again once")
	}
}

// TestAwait: who comes back finds the place that it has just left, also when the
// server sees that late; others are refused after a moment, and the rest at once.
func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewPlaces(0).Limiter(1, 0)
		if !l.Await(t.Context(), here) {
			t.Fatal("no place at first")
		}
		var wg sync.WaitGroup
		var got, refused atomic.Int32
		for range maxWaiting {
			wg.Go(func() {
				if l.Await(t.Context(), here) {
					got.Add(1)
				} else {
					refused.Add(1)
				}
			})
		}
		synctest.Wait()
		begun := time.Now()
		if l.Await(t.Context(), there) || time.Since(begun) != 0 {
			t.Errorf("the one after %d that wait was not refused at once", maxWaiting)
		}
		time.Sleep(comeBackTime / 2)
		l.Leave(here)
		synctest.Wait()
		if got.Load() != 1 || refused.Load() != 0 {
			t.Errorf("%d have the place that is free, %d are refused", got.Load(), refused.Load())
		}
		wg.Wait()
		if time.Since(begun) != comeBackTime || got.Load() != 1 || refused.Load() != maxWaiting-1 || l.Open() != 1 {
			t.Errorf("after %v: %d in, %d refused, %d open", time.Since(begun), got.Load(), refused.Load(), l.Open())
		}
	})
}
