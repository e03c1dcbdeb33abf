package broker

import (
	"testing"
	"testing/synctest"
	"time"
)

// A batch tells the time of the system's clock, which may have been set since
// the start: what is to be published later is compared with that.
func TestBatchFollowsTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the bubble's clock is set to the year 2000
		var b Batch
		b.Begin()
		if now := time.Now().UnixMilli(); b.Now() != now {
			t.Errorf("it is %d, the batch says %d", now, b.Now())
		}
	})
}
