package inboxlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/homing-mq/homing/internal/mq"
)

// patterned returns a record that says whose it is.
func patterned(client int, seq uint64, size int) []byte {
	b := make([]byte, 12, 12+size)
	binary.LittleEndian.PutUint32(b, uint32(client))
	binary.LittleEndian.PutUint64(b[4:], seq)
	return append(b, bytes.Repeat([]byte{byte(client + int(seq))}, size)...)
}

// Under a load that leaves one message in ten for a long time, the log stays
// within three times what is live, plus a few segments, and readers always see
// whole and right records.
func TestCompactionUnderLoad(t *testing.T) {
	const clients = 30
	rounds := 6000
	if testing.Short() {
		rounds = 1500
	}
	fs := vfs.NewMem()
	opts := Options{FS: fs, Dir: dir, SegmentSize: 64 << 10, Sync: SyncOS}
	l, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	var handles [clients]mq.Inbox
	for i := range handles {
		handles[i] = l.Inbox(fmt.Sprint("c", i))
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { readForever(t, l, handles[:], stop) })
	}
	var seqs [clients]uint64
	live := map[[2]uint64]bool{}
	rng := rand.New(rand.NewPCG(1, 2))
	var worst float64
	for i := range rounds {
		c := rng.IntN(clients)
		seqs[c]++
		seq := seqs[c]
		l.Submit(mq.Op{Kind: mq.OpPut, Inbox: handles[c], Seq: seq, Record: patterned(c, seq, rng.IntN(1500))})
		live[[2]uint64{uint64(c), seq}] = true
		if rng.IntN(10) > 0 {
			l.Submit(mq.Op{Kind: mq.OpAck, Inbox: handles[c], Seq: seq})
			delete(live, [2]uint64{uint64(c), seq})
		}
		if i%100 == 0 {
			settleLog(t, l)
			m := l.Metrics()
			over := float64(m.DiskBytes-(slack+maxSpares+2)*opts.SegmentSize) / float64(m.LiveBytes+1)
			worst = max(worst, over)
		}
	}
	settleLog(t, l)
	close(stop)
	wg.Wait()
	if worst > 3 {
		t.Errorf("disk use was %.1f times what is live", worst)
	}
	verifyLive(t, l, live)
	checkAccounts(t, l)
	epoch := l.tail.active.epoch
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("worst %.2f times what is live, %d segments written", worst, epoch)
	if rep, err := Check(fs, dir); err != nil || !rep.OK() || int(rep.Entries) != len(live) {
		t.Errorf("%v\n%s", err, rep.String())
	}
	if l, err = Open(opts); err != nil {
		t.Fatal(err)
	}
	verifyLive(t, l, live)
	checkAccounts(t, l)
	l.Close()
}

// settleLog waits until everything submitted is written and the keeper idle.
func settleLog(t *testing.T, l *Log) {
	t.Helper()
	idle := func() bool {
		l.ix.mu.Lock()
		busy := l.wantsTidy()
		l.ix.mu.Unlock()
		return !busy && l.queue.waiting() == 0
	}
	if !poll(20*time.Second, idle) {
		t.Fatalf("never idle: %+v", l.Metrics())
	}
}

func verifyLive(t *testing.T, l *Log, live map[[2]uint64]bool) {
	t.Helper()
	n := 0
	for c := range 30 {
		es, _, err := l.Read(l.Inbox(fmt.Sprint("c", c)), 0, 1<<62, 1<<40, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range es {
			n++
			if !live[[2]uint64{uint64(c), e.Seq}] {
				t.Errorf("c%d %d is there and was acknowledged", c, e.Seq)
			}
			checkPattern(t, c, e)
		}
	}
	if n != len(live) {
		t.Errorf("%d entries, want %d", n, len(live))
	}
}

func checkPattern(t *testing.T, client int, e mq.Entry) {
	t.Helper()
	if !bytes.Equal(e.Record, patterned(client, e.Seq, len(e.Record)-12)) {
		t.Errorf("c%d %d: wrong record", client, e.Seq)
	}
}

func readForever(t *testing.T, l *Log, handles []mq.Inbox, stop chan struct{}) {
	var es []mq.Entry
	var buf []byte
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		c := i % len(handles)
		var err error
		if es, buf, err = l.Read(handles[c], 0, 1<<62, 1<<16, es[:0], buf[:0]); err != nil {
			t.Error(err)
			return
		}
		last := uint64(0)
		for _, e := range es {
			checkPattern(t, c, e)
			if e.Seq <= last {
				t.Errorf("c%d: %d after %d", c, e.Seq, last)
			}
			last = e.Seq
		}
	}
}

// Puts of a group that share a record have one copy of it on disk, also after
// it was moved, and it is gone only with the last of them.
func TestFanOutIsStoredOnce(t *testing.T) {
	const n, size = 200, 10_000
	fs := vfs.NewMem()
	r := &results{ch: make(chan error, 2*n)}
	opts := Options{FS: fs, Dir: dir, SegmentSize: 64 << 10, Done: r.done, slack: 2}
	l, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	record := bytes.Repeat([]byte("x"), size)
	var group []mq.Op
	for i := range n {
		group = append(group, mq.Op{Kind: mq.OpPut, Inbox: l.Inbox(fmt.Sprint("c", i)), Seq: 1, Record: record})
	}
	group[n-1].Owner = r
	l.SubmitGroup(group)
	if err := <-r.ch; err != nil {
		t.Fatal(err)
	}
	limit := int64(size + n*60)
	if used := l.tail.end - segmentHeaderSize; used > limit {
		t.Errorf("%d bytes written, want at most %d", used, limit)
	}
	churn := l.Inbox("churn") // pushes the fan-out into old segments
	for seq := uint64(1); seq < 150; seq++ {
		if err := do(l, r, mq.Op{Kind: mq.OpPut, Inbox: churn, Seq: seq, Record: record}); err != nil {
			t.Fatal(err)
		}
		l.Submit(mq.Op{Kind: mq.OpAck, Inbox: churn, Seq: seq})
	}
	_ = do(l, r, mq.Op{Kind: mq.OpAck, Inbox: churn, Seq: 1000})
	settleLog(t, l)
	if first := l.ix.segs[0].epoch; first < 5 {
		t.Errorf("first segment is %d: nothing was moved", first)
	}
	check := func(first, left int) {
		t.Helper()
		checkAccounts(t, l)
		if live := l.Metrics().LiveBytes; live > limit || left > 0 && live < size {
			t.Errorf("%d bytes live with %d left", live, left)
		}
		for i := first; i < n; i++ {
			es, _, err := l.Read(l.Inbox(fmt.Sprint("c", i)), 0, 10, 1, nil, nil)
			if err != nil || len(es) != 1 || !bytes.Equal(es[0].Record, record) {
				t.Fatalf("c%d: %v", i, err)
			}
		}
	}
	check(0, n)
	l.Close()
	if l, err = Open(opts); err != nil {
		t.Fatal(err)
	}
	check(0, n)
	for i := range n {
		if err := do(l, r, mq.Op{Kind: mq.OpAck, Inbox: l.Inbox(fmt.Sprint("c", i)), Seq: 1}); err != nil {
			t.Fatal(err)
		}
		if i%50 == 0 || i == n-1 {
			check(i+1, n-1-i)
		}
	}
	if m := l.Metrics(); m.LiveBytes != 0 || m.Entries != 0 || len(l.ix.shared) != 0 {
		t.Errorf("%+v", m)
	}
	l.Close()
}

// Expired yields what is past its expiry or the retention, with and without
// stopping, across a restart and after a move; it removes nothing.
func TestExpired(t *testing.T) {
	fs := vfs.NewMem()
	r := &results{ch: make(chan error, 100)}
	opts := Options{FS: fs, Dir: dir, SegmentSize: minSegmentSize, Retention: time.Hour, Done: r.done, slack: 2}
	l, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	const n = 3000
	for i := range n {
		expiry := int64(0)
		if i%3 == 0 {
			expiry = now.Add(time.Minute).UnixMilli()
		}
		l.Submit(mq.Op{Kind: mq.OpPut, Inbox: l.Inbox(fmt.Sprint("c", i%1000)), Seq: uint64(i/1000 + 1), Expiry: expiry, Record: []byte("x")})
	}
	churn := l.Inbox("churn")
	for seq := uint64(1); seq < 300; seq++ {
		l.Submit(mq.Op{Kind: mq.OpPut, Inbox: churn, Seq: seq, Record: make([]byte, 5000)})
		l.Submit(mq.Op{Kind: mq.OpAck, Inbox: churn, Seq: seq})
	}
	_ = do(l, r, mq.Op{Kind: mq.OpAck, Inbox: churn, Seq: 1000})
	for range 2 {
		for _, c := range []struct {
			at   time.Duration
			want int
		}{{0, 0}, {2 * time.Minute, n / 3}, {59 * time.Minute, n / 3}, {62 * time.Minute, n}} {
			seen := map[string]bool{}
			for range 3 { // a round may take several calls
				l.Expired(now.Add(c.at), func(client string, seq uint64) bool {
					seen[fmt.Sprint(client, " ", seq)] = true
					return true
				})
			}
			if len(seen) != c.want {
				t.Errorf("after %v: %d expired, want %d", c.at, len(seen), c.want)
			}
		}
		one := map[string]bool{}
		for range n { // stopping after each: it goes on where it stopped
			l.Expired(now.Add(2*time.Hour), func(client string, seq uint64) bool {
				one[fmt.Sprint(client, " ", seq)] = true
				return false
			})
		}
		if len(one) != n {
			t.Errorf("one by one: %d expired, want %d", len(one), n)
		}
		l.Close()
		if l, err = Open(opts); err != nil {
			t.Fatal(err)
		}
	}
	l.Close()
}
