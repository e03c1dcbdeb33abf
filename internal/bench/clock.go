package bench

import (
	"math"
	"runtime"
	"sync/atomic"
	"time"
)

// clock is the time of a run: ns since its start. What was meant to happen from
// fromAt to stopAt is measured; from stopAt on nothing is sent.
type clock struct {
	start          time.Time
	fromAt, stopAt atomic.Int64
}

// begun starts the clock, with nothing to measure yet.
func (c *clock) begun() {
	c.start = time.Now()
	c.fromAt.Store(math.MaxInt64)
	c.stopAt.Store(math.MaxInt64)
}

func (c *clock) now() int64 { return int64(time.Since(c.start)) }

// measures reports whether what was meant to happen at t is measured.
func (c *clock) measures(t int64) bool { return t >= c.fromAt.Load() && t < c.stopAt.Load() }

// pace calls send for 0, 1, 2 ... when they are due, until stopAt. stop waits for
// the end and can be called again. The pacer has a thread of its own: the
// runtime's timers are late by up to a millisecond when nothing else goes on.
func (c *clock) pace(due func(n int) int64, send func(n int)) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	procs := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(procs + 1) // the pacer sleeps in the kernel and keeps one
	go func() {
		defer close(done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for n := 0; ; n++ {
			at := due(n)
			for wait := at - c.now(); wait > 0; wait = at - c.now() {
				select {
				case <-quit:
					return
				default:
					sleep(time.Duration(min(wait, int64(checkEvery))))
				}
			}
			if at >= c.stopAt.Load() {
				return
			}
			send(n)
		}
	}()
	stopped := false
	return func() {
		if stopped {
			return
		}
		stopped = true
		close(quit)
		c.stopAt.CompareAndSwap(math.MaxInt64, c.now()) // after an error: end the catching up
		<-done
		runtime.GOMAXPROCS(procs)
	}
}
