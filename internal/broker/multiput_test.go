package broker

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// TestMultiPut: a message for many offline subscribers is written once for each
// group of them, and comes to all after a restart.
func TestMultiPut(t *testing.T) {
	const subscribers = 1000
	w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncOS)
	defer func() { w.stop() }()
	peers := make([]*peer, subscribers)
	for i := range peers {
		peers[i] = w.online(&peer{id: fmt.Sprint("p", i), expiry: NeverExpires}, true)
		peers[i].subscribe(w, mq.Subscription{Filter: "news", QoS: 1})
		peers[i].leave(w, proper)
	}
	payload := strings.Repeat("seldom seen ", 4096/12)
	var r results
	w.send("news", payload, 1, false, &r, 1)
	w.settle()
	if code, told := r.get(1); !told || code != mq.OK {
		t.Fatalf("told %v: %v", told, code)
	}
	want := (subscribers + groupSize - 1) / groupSize
	if n := w.written(payload); n < want || n > want+1 {
		t.Errorf("the payload is in the store %d times, want %d", n, want)
	}
	w.restart()
	for _, p := range peers {
		w.online(p, false)
		if p.receive(); len(p.got) != 1 || p.got[0].payload != payload || p.got[0].dup {
			t.Fatalf("%s got %d messages", p.id, len(p.got))
		}
		p.ack(w, 1)
	}
}

// written counts a text in the files of the store.
func (w *world) written(text string) (n int) {
	w.t.Helper()
	var walk func(dir string)
	walk = func(dir string) {
		names, err := w.fs.List(dir)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, name := range names {
			path := w.fs.PathJoin(dir, name)
			info, err := w.fs.Stat(path)
			if err != nil {
				continue
			}
			if info.IsDir() {
				walk(path)
				continue
			}
			f, err := w.fs.Open(path)
			if err != nil {
				continue
			}
			b, _ := io.ReadAll(f)
			_ = f.Close()
			n += bytes.Count(b, []byte(text))
		}
	}
	walk("data")
	return n
}
