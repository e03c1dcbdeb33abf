package gateway

import (
	"os"
	"time"
)

const (
	wholeShare = 10000
	minSpare   = wholeShare / 20
	maxSpare   = wholeShare * 2 / 3
	// measureEvery is how often the delay is measured.
	measureEvery = time.Millisecond
	// goodDelay is the delay that 99 of 100 clients with a little input should stay
	// below while others send without end.
	goodDelay = 2 * time.Millisecond
	// moreSpare and lessSpare are the answers to a delay above and below it. One
	// above outweighs 99 below, so 1 in 100 is where they are in balance.
	moreSpare, lessSpare = 99 * 3, 3
)

// measure adapts what hungry readers leave to others, while there are any: it
// sends itself a byte through the poller now and then, as a client would, and looks
// how long that takes.
func (t *Turns) measure() {
	defer t.measuring.Store(false)
	r, w, err := os.Pipe()
	if err != nil { // no descriptors: readers rest as they did before
		t.spare.Store(maxSpare)
		return
	}
	sent := make(chan time.Time, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var b [1]byte
		for {
			if _, err := r.Read(b[:]); err != nil {
				return
			}
			t.spare.Store(nextSpare(t.spare.Load(), time.Since(<-sent)))
		}
	}()
	for t.hungry.Load() > 0 {
		time.Sleep(measureEvery)
		sent <- time.Now()
		if _, err := w.Write([]byte{0}); err != nil {
			break
		}
	}
	_ = w.Close()
	<-done
	_ = r.Close()
}

// nextSpare is what the hungry readers are to leave after a delay was measured.
func nextSpare(spare int64, delay time.Duration) int64 {
	if delay > goodDelay {
		spare += moreSpare
	} else {
		spare -= lessSpare
	}
	return max(minSpare, min(spare, maxSpare))
}
