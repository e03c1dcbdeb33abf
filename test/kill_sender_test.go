package test

import (
	"math/rand/v2"
	"strings"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
)

type senderKind struct {
	name       string
	version    mqtt.Version
	persistent bool // sends again what was not acknowledged
	window     int
	restless   bool // drops its connection now and then
}

// The clean one is MQTT 5: a 3.1.1 sender is not told that a message was not
// kept.
var senderKinds = []senderKind{
	{name: "v5", version: mqtt.V5, persistent: true, window: 40},
	{name: "v3", version: mqtt.V311, persistent: true, window: 25, restless: true},
	{name: "clean", version: mqtt.V5, window: 15, restless: true},
}

const sendEvery = 3 * time.Millisecond // one to three messages

// crashSender is a sender of TestKill. It runs in one goroutine.
type crashSender struct {
	c       *crash
	id      string
	kind    senderKind
	targets []string
	r       *rand.Rand

	connected bool        // was, at least once
	inflight  []*underWay // in the order of sending
	lastID    uint16
	released  map[uint16]int // PUBREL sent on this connection without PUBCOMP yet
}

// underWay is a QoS 1 or 2 message whose exchange is not over.
type underWay struct {
	e        entry
	m        mqtt.Publish
	released bool // PUBREC has come
}

func newCrashSender(c *crash, id string, kind senderKind, targets []string, r *rand.Rand) *crashSender {
	return &crashSender{c: c, id: id, kind: kind, targets: targets, r: r}
}

// run sends until producing ends and everything is acknowledged.
func (s *crashSender) run() {
	how := &mqtt.Connect{ClientID: []byte(s.id), CleanStart: !s.kind.persistent}
	if s.kind.persistent {
		expires(never)(how)
	}
	for !s.finished() {
		l := s.c.connect(s.kind.version, how)
		if l == nil {
			break
		}
		s.resume(l)
		s.converse(l)
		l.drop()
	}
	for _, u := range s.inflight {
		s.c.ledger.problem("never answered: %+v, packet identifier %d, PUBREC %v", u.e, u.m.PacketID, u.released)
	}
}

func (s *crashSender) finished() bool {
	return isClosed(s.c.over) || isClosed(s.c.producing) && len(s.inflight) == 0
}

// resume sends again what is unfinished, in the original order and with the
// original packet identifiers [MQTT-4.4.0-1].
func (s *crashSender) resume(l *link) {
	s.released = make(map[uint16]int)
	if !s.kind.persistent {
		s.inflight, s.lastID = nil, 0 // nobody will ever know
		return
	}
	if s.connected && !l.present {
		s.c.ledger.problem("%s: the server has lost the session", s.id)
	}
	s.connected = true
	var b []byte
	for _, u := range s.inflight {
		if u.released {
			b = s.release(b, u.m.PacketID, l.version)
			continue
		}
		u.m.Dup = true
		b = u.m.Append(b, l.version)
	}
	l.send(b)
}

func (s *crashSender) release(b []byte, id uint16, v mqtt.Version) []byte {
	s.released[id]++
	return mqtt.AppendAck(b, v, mqtt.PUBREL, id, 0)
}

// converse goes on until the connection ends or all is done.
func (s *crashSender) converse(l *link) {
	tick := time.NewTicker(sendEvery)
	defer tick.Stop()
	var bored <-chan time.Time
	if s.kind.restless {
		bored = time.After(time.Duration(50+s.r.IntN(1500)) * time.Millisecond)
	}
	for !s.finished() {
		select {
		case x, ok := <-l.in:
			if !ok || !l.send(s.answer(x, l.version)) {
				return
			}
		case <-tick.C:
			if !isClosed(s.c.producing) && !l.send(s.produce(l.version)) {
				return
			}
		case <-bored:
			if !isClosed(s.c.draining) {
				return
			}
		case <-s.c.over:
			return
		}
	}
}

// produce makes new messages.
func (s *crashSender) produce(v mqtt.Version) (b []byte) {
	for range 1 + s.r.IntN(3) {
		if len(s.inflight) >= s.kind.window {
			break
		}
		e := entry{sender: s.id, target: s.targets[s.r.IntN(len(s.targets))], qos: []byte{0, 1, 1, 2, 2}[s.r.IntN(5)]}
		s.c.ledger.send(&e, fate{exempt: mayRepeat(e.target)})
		filling := s.r.IntN(200)
		if s.r.IntN(50) == 0 {
			filling = 20000
		}
		u := &underWay{e: e, m: mqtt.Publish{QoS: e.qos, Topic: []byte(e.topic()), Payload: e.payload(filling)}}
		if e.qos > 0 {
			u.m.PacketID = s.freeID()
			s.inflight = append(s.inflight, u)
		}
		b = u.m.Append(b, v)
	}
	return b
}

func (s *crashSender) freeID() uint16 {
	for {
		s.lastID++
		if s.lastID != 0 && s.find(s.lastID) < 0 {
			return s.lastID
		}
	}
}

func (s *crashSender) find(id uint16) int {
	for i, u := range s.inflight {
		if u.m.PacketID == id {
			return i
		}
	}
	return -1
}

// answer handles a packet and returns what to send.
func (s *crashSender) answer(x any, v mqtt.Version) []byte {
	if isShutdown(x) {
		return nil
	}
	a, ok := x.(*mqtt.Ack)
	if !ok {
		s.c.ledger.problem("%s: unexpected %v", s.id, show([]any{x}))
		return nil
	}
	i := s.find(a.PacketID)
	if a.Type == mqtt.PUBCOMP {
		if s.released[a.PacketID]--; s.released[a.PacketID] < 0 {
			s.c.ledger.problem("%s: %v without a PUBREL on this connection", s.id, show([]any{x}))
		} else if i < 0 {
			return nil // of a PUBREL that answered a second PUBREC
		}
	}
	if i < 0 {
		s.c.ledger.problem("%s: %v for a packet identifier that is not in use", s.id, show([]any{x}))
		return nil
	}
	u := s.inflight[i]
	if (a.Type == mqtt.PUBACK) != (u.e.qos == 1) || a.Type == mqtt.PUBCOMP && !u.released {
		s.c.ledger.problem("%s: %v does not answer %+v", s.id, show([]any{x}), u.e)
		return nil
	}
	if a.Type != mqtt.PUBCOMP {
		s.told(u, a)
	}
	if a.Type == mqtt.PUBREC && !a.Code.Failed() {
		u.released = true
		return s.release(nil, a.PacketID, v)
	}
	s.inflight = append(s.inflight[:i:i], s.inflight[i+1:]...)
	return nil
}

// told takes down what the sender learns. Only a clean sender may be told that
// nobody keeps its message, and any that the server is shutting down.
func (s *crashSender) told(u *underWay, a *mqtt.Ack) {
	switch {
	case a.Code == mqtt.CodeSuccess:
		s.c.ledger.acknowledge(u.e, a.Type.String())
	case a.Code == mqtt.CodeNoMatchingSubscribers && !s.kind.persistent:
	case a.Code == mqtt.CodeImplementationSpecificError && strings.Contains(string(a.Properties.ReasonString), "shutting down"):
	default:
		s.c.ledger.problem("%s: %v for %+v: %s", s.id, show([]any{a}), u.e, a.Properties.ReasonString)
	}
}

// isShutdown reports whether x is the DISCONNECT of a server that ends in good
// order.
func isShutdown(x any) bool {
	d, ok := x.(*mqtt.Disconnect)
	return ok && d.Code == mqtt.CodeServerShuttingDown
}
