package broker

import (
	"testing"

	"github.com/homing-mq/homing/internal/clock"
)

// A batch has the time of the broker's clock, and the same until it begins again.
func TestBatchHasOneTime(t *testing.T) {
	elapsed := int64(7)
	c := clock.New(clock.Options{Wall: func() int64 { return 1_700_000_000_000 }, Elapsed: func() int64 { return elapsed }})
	b := &Broker{clock: c}
	var batch Batch
	for _, want := range []int64{1_700_000_000_000, 1_700_000_001_000} {
		batch.Begin()
		for range 2 {
			if now := b.Now(&batch); now != want {
				t.Errorf("the batch has the time %d; want %d", now, want)
			}
			elapsed += 500
		}
	}
}
