package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/homing-mq/homing/internal/mq"
)

func TestMain(m *testing.M) {
	// Pebble leaves this one behind when its Open fails.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/cockroachdb/pebble/v2.(*ConcurrencyLimitScheduler).periodicGranter"))
}

const testDir = "data/store"

func open(t testing.TB, fs vfs.FS, mode SyncMode) *Store {
	t.Helper()
	s, err := Open(Options{Dir: testDir, FS: fs, Sync: mode, SegmentSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sessionsOf(t testing.TB, s *Store) map[string]mq.SessionMeta {
	t.Helper()
	out := map[string]mq.SessionMeta{}
	if err := s.Sessions(func(id string, m mq.SessionMeta) error { out[id] = m; return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

// metaModel is what the metadata must look like.
type metaModel struct {
	sessions map[string]mq.SessionMeta
	subs     map[string]map[string]mq.Subscription
}

func (m *metaModel) compare(t interface {
	Fatalf(string, ...any)
	Helper()
}, s *Store, clients []string) {
	t.Helper()
	got := map[string]mq.SessionMeta{}
	if err := s.Sessions(func(id string, sm mq.SessionMeta) error { got[id] = sm; return nil }); err != nil {
		t.Fatalf("%v", err)
	}
	if d := cmp.Diff(m.sessions, got); d != "" {
		t.Fatalf("sessions (-want +got):\n%s", d)
	}
	for _, c := range clients {
		subs, err := s.Subscriptions(c)
		if err != nil {
			t.Fatalf("%v", err)
		}
		var want []mq.Subscription
		for _, f := range slices.Sorted(maps.Keys(m.subs[c])) {
			want = append(want, m.subs[c][f])
		}
		if d := cmp.Diff(want, subs); d != "" {
			t.Fatalf("subscriptions of %q (-want +got):\n%s", c, d)
		}
	}
}

// Client IDs that are prefixes of each other, or look like parts of keys.
var metaClients = []string{"", "a", "ab", "a\x00", "a/b", "f\x00\x01a", "\xff\xff", strings.Repeat("x", 300)}

// Every change of metadata that has returned survives a power loss under
// SyncAlways and a kill under the other modes.
func TestMetadata(t *testing.T) {
	for name, mode := range map[string]SyncMode{"always": SyncAlways, "interval": SyncInterval, "os": SyncOS} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) { runMetadata(t, mode) })
		})
	}
}

func runMetadata(t *rapid.T, mode SyncMode) {
	fs := vfs.NewCrashableMem()
	opts := Options{Dir: testDir, FS: fs, Sync: mode, SegmentSize: 64 << 10}
	s, err := Open(opts)
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer func() { s.Close() }()
	m := &metaModel{map[string]mq.SessionMeta{}, map[string]map[string]mq.Subscription{}}
	client := rapid.SampledFrom(metaClients)
	filter := rapid.SampledFrom([]string{"#", "a/+", "a/b", "\xff", strings.Repeat("f", 200)})
	check := func(err error) {
		if err != nil {
			t.Fatalf("%v", err)
		}
	}
	reopen := func(fs2 *vfs.MemFS) {
		s.Close()
		opts.FS = fs2
		fs = fs2
		s, err = Open(opts)
		check(err)
	}
	seed := rapid.Uint64().Draw(t, "seed")
	rng := rand.New(rand.NewPCG(seed, 1))
	t.Repeat(map[string]func(*rapid.T){
		"": func(*rapid.T) { m.compare(t, s, metaClients) },
		"put": func(t *rapid.T) {
			c := client.Draw(t, "client")
			sm := mq.SessionMeta{
				ExpirySeconds: rapid.Uint32().Draw(t, "expiry"), Deadline: rapid.Int64().Draw(t, "deadline"),
				WillDue: rapid.Int64().Draw(t, "due"),
			}
			if will := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "will"); len(will) > 0 {
				sm.Will = will
			}
			m.sessions[c] = sm
			sm.Will = bytes.Clone(sm.Will)
			check(s.PutSession(c, sm))
			clear(sm.Will) // it is the caller's again
		},
		"delete": func(t *rapid.T) {
			c := client.Draw(t, "client")
			check(s.DeleteSession(c, nil))
			delete(m.sessions, c)
			delete(m.subs, c)
		},
		"subscribe": func(t *rapid.T) {
			c := client.Draw(t, "client")
			var subs []mq.Subscription
			for range rapid.IntRange(0, 3).Draw(t, "n") {
				subs = append(subs, mq.Subscription{
					Filter: filter.Draw(t, "filter"), QoS: mq.QoS(rapid.IntRange(0, 2).Draw(t, "qos")),
					NoLocal: rapid.Bool().Draw(t, "nl"), RetainAsPublished: rapid.Bool().Draw(t, "rap"),
					RetainHandling: uint8(rapid.IntRange(0, 2).Draw(t, "rh")), ID: rapid.Uint32().Draw(t, "id"),
					RetainedOwed: rapid.Bool().Draw(t, "owed"),
				})
			}
			check(s.PutSubscriptions(c, subs))
			for _, sub := range subs {
				if m.subs[c] == nil {
					m.subs[c] = map[string]mq.Subscription{}
				}
				m.subs[c][sub.Filter] = sub
			}
		},
		"unsubscribe": func(t *rapid.T) {
			c, f := client.Draw(t, "client"), filter.Draw(t, "filter")
			check(s.DeleteSubscriptions(c, []string{f, "unknown"}))
			delete(m.subs[c], f)
		},
		"reopen": func(*rapid.T) { reopen(fs) },
		"crash": func(t *rapid.T) {
			percent := 100
			if mode == SyncAlways {
				percent = rapid.SampledFrom([]int{0, 50, 100}).Draw(t, "percent")
			}
			reopen(fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}))
		},
	})
}

// Sessions of version 1 are read; what nobody knows is an error that names the
// client, not a session.
func TestSessionVersions(t *testing.T) {
	s := open(t, vfs.NewMem(), SyncAlways)
	defer s.Close()
	set := func(client string, v []byte) {
		t.Helper()
		if err := s.meta.current.Load().db.Set(sessionKey(client), v, pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	set("old", []byte{1, 0, 0, 0x0E, 0x10, 0, 0, 1, 0x8B, 0xCF, 0xE5, 0x68, 0x7B})
	if err := s.PutSession("new", mq.SessionMeta{Will: []byte("will"), WillDue: 5}); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := s.Session("new"); err != nil || !ok || string(got.Will) != "will" || got.WillDue != 5 {
		t.Errorf("Session: %+v %v %v", got, ok, err)
	}
	if _, ok, err := s.Session("nobody"); ok || err != nil {
		t.Errorf("Session of nobody: %v %v", ok, err)
	}
	want := map[string]mq.SessionMeta{
		"old": {ExpirySeconds: 3600, Deadline: 1_700_000_000_123},
		"new": {Will: []byte("will"), WillDue: 5},
	}
	if d := cmp.Diff(want, sessionsOf(t, s)); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	value := sessionValue(&mq.SessionMeta{ExpirySeconds: 1})
	for _, v := range [][]byte{
		{}, {1}, make([]byte, 13), append([]byte{1}, make([]byte, 13)...), value[:len(value)-1],
		append([]byte{3}, value[1:]...), append([]byte{1}, value[1:]...),
	} {
		set("bad", v)
		err := s.Sessions(func(string, mq.SessionMeta) error { return nil })
		if err == nil || !strings.Contains(err.Error(), `"bad"`) {
			t.Errorf("% x: %v", v, err)
		}
	}
}

// What Sessions yields may be kept: it does not alias Pebble's memory.
func TestWillIsCopied(t *testing.T) {
	v := sessionValue(&mq.SessionMeta{Will: []byte("will")})
	sm, ok := parseSession(v)
	clear(v)
	if !ok || string(sm.Will) != "will" {
		t.Errorf("%v, %q", ok, sm.Will)
	}
}

// A store that is open is locked, with an error that says what to do.
func TestLock(t *testing.T) {
	for name, fs := range map[string]vfs.FS{"memory": vfs.NewMem(), "disk": vfs.Default} {
		dir := filepath.Join(t.TempDir(), "a", "b")
		s, err := Open(Options{Dir: dir, FS: fs})
		if err != nil {
			t.Fatal(name, err)
		}
		if _, err := Open(Options{Dir: dir, FS: fs}); err == nil || !strings.Contains(err.Error(), "in use") {
			t.Errorf("%s: second open: %v", name, err)
		}
		if _, err := Check(fs, dir); err == nil || !strings.Contains(err.Error(), "in use") {
			t.Errorf("%s: check: %v", name, err)
		}
		if err := s.Close(); err != nil {
			t.Error(name, err)
		}
		if s, err = Open(Options{Dir: dir, FS: fs}); err != nil {
			t.Fatal(name, err)
		}
		s.Close()
	}
}

// Each call of the file system fails in turn while metadata is written: what
// has returned without an error is there after a reopening.
func TestMetadataFaults(t *testing.T) {
	run := func(fs vfs.FS) map[string]mq.SessionMeta {
		done := map[string]mq.SessionMeta{}
		s, err := Open(Options{Dir: testDir, FS: fs, SegmentSize: 64 << 10})
		if err != nil {
			return done
		}
		for i := range 6 {
			c := fmt.Sprint("c", i)
			sm := mq.SessionMeta{ExpirySeconds: uint32(i + 1)}
			if s.PutSession(c, sm) == nil {
				done[c] = sm
			}
			if i == 3 { // it never ends while tables cannot be written
				if in, err := s.meta.use(); err == nil {
					flushed, err := in.db.AsyncFlush()
					in.done()
					if err == nil {
						select {
						case <-flushed:
						case <-time.After(20 * time.Millisecond):
						}
					}
				}
			}
		}
		_ = s.Close()
		return done
	}
	var count atomic.Int64
	run(errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(errorfs.Op) error { count.Add(1); return nil })))
	stride := int64(1)
	if testing.Short() {
		stride = 7
	}
	for _, forever := range []bool{false, true} {
		for n := int64(1); n <= count.Load(); n += stride {
			var calls atomic.Int64
			fs := vfs.NewMem()
			want := run(errorfs.Wrap(fs, errorfs.InjectorFunc(func(errorfs.Op) error {
				if c := calls.Add(1); c == n || forever && c > n {
					return errorfs.ErrInjected
				}
				return nil
			})))
			s := open(t, fs, SyncAlways)
			got := sessionsOf(t, s)
			s.Close()
			for c, sm := range want {
				if !cmp.Equal(got[c], sm) {
					t.Fatalf("call %d failing, for ever %v: session %s is %+v, want %+v", n, forever, c, got[c], sm)
				}
			}
		}
	}
	t.Logf("%d calls", count.Load())
}

// filled returns the files of a closed store with sessions and messages.
func filled(t *testing.T) *vfs.MemFS {
	t.Helper()
	fs := vfs.NewCrashableMem()
	s := open(t, fs, SyncAlways)
	for i := range 50 {
		c := fmt.Sprint("c", i)
		if err := s.PutSession(c, mq.SessionMeta{ExpirySeconds: 1}); err != nil {
			t.Fatal(err)
		}
		if err := s.PutSubscriptions(c, []mq.Subscription{{Filter: "a/" + c}}); err != nil {
			t.Fatal(err)
		}
		s.Submit(mq.Op{Kind: mq.OpPut, Inbox: s.Inbox(c), Seq: 1, Record: []byte(c)})
	}
	if err := s.meta.current.Load().db.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return fs
}

func TestCheckAndRepairNothing(t *testing.T) {
	fs := filled(t)
	r, err := Check(fs, testDir)
	if err != nil || !r.OK() || r.Sessions != 50 || r.Subscriptions != 50 || r.Inbox.Inboxes != 50 || r.Inbox.Entries != 50 {
		t.Errorf("%v\n%s", err, r.String())
	}
	if did, err := Repair(fs, testDir); err != nil || did != nil {
		t.Errorf("%v %v", did, err)
	}
	if _, err := Check(fs, "nowhere"); err == nil {
		t.Error("a directory that is not there is no store")
	}
}

// Damaged metadata is found, kept aside, and what can be read of it saved.
func TestRepairMetadata(t *testing.T) {
	for _, part := range []string{".sst", "MANIFEST", "marker"} {
		fs := filled(t)
		names, err := fs.List(fs.PathJoin(testDir, metaName))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			if strings.Contains(n, part) {
				flip(t, fs, fs.PathJoin(testDir, metaName, n))
			}
		}
		if part == "marker" {
			for _, n := range names {
				if strings.HasPrefix(n, "marker.manifest") {
					if err := fs.Remove(fs.PathJoin(testDir, metaName, n)); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		r, err := Check(fs, testDir)
		if err != nil || r.OK() || !strings.Contains(r.String(), "problem") {
			t.Errorf("%s: %v\n%s", part, err, r.String())
			continue
		}
		did, err := Repair(fs, testDir)
		if err != nil || len(did) == 0 {
			t.Errorf("%s: %v %v", part, did, err)
		}
		if kept, err := fs.List(fs.PathJoin(testDir, badName)); err != nil || len(kept) != 1 {
			t.Errorf("%s: kept %v, %v", part, kept, err)
		}
		s := open(t, fs, SyncAlways)
		if st := s.Stats(s.Inbox("c7")); st.Count != 1 {
			t.Errorf("%s: %+v", part, st)
		}
		s.Close()
	}
}

func flip(t *testing.T, fs vfs.FS, path string) {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	f.Close()
	if err != nil || len(b) == 0 {
		return
	}
	for i := range min(len(b), 40) {
		b[i] ^= 0x55
	}
	if f, err = fs.Create(path, vfs.WriteCategoryUnspecified); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
}

// Damage in the inbox log stops Open with a typed error that says what to do;
// Repair then makes it open.
func TestRepairInbox(t *testing.T) {
	fs := filled(t)
	path := fs.PathJoin(testDir, inboxName, "0000000001.seg")
	f, err := fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("damage"), 4200); err != nil {
		t.Fatal(err)
	}
	f.Close()
	_, err = Open(Options{Dir: testDir, FS: fs})
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) || corrupt.File != path || !strings.Contains(err.Error(), "homing store repair") {
		t.Fatalf("got %v", err)
	}
	did, err := Repair(fs, testDir)
	if err != nil || len(did) == 0 {
		t.Fatal(did, err)
	}
	t.Log(strings.Join(did, "\n"))
	open(t, fs, SyncAlways).Close()
}

// Pebble's messages go to the log, below the level of a user's interest.
func TestPebbleLogs(t *testing.T) {
	var b bytes.Buffer
	fs := filled(t)
	s, err := Open(Options{Dir: testDir, FS: fs, Logger: slog.New(slog.NewTextHandler(&b, nil))})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if strings.Contains(b.String(), "pebble") {
		t.Errorf("at info level: %s", b.String())
	}
}

// A store with periodic syncs closes cleanly.
func TestIdleClose(t *testing.T) {
	s, err := Open(Options{Dir: t.TempDir(), Sync: SyncInterval, SyncInterval: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.PutSession("c", mq.SessionMeta{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkPutSession(b *testing.B) {
	s, err := Open(Options{Dir: b.TempDir(), Sync: SyncOS})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	var n atomic.Int64
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := s.PutSession(fmt.Sprintf("GID_group@@@%07d", n.Add(1)), mq.SessionMeta{ExpirySeconds: 1}); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
