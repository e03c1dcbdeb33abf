package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/homing-mq/homing/internal/clock"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store/inboxlog"
)

const (
	clockToday = int64(1_796_000_000_000) // in November 2026, Unix ms
	clockHour  = int64(3_600_000)
	clockYear  = 365 * 24 * clockHour
)

// clockStore is a store with a clock whose readings the test sets.
type clockStore struct {
	t             *testing.T
	fs            *vfs.MemFS
	wall, elapsed atomic.Int64
	log           bytes.Buffer
	done          chan struct{} // one value for each op done
	clock         *clock.Clock
	*Store
}

func newClockStore(t *testing.T, wall int64) *clockStore {
	s := &clockStore{t: t, fs: vfs.NewCrashableMem(), done: make(chan struct{}, 1000)}
	s.wall.Store(wall)
	return s
}

func (s *clockStore) open() {
	s.t.Helper()
	log := slog.New(slog.NewTextHandler(&s.log, nil))
	s.clock = clock.New(clock.Options{Wall: s.wall.Load, Elapsed: s.elapsed.Load, Asleep: func() int64 { return 0 }, Log: log})
	var err error
	s.Store, err = Open(Options{Dir: testDir, FS: s.fs, SegmentSize: 64 << 10, Clock: s.clock, Logger: log, Done: func(ops []mq.Op, err error) {
		if err != nil {
			s.t.Error(err)
		}
		for range ops {
			s.done <- struct{}{}
		}
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	s.clock.Check()
}

func (s *clockStore) close() {
	s.t.Helper()
	if err := s.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// crash loses power, and boots with the wall clock at wall.
func (s *clockStore) crash(wall int64) {
	s.t.Helper()
	fs := s.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(1, uint64(wall)))})
	s.close()
	s.fs = fs
	s.wall.Store(wall)
	s.open()
}

func (s *clockStore) pass(ms int64) {
	s.wall.Add(ms)
	s.elapsed.Add(ms)
}

// put stores n records of 10 KB, an hour apart.
func (s *clockStore) put(n int) {
	s.t.Helper()
	in := s.Inbox("dev")
	for range n {
		s.pass(clockHour)
		s.clock.Check()
		s.Submit(mq.Op{Kind: mq.OpPut, Inbox: in, Seq: s.NextSeq(in), Flags: mq.FlagKeep, Record: make([]byte, 10_000), Owner: s})
		select {
		case <-s.done:
		case <-time.After(30 * time.Second):
			s.t.Fatal("a put is not done")
		}
	}
}

func (s *clockStore) want(what string, now int64) {
	s.t.Helper()
	if got := s.clock.Now(); got != now {
		s.t.Fatalf("%s: the time is %s; want %s\n%s", what, time.UnixMilli(got).UTC(), time.UnixMilli(now).UTC(), &s.log)
	}
}

// TestTimeGoesOn: a board whose clock starts in 1970 goes on from the last time in
// the log, wherever in the log that is; and what was put has the time left that it
// had.
func TestTimeGoesOn(t *testing.T) {
	for n := range 30 { // 6 records to a segment: sealed ones, hints, new ones
		s := newClockStore(t, clockToday)
		s.open()
		s.put(n)
		if n > 0 && n%7 == 0 { // let it write its hints
			for end := time.Now().Add(30 * time.Second); s.hints() < n/7 && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
		}
		last := s.clock.Now()
		s.crash(5 * clockHour)
		s.want(fmt.Sprintf("after %d records and a crash", n), last)
		if got := s.Stats(s.Inbox("dev")).Count; got != n {
			t.Fatalf("%d of %d records are there", got, n)
		}
		s.Expired(time.UnixMilli(s.clock.Now()), func(string, uint64) bool { t.Fatal("something has expired"); return false })
		s.pass(2 * clockHour)
		s.close() // an orderly end is dated, too
		s.wall.Store(clockHour)
		s.open()
		s.want("after an orderly end", last+2*clockHour)
		s.wall.Store(clockToday + clockYear) // NTP
		s.clock.Check()
		s.want("after NTP", last+2*clockHour)
		s.crash(clockToday + clockYear + 72*clockHour)
		s.want("3 days later", last+74*clockHour)
		s.close()
	}
}

// hints is the number of hint files.
func (s *clockStore) hints() (n int) {
	names, err := s.fs.List(s.fs.PathJoin(testDir, inboxName))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".hint") {
			n++
		}
	}
	return n
}

// A store of a version without a clock opens: its times are the wall clock's.
func TestStoreWithoutClock(t *testing.T) {
	s := newClockStore(t, time.Now().UnixMilli())
	old := open(t, s.fs, SyncAlways) // no clock file
	if err := old.PutSession("dev", mq.SessionMeta{ExpirySeconds: 7, Deadline: 9}); err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	s.wall.Store(time.Now().UnixMilli() + 3*24*clockHour)
	s.open()
	s.want("3 days later", s.wall.Load())
	if m, ok, err := s.Session("dev"); err != nil || !ok || m.Deadline != 9 {
		t.Errorf("the session is %+v, %v, %v", m, ok, err)
	}
	s.close()
}

// A write of the clock's state that fails or is cut short by a power loss at any
// step leaves the state before or the new one.
func TestClockFileCrash(t *testing.T) {
	before, after := clock.State{Offset: 5, Time: 6}, clock.State{Offset: -clockYear, Time: clockToday}
	outcomes := map[clock.State]int{}
	for step := int32(0); ; step++ {
		mem := vfs.NewCrashableMem()
		if err := inboxlog.MakeDir(mem, testDir); err != nil {
			t.Fatal(err)
		}
		if err := writeClock(mem, testDir, before); err != nil {
			t.Fatal(err)
		}
		var n atomic.Int32
		failing := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && n.Add(1) > step {
				return errors.New("injected")
			}
			return nil
		}))
		failed := writeClock(failing, testDir, after)
		for _, percent := range []int{0, 50, 100} {
			fs := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(uint64(step), 1))})
			s, err := readClock(fs, fs.PathJoin(testDir, clockName))
			if err != nil || s == nil || *s != before && *s != after || failed == nil && *s != after {
				t.Fatalf("step %d: %v is read as %+v, %v", step, failed, s, err)
			}
			outcomes[*s]++
		}
		if failed == nil {
			break
		}
	}
	if outcomes[before] < 3 || outcomes[after] < 3 {
		t.Errorf("outcomes: %v", outcomes)
	}
}

// A clock file with any byte damaged is told, and time goes on from the log's.
func TestClockFileDamage(t *testing.T) {
	s := newClockStore(t, 24*clockHour) // a board before NTP
	s.open()
	s.put(3)
	s.wall.Store(clockToday)
	s.clock.Check()
	last := s.clock.Now()
	s.close()
	name := s.fs.PathJoin(testDir, clockName)
	good := readAll(t, s.fs, name)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 4
		writeAll(t, s.fs, name, bad)
		s.log.Reset()
		s.open()
		s.want(fmt.Sprintf("with byte %d of %q damaged", i, good), last)
		if !strings.Contains(s.log.String(), "the clock's offset is lost") {
			t.Fatalf("nobody is told:\n%s", &s.log)
		}
		if state, err := readClock(s.fs, name); err != nil || state.Offset != clockToday-last {
			t.Fatalf("the state was not written again: %+v, %v", state, err)
		}
		if got := s.Stats(s.Inbox("dev")).Count; got != 3 {
			t.Fatalf("%d of 3 records are there", got)
		}
		s.close()
	}
}

// A repair while the wall clock is not the server's time does not date anything by
// the wall clock: the next start would take that for the last time it knew.
func TestRepairKeepsTime(t *testing.T) {
	s := newClockStore(t, 24*clockHour)
	s.open()
	s.put(10)
	last := s.clock.Now()
	s.close()
	for _, epoch := range []string{"0000000001.seg", "0000000002.seg"} {
		name := s.fs.PathJoin(testDir, inboxName, epoch)
		b := readAll(t, s.fs, name)
		b[4096+300] ^= 1
		writeAll(t, s.fs, name, b)
	}
	did, err := Repair(s.fs, testDir)
	if err != nil || len(did) == 0 {
		t.Fatalf("repair: %q, %v", did, err)
	}
	s.open()
	if now := s.clock.Now(); now > last {
		t.Errorf("after the repair the time leapt to %s", time.UnixMilli(now).UTC())
	}
	t.Logf("%d of 10 records are there", s.Stats(s.Inbox("dev")).Count)
	s.close()
}

func readAll(t *testing.T, fs vfs.FS, name string) []byte {
	t.Helper()
	f, err := fs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeAll(t *testing.T, fs vfs.FS, name string, b []byte) {
	t.Helper()
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}
