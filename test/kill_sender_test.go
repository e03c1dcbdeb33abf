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
	hasty      bool // writes, closes and is back at once, again and again
	transport  string
	filling    int // half of its messages may be so long; 0: a few are 20000
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

	life     <-chan struct{} // of the server, on the connection before
	left     bool            // that one was dropped by us
	fresh    []entry         // produced, and not written
	written  []entry         // on this connection; only of a hasty one
	insisted []entry         // refused: they are sent anew
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
		l := s.c.connectOver(s.kind.transport, s.kind.version, how)
		if l == nil {
			break
		}
		s.comeBack(l)
		s.resume(l)
		s.left = s.converse(l)
		l.drop()
		if !s.left && s.c.refuses {
			s.c.wait(time.Duration(s.r.IntN(60)) * time.Millisecond)
		}
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
		if !u.m.Dup { // once: to send again and again is no progress
			s.c.ledger.note(u.e, func(f *fate) {
				f.resent = true
				if s.c.refuses && s.kind.version == mqtt.V5 {
					f.loose = true // its refusal may be what was lost, and the one behind it was taken
				}
			})
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

// converse goes on until the connection ends or all is done. It reports whether
// the sender ends it.
func (s *crashSender) converse(l *link) (left bool) {
	tick := time.NewTicker(sendEvery)
	defer tick.Stop()
	var bored <-chan time.Time
	if s.kind.restless {
		bored = time.After(time.Duration(50+s.r.IntN(1500)) * time.Millisecond)
	} else if s.kind.hasty {
		bored = time.After(time.Duration(s.r.IntN(60)) * time.Millisecond)
	}
	for !s.finished() {
		select {
		case x, ok := <-l.in:
			if !ok || !s.send(l, s.answer(x, l.version)) {
				return false
			}
		case <-tick.C:
			if !isClosed(s.c.producing) && !s.send(l, s.produce(l.version)) {
				return false
			}
		case <-bored:
			if !isClosed(s.c.draining) {
				if s.kind.hasty {
					s.parting(l)
				}
				return true
			}
		case <-s.c.over:
			return true
		}
	}
	return true
}

// send writes b, which has all that was produced.
func (s *crashSender) send(l *link, b []byte) bool {
	watched := l.life != nil && s.c.watching.Load() == l.life
	ok := l.send(b)
	for _, e := range s.fresh {
		if ok && s.kind.hasty && (watched || e.target != witnessID) {
			s.written = append(s.written, e)
		}
	}
	s.fresh = nil
	return ok
}

// produce makes new messages.
func (s *crashSender) produce(v mqtt.Version) (b []byte) {
	for range 1 + s.r.IntN(3) {
		if len(s.inflight) >= s.kind.window {
			break
		}
		e := s.next()
		s.c.ledger.send(&e, fate{exempt: mayRepeat(e.target)})
		s.fresh = append(s.fresh, e)
		filling := s.r.IntN(200)
		if s.kind.filling > 0 && s.r.IntN(2) == 0 {
			filling = s.r.IntN(s.kind.filling)
		} else if s.kind.filling == 0 && s.r.IntN(50) == 0 {
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

// next chooses target and QoS of the next message: one that was refused is sent
// anew, as another message.
func (s *crashSender) next() entry {
	if len(s.insisted) > 0 && s.r.IntN(2) == 0 {
		e := s.insisted[0]
		s.insisted = s.insisted[1:]
		return e
	}
	e := entry{sender: s.id, target: s.targets[s.r.IntN(len(s.targets))], qos: []byte{0, 1, 1, 2, 2}[s.r.IntN(5)]}
	if e.target == witnessID {
		e.qos = 0
	}
	return e
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
// nobody keeps its message, and any that the server is shutting down or, where
// it may, that there is no room.
func (s *crashSender) told(u *underWay, a *mqtt.Ack) {
	switch {
	case a.Code == mqtt.CodeSuccess:
		s.c.ledger.acknowledge(u.e, a.Type.String())
	case a.Code == mqtt.CodeNoMatchingSubscribers && !s.kind.persistent:
	case a.Code == mqtt.CodeImplementationSpecificError && strings.Contains(string(a.Properties.ReasonString), "shutting down"):
	case s.c.refuses && (a.Code == mqtt.CodeQuotaExceeded || a.Code == mqtt.CodeImplementationSpecificError):
		// QoS 1 may have been sent to the target before there was no room to keep it.
		s.c.ledger.note(u.e, func(f *fate) { f.refused, f.untaken = true, f.qos == 2 })
		s.insisted = append(s.insisted, entry{sender: s.id, target: u.e.target, qos: u.e.qos})
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
