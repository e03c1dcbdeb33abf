package gateway

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// TestRest: hungry readers together leave what they must, and one that is alone
// does not rest.
func TestRest(t *testing.T) {
	const used = 100 * time.Microsecond
	for _, spare := range []int64{minSpare, wholeShare / 3, maxSpare} {
		for _, c := range []struct {
			hungry     int64
			processors int
		}{{1, 2}, {2, 2}, {3, 2}, {30, 2}, {100, 2}, {1, 1}, {5, 1}, {7, 8}, {8, 8}, {100, 8}} {
			rest := restAfter(used, c.hungry, c.processors, spare)
			busy := float64(c.hungry) * float64(used) / float64(used+rest) / float64(c.processors)
			want := min(1-float64(spare)/wholeShare, float64(c.hungry)/float64(c.processors))
			if busy < want-0.01 || busy > want+0.01 {
				t.Errorf("%d hungry readers, %d processors: rest %v after %v is %.2f of them, want %.2f", c.hungry, c.processors, rest, used, busy, want)
			}
		}
	}
	if rest := restAfter(time.Hour, 1e6, 1, minSpare); rest != maxRest {
		t.Errorf("rest %v, want %v", rest, maxRest)
	}
}

// TestSpare: where 1 in 100 is delayed, the hungry readers leave what they do;
// where more are, more; and they come back to next to nothing.
func TestSpare(t *testing.T) {
	after := func(spare int64, late, rounds int) int64 {
		for i := range rounds {
			delay := goodDelay
			if late > 0 && i%(1000/late) == 0 {
				delay++
			}
			spare = nextSpare(spare, delay)
		}
		return spare
	}
	for _, c := range []struct {
		from     int64
		late     int // of 1000
		want     int64
		tolerant int64
	}{{0, 0, minSpare, 0}, {maxSpare, 0, minSpare, 0}, {minSpare, 50, maxSpare, 100}, {3000, 10, 3000, 300}, {maxSpare, 5, minSpare, 300}} {
		if got := after(c.from, c.late, 100_000); got < c.want-c.tolerant || got > c.want+c.tolerant {
			t.Errorf("from %d, %d of 1000 late: %d, want %d", c.from, c.late, got, c.want)
		}
	}
}

// TestMeasure: it is measured while there are hungry readers, and no longer.
func TestMeasure(t *testing.T) {
	before := runtime.NumGoroutine()
	var turns Turns
	hungry := make([]Turn, runtime.GOMAXPROCS(0))
	begun := time.Now()
	clock := func() int64 { return int64(time.Since(begun)) }
	for i := range hungry {
		turns.Begin(&hungry[i], clock())
		hungry[i].Yield(clock)
	}
	wait(t, "a measurement", func() bool { return turns.spare.Load() != 0 })
	for i := range hungry {
		hungry[i].End()
	}
	wait(t, "the end of measuring", func() bool { return !turns.measuring.Load() && runtime.NumGoroutine() <= before })
}

func wait(t *testing.T, what string, reached func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !reached(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s", what)
		}
	}
}

// TestTurn: who goes on after the turn counts as hungry until its input ends.
func TestTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turns Turns
		var one Turn
		begun := time.Now()
		clock := func() int64 { return int64(time.Since(begun)) }
		turns.Begin(&one, clock())
		if one.Over(clock()) {
			t.Fatal("a turn is over before it has begun")
		}
		time.Sleep(turnTime)
		turns.Begin(&one, clock()) // does nothing
		if !one.Over(clock()) {
			t.Fatal("the turn is not over")
		}
		one.Yield(clock)
		if n := turns.hungry.Load(); n != 1 || one.Over(clock()) {
			t.Fatalf("%d hungry, want 1; over: %v", n, one.Over(clock()))
		}
		time.Sleep(turnTime)
		one.Yield(clock)
		if n := turns.hungry.Load(); n != 1 {
			t.Fatalf("%d hungry, want 1", n)
		}
		one.End()
		one.End()
		if n := turns.hungry.Load(); n != 0 || one.Over(clock()) {
			t.Fatalf("%d hungry, want 0; over: %v", n, one.Over(clock()))
		}
	})
}
