package broker

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// heapInUse is the memory in use, in bytes.
func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// shapes are sets of topic filters that once were dear: filter i of each.
var shapes = []struct {
	name   string
	filter func(i int) string
}{
	{"device", func(i int) string { return fmt.Sprintf("devices/news/1%x/%s/+", i, deep("a", 195)) }},
	{"no prefix shared", func(i int) string { return fmt.Sprintf("%x/%s/+", i, deep("a", 190)) }},
	{"nothing shared", func(i int) string { return deep(fmt.Sprintf("%x", i), 50) + "/+" }},
	{"plus at every level", func(i int) string { return fmt.Sprintf("+/%x/", i) + deep("+/a", 90) }},
	{"empty levels", func(i int) string { return fmt.Sprintf("%x%s+", i, strings.Repeat("/", 190)) }},
	{"hash", func(i int) string { return fmt.Sprintf("a/%x/%s/#", i, deep("a", 190)) }},
	{"exact", func(i int) string { return fmt.Sprintf("a/%x/%s", i, deep("a", 190)) }},
	{"branching", func(i int) string {
		return strings.Join(strings.Split(fmt.Sprintf("%014b", i), ""), "/") + "/+/x"
	}},
	{"long levels", func(i int) string { return fmt.Sprintf("%x/%s/+", i, strings.Repeat("a", 1000)) }},
	{"shared", func(i int) string { return fmt.Sprintf("$share/g/%x/%s/+", i, deep("a", 190)) }},
}

// deep is one level n times.
func deep(level string, n int) string {
	return strings.TrimSuffix(strings.Repeat(level+"/", n), "/")
}

// TestSubscriptionMemory: subscriptions take memory in proportion to what was
// sent, whatever their filters look like, and give it back.
func TestSubscriptionMemory(t *testing.T) {
	const count = 4000
	for _, c := range shapes {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, Options{MatchSteps: 16384, MatchStepsClient: 2048}, store.SyncOS)
			defer w.stop()
			p := w.online(&peer{id: "p"}, true) // without a session in the store: that is not what is weighed
			before, sent := heapInUse(), 0
			filters := make([]string, 0, 100)
			all := func(do func()) {
				for i := range count {
					if filters = append(filters, c.filter(i)); len(filters) == cap(filters) {
						do()
						filters = filters[:0]
					}
				}
			}
			all(func() {
				subs := make([]mq.Subscription, len(filters))
				for i, f := range filters {
					subs[i].Filter = f
					sent += len(f) + 3
				}
				for i, r := range w.b.Subscribe(p.wire.sess, &mq.Principal{}, subs, &w.batch) {
					if r != Granted {
						t.Fatalf("%q: result %d", filters[i], r)
					}
				}
			})
			fixed := int64(500)
			if c.name == "shared" {
				fixed = 2000 // each is a session with an inbox
			}
			if used := heapInUse() - before; used > 3*int64(sent)+count*fixed {
				t.Errorf("%d bytes sent, %d used: %.1f times, %d for each", sent, used, float64(used)/float64(sent), used/count)
			} else {
				t.Logf("%d bytes sent, %d used: %.1f times, %d for each", sent, used, float64(used)/float64(sent), used/count)
			}
			all(func() {
				if _, err := w.b.Unsubscribe(p.wire.sess, filters, &w.batch); err != nil {
					t.Fatal(err)
				}
			})
			w.batch.Flush()
			if left := heapInUse() - before; left > 512<<10 {
				t.Errorf("%d bytes left after all were removed", left)
			}
			runtime.KeepAlive(p)
		})
	}
}
