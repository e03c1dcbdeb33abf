package broker

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// TestNeverAcknowledged: one message that is never acknowledged holds nothing up,
// however many come after it, sent at once or stored before; and one line in the
// log and a gauge tell of it.
func TestNeverAcknowledged(t *testing.T) {
	for _, qos := range []mq.QoS{1, 2} {
		for _, offline := range []bool{false, true} {
			t.Run(fmt.Sprintf("QoS %d, stored before: %v", qos, offline), func(t *testing.T) { neverAcknowledged(t, qos, offline) })
		}
	}
}

func neverAcknowledged(t *testing.T, qos mq.QoS, offline bool) {
	const messages = 66_500
	w := newWorld(t, Options{Keep: KeepAlways}, store.SyncOS)
	defer w.stop()
	lines := &counter{}
	w.b.log = slog.New(slog.NewTextHandler(lines, nil))
	d := &device{id: "dev", persistent: true, window: 100}
	w.connect(d, false)
	if offline {
		w.disconnect(d)
	}
	r := &results{code: make(map[int]mq.Code, messages)}
	stuck := uint16(0)
	ack := func() {
		d.receive()
		if d.link == nil {
			return
		}
		if stuck == 0 && len(d.unacked) > 0 {
			stuck = d.unacked[0].pid
		}
		d.unacked = slices.DeleteFunc(d.unacked, func(p sent) bool { return p.pid == stuck && p.qos < 3 })
		w.ack(d, 1<<30)
	}
	for n := 1; n <= messages; n++ {
		w.publish("o/p2p/dev", 0, n, qos, true, r)
		if n%50 == 0 {
			ack()
		}
	}
	if offline {
		w.settle()
		w.connect(d, false)
	}
	w.eventually("all are delivered, and all but one acknowledged", func() bool {
		ack()
		s := w.b.lockedSession([]byte("dev"))
		defer s.unlock()
		return len(d.got) == messages && s.win.unack == 1
	})
	for n, got := range numbers(d.got) {
		if got != n+1 {
			t.Fatalf("message %d is %d", n+1, got)
		}
	}
	s := w.b.lockedSession([]byte("dev"))
	ring := len(s.win.ring)
	s.unlock()
	if ring > 1024 {
		t.Errorf("a ring of %d for one message", ring)
	}
	if text := lines.text(); strings.Count(text, "but not one sent long before") != 1 || !strings.Contains(text, fmt.Sprint("packet_identifier=", stuck)) {
		t.Errorf("log: %s", text)
	}
	if n := w.b.Stats.Overtaken.Load(); n != 1 {
		t.Errorf("%d are overtaken, want 1", n)
	}
	w.disconnect(d)
	if n := w.b.Stats.Overtaken.Load(); n != 0 {
		t.Errorf("%d are overtaken, want 0", n)
	}
}

// TestSharedNeverAcknowledged: a member that never acknowledges does not stall its
// group, however many later messages there were, nor its own.
func TestSharedNeverAcknowledged(t *testing.T) {
	w := newWorld(t, Options{}, store.SyncOS)
	defer w.stop()
	a := w.online(&peer{id: "a", receiveMax: 10}, true)
	a.subscribe(w, mq.Subscription{Filter: "$share/g/jobs", QoS: 1})
	var r results
	w.send("jobs", "stuck", 1, false, &r, 0)
	w.eventually("it comes", func() bool { a.receive(); return len(a.got) == 1 })
	stuck := a.owes[0]
	for n := 1; n <= 6; n++ {
		w.leap(shareInbox("$share/g/jobs"), 65533)
		w.leap("a", 65533)
		for k := range 3 {
			w.send("jobs", fmt.Sprint(n, k), 1, false, &r, 10*n+k)
			w.eventually("the next comes", func() bool { a.receive(); return len(a.got) == 2+3*(n-1)+k })
			a.owes = slices.DeleteFunc(a.owes, func(x ackSent) bool { return x == stuck })
			a.ack(w, 10)
		}
	}
}

// leap lets seqs of a client go by, as messages do that are acknowledged.
func (w *world) leap(id string, n uint64) {
	s := w.b.lockedSession([]byte(id))
	s.nextSeq += n
	s.unlock()
}

// TestIdentifiers: whatever is acknowledged, and in whatever order, over
// reconnects and crashes, no packet identifier is that of two messages under way,
// a message keeps its own, and all are delivered.
func TestIdentifiers(t *testing.T) {
	for seed := range uint64(torture(30)) {
		m := &identifierModel{r: rng(seed), pids: map[int]uint16{}, open: map[uint16]int{}, done: map[int]bool{}}
		m.w = newWorld(t, Options{Keep: KeepAlways}, store.SyncAlways)
		m.d = &device{id: "dev", persistent: true, window: 2 + m.r.IntN(30)}
		m.w.connect(m.d, true)
		for range 300 {
			m.step()
		}
		m.finish()
		m.w.stop()
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// identifierModel has a device that acknowledges what it likes, and of what it got
// what it must know.
type identifierModel struct {
	r    *rand.Rand
	w    *world
	d    *device
	sent int            // messages
	pids map[int]uint16 // of every message, since its first delivery
	open map[uint16]int // messages that are not acknowledged
	done map[int]bool   // delivered
	owes []sent         // to be acknowledged
	told results
}

func (m *identifierModel) step() {
	w, r := m.w, m.r
	switch n := r.IntN(20); {
	case n < 8:
		m.sent++
		w.publish("o/p2p/dev", 0, m.sent, mq.QoS(1+r.IntN(2)), true, &m.told)
	case n < 13:
		m.receive()
		m.ack(r.IntN(4))
	case n < 15: // many messages, of which all are acknowledged
		w.settle()
		w.leap("dev", uint64(65535-r.IntN(2*(1+len(m.open)))))
	case n < 16 && m.d.link != nil:
		m.receive()
		w.disconnect(m.d)
	case n < 18 && m.d.link == nil:
		w.connect(m.d, false)
		m.owes = nil
	case n == 18:
		w.settle()
	case n == 19 && r.IntN(5) == 0:
		m.crash()
	}
	m.receive()
}

// crash loses power, when what was acknowledged is on disk: else it would be
// delivered again, which is another matter.
func (m *identifierModel) crash() {
	m.receive()
	s := m.w.b.lockedSession([]byte("dev"))
	in := s.box()
	s.unlock()
	m.w.settle()
	_ = m.w.b.wait(mq.Op{Kind: mq.OpSent, Inbox: in})
	m.receive()
	m.d.link, m.d.sess = nil, nil
	m.w.crash(m.r.IntN(101))
}

func (m *identifierModel) receive() {
	if m.d.link == nil {
		return
	}
	in, rel, _ := m.d.link.take()
	for _, p := range in {
		if other, used := m.open[p.pid]; used && other != p.n {
			m.w.t.Errorf("message %d comes with the identifier %d of %d, which is under way", p.n, p.pid, other)
		}
		if before, had := m.pids[p.n]; had && before != p.pid {
			m.w.t.Errorf("message %d (QoS %d) comes with identifier %d, and came with %d", p.n, p.qos, p.pid, before)
		}
		m.pids[p.n], m.open[p.pid], m.done[p.n] = p.pid, p.n, true
		m.owes = append(m.owes, p)
	}
	for _, pid := range rel {
		if _, used := m.open[pid]; !used {
			m.w.t.Errorf("PUBREL for identifier %d, which is not under way", pid)
		}
		m.owes = slices.DeleteFunc(m.owes, func(p sent) bool { return p.pid == pid }) // PUBCOMP says all
		m.owes = append(m.owes, sent{pid: pid, n: m.open[pid], qos: 3})
	}
}

// ack acknowledges n of what is owed, in any order.
func (m *identifierModel) ack(n int) {
	w, d := m.w, m.d
	w.batch.Begin()
	for ; n > 0 && len(m.owes) > 0 && d.link != nil; n-- {
		i := m.r.IntN(min(3, len(m.owes))) + m.r.IntN(2)*(len(m.owes)-1)
		i = min(i, len(m.owes)-1)
		p := m.owes[i]
		m.owes = slices.Delete(m.owes, i, i+1)
		switch p.qos {
		case 1:
			delete(m.open, p.pid)
			if r := w.b.Puback(d.sess, d.link, p.pid, &w.batch); r != AckTaken {
				w.t.Errorf("PUBACK %d of %d: %d", p.pid, p.n, r)
			}
		case 2:
			if r := w.b.Pubrec(d.sess, d.link, p.pid, false, &w.batch); r != AckTaken {
				w.t.Errorf("PUBREC %d of %d: %d", p.pid, p.n, r)
			}
		case 3:
			delete(m.open, p.pid)
			if r := w.b.Pubcomp(d.sess, d.link, p.pid, &w.batch); r != AckTaken {
				w.t.Errorf("PUBCOMP %d of %d: %d", p.pid, p.n, r)
			}
		}
	}
	w.batch.Flush()
}

// finish acknowledges until everything has come.
func (m *identifierModel) finish() {
	w := m.w
	if m.d.link == nil {
		w.connect(m.d, false)
		m.owes = nil
	}
	w.eventually("everything is delivered and acknowledged", func() bool {
		w.settle()
		m.receive()
		m.ack(1000)
		return w.t.Failed() || len(m.done) == m.sent && len(m.open) == 0 && len(m.owes) == 0
	})
	s := w.b.lockedSession([]byte("dev"))
	defer s.unlock()
	if ids := s.win.ids; ids != nil && len(ids.bySeq)+len(ids.byPID) > 0 {
		w.t.Errorf("%d identifiers are left", len(ids.bySeq))
	}
}
