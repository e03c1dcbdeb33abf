package store

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/homing-mq/homing/internal/mq"
)

// crashes takes copies of a file system as a power loss would leave it, at
// some of the operations on it.
type crashes struct {
	mem *vfs.MemFS
	rng *rand.Rand

	mu     sync.Mutex // guards the rest
	every  int
	ops    int
	acked  map[string]uint32
	asked  map[string][]uint32 // under way, or refused
	copies []crashed
}

type crashed struct {
	fs      *vfs.MemFS
	op      int
	percent int
	acked   map[string]uint32
	asked   map[string][]uint32
}

func (c *crashes) MaybeError(errorfs.Op) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ops++; c.ops%c.every != 0 {
		return nil
	}
	percent := []int{0, 30, 70, 100}[c.rng.IntN(4)]
	asked := map[string][]uint32{}
	for k, v := range c.asked {
		asked[k] = append([]uint32(nil), v...)
	}
	// What is acknowledged is read first: the copy has at least that.
	acked := maps.Clone(c.acked)
	fs := c.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: c.rng})
	c.copies = append(c.copies, crashed{fs, c.ops, percent, acked, asked})
	return nil
}

func (c *crashes) String() string { return "crashes" }

func (c *crashes) put(s *Store, id string, n uint32, size int) error {
	c.mu.Lock()
	c.asked[id] = append(c.asked[id], n)
	c.mu.Unlock()
	err := s.PutSession(id, mq.SessionMeta{ExpirySeconds: n, Will: make([]byte, size)})
	if err == nil {
		c.mu.Lock()
		c.acked[id] = n
		c.mu.Unlock()
	}
	return err
}

// A crash or power loss is never taken for damage, wherever it comes, in every
// sync mode. Under SyncAlways nothing that was acknowledged is lost, under the
// others nothing after a kill.
func TestCrashIsNoDamage(t *testing.T) {
	for name, mode := range map[string]SyncMode{"always": SyncAlways, "interval": SyncInterval, "os": SyncOS} {
		t.Run(name, func(t *testing.T) {
			every := 9
			if testing.Short() {
				every = 41
			}
			c := &crashes{
				mem: vfs.NewCrashableMem(), rng: rand.New(rand.NewPCG(uint64(mode), 7)), every: every,
				acked: map[string]uint32{}, asked: map[string][]uint32{},
			}
			fs := errorfs.Wrap(c.mem, c)
			var n uint32
			for range 3 {
				s, err := Open(Options{Dir: testDir, FS: fs, Sync: mode, SegmentSize: 64 << 10})
				if err != nil {
					t.Fatal(err)
				}
				for range 45 {
					n++
					if err := c.put(s, fmt.Sprint("c", n%20), n, 100<<10*int(n%3)/2+10); err != nil {
						t.Fatal(err)
					}
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			for _, x := range c.copies {
				afterCrash(t, mode, x)
			}
			t.Logf("%d crashes", len(c.copies))
		})
	}
}

func afterCrash(t *testing.T, mode SyncMode, x crashed) {
	t.Helper()
	what := fmt.Sprintf("crash before operation %d, %d %% of what was not synced is there", x.op, x.percent)
	if anyOf(x.fs, testDir, metaName, inboxName, marksName) { // else nothing was there yet
		if r, err := Check(x.fs, testDir); err != nil || !r.OK() {
			t.Fatalf("%s: check: %v\n%s", what, err, r.String())
		}
	}
	s, err := Open(Options{Dir: testDir, FS: x.fs, Sync: mode, SegmentSize: 64 << 10})
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	defer s.Close()
	if mode != SyncAlways && x.percent < 100 {
		return
	}
	got := sessionsOf(t, s)
	for id, n := range x.acked {
		sm, ok := got[id]
		for _, a := range x.asked[id] {
			if ok && a > n && sm.ExpirySeconds == a {
				n = a
			}
		}
		if !ok || sm.ExpirySeconds != n {
			t.Fatalf("%s: session %s is %d %v, want %d", what, id, sm.ExpirySeconds, ok, n)
		}
	}
}
