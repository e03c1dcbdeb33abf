package bench

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// longestLatency is the largest that is told apart from larger ones.
const longestLatency = 10 * time.Minute

// latencies collects durations from many goroutines.
type latencies struct {
	shards [8]struct {
		sync.Mutex
		h *hdrhistogram.Histogram
		_ [64]byte // a cache line of its own
	}
}

func newLatencies() *latencies {
	l := new(latencies)
	for i := range l.shards {
		l.shards[i].h = newHistogram()
	}
	return l
}

// newHistogram counts µs with three digits.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(int64(time.Microsecond), int64(longestLatency), 3)
}

// record adds a duration of the goroutine or pair with that number.
func (l *latencies) record(who uint32, d time.Duration) {
	s := &l.shards[who%uint32(len(l.shards))]
	s.Lock()
	_ = s.h.RecordValue(int64(min(max(d, 0), longestLatency))) // in range, so no error
	s.Unlock()
}

// Latency is a distribution of durations.
type Latency struct {
	Count int64         `json:"count"`
	Mean  time.Duration `json:"meanNs"`
	P50   time.Duration `json:"p50Ns"`
	P99   time.Duration `json:"p99Ns"`
	P999  time.Duration `json:"p999Ns"`
	Max   time.Duration `json:"maxNs"`
}

func (l *latencies) summary() Latency {
	all := newHistogram()
	for i := range l.shards {
		s := &l.shards[i]
		s.Lock()
		all.Merge(s.h)
		s.Unlock()
	}
	return Latency{
		Count: all.TotalCount(),
		Mean:  time.Duration(all.Mean()),
		P50:   time.Duration(all.ValueAtQuantile(50)),
		P99:   time.Duration(all.ValueAtQuantile(99)),
		P999:  time.Duration(all.ValueAtQuantile(99.9)),
		Max:   time.Duration(all.Max()),
	}
}
