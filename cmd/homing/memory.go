package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// How much garbage there may be before it is collected: half of what is in use,
// as that is idle connections mostly, and half as much again costs as much
// memory as collecting twice as often costs time; but garbageFloor bytes
// where little is in use, which otherwise would be collected many times a second.
const (
	garbagePercent = 50
	garbageFloor   = 32 << 20
	garbageMost    = 1600 // percent
)

// paceGC keeps to that until ctx ends.
func paceGC(ctx context.Context) {
	debug.SetGCPercent(garbagePercent)
	var follow func()
	percent := garbagePercent
	follow = func() {
		if ctx.Err() != nil {
			return
		}
		if p := gcPercent(liveBytes()); p != percent {
			percent = p
			debug.SetGCPercent(p)
		}
		runtime.AddCleanup(new(marker), func(int) { follow() }, 0) // the next collection finds it unreachable
	}
	follow()
}

// marker is something to be collected; large enough to be alone in its memory.
type marker struct{ _ [64]byte }

// gcPercent is the GOGC for so many bytes in use.
func gcPercent(live uint64) int {
	if live == 0 {
		return garbageMost // nothing was collected yet
	}
	return int(min(max(garbageFloor*100/live, garbagePercent), garbageMost))
}

// liveBytes is what the last collection found in use.
func liveBytes() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
