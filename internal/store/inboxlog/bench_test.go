package inboxlog

import (
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mq"
)

// Benchmarks run on the real file system. Trust cpu-ns/op; ns/op depends on
// who else uses the machine and its disk.

func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func reportCPU(b *testing.B, from time.Duration, ops int) {
	b.ReportMetric(float64(cpuTime()-from)/float64(ops), "cpu-ns/op")
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

const benchClients = 1 << 16

// BenchmarkPutAck is the stored part of the life of a message: each of n
// writers puts one, waits until it is done, and acknowledges it lazily.
func BenchmarkPutAck(b *testing.B) {
	for _, mode := range []struct {
		name string
		sync SyncMode
	}{{"os", SyncOS}, {"always", SyncAlways}} {
		for _, writers := range []int{1, 64, 1000} {
			b.Run(fmt.Sprintf("%s/writers=%d", mode.name, writers), func(b *testing.B) {
				benchPutAck(b, mode.sync, writers)
			})
		}
	}
}

func benchPutAck(b *testing.B, mode SyncMode, writers int) {
	l, err := Open(Options{Dir: b.TempDir(), Sync: mode, Done: func(ops []mq.Op, err error) {
		for i := range ops {
			ops[i].Owner.(chan error) <- err
		}
	}})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	record := make([]byte, 256)
	var left atomic.Int64
	left.Store(int64(b.N))
	cpu := cpuTime()
	b.ResetTimer()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			done := make(chan error, 1)
			in := l.Inbox("client-" + strconv.Itoa(w))
			for seq := uint64(1); left.Add(-1) >= 0; seq++ {
				l.Submit(mq.Op{Kind: mq.OpPut, Inbox: in, Seq: seq, Record: record, Owner: done})
				if err := <-done; err != nil {
					b.Error(err)
					return
				}
				l.Submit(mq.Op{Kind: mq.OpAck, Inbox: in, Seq: seq})
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	reportCPU(b, cpu, b.N)
}

// BenchmarkOpenLoop submits a fixed number of puts a second, whatever becomes
// of them: what many senders that do not know of each other look like.
func BenchmarkOpenLoop(b *testing.B) {
	for _, rate := range []int{1000, 5000, 20_000} {
		b.Run(fmt.Sprintf("rate=%d", rate), func(b *testing.B) {
			var commits, done atomic.Int64
			l, err := Open(Options{
				Dir:      b.TempDir(),
				Done:     func(ops []mq.Op, _ error) { done.Add(int64(len(ops))) },
				Observer: Observer{Commit: func(CommitInfo) { commits.Add(1) }},
			})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			in := l.Inbox("c")
			record := make([]byte, 256)
			cpu := cpuTime()
			b.ResetTimer()
			start := time.Now()
			for i := 0; i < b.N; {
				for due := int(time.Since(start).Seconds() * float64(rate)); i < min(due, b.N); i++ {
					l.Submit(mq.Op{Kind: mq.OpPut, Inbox: in, Seq: uint64(i + 1), Record: record, Owner: b})
				}
				time.Sleep(100 * time.Microsecond) // in truth up to 1 ms: messages come in small bunches
			}
			poll(time.Hour, func() bool { return done.Load() >= int64(b.N) })
			b.StopTimer()
			reportCPU(b, cpu, b.N)
			b.ReportMetric(float64(b.N)/float64(commits.Load()), "ops/commit")
		})
	}
}

// BenchmarkOfflinePut puts messages for many clients that are away; nobody
// waits for a single one.
func BenchmarkOfflinePut(b *testing.B) {
	l, err := Open(Options{Dir: b.TempDir(), Sync: SyncOS})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	ins := handlesOf(l, benchClients)
	record := make([]byte, 256)
	cpu := cpuTime()
	b.ResetTimer()
	for i := range b.N {
		l.Submit(mq.Op{Kind: mq.OpPut, Inbox: ins[i%benchClients], Seq: uint64(i/benchClients + 1), Record: record})
		if i%64 == 0 {
			l.Throttle()
		}
	}
	written(l)
	b.StopTimer()
	reportCPU(b, cpu, b.N)
}

func handlesOf(l *Log, n int) []mq.Inbox {
	ins := make([]mq.Inbox, n)
	for i := range ins {
		ins[i] = l.Inbox(fmt.Sprintf("GID_group@@@%07d", i))
	}
	return ins
}

// BenchmarkDrain reads and acknowledges what is stored, 100 messages an inbox,
// 32 a read. They were put in turn, so no two of an inbox are neighbours.
func BenchmarkDrain(b *testing.B) {
	const each = 100
	clients := b.N/each + 1
	l, err := Open(Options{Dir: b.TempDir(), Sync: SyncOS})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	ins := handlesOf(l, clients)
	record := make([]byte, 256)
	for seq := uint64(1); seq <= each; seq++ {
		for _, in := range ins {
			l.Submit(mq.Op{Kind: mq.OpPut, Inbox: in, Seq: seq, Record: record})
		}
		l.Throttle()
	}
	written(l)
	cpu := cpuTime()
	b.ResetTimer()
	var es []mq.Entry
	var buf []byte
	for _, in := range ins {
		for after := uint64(0); ; {
			es, buf, err = l.Read(in, after, 1<<62, 32*len(record), es[:0], buf[:0])
			if err != nil {
				b.Fatal(err)
			}
			if len(es) == 0 {
				break
			}
			for _, e := range es {
				l.Submit(mq.Op{Kind: mq.OpAck, Inbox: in, Seq: e.Seq})
			}
			after = es[len(es)-1].Seq
		}
	}
	b.StopTimer()
	reportCPU(b, cpu, clients*each)
}

// BenchmarkReopen opens a log of a million inboxes with one message each.
func BenchmarkReopen(b *testing.B) {
	const n = 1_000_000
	opts := Options{Dir: b.TempDir(), Sync: SyncOS}
	l, err := Open(opts)
	if err != nil {
		b.Fatal(err)
	}
	record := make([]byte, 200)
	for i := range n {
		in := l.Inbox(fmt.Sprintf("GID_group@@@%07d", i))
		l.Submit(mq.Op{Kind: mq.OpPut, Inbox: in, Seq: 1, Record: record})
		l.Forget(in)
		if i%64 == 0 {
			l.Throttle()
		}
	}
	poll(time.Hour, func() bool { return l.queue.waiting() == 0 && !hintsMissing(l) })
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	l = nil
	before := heap()
	b.ResetTimer()
	var cpu time.Duration
	for range b.N {
		from := cpuTime()
		if l, err = Open(opts); err != nil {
			b.Fatal(err)
		}
		cpu += cpuTime() - from
		b.StopTimer()
		if m := l.Metrics(); m.Entries != n {
			b.Fatalf("%+v", m)
		}
		b.ReportMetric(float64(heap()-before)/n, "heap-B/inbox")
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
		l = nil
		b.StartTimer()
	}
	b.ReportMetric(float64(cpu.Milliseconds())/float64(b.N), "cpu-ms/reopen")
}

func hintsMissing(l *Log) bool {
	l.ix.mu.Lock()
	defer l.ix.mu.Unlock()
	for _, s := range l.ix.segs {
		if s.sealed && !s.hinted {
			return true
		}
	}
	return false
}
