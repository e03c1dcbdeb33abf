package inboxlog

import (
	"fmt"
	"sync"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/homing-mq/homing/internal/mq"
)

// gate is a file system whose writes to segments wait to be let through, or fail.
type gate struct {
	vfs.FS
	mu      sync.Mutex
	armed   bool
	arrived chan struct{}
	answer  chan error
}

func (g *gate) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := g.FS.OpenReadWrite(name, c, opts...)
	return gateFile{f, g}, err
}

func (g *gate) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := g.FS.Create(name, c)
	return gateFile{f, g}, err
}

type gateFile struct {
	vfs.File
	g *gate
}

func (f gateFile) WriteAt(p []byte, at int64) (int, error) {
	f.g.mu.Lock()
	armed := f.g.armed
	f.g.armed = false
	f.g.mu.Unlock()
	if armed {
		f.g.arrived <- struct{}{}
		if err := <-f.g.answer; err != nil {
			return 0, err
		}
	}
	return f.File.WriteAt(p, at)
}

// TestNothingOvertakesAFailedPut: what was submitted to an inbox behind a put that
// fails, until Done has told of that, fails, too: else it would be delivered before
// the sender sends the first one again. Other inboxes, acknowledgements, and what
// comes after are not concerned.
func TestNothingOvertakesAFailedPut(t *testing.T) {
	g := &gate{FS: vfs.NewMem(), arrived: make(chan struct{}), answer: make(chan error)}
	type result struct {
		name string
		err  error
	}
	results := make(chan result, 100)
	inDone, leave := make(chan struct{}, 1), make(chan struct{})
	l, err := Open(Options{FS: g, Dir: dir, SegmentSize: 1 << 20, Done: func(ops []mq.Op, err error) {
		for _, op := range ops {
			results <- result{op.Owner.(string), err}
		}
		if ops[0].Owner == "A" {
			inDone <- struct{}{}
			<-leave
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dev, other := l.Inbox("dev"), l.Inbox("other")
	put := func(in mq.Inbox, seq uint64, name string) mq.Op {
		return mq.Op{Kind: mq.OpPut, Inbox: in, Seq: seq, Record: []byte(name), Owner: name}
	}
	g.mu.Lock()
	g.armed = true
	g.mu.Unlock()
	l.Submit(put(dev, 1, "A"))
	<-g.arrived
	l.Submit(put(dev, 2, "B")) // while A is being written
	l.Submit(put(other, 1, "C"))
	l.SubmitGroup([]mq.Op{put(other, 2, "D"), put(dev, 3, "E")})
	l.Submit(put(other, 3, "F")) // behind D, which fails with E
	g.answer <- syscall.ENOSPC
	<-inDone
	l.Submit(put(dev, 4, "G")) // while Done tells of A
	close(leave)
	got := map[string]mq.Code{}
	for len(got) < 7 {
		r := <-results
		got[r.name] = codeOf(r.err)
	}
	want := map[string]mq.Code{
		"A": mq.StoreFull, "B": mq.StoreFull, "C": mq.OK, "D": mq.StoreFull, "E": mq.StoreFull, "F": mq.StoreFull, "G": mq.StoreFull,
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	l.Submit(put(dev, 5, "J"))
	if r := <-results; r.err != nil {
		t.Errorf("%s: %v", r.name, r.err)
	}
	if st := l.Stats(dev); st.Count != 1 || st.First != 5 {
		t.Errorf("dev has %+v", st)
	}
}
