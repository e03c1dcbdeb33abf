package test

import (
	"encoding/json"
	"os/exec"
	"testing"
	"time"
)

// TestFlood: 30 clients that send PINGREQ without end
// do not hold up a pair that sends a message now and then. Go would run each of the
// 30 for 10 ms, and look for the pair's input after all of them: half of the
// messages took over 400 ms. It is not parallel: it measures time.
func TestFlood(t *testing.T) {
	run := func(flooders string) (p50, p99 time.Duration) {
		out, err := exec.Command(program, "bench", "p2p", "--spawn", "--store-sync", "os", "--pairs", "1", "--rate", "200", "--qos", "1",
			"--duration", "1s", "--warmup", "500ms", "--flood", flooders, "--json").Output()
		if err != nil {
			t.Fatalf("bench: %v: %s", err, out)
		}
		var r struct {
			Sent, Received int
			Latency        struct{ P50Ns, P99Ns int64 }
		}
		if err := json.Unmarshal(out, &r); err != nil {
			t.Fatal(err)
		}
		if r.Received != r.Sent || r.Sent < 200 {
			t.Fatalf("%d of %d messages arrived", r.Received, r.Sent)
		}
		return time.Duration(r.Latency.P50Ns), time.Duration(r.Latency.P99Ns)
	}
	quiet50, quiet99 := run("0")
	var p50, p99 time.Duration
	for range 3 { // other programs may be what holds it up
		if p50, p99 = run("30"); p50 < max(10*quiet50, 10*time.Millisecond) && p99 < max(10*quiet99, 100*time.Millisecond) {
			return
		}
	}
	t.Errorf("a message takes %v (99 %%: %v) beside 30 clients that flood, %v (%v) without", p50, p99, quiet50, quiet99)
}
