package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

func TestGCPercent(t *testing.T) {
	for live, want := range map[uint64]int{0: 1600, 1 << 20: 1600, 4 << 20: 800, 32 << 20: 100, 64 << 20: 50, 4 << 30: 50} {
		if got := gcPercent(live); got != want {
			t.Errorf("%d bytes in use: %d %%, want %d %%", live, got, want)
		}
	}
}

func TestPaceGC(t *testing.T) {
	before := debug.SetGCPercent(100)
	ctx, cancel := context.WithCancel(t.Context())
	defer func() { cancel(); debug.SetGCPercent(before) }()
	paceGC(ctx)
	percent := func() int {
		sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
		metrics.Read(sample)
		return int(sample[0].Value.Uint64())
	}
	// reaches collects until the pace is that of what is in use.
	reaches := func(ok func(int) bool) bool {
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
			runtime.GC()
			if ok(percent()) {
				return true
			}
		}
		return false
	}
	if !reaches(func(p int) bool { return p > 100 }) {
		t.Errorf("with little in use: %d %%", percent())
	}
	large := make([]byte, 100<<20)
	if !reaches(func(p int) bool { return p == garbagePercent }) {
		t.Errorf("with much in use: %d %%", percent())
	}
	runtime.KeepAlive(large)
}
