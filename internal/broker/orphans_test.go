package broker

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// loseSessions restarts the server without the metadata of some sessions.
func (w *world) loseSessions(ids ...string) {
	w.t.Helper()
	w.settle()
	w.b.Close()
	for _, id := range ids {
		if err := w.st.DeleteSession(id, nil); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := w.st.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.start()
}

// waitingFor makes a persistent session and lets messages wait for it, whose
// sender did not ask that they be kept.
func (w *world) waitingFor(id string, n int) (want []string) {
	w.online(&peer{id: id, expiry: NeverExpires}, true).leave(w, proper)
	var r results
	for i := range n {
		want = append(want, fmt.Sprint(id, "-", i))
		w.send("a/p2p/"+id, want[i], mq.QoS(1+i%2), false, &r, i)
	}
	w.settle()
	for i := range n {
		if code, ok := r.get(i); !ok || code != mq.OK {
			w.t.Fatalf("message %d is answered %v %v", i, code, ok)
		}
	}
	return want
}

// TestOrphanedInbox: what was acknowledged and kept for a session that the
// metadata has lost is delivered when the client comes back, and the start says
// that it is there.
func TestOrphanedInbox(t *testing.T) {
	w := newWorld(t, Options{}, store.SyncAlways)
	defer func() { w.stop() }()
	var want [5][]string
	for i := range want {
		want[i] = w.waitingFor(fmt.Sprint("dev", i), 20)
	}
	kept := w.waitingFor("known", 3)
	var r results
	w.publish("a/p2p/stranger", 1, 1, 1, true, &r) // its sender asked: no session is needed
	w.settle()

	w.loseSessions("dev0", "dev1", "dev2", "dev3", "dev4")
	if n := w.b.Stats.Orphans.Load(); n != 5 {
		t.Errorf("%d inboxes are said to be orphaned, want 5", n)
	}
	for i := range want {
		d := &peer{id: fmt.Sprint("dev", i), expiry: NeverExpires}
		w.online(d, i == 4)
		if d.wire.present {
			t.Errorf("session present is said of a session that is new")
		}
		w.drain(d)
		if i == 4 { // it starts clean
			want[i] = nil
		}
		sameList(t, d.id, payloads(d.got), want[i]...)
	}
	sameList(t, "the device that was not lost", w.heldFor("known"), kept...)
	if n := w.b.Stats.Orphans.Load(); n != 0 {
		t.Errorf("%d inboxes are said to be orphaned when all have come back", n)
	}
	if n := w.b.Stats.Dropped[mq.DropSessionEnded].Load(); n != 20 {
		t.Errorf("%d messages are counted as dropped, want the 20 of the client that started clean", n)
	}
	w.settle()
	w.loseSessions()
	if n := w.b.Stats.Orphans.Load(); n != 0 {
		t.Errorf("after the next start %d inboxes are said to be orphaned", n)
	}
}

// TestOrphanedExchanges: the client is told that its session is new, and forgets
// its half of exchanges with QoS 2. So does the server: what it had is not sent
// again, and its identifiers are free.
func TestOrphanedExchanges(t *testing.T) {
	w := newWorld(t, Options{}, store.SyncAlways)
	defer func() { w.stop() }()
	d := w.online(&peer{id: "dev", expiry: NeverExpires}, true)
	var r results
	w.send("a/p2p/dev", "had", 2, false, &r, 1)
	w.settle()
	d.receive()
	d.ack(w, 1) // PUBREC
	d.sends(w, "a/p2p/dev", "own", 7, false)
	w.settle()
	d.leave(w, abrupt)
	w.loseSessions("dev")
	d = w.online(&peer{id: "dev", expiry: NeverExpires}, false)
	if _, acks := d.wire.take(); len(acks) != 0 {
		t.Errorf("acknowledgements come for exchanges of the session before: %v", acks)
	}
	if r := d.sends(w, "a/p2p/other", "next", 7, true); r != ClaimNew {
		t.Errorf("a message with an identifier of the session before is taken for %v", r)
	}
	w.settle()
	d.leave(w, proper)
	got := w.heldFor("dev")
	sameList(t, "the device gets", got, "own")
}

// TestOrphanedShare: what waits for members of a shared subscription whose
// sessions were lost is not dropped: they subscribe again. Without a loss, what a
// shared subscription without members has left is dropped, as always.
func TestOrphanedShare(t *testing.T) {
	for _, lost := range []bool{true, false} {
		w := newWorld(t, Options{}, store.SyncAlways)
		p := w.online(&peer{id: "member", expiry: NeverExpires}, true)
		share := mq.Subscription{Filter: "$share/g/t", QoS: 1}
		p.subscribe(w, share)
		p.leave(w, proper)
		var r results
		w.send("t", "job", 1, false, &r, 1)
		ids := []string{"member"}
		if lost {
			w.waitingFor("dev", 1)
			ids = append(ids, "dev")
		}
		w.loseSessions(ids...)
		w.settle()
		p = w.online(&peer{id: "member", expiry: NeverExpires}, false)
		p.subscribe(w, share)
		w.drain(p)
		want := []string{}
		if lost {
			want = []string{"job"}
		}
		sameList(t, fmt.Sprint("with a loss ", lost), append([]string{}, payloads(p.got)...), want...)
		w.stop()
	}
}

// TestOrphansAreLogged: once, with the number and what to do.
func TestOrphansAreLogged(t *testing.T) {
	w := newWorld(t, Options{}, store.SyncAlways)
	defer func() { w.stop() }()
	w.waitingFor("a", 1)
	w.waitingFor("b", 1)
	w.loseSessions("a", "b")
	var text bytes.Buffer
	w.b.log = slog.New(slog.NewTextHandler(&text, nil))
	if err := w.b.crossCheck(); err != nil {
		t.Fatal(err)
	}
	if s := text.String(); strings.Count(s, "\n") != 1 || !strings.Contains(s, "inboxes=2") || !strings.Contains(s, "homing store check") {
		t.Errorf("the log says %q", s)
	}
}
