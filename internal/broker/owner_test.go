package broker

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

var (
	pNobody    = &mq.Principal{}
	pAnonymous = &mq.Principal{Kind: mq.KindAnonymous}
	pAnn       = &mq.Principal{Kind: mq.KindUser, User: "ann"}
	pBob       = &mq.Principal{Kind: mq.KindUser, User: "bob"}
	pKeyAnn    = &mq.Principal{Kind: mq.KindKey, AccessKey: "ann"}
)

// connectAs is connect for a principal.
func (w *world) connectAs(d *device, p *mq.Principal, clean bool) error {
	w.batch.Begin()
	defer w.batch.Flush()
	l := &link{}
	expiry := uint32(0)
	if d.persistent {
		expiry = NeverExpires
	}
	s, err := w.b.Connect(ConnectRequest{ClientID: d.id, Principal: p, Conn: l, CleanStart: clean, Expiry: expiry, ReceiveMax: 100}, &w.batch)
	if err == nil {
		d.link, d.sess, d.unacked = l, s, nil
	}
	return err
}

// must is connectAs for who is let in.
func (w *world) must(d *device, p *mq.Principal, clean bool) {
	w.t.Helper()
	if err := w.connectAs(d, p, clean); err != nil {
		w.t.Fatalf("%s: %v", p.Owner(), err)
	}
}

func isRefusal(err error) bool {
	var code *mq.Error
	var owner *OwnerError
	return errors.As(err, &code) && code.Code == mq.NotAuthorized && errors.As(err, &owner)
}

// ownedState is how far the old principal has come when the new one connects.
type ownedState int

const (
	connected ownedState = iota
	connectedClean
	offline
	ended // with messages in the inbox
	ownedStates
)

func (s ownedState) String() string {
	return [...]string{"connected", "connected clean", "offline", "ended"}[s]
}

// prepare lets p have the client ID d with three messages that nobody has
// acknowledged. Of a session that lasts the third is kept for it only, and not for
// the client ID.
func (w *world) prepare(p *mq.Principal, state ownedState) *device {
	d := &device{id: "d", persistent: state == connected || state == offline}
	w.must(d, p, !d.persistent)
	if state == offline {
		w.disconnect(d)
	}
	r := &results{}
	for n := range 3 {
		w.publish("t/p2p/d", 1, n, 1, n < 2, r)
	}
	w.settle()
	if state == ended {
		w.disconnect(d)
		w.settle()
	}
	return d
}

// wants is how many messages next gets in place of old.
func wants(old, next *mq.Principal, policy OwnerPolicy, state ownedState, clean bool) (n int, refused bool) {
	foreign := old.Owner() != next.Owner() && old != pNobody && next != pNobody
	switch {
	case foreign && policy == OwnerStrict:
		return 0, true
	case foreign && policy == OwnerClean:
		return 0, false
	case clean && (state == connected || state == offline):
		return 2, false
	}
	return 3, false
}

// Who connects with a client ID that another principal has used, and what it gets.
func TestSessionOwner(t *testing.T) {
	policies := []string{"strict", "clean", "any"}
	for policy := OwnerStrict; policy <= OwnerAny; policy++ {
		for state := range ownedStates {
			for _, restart := range []bool{false, true} {
				if restart && state == connectedClean {
					continue // of it the store knows nothing; see docs/adr/011
				}
				t.Run(fmt.Sprint(policies[policy], " ", state, " restart ", restart), func(t *testing.T) {
					t.Parallel()
					for _, old := range []*mq.Principal{pNobody, pAnonymous, pAnn, pKeyAnn} {
						for _, next := range []*mq.Principal{pNobody, pAnonymous, pAnn, pBob, pKeyAnn} {
							for _, clean := range []bool{false, true} {
								testOwner(t, old, next, policy, state, clean, restart)
							}
						}
					}
				})
			}
		}
	}
}

func testOwner(t *testing.T, old, next *mq.Principal, policy OwnerPolicy, state ownedState, clean, restart bool) {
	t.Helper()
	w := newWorld(t, Options{SessionOwner: policy}, store.SyncAlways)
	defer func() { w.stop() }()
	name := fmt.Sprintf("%s after %s, clean start %v", next.Owner(), old.Owner(), clean)
	first := w.prepare(old, state)
	if restart {
		w.crash(0)
		first.link = nil
	}
	want, refused := wants(old, next, policy, state, clean)
	d := &device{id: "d", persistent: true}
	err := w.connectAs(d, next, clean)
	if refused != isRefusal(err) || !refused && err != nil {
		t.Fatalf("%s: %v, want refused: %v", name, err, refused)
	}
	w.drainAll(d)
	if len(d.got) != want {
		t.Errorf("%s: got %d messages, want %d", name, len(d.got), want)
	}
	if n := w.b.Stats.NotOwner.Load(); (n == 1) != refused {
		t.Errorf("%s: %d refusals counted", name, n)
	}
	foreign := policy == OwnerClean && want == 0
	dropped := w.b.Stats.Dropped[mq.DropOtherOwner].Load()
	if foreign != (dropped == 3) {
		t.Errorf("%s: %d dropped as those of another owner", name, dropped)
	}
	if !refused {
		if first.link != nil && !first.link.closed {
			t.Errorf("%s: the old connection stays", name)
		}
		return
	}
	if first.link != nil && first.link.closed {
		t.Errorf("%s: the old connection was closed", name)
	}
	back := &device{id: "d", persistent: true}
	w.must(back, old, false)
	w.drainAll(back)
	want, _ = wants(old, old, policy, state, false)
	if len(back.got) != want {
		t.Errorf("%s: the owner got %d messages afterwards, want %d", name, len(back.got), want)
	}
}

// A session of an old store, or of an open server, belongs to the first principal
// that comes; also after a crash at once.
func TestUnownedSessionIsAdopted(t *testing.T) {
	w := newWorld(t, Options{}, store.SyncAlways)
	defer func() { w.stop() }()
	if err := w.st.PutSession("d", mq.SessionMeta{ExpirySeconds: NeverExpires}); err != nil {
		t.Fatal(err)
	}
	w.crash(0)
	r := &results{}
	w.publish("t/p2p/d", 1, 1, 1, false, r)
	w.settle()
	d := &device{id: "d", persistent: true}
	w.must(d, pNobody, false)
	w.disconnect(d)
	w.must(d, pAnn, false)
	w.crash(0)
	d.link = nil
	if err := w.connectAs(&device{id: "d", persistent: true}, pBob, true); !isRefusal(err) {
		t.Fatal(err)
	}
	w.must(d, pAnn, false)
	w.drainAll(d)
	if len(d.got) != 1 {
		t.Errorf("got %d messages, want 1", len(d.got))
	}
}

// metaWrites counts the writes of metadata.
type metaWrites struct {
	mq.Store
	n      atomic.Int32
	before func(what string) // called before each, and what is submitted; nil: nothing
}

func (m *metaWrites) note(what string) {
	m.n.Add(1)
	if m.before != nil {
		m.before(what)
	}
}

func (m *metaWrites) PutSession(id string, meta mq.SessionMeta) error {
	m.note("put session")
	return m.Store.PutSession(id, meta)
}

func (m *metaWrites) DeleteSession(id string, o *mq.Owner) error {
	m.note("delete session")
	return m.Store.DeleteSession(id, o)
}

func (m *metaWrites) PutOwner(id string, o mq.Owner) error {
	m.note("put owner")
	return m.Store.PutOwner(id, o)
}

func (m *metaWrites) Submit(op mq.Op) {
	if m.before != nil {
		m.before("submit")
	}
	m.Store.Submit(op)
}

func (m *metaWrites) SubmitGroup(ops []mq.Op) {
	if m.before != nil {
		m.before("submit group")
	}
	m.Store.SubmitGroup(ops)
}

// The owner costs no write of its own where it does not change, and no messages
// are left behind by a session that has ended.
func TestOwnerCostsNoWrites(t *testing.T) {
	var writes *metaWrites
	w := newWorld(t, Options{}, store.SyncAlways)
	w.wrap = func(s mq.Store) mq.Store { writes = &metaWrites{Store: s}; return writes }
	w.crash(0)
	defer func() { w.stop() }()
	step := func(what string, want int32, do func()) {
		t.Helper()
		writes.n.Store(0)
		do()
		if got := writes.n.Load(); got != want {
			t.Errorf("%s: %d writes, want %d", what, got, want)
		}
	}
	lasting, passing := &device{id: "a", persistent: true}, &device{id: "b"}
	r := &results{}
	step("a new session", 1, func() { w.must(lasting, pAnn, false) })
	step("going", 0, func() { w.disconnect(lasting) })
	step("coming back", 0, func() { w.must(lasting, pAnn, false) })
	step("a takeover by itself", 0, func() { w.must(lasting, pAnn, false) })
	step("a clean session", 0, func() { w.must(passing, pAnn, true) })
	step("its end", 0, func() { w.disconnect(passing) })
	step("a clean session of another", 0, func() { w.must(passing, pBob, true) })
	w.publish("t/p2p/b", 1, 1, 1, true, r)
	w.settle()
	step("its end with a message", 1, func() { w.disconnect(passing) })
	step("the next one", 0, func() { w.must(passing, pBob, true) })
	step("its end with the same message", 0, func() { w.disconnect(passing) })
	w.must(passing, pBob, true)
	w.drainAll(passing)
	if len(passing.got) != 1 {
		t.Errorf("got %d messages, want 1", len(passing.got))
	}
	step("its end when nothing waits any more", 1, func() { w.disconnect(passing) })
	step("a clean session of the one before", 0, func() { w.must(passing, pAnn, true) })
}

// Of principals that come at once with a new client ID one gets it, whatever else
// happens.
func TestOwnerRace(t *testing.T) {
	w := newWorld(t, Options{}, store.SyncOS)
	defer func() { w.stop() }()
	for round := range 200 {
		id := fmt.Sprint("d", round)
		var wg sync.WaitGroup
		var in [2]atomic.Int32
		for i := range 8 {
			p := []*mq.Principal{pAnn, pBob}[i%2]
			wg.Go(func() {
				var batch Batch
				batch.Begin()
				_, err := w.b.Connect(ConnectRequest{ClientID: id, Principal: p, Conn: &link{}, Expiry: NeverExpires, ReceiveMax: 10}, &batch)
				batch.Flush()
				switch {
				case err == nil:
					in[i%2].Add(1)
				case !isRefusal(err):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if a, b := in[0].Load(), in[1].Load(); a+b != 4 || a != 0 && b != 0 {
			t.Fatalf("round %d: ann was let in %d times, bob %d times; want one of them, 4 times", round, a, b)
		}
	}
}

// A power loss at any write of a clean takeover: nobody but the owner ever gets
// what has waited.
func TestCleanTakeoverIsCrashSafe(t *testing.T) {
	for _, state := range []ownedState{offline, ended} {
		for at := range 10 {
			w := newWorld(t, Options{SessionOwner: OwnerClean}, store.SyncAlways)
			var writes *metaWrites
			w.wrap = func(s mq.Store) mq.Store { writes = &metaWrites{Store: s}; return writes }
			w.crash(0)
			w.prepare(pAnn, state)
			var lost *world
			var n atomic.Int32
			writes.before = func(string) {
				if int(n.Add(1)) == at {
					lost = &world{t: t, fs: w.fs.CrashClone(vfs.CrashCloneCfg{}), sync: w.sync, opt: Options{SessionOwner: OwnerStrict}}
				}
			}
			d := &device{id: "d", persistent: true}
			w.must(d, pBob, false)
			writes.before = nil
			w.drainAll(d)
			if len(d.got) != 0 {
				t.Errorf("%s: got %d messages, want 0", state, len(d.got))
			}
			w.publish("t/p2p/d", 9, 1, 1, true, &results{}) // what comes for the new owner
			w.drainAll(d)
			if len(d.got) != 1 {
				t.Errorf("%s: got %d messages of its own, want 1", state, len(d.got))
			}
			w.settle()
			if at == 0 { // and after it
				lost = &world{t: t, fs: w.fs.CrashClone(vfs.CrashCloneCfg{}), sync: w.sync, opt: Options{SessionOwner: OwnerStrict}}
			}
			w.stop()
			if lost == nil {
				continue
			}
			lost.start()
			d = &device{id: "d", persistent: true}
			if err := lost.connectAs(d, pBob, false); err != nil && !isRefusal(err) {
				t.Fatal(err)
			} else if err != nil && at == 0 {
				t.Errorf("%s: the new owner is refused: %v", state, err)
			}
			lost.drainAll(d)
			if len(d.got) != 0 {
				t.Errorf("%s, power lost before write %d: got %d messages, want 0", state, at, len(d.got))
			}
			lost.stop()
		}
	}
}

// When the last message of an inbox has expired the client ID is anybody's again,
// and the store forgets the owner.
func TestOwnerOfEmptyInboxIsForgotten(t *testing.T) {
	w := newWorld(t, Options{}, store.SyncAlways)
	defer func() { w.stop() }()
	d := &device{id: "d"}
	w.must(d, pAnn, true)
	m := message("t/p2p/d", 1, 1, 1, true)
	m.Expiry = time.Now().Add(time.Second).UnixMilli()
	w.batch.Begin()
	w.b.Publish(Source{Principal: pNobody}, m, &results{}, 1, &w.batch)
	w.batch.Flush()
	w.settle()
	d.link.take()
	w.disconnect(d)
	owners := func() (n int) {
		if err := w.st.Owners(func(string, mq.Owner) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := owners(); n != 1 {
		t.Fatalf("%d owners are stored, want 1", n)
	}
	if err := w.connectAs(&device{id: "d"}, pBob, true); !isRefusal(err) {
		t.Fatal(err)
	}
	if !poll(20*time.Second, func() bool { return owners() == 0 }) {
		t.Fatal("the owner is still stored")
	}
	w.must(&device{id: "d"}, pBob, true)
}

// An owner that the store has for an inbox that is empty by then does not keep
// anybody out, and goes.
func TestOwnerOfNothingAfterStart(t *testing.T) {
	w := newWorld(t, Options{}, store.SyncAlways)
	defer func() { w.stop() }()
	if err := w.st.PutOwner("d", pAnn.Owner()); err != nil {
		t.Fatal(err)
	}
	w.crash(0)
	w.must(&device{id: "d"}, pBob, true)
	if !poll(10*time.Second, func() bool {
		n := 0
		err := w.st.Owners(func(string, mq.Owner) error { n++; return nil })
		return err == nil && n == 0
	}) {
		t.Fatal("the owner is still stored")
	}
}

// An owner costs a session no memory of its own, and a connection no allocation.
func TestOwnerIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(Session{}); n > 240 { // a size of the allocator; the one before is 224
		t.Errorf("a session takes %d bytes", n)
	}
	first := ownerOf(pAnn)
	same := &mq.Principal{Kind: mq.KindUser, User: strings.Clone("ann")}
	if n := testing.AllocsPerRun(100, func() {
		if ownerOf(same) != first {
			t.Error("not the same")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
