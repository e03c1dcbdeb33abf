package test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
)

type targetKind struct {
	name       string
	version    mqtt.Version
	clean      bool
	receiveMax uint16        // MQTT 5; 0: the default
	slow       time.Duration // the longest before it acknowledges
	dozes      bool          // stops reading now and then, and loses what it has not read
	leaves     bool          // goes away and comes back
	usurps     bool          // takes over its own connection
	late       bool          // comes, leaves at once and is away until the end
	unknown    bool          // does not connect before the end
	hasty      bool          // acknowledges, closes and is back at once, again and again
	away       time.Duration // the longest that it leaves for; 0: 300 ms
	transport  string
}

var targetKinds = []targetKind{
	{name: "prompt", version: mqtt.V5},
	{name: "dozes", version: mqtt.V5, dozes: true},
	{name: "dozes3", version: mqtt.V311, dozes: true},
	{name: "slow", version: mqtt.V311, slow: 80 * time.Millisecond},
	{name: "leaves", version: mqtt.V5, leaves: true},
	{name: "leaves3", version: mqtt.V311, leaves: true, slow: 30 * time.Millisecond},
	{name: "usurps", version: mqtt.V5, usurps: true, slow: 5 * time.Millisecond},
	{name: "narrow", version: mqtt.V5, receiveMax: 4, slow: 10 * time.Millisecond, leaves: true},
	{name: "clean", version: mqtt.V5, clean: true, leaves: true, slow: 5 * time.Millisecond},
	{name: "late", version: mqtt.V311, late: true},
	{name: "unknown", version: mqtt.V5, unknown: true},
}

// mayRepeat reports whether QoS 2 may come to a target twice: it starts clean.
func mayRepeat(id string) bool { return strings.Contains(id, "clean") }

// crashTarget is a target of TestKill. It runs in one goroutine.
type crashTarget struct {
	c    *crash
	id   string
	kind targetKind
	r    *rand.Rand

	connections int
	held        map[uint16]entry // QoS 2: received, PUBREL has not come
	acks        []dueAck         // in the order of the messages [MQTT-4.6.0-2]

	// What was acknowledged to the server that lives now.
	life      <-chan struct{}
	settled   map[entry]bool  // by PUBACK or PUBREC
	completed map[uint16]bool // by PUBCOMP
}

type dueAck struct {
	at   time.Time
	b    []byte
	kind mqtt.PacketType
	id   uint16
	e    entry // of PUBACK and PUBREC; zero: a mark
}

func newCrashTarget(c *crash, id string, kind targetKind, r *rand.Rand) *crashTarget {
	return &crashTarget{c: c, id: id, kind: kind, r: r, held: make(map[uint16]entry), settled: make(map[entry]bool), completed: make(map[uint16]bool)}
}

func (t *crashTarget) run() {
	if t.kind.unknown {
		t.await(t.c.draining)
	}
	l := t.connect()
	for l != nil {
		next := t.converse(l)
		l.drop()
		t.acks = nil
		if t.kind.late {
			t.await(t.c.draining)
		}
		if l = next; l == nil {
			l = t.connect()
		}
	}
}

func (t *crashTarget) await(ch <-chan struct{}) {
	select {
	case <-ch:
	case <-t.c.over:
	}
}

// connect connects when the server is there; nil: the run is over.
func (t *crashTarget) connect() *link {
	how := &mqtt.Connect{ClientID: []byte(t.id), CleanStart: t.kind.clean}
	if !t.kind.clean {
		expires(never)(how)
	}
	if t.kind.receiveMax > 0 {
		receiveMaximum(t.kind.receiveMax)(how)
	}
	l := t.c.connectOver(t.kind.transport, t.kind.version, how)
	switch {
	case l == nil:
		return nil
	case t.kind.clean:
		clear(t.held)
	case t.connections > 0 && !l.present:
		t.c.ledger.problem("%s: the server has lost the session", t.id)
		clear(t.held)
	}
	t.connections++
	if l.life == nil || l.life != t.life {
		t.life = l.life
		clear(t.settled)
		clear(t.completed)
	} else {
		t.c.takeovers.Add(1)
	}
	return l
}

// converse goes on until the connection ends. It returns the connection that
// took over, if that is why.
func (t *crashTarget) converse(l *link) (next *link) {
	var bored <-chan time.Time
	if t.kind.leaves || t.kind.usurps {
		bored = time.After(time.Duration(20+t.r.IntN(400)) * time.Millisecond)
	} else if t.kind.hasty {
		bored = time.After(time.Duration(t.r.IntN(80)) * time.Millisecond)
	} else if t.kind.late && !isClosed(t.c.draining) {
		return nil
	}
	for {
		select {
		case x, ok := <-l.in:
			if !ok || t.kind.dozes && t.doze(l) {
				return nil
			}
			t.handle(x, l.version)
		case <-t.nextAck():
		case <-bored:
			if isClosed(t.c.draining) {
				continue
			}
			if t.kind.usurps {
				return t.connect()
			}
			if t.kind.hasty {
				t.parting(l)
				return nil
			}
			t.goAway(l)
			return nil
		case <-t.c.over:
			return nil
		}
		if !t.acknowledge(l, time.Now()) {
			return nil
		}
	}
}

// doze stops reading for a while, rarely. It reports whether the server has
// gone meanwhile: what it had sent is lost then, as if this machine had crashed.
func (t *crashTarget) doze(l *link) (lost bool) {
	if t.r.IntN(20) > 0 || isClosed(t.c.draining) {
		return false
	}
	select {
	case <-l.ended:
		return true
	case <-time.After(time.Duration(t.r.IntN(100)) * time.Millisecond):
	case <-t.c.draining:
	}
	return isClosed(l.ended)
}

// goAway leaves with or without DISCONNECT, for a while.
func (t *crashTarget) goAway(l *link) {
	if t.r.IntN(2) == 0 {
		l.send((&mqtt.Disconnect{}).Append(nil, l.version))
	}
	l.conn.Close()
	select {
	case <-time.After(time.Duration(t.r.Int64N(int64(cmp.Or(t.kind.away, 300*time.Millisecond))))):
	case <-t.c.draining:
	}
}

func (t *crashTarget) handle(x any, v mqtt.Version) {
	switch x := x.(type) {
	case *mqtt.Publish:
		t.publish(x, v)
	case *mqtt.Ack:
		if x.Type != mqtt.PUBREL {
			t.c.ledger.problem("%s: unexpected %v", t.id, show([]any{x}))
			return
		}
		if t.completed[x.PacketID] {
			t.c.ledger.problem("%s: connection %d: PUBREL comes again for %d, PUBCOMP was written", t.id, t.connections, x.PacketID)
		}
		delete(t.held, x.PacketID)
		t.ack(mqtt.PUBCOMP, x.PacketID, entry{}, v)
	case *mqtt.Disconnect:
		if !isShutdown(x) && !t.kind.usurps {
			t.c.ledger.problem("%s: unexpected %v", t.id, show([]any{x}))
		}
	default:
		t.c.ledger.problem("%s: unexpected %v", t.id, show([]any{x}))
	}
}

// publish takes a message down before it is acknowledged. QoS 2 is told apart
// by the packet identifier, as the standard has it.
func (t *crashTarget) publish(m *mqtt.Publish, v mqtt.Version) {
	if mark, ok := strings.CutPrefix(string(m.Payload), "mark "); ok {
		t.c.ledger.seen(t.id, mark)
		t.ack(mqtt.PUBACK, m.PacketID, entry{}, v)
		return
	}
	e, err := parseEntry(m)
	if err != nil || e.target != t.id {
		t.c.ledger.problem("%s: received %v: %v", t.id, show([]any{m}), err)
		return
	}
	if t.settled[e] && t.c.ledger.onceOnly(e) {
		t.c.ledger.problem("%s: comes again, the server that sends it had the acknowledgement: connection %d: %v", t.id, t.connections, show([]any{m}))
	}
	if m.QoS == 2 {
		delete(t.completed, m.PacketID)
	}
	how := fmt.Sprintf("connection %d id %d dup %v", t.connections, m.PacketID, m.Dup)
	switch m.QoS {
	case 0:
		t.c.ledger.deliver(e, how)
	case 1:
		t.c.ledger.deliver(e, how)
		t.ack(mqtt.PUBACK, m.PacketID, e, v)
	case 2:
		if before, ok := t.held[m.PacketID]; !ok {
			t.c.ledger.deliver(e, how)
			t.held[m.PacketID] = e
		} else if before != e {
			t.c.ledger.problem("%s: packet identifier %d is of %+v, and now of %+v", t.id, m.PacketID, before, e)
		}
		t.ack(mqtt.PUBREC, m.PacketID, e, v)
	}
}

// ack queues an acknowledgement. Some targets let the server wait.
func (t *crashTarget) ack(kind mqtt.PacketType, id uint16, e entry, v mqtt.Version) {
	at := time.Now()
	if t.kind.slow > 0 && !isClosed(t.c.draining) {
		at = at.Add(time.Duration(t.r.Int64N(int64(t.kind.slow))))
	}
	t.acks = append(t.acks, dueAck{at, mqtt.AppendAck(nil, v, kind, id, 0), kind, id, e})
}

// nextAck fires when the next acknowledgement is due.
func (t *crashTarget) nextAck() <-chan time.Time {
	if len(t.acks) == 0 {
		return nil
	}
	return time.After(time.Until(t.acks[0].at))
}

// acknowledge writes the acknowledgements that are due then, and the farewell.
func (t *crashTarget) acknowledge(l *link, then time.Time, farewell ...byte) bool {
	n := 0
	var b []byte
	for ; n < len(t.acks) && !t.acks[n].at.After(then); n++ {
		b = append(b, t.acks[n].b...)
	}
	written := t.acks[:n]
	t.acks = t.acks[n:]
	if !l.send(append(b, farewell...)) {
		return false
	}
	if l.life == nil {
		return true
	}
	for _, a := range written {
		switch {
		case a.kind == mqtt.PUBCOMP:
			t.completed[a.id] = true
		case a.e != entry{}:
			t.settled[a.e] = true
		}
	}
	return true
}
