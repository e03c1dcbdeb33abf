package broker

import (
	"math/rand/v2"
	"time"
)

// poll asks until the answer is yes, at most for some time. Nothing else in these
// tests lets time go by to wait for something.
func poll(most time.Duration, is func() bool) bool {
	for end := time.Now().Add(most); !is(); time.Sleep(200 * time.Microsecond) {
		if time.Now().After(end) {
			return is()
		}
	}
	return true
}

// dawdle does nothing for a random time, so that those who act at random are not
// in step. Nothing is waited for.
func dawdle(r *rand.Rand, most time.Duration) { time.Sleep(time.Duration(r.Int64N(int64(most)))) }

// looked waits until what publishes delayed messages has looked for some that are
// due, and has published them: the second time it is woken, the first is over.
func (w *delayWorld) looked() {
	w.t.Helper()
	for range 2 {
		w.b.delays.poke()
		w.eventually("it is looked for what is due", func() bool { return len(w.b.delays.wake) == 0 })
	}
}
