package gateway

import (
	"runtime"
	"sync/atomic"
	"time"
)

const (
	// turnTime is how long one reader handles input before others get theirs.
	turnTime = 200 * time.Microsecond
	// maxUsed is what a turn takes at most of a processor.
	maxUsed = time.Millisecond
	// maxRest bounds one rest.
	maxRest = 50 * time.Millisecond
)

// Turns shares the processors of the program among the connections that are read.
//
// Go gives each goroutine its 10 ms, and looks for new input only when there is
// nothing else to run: 30 clients that send without end would make all others wait
// for hundreds of milliseconds. So a reader whose input does not end after its turn
// is hungry, and rests before the next one: long enough that all the hungry ones
// together leave the processors some time for others. How much that must be is
// measured, as it depends on the machine and what else runs on it: see delay.go.
// While fewer are hungry than may be busy, none of them rests.
//
// A writer that makes much of little, like a frame of WebSocket for each packet, has
// turns too: what it writes are answers to what a reader has been sent.
//
// The zero value is ready to use, concurrently.
type Turns struct {
	hungry    atomic.Int64
	measuring atomic.Bool
	// spare is the part of the processors, in 1/10000, that the hungry readers must
	// leave to others.
	spare atomic.Int64
}

// Turn is that of one reader, which owns it. The zero value is none.
type Turn struct {
	of     *Turns
	began  int64 // of the reader's clock, ns
	hungry bool
}

// Hungry is how many readers and writers go on after their turn, now.
func (t *Turns) Hungry() int64 { return t.hungry.Load() }

// Begin begins a turn at now, by the reader's clock in nanoseconds. It is called
// again as the reader goes on: then it does nothing.
func (t *Turns) Begin(turn *Turn, now int64) {
	if turn.of == nil {
		turn.of, turn.began = t, now
	}
}

// Over reports whether the turn is over. The reader should then settle what it
// has handled, and Yield.
func (t *Turn) Over(now int64) bool { return t.of != nil && now-t.began >= int64(turnTime) }

// Yield lets others have their turn. It blocks, for maxRest at most, and then
// begins a new turn.
func (t *Turn) Yield(clock func() int64) {
	if !t.hungry {
		t.hungry = true
		t.of.hungry.Add(1)
	}
	t.of.rest(time.Duration(clock() - t.began))
	t.began = clock()
}

// rest lets others have their turn after a hungry one has used a processor.
func (t *Turns) rest(used time.Duration) {
	hungry, processors := t.hungry.Load(), runtime.GOMAXPROCS(0)
	if hungry >= int64(processors) && t.measuring.CompareAndSwap(false, true) {
		go t.measure()
	}
	if rest := restAfter(used, hungry, processors, t.spare.Load()); rest > 0 {
		time.Sleep(rest)
	} else {
		runtime.Gosched()
	}
}

// WriterTurn is the turn of one writer, who may have to wait for the reader at the
// other end. The zero value is none.
type WriterTurn struct {
	began  int64 // of the writer's clock, ns; 0: not begun
	waited atomic.Bool
	hungry atomic.Bool
}

// Pace is called by a writer now and then as it goes on. It lets others have their
// turn when the writer's is over; it blocks, for maxRest at most.
func (t *Turns) Pace(w *WriterTurn, clock func() int64) {
	now := clock()
	switch used := now - w.began; {
	case w.waited.Swap(false), w.began == 0:
		w.began = now
	case used >= int64(turnTime):
		if w.hungry.CompareAndSwap(false, true) {
			t.hungry.Add(1)
		}
		t.rest(time.Duration(used))
		w.began = clock()
	}
}

// Waits is called when the writer has to wait. Anybody may call it.
func (t *Turns) Waits(w *WriterTurn) {
	w.waited.Store(true)
	if w.hungry.CompareAndSwap(true, false) {
		t.hungry.Add(-1)
	}
}

// Wrote is called when the writer has written all.
func (t *Turns) Wrote(w *WriterTurn) {
	t.Waits(w)
	w.began = 0
}

// End ends the turn: the reader waits for input.
func (t *Turn) End() {
	if t.hungry {
		t.of.hungry.Add(-1)
	}
	*t = Turn{}
}

// restAfter is how long each of the hungry readers has to rest after it has used
// a processor for some time, so that all of them leave spare, 1/10000, of the
// processors.
func restAfter(used time.Duration, hungry int64, processors int, spare int64) time.Duration {
	used = min(used, maxUsed) // the rest of it was not used, but waited for
	rest := used*time.Duration(wholeShare*hungry)/time.Duration((wholeShare-spare)*int64(processors)) - used
	return max(0, min(rest, maxRest))
}
