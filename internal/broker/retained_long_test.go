package broker

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// TestRetainedMemory: long topic names are in memory once: in the store.
func TestRetainedMemory(t *testing.T) {
	const count = 500
	before := heapInUse()
	var r retainedSet
	for i := range count {
		r.set(levelKey(fmt.Sprintf("r/%d/", i)+strings.Repeat("x", 60000)), retained{seq: 1})
	}
	if used := (heapInUse() - before) / count; used > 2000 {
		t.Errorf("%d bytes for a topic name of 60 kB, besides the name in the store", used)
	}
	runtime.KeepAlive(&r)
}

// TestRetainedLong: retained messages whose topic names differ far behind only are
// told apart, replaced, removed and found by every filter.
func TestRetainedLong(t *testing.T) {
	w := newWorld(t, Options{}, store.SyncOS)
	defer func() { w.stop() }()
	tail := strings.Repeat("x", 2000)
	var topics []string
	for i := range 40 {
		topics = append(topics, fmt.Sprintf("a/%s/%d/end", tail, i), fmt.Sprintf("b/%d/%s/end", i, tail), fmt.Sprintf("c/%d%s", i%2, tail[i:]))
	}
	retain := func(topic, payload string) { w.send(topic, payload, 1, true, &results{}, 1) }
	for _, topic := range topics {
		retain(topic, "1")
		retain(topic, "2")
	}
	w.drain()
	if n := w.b.Stats.Retained.Load(); n != int64(len(topics)) {
		t.Fatalf("%d retained messages, want %d", n, len(topics))
	}
	filters := []string{
		"#", "a/#", "a/+/3/end", "a/+/3/+", "a/" + tail + "/7/end", "a/" + tail + "/+/end", "a/" + tail + "/+", "a/" + tail + "x/+/end", "a/" + tail[1:] + "/#",
		"b/+/" + tail + "/end", "b/7/+/end", "b/+/+/+", "b/7/" + tail + "/e", "+/+/+/end", "+/" + tail + "/#", "c/+", "c/0" + tail, "c/1" + tail[1:] + "/#", "c/+/#", "+/+/+",
	}
	check := func(gone int) {
		t.Helper()
		for i, filter := range filters {
			want := 0
			for _, topic := range topics[gone:] {
				if mq.MatchFilter([]byte(filter), []byte(topic)) {
					want++
				}
			}
			p := w.online(&peer{id: fmt.Sprint("p", i)}, true)
			w.ask(p, filter)
			w.drain(p)
			old := slices.Contains(payloads(p.got), "1")
			if len(p.got) != want || old {
				t.Errorf("filter %.10s of %d bytes: %d messages, want %d; an old one: %v", filter, len(filter), len(p.got), want, old)
			}
			p.leave(w, proper)
		}
	}
	check(0)
	for _, topic := range topics[:17] {
		retain(topic, "")
	}
	w.drain()
	check(17)
	w.stop()
	w.start()
	check(17)
}
