package broker

import (
	"fmt"
	"testing"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// million fills a tree with a million subscriptions, 100 000 of them with
// wildcards.
func million(b *testing.B) *topicTree {
	b.Helper()
	var t topicTree
	t.init(nil)
	for i := range 900_000 {
		t.add(mq.Subscription{Filter: fmt.Sprintf("site/%d/dev/%d/state", i%1000, i), QoS: 1}, &Session{})
	}
	for i := range 99_991 {
		filter := fmt.Sprintf("site/%d/+/%d/#", i%1000, i)
		if i%2 == 0 {
			filter = fmt.Sprintf("area/%d/+/cmd%d", i, i%7)
		}
		t.add(mq.Subscription{Filter: filter, QoS: 1}, &Session{})
	}
	for _, filter := range []string{
		"hot/#", "hot/+/#", "hot/a/#", "hot/a/+/c", "hot/+/b/c", "hot/a/b/+", "+/a/b/c", "+/+/b/c", "+/+/+/+",
	} { // and one more, exact: 10 match hot/a/b/c
		t.add(mq.Subscription{Filter: filter, QoS: 1}, &Session{})
	}
	t.add(mq.Subscription{Filter: "hot/a/b/c", QoS: 1}, &Session{})
	return &t
}

// BenchmarkMatch finds the subscribers of a topic among a million
// subscriptions.
func BenchmarkMatch(b *testing.B) {
	t := million(b)
	var dst []match
	for _, c := range []struct {
		name  string
		topic func(i int) []byte
		want  int
	}{
		{"exact", func(i int) []byte { return fmt.Appendf(nil, "site/%d/dev/%d/state", i%1000, i) }, 2},
		{"ten", func(int) []byte { return []byte("hot/a/b/c") }, 10},
		{"none", func(i int) []byte { return fmt.Appendf(nil, "nobody/%d/a/dev/state", i) }, 0},
	} {
		topics := make([][]byte, 4096)
		for i := range topics {
			topics[i] = c.topic(200_000 + i*100)
		}
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				dst = t.match(topics[i%len(topics)], nil, dst[:0])
			}
			if c.name != "exact" && len(dst) != c.want {
				b.Fatalf("%d matches, want %d", len(dst), c.want)
			}
		})
	}
}

// BenchmarkFanOut publishes with QoS 0 to 1 000 online subscribers whose
// connections cost nothing: what the core takes.
func BenchmarkFanOut(b *testing.B) {
	w := newWorld(b, Options{}, store.SyncOS)
	defer w.stop()
	const subscribers = 1000
	for i := range subscribers {
		l := &sink{}
		s, err := w.b.Connect(ConnectRequest{ClientID: fmt.Sprint("sub", i), Conn: l, CleanStart: true, ReceiveMax: 65535}, &w.batch)
		if err != nil {
			b.Fatal(err)
		}
		w.batch.Flush()
		w.b.Subscribe(s, &mq.Principal{}, []mq.Subscription{{Filter: "news/+"}}, &w.batch)
		w.batch.Flush()
	}
	m := mq.Message{Topic: []byte("news/today"), Payload: make([]byte, 64)}
	src := Source{Principal: &mq.Principal{}}
	b.ReportAllocs()
	for b.Loop() {
		w.batch.Begin()
		w.b.Publish(src, &m, nil, 0, &w.batch)
		w.batch.Flush()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/subscribers, "ns/subscriber")
}
