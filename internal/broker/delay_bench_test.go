package broker

import (
	"fmt"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// BenchmarkDelayed accepts a million delayed messages on the real file system,
// restarts, and publishes them all at once, each to a target that is offline.
func BenchmarkDelayed(b *testing.B) {
	const n = 1_000_000
	dir := b.TempDir()
	var core *Broker
	open := func(due int64) *store.Store {
		var batch Batch
		ready := make(chan struct{})
		st, err := store.Open(store.Options{Dir: dir, Sync: store.SyncOS, Done: func(ops []mq.Op, err error) {
			<-ready
			core.Committed(ops, err, &batch)
		}})
		if err != nil {
			b.Fatal(err)
		}
		core, err = New(Options{
			Store: st, Auth: allowAll{}, Log: slog.New(slog.DiscardHandler), Keep: KeepAlways,
			PendingSize: 1 << 20, PendingAll: 64 << 20, wall: func() int64 { return due },
		})
		if err != nil {
			b.Fatal(err)
		}
		close(ready)
		return st
	}
	heap := func() float64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	for b.Loop() {
		st := open(0)
		before := heap()
		var batch Batch
		var worst time.Duration
		start := time.Now()
		for i := range n {
			batch.Begin()
			st.Throttle()
			m := message(fmt.Sprintf("a/p2p/dev%d", i%1000), 1, i, mq.QoS(1+i%2), true)
			call := time.Now()
			core.PublishLater(Source{Principal: &mq.Principal{}}, m, int64(1+i*7919%n), nil, 0, &batch)
			worst = max(worst, time.Since(call))
		}
		if !poll(time.Hour, func() bool { return core.unanswered.Load() == 0 }) {
			b.Fatal("not all are stored")
		}
		b.ReportMetric(float64(time.Since(start).Nanoseconds())/n, "ns/accepted")
		b.ReportMetric(float64(worst.Microseconds()), "worst-us")
		b.ReportMetric((heap()-before)/n, "B/waiting")
		core.Close()
		st.Close()
		start = time.Now()
		st = open(0)
		b.ReportMetric(float64(time.Since(start).Milliseconds()), "restart-ms")
		start = time.Now()
		if err := core.delays.load(); err != nil { // a second time, for its time
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(start).Milliseconds()), "of-it-load-ms")
		core.Close()
		st.Close()
		start = time.Now()
		st = open(n)
		most := heap()
		tick := time.NewTicker(50 * time.Millisecond) // to look at memory stops the world
		for ; core.Stats.Delayed.Load() > 0; <-tick.C {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, float64(m.HeapAlloc))
		}
		tick.Stop()
		b.ReportMetric(float64(time.Since(start).Nanoseconds())/n, "ns/published")
		b.ReportMetric(most/(1<<20), "most-MiB")
		core.Close()
		st.Close()
	}
}
