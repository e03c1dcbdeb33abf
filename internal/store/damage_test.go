package store

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"github.com/homing-mq/homing/internal/mq"
)

const damagedSessions = 60

// damageBase returns the files of a store with sessions, each with a
// subscription and a message: half of the sessions in tables, the rest in a log.
// killed: it was not closed.
func damageBase(t testing.TB, killed bool) *vfs.MemFS {
	t.Helper()
	fs := vfs.NewCrashableMem()
	s := open(t, fs, SyncAlways)
	for i := range damagedSessions {
		c := fmt.Sprintf("c%02d", i)
		// Long enough that not all fits into one block of a table.
		if err := s.PutSession(c, mq.SessionMeta{ExpirySeconds: uint32(i + 1), Will: make([]byte, 300)}); err != nil {
			t.Fatal(err)
		}
		if err := s.PutSubscriptions(c, []mq.Subscription{{Filter: "a/" + c}}); err != nil {
			t.Fatal(err)
		}
		s.Submit(mq.Op{Kind: mq.OpPut, Inbox: s.Inbox(c), Seq: 1, Record: []byte(c)})
		if i == damagedSessions/2 {
			if err := s.meta.current.Load().db.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.room.stop()
	if err := s.inboxes.Close(); err != nil { // only the metadata matters here
		t.Fatal(err)
	}
	var out *vfs.MemFS
	if killed {
		out = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 2))})
	}
	if err := errors.Join(s.meta.close(), s.marks.close(), s.lock.Close()); err != nil {
		t.Fatal(err)
	}
	if !killed {
		out = fs
	}
	return out
}

// harm is one way to damage a file.
type harm struct {
	name string
	do   func(b []byte) []byte // nil: the file is deleted
}

func harms() []harm {
	hs := []harm{
		{"delete", nil},
		{"empty", func([]byte) []byte { return []byte{} }},
		{"zero all", func(b []byte) []byte { return make([]byte, len(b)) }},
		{"zero 10 percent", func(b []byte) []byte {
			clear(b[len(b)*4/10 : len(b)*5/10])
			return b
		}},
		{"truncate by one", func(b []byte) []byte { return b[:max(0, len(b)-1)] }},
	}
	for _, f := range []float64{.1, .5, .9} {
		hs = append(hs, harm{fmt.Sprintf("truncate to %v", f), func(b []byte) []byte { return b[:int(f*float64(len(b)))] }})
	}
	for _, f := range []float64{0, .1, .3, .5, .7, .9, .97, 1} {
		hs = append(hs, harm{fmt.Sprintf("flip at %v", f), func(b []byte) []byte {
			if len(b) > 0 {
				b[int(f*float64(len(b)-1))] ^= 0x55
			}
			return b
		}})
	}
	return hs
}

// Every damage of a file of the metadata: start and check agree about it, a
// store that starts has everything, and repair saves what can be read.
func TestDamagedMetadata(t *testing.T) {
	for _, killed := range []bool{true, false} {
		base := damageBase(t, killed)
		dir := base.PathJoin(testDir, metaName)
		names, err := base.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(names)
		for _, n := range append(names, "../"+marksName) {
			if n == "LOCK" {
				continue
			}
			for _, h := range harms() {
				t.Run(fmt.Sprintf("killed %v/%s/%s", killed, strings.TrimPrefix(n, "../"), h.name), func(t *testing.T) {
					fs := vfs.NewCrashableMem()
					if _, err := vfs.Clone(base, fs, "", ""); err != nil {
						t.Fatal(err)
					}
					harmFile(t, fs, fs.PathJoin(testDir, metaName, n), h)
					checkDamage(t, fs, leastSaved(n, h.name))
				})
			}
		}
	}
}

// leastSaved is how many sessions can be read after a harm, at least.
func leastSaved(file, harm string) int {
	switch {
	case strings.Contains(file, ".sst"):
		return damagedSessions/2 - 1
	case strings.Contains(file, ".log"):
		if strings.HasPrefix(harm, "flip") {
			return damagedSessions - 1
		}
		return damagedSessions/2 + 1
	}
	return damagedSessions
}

func harmFile(t *testing.T, fs *vfs.MemFS, path string, h harm) {
	t.Helper()
	if h.do == nil {
		if err := fs.Remove(path); err != nil {
			t.Fatal(err)
		}
		return
	}
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	b = h.do(b)
	w, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Sync(); err != nil {
		t.Fatal(err)
	}
}

func checkDamage(t *testing.T, fs *vfs.MemFS, least int) {
	t.Helper()
	r, err := Check(fs, testDir)
	if err != nil {
		t.Fatal(err)
	}
	before := vfs.NewCrashableMem()
	if _, err := vfs.Clone(fs, before, "", ""); err != nil {
		t.Fatal(err)
	}
	s, err := Open(Options{Dir: testDir, FS: fs, SegmentSize: 64 << 10})
	if (err == nil) != r.OK() {
		t.Fatalf("start says %v, check:\n%s", err, r.String())
	}
	if err == nil {
		compareDamaged(t, s, damagedSessions)
		s.Close()
		return
	}
	if !strings.Contains(err.Error(), "homing store repair") || !strings.Contains(err.Error(), metaName) {
		t.Errorf("start does not say what helps: %v", err)
	}
	fs = before // what start refuses it does not change
	did, err := Repair(fs, testDir)
	if err != nil || len(did) == 0 {
		t.Fatalf("repair: %v, %v", did, err)
	}
	if r, err = Check(fs, testDir); err != nil || !r.OK() {
		t.Fatalf("check after repair: %v\n%s", err, r.String())
	}
	s, err = Open(Options{Dir: testDir, FS: fs, SegmentSize: 64 << 10})
	if err != nil {
		t.Fatalf("start after repair: %v\n%s", err, strings.Join(did, "\n"))
	}
	defer s.Close()
	if n := compareDamaged(t, s, least); n < damagedSessions && !strings.Contains(strings.Join(did, "\n"), "not read: ") {
		t.Errorf("%d sessions are left, and repair does not say why:\n%s", n, strings.Join(did, "\n"))
	}
}

// compareDamaged compares what is there with what was put, and returns how many
// sessions there are.
func compareDamaged(t *testing.T, s *Store, least int) int {
	t.Helper()
	got := sessionsOf(t, s)
	if len(got) < least {
		t.Errorf("%d sessions, want at least %d; there are %v", len(got), least, slices.Sorted(maps.Keys(got)))
	}
	for i := range damagedSessions {
		c := fmt.Sprintf("c%02d", i)
		if sm, ok := got[c]; ok && sm.ExpirySeconds != uint32(i+1) {
			t.Errorf("session %s: %+v", c, sm)
		}
		subs, err := s.Subscriptions(c)
		if err != nil {
			t.Fatal(err)
		}
		want := []mq.Subscription{{Filter: "a/" + c}}
		if _, ok := got[c]; (ok && least == damagedSessions || len(subs) > 0) && !cmp.Equal(subs, want) {
			t.Errorf("subscriptions of %s: %+v", c, subs)
		}
		if st := s.Stats(s.Inbox(c)); st.Count != 1 {
			t.Errorf("messages of %s: %+v", c, st)
		}
	}
	return len(got)
}

// A half of the store that is gone is missed, and repair says what it means.
func TestHalfGone(t *testing.T) {
	for _, killed := range []bool{true, false} {
		for _, half := range []string{metaName, inboxName} {
			for _, marks := range []bool{true, false} {
				for _, empty := range []bool{true, false} {
					t.Run(fmt.Sprintf("killed %v, %s, marks %v, empty %v", killed, half, marks, empty), func(t *testing.T) {
						fs := damageBase(t, killed)
						path := fs.PathJoin(testDir, half)
						if err := fs.RemoveAll(path); err != nil {
							t.Fatal(err)
						}
						if empty {
							if err := fs.MkdirAll(path, 0o700); err != nil {
								t.Fatal(err)
							}
						}
						if !marks {
							if err := fs.Remove(fs.PathJoin(testDir, marksName)); err != nil {
								t.Fatal(err)
							}
						}
						halfGone(t, fs, half, path)
					})
				}
			}
		}
	}
}

func halfGone(t *testing.T, fs *vfs.MemFS, half, path string) {
	t.Helper()
	r, err := Check(fs, testDir)
	if err != nil || r.OK() || !strings.Contains(r.String(), "missing") {
		t.Fatalf("check: %v\n%s", err, r.String())
	}
	var corrupt *CorruptError
	if _, err = Open(Options{Dir: testDir, FS: fs, SegmentSize: 64 << 10}); !errors.As(err, &corrupt) || corrupt.File != path ||
		!strings.Contains(err.Error(), "homing store repair") {
		t.Fatalf("start: %v", err)
	}
	did, err := Repair(fs, testDir)
	if err != nil || len(did) == 0 {
		t.Fatalf("repair: %v %v", did, err)
	}
	t.Log(strings.Join(did, "\n"))
	s := open(t, fs, SyncAlways)
	defer s.Close()
	sessions, messages := len(sessionsOf(t, s)), s.Stats(s.Inbox("c07")).Count
	if want := half == inboxName; (sessions == damagedSessions) != want || (messages == 0) != want {
		t.Errorf("%d sessions, %d messages for c07", sessions, messages)
	}
}
