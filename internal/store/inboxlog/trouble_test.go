package inboxlog

import (
	"bytes"
	"log/slog"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/homing-mq/homing/internal/mq"
)

// TestFailedWritesAreLoggedOnce: while the disk takes nothing the log has one line
// that says so, however many messages are refused, and one when it works again.
func TestFailedWritesAreLoggedOnce(t *testing.T) {
	g := &gate{FS: vfs.NewMem(), arrived: make(chan struct{}), answer: make(chan error)}
	var log bytes.Buffer // written by the goroutine that commits, which Close ends
	results := make(chan error, 1)
	l, err := Open(Options{FS: g, Dir: dir, SegmentSize: 1 << 20, Logger: slog.New(slog.NewTextHandler(&log, nil)), Done: func(ops []mq.Op, err error) {
		for range ops {
			results <- err
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	in := l.Inbox("dev")
	refused, kept := 0, 0
	put := func(seq uint64) {
		l.Submit(mq.Op{Kind: mq.OpPut, Inbox: in, Seq: seq, Record: []byte("x"), Owner: "x"})
	}
	take := func() {
		if <-results != nil {
			refused++
		} else {
			kept++
		}
	}
	for round := range uint64(2) {
		for i := range uint64(50) {
			g.mu.Lock()
			g.armed = true
			g.mu.Unlock()
			put(100*round + i + 1)
			<-g.arrived
			g.answer <- syscall.EIO
			take()
		}
		put(100*round + 60)
		take()
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if refused != 100 || kept != 2 {
		t.Fatalf("%d messages refused and %d kept, want 100 and 2", refused, kept)
	}
	for line, want := range map[string]int{"write to the inbox log failed": 2, "is written again\" failed_commits=50": 2} {
		if got := strings.Count(log.String(), line); got != want {
			t.Errorf("%q: %d lines, want %d:\n%s", line, got, want, log.String())
		}
	}
}
