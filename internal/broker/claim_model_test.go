package broker

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// answers is a store that swallows what sessions wait for: the test says how and
// in which order it ends.
type answers struct {
	mq.Store
	held []mq.Op
}

func (a *answers) Submit(op mq.Op) {
	if _, ok := op.Owner.(*Session); ok && (op.Kind == mq.OpPut || op.Kind == mq.OpRelease) {
		a.held = append(a.held, op)
		return
	}
	a.Store.Submit(op)
}

// denies refuses what is published on topics that start with "denied".
type denies struct{ allowAll }

func (denies) Allow(_ *mq.Principal, _ mq.Action, topic []byte) bool {
	return !strings.HasPrefix(string(topic), "denied")
}

// exchange is what the client knows of an identifier.
type exchange struct {
	topic    string
	n        int  // its message
	rec      bool // PUBREC came
	rel      bool // PUBREL was sent
	here     bool // PUBLISH was sent on this connection
	refused  bool
	recsOwed int // PUBLISH without PUBREC, of this connection
	compOwed int // PUBREL without PUBCOMP, of this connection
}

// claimModel is a client that sends QoS 2 messages, and counts.
type claimModel struct {
	*world
	t     *testing.T
	r     *rand.Rand
	a     *answers
	p     *peer
	ids   map[uint16]*exchange
	next  int
	puts  map[int]int // how often each message was submitted to the store and has not failed
	trace []string
}

const modelIDs = 4

// TestClaimModel runs random histories of a sender, with answers of the store in
// any order, refusals and reconnects. Each PUBLISH and each PUBREL is answered
// once, each message is taken over once, and what counts against Receive Maximum
// is at every moment the number of identifiers that are open on this connection.
func TestClaimModel(t *testing.T) {
	watchdog(t, time.Duration(torture(60))*time.Second)
	for seed := range uint64(torture(150)) {
		m := newClaimModel(t, seed)
		for range 60 {
			m.step()
			m.check()
			if t.Failed() {
				t.Fatalf("seed %d:\n%s", seed, strings.Join(m.trace, "\n"))
			}
		}
		m.finish()
		if t.Failed() {
			t.Fatalf("seed %d:\n%s", seed, strings.Join(m.trace, "\n"))
		}
		m.stop()
	}
}

func newClaimModel(t *testing.T, seed uint64) *claimModel {
	m := &claimModel{t: t, r: rng(seed), a: &answers{}, ids: map[uint16]*exchange{}, puts: map[int]int{}}
	m.world = newWorld(t, Options{Keep: KeepAlways}, store.SyncOS)
	m.world.wrap = func(st mq.Store) mq.Store { m.a.Store = st; return m.a }
	m.world.auth = denies{}
	m.world.stop()
	m.world.start()
	m.p = &peer{id: "sender", expiry: []uint32{1000, NeverExpires, 0}[m.r.IntN(3)]}
	m.online(m.p, true)
	return m
}

func (m *claimModel) did(format string, args ...any) {
	m.trace = append(m.trace, fmt.Sprintf(format, args...))
}

func (m *claimModel) step() {
	pid := uint16(1 + m.r.IntN(modelIDs))
	e := m.ids[pid]
	switch n := m.r.IntN(20); {
	case n < 6 && e == nil:
		m.next++
		topic := []string{"a/p2p/x", "a/p2p/y", "a/p2p/z", "nobody", "denied/t"}[m.r.IntN(5)]
		m.ids[pid] = &exchange{topic: topic, n: m.next}
		m.publish(pid, false)
	case n < 8 && e != nil && !e.rel:
		m.publish(pid, !e.here || m.r.IntN(2) == 0)
	case n < 12 && e != nil && (e.here || e.rec):
		m.release(pid)
	case n < 18:
		m.answer()
	case n == 18:
		m.reconnect()
	}
}

func (m *claimModel) publish(pid uint16, dup bool) {
	e := m.ids[pid]
	m.did("PUBLISH %d message %d on %s dup %v", pid, e.n, e.topic, dup)
	e.here = true
	e.recsOwed++
	before := len(m.a.held)
	m.p.batch.Begin()
	msg := &mq.Message{Topic: []byte(e.topic), Payload: fmt.Append(nil, e.n), QoS: 2}
	in := QoS2Publish{Conn: m.p.wire, PacketID: pid, Dup: dup, Room: modelIDs + 1}
	if r := m.b.PublishQoS2(Source{Principal: &mq.Principal{}, Session: m.p.wire.sess}, msg, in, &m.p.batch); r == ClaimOver {
		m.t.Errorf("identifier %d is refused", pid)
	}
	m.p.batch.Flush()
	for _, op := range m.a.held[before:] {
		if op.Kind == mq.OpPut {
			m.puts[e.n]++
		}
	}
}

func (m *claimModel) release(pid uint16) {
	e := m.ids[pid]
	m.did("PUBREL %d", pid)
	e.rel = true
	e.compOwed++
	m.p.batch.Begin()
	if r := m.b.Pubrel(m.p.wire.sess, m.p.wire, pid, &m.p.batch); r == AckUnknown {
		m.p.wire.SendAck(PubcompUnknown, pid, mq.OK, &m.p.batch) // as the gateway does
	}
	m.p.batch.Flush()
}

// answer lets the store end something, mostly well.
func (m *claimModel) answer() {
	if len(m.a.held) == 0 {
		return
	}
	i := m.r.IntN(len(m.a.held))
	op := m.a.held[i]
	m.a.held = append(m.a.held[:i:i], m.a.held[i+1:]...)
	var err error
	if op.Kind == mq.OpPut && m.r.IntN(4) == 0 {
		err = &mq.Error{Code: mq.StoreFull, Text: "full"}
		m.puts[payloadOf(op)]--
	}
	m.did("the store ends %d of message %d, identifier %d: %v", op.Kind, payloadOf(op), op.PacketID, err)
	var b Batch
	m.b.Committed([]mq.Op{op}, err, &b)
}

func payloadOf(op mq.Op) (n int) {
	var msg mq.Message
	if op.Kind == mq.OpPut && mq.DecodeRecord(&msg, op.Record) == nil {
		_, _ = fmt.Sscan(string(msg.Payload), &n)
	}
	return n
}

func (m *claimModel) reconnect() {
	m.check()
	m.did("reconnect")
	if m.r.IntN(2) == 0 {
		m.p.leave(m.world, abrupt)
	}
	m.online(m.p, false)
	if !m.p.wire.present {
		m.ids = map[uint16]*exchange{}
	}
	for _, e := range m.ids {
		e.here, e.recsOwed, e.compOwed = false, 0, 0
		e.rel = e.rel && e.rec
	}
	for pid, e := range m.ids {
		switch { // what MQTT 4.4 asks of the client
		case e.rec:
			m.release(pid)
		default:
			m.publish(pid, true)
		}
		m.check()
	}
}

// check takes the answers that have come, and compares the counters.
func (m *claimModel) check() {
	_, acks := m.p.wire.take()
	for _, a := range acks {
		m.take(a)
	}
	want := 0
	for _, e := range m.ids {
		if e.here {
			want++
		}
	}
	open, unsafe := m.p.wire.sess.Claims()
	if open != want {
		m.t.Errorf("%d identifiers are open on this connection, the session counts %d", want, open)
	}
	if unsafe < 0 || unsafe > open {
		m.t.Errorf("%d of %d are said to be without PUBREC", unsafe, open)
	}
	for n, times := range m.puts {
		if times > 1 {
			m.t.Errorf("message %d was taken over %d times", n, times)
		}
	}
}

func (m *claimModel) take(a ackSent) {
	m.did("  comes %d of identifier %d code %v", a.kind, a.pid, a.code)
	e := m.ids[a.pid]
	if e == nil {
		m.t.Errorf("an answer %d for identifier %d, which is not in use", a.kind, a.pid)
		return
	}
	switch a.kind {
	case Pubrec:
		if e.recsOwed--; e.recsOwed < 0 {
			m.t.Errorf("identifier %d: one PUBREC too many", a.pid)
		}
		e.rec = true
		if taken(a.code) && strings.HasPrefix(e.topic, "a/p2p/") && m.puts[e.n] != 1 {
			m.t.Errorf("message %d was acknowledged, and taken over %d times", e.n, m.puts[e.n])
		}
		if !taken(a.code) {
			e.refused, e.here = true, false
		}
	default:
		if e.compOwed--; e.compOwed < 0 {
			m.t.Errorf("identifier %d: one PUBCOMP too many", a.pid)
		}
		if e.refused != (a.kind == PubcompUnknown) && e.here {
			m.t.Errorf("identifier %d: PUBCOMP %d of a message that was refused: %v", a.pid, a.kind, e.refused)
		}
		e.here = false
	}
	if !e.here && e.compOwed == 0 && e.recsOwed == 0 && (e.refused || e.rel) {
		delete(m.ids, a.pid)
	}
}

// finish answers everything, and releases what is left.
func (m *claimModel) finish() {
	for range 10 {
		for len(m.a.held) > 0 {
			m.answer()
			m.check()
		}
		for pid, e := range m.ids {
			if e.rec && !e.rel {
				m.release(pid)
				m.check()
			}
		}
	}
	for pid, e := range m.ids {
		m.t.Errorf("identifier %d does not come to an end: %+v", pid, *e)
	}
	if open, unsafe := m.p.wire.sess.Claims(); open != 0 || unsafe != 0 {
		m.t.Errorf("at the end %d are open, %d without PUBREC", open, unsafe)
	}
	if s := m.p.wire.sess; s.sender.Load().holds() {
		m.t.Errorf("at the end there are claims")
	}
}
