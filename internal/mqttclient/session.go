package mqttclient

import (
	"cmp"
	"slices"

	"github.com/homing-mq/homing/internal/mqtt"
)

// Session is a client's half of an MQTT session: what it has sent and is not
// acknowledged, and which QoS 2 messages it has received. Given to one Client
// after another it makes QoS 1 and 2 hold across connections: what is
// unfinished when a connection ends is neither failed nor forgotten, and is
// sent again by the next Dial if the server still knows the session.
//
// The zero value is an empty session. It is used by one Client at a time, from
// Dial until Done; its own methods are for the time between.
type Session struct {
	slots    []slot // of packet identifier i+1
	free     []uint16
	inflight int // publishes under way, which the server's Receive Maximum limits
	seq      uint64
	received map[uint16]struct{} // QoS 2: PUBREC sent, PUBREL not come
}

type slotState byte

const (
	unused     slotState = iota
	publishing           // waits for PUBACK or PUBREC
	releasing            // waits for PUBCOMP
	requesting           // waits for SUBACK or UNSUBACK
)

// slot is one packet identifier.
type slot struct {
	state  slotState
	qos    byte
	seq    uint64 // order of sending
	result Result // of PUBREC
	packet []byte // to send again; only in a Session of the caller's
	done   func(Result)
	reply  *reply
}

// completion is a callback that is due.
type completion struct{ done func(Result) }

// maxPacketID is how many packet identifiers there are.
const maxPacketID = 65535

// take allots a packet identifier, 0 if there is none.
func (s *Session) take() (uint16, *slot) {
	var id uint16
	switch {
	case len(s.free) > 0:
		id = s.free[len(s.free)-1]
		s.free = s.free[:len(s.free)-1]
	case len(s.slots) < maxPacketID:
		s.slots = append(s.slots, slot{})
		id = uint16(len(s.slots))
	default:
		return 0, nil
	}
	s.seq++
	sl := &s.slots[id-1]
	sl.seq = s.seq
	return id, sl
}

// get returns the slot of a packet identifier in use, or nil.
func (s *Session) get(id uint16) *slot {
	if id == 0 || int(id) > len(s.slots) || s.slots[id-1].state == unused {
		return nil
	}
	return &s.slots[id-1]
}

// release frees a packet identifier and returns what it held.
func (s *Session) release(id uint16) slot {
	old := s.slots[id-1]
	s.slots[id-1] = slot{}
	s.free = append(s.free, id)
	if old.state != requesting {
		s.inflight--
	}
	return old
}

// busy returns the packet identifiers in use, in the order of sending.
func (s *Session) busy() []uint16 {
	var ids []uint16
	for i := range s.slots {
		if s.slots[i].state != unused {
			ids = append(ids, uint16(i+1))
		}
	}
	slices.SortFunc(ids, func(a, b uint16) int { return cmp.Compare(s.slots[a-1].seq, s.slots[b-1].seq) })
	return ids
}

// Unfinished returns how many messages are sent and not acknowledged.
func (s *Session) Unfinished() int { return s.inflight }

// Abandon completes what is unfinished with ErrAbandoned and empties the
// session.
func (s *Session) Abandon() {
	for _, c := range s.drop() {
		c.done(Result{Err: ErrAbandoned})
	}
}

// drop empties the session, and returns what is to be completed.
func (s *Session) drop() []completion {
	s.received = nil
	return s.releaseAll(func(*slot) bool { return true })
}

// disconnected releases what cannot survive a connection: requests, and if the
// session does not outlive it, everything.
func (s *Session) disconnected(outlives bool) []completion {
	return s.releaseAll(func(sl *slot) bool { return !outlives || sl.state == requesting })
}

func (s *Session) releaseAll(which func(*slot) bool) (due []completion) {
	for _, id := range s.busy() {
		if !which(&s.slots[id-1]) {
			continue
		}
		if old := s.release(id); old.done != nil {
			due = append(due, completion{old.done})
		}
	}
	return due
}

// appendUnfinished appends what a resumed session must send again, in the
// original order. [MQTT-4.4.0-1] [MQTT-4.6.0-1]
func (s *Session) appendUnfinished(out []byte, v mqtt.Version) []byte {
	for _, id := range s.busy() {
		sl := &s.slots[id-1]
		if sl.state == releasing {
			out = mqtt.AppendAck(out, v, mqtt.PUBREL, id, 0)
			continue
		}
		at := len(out)
		out = append(out, sl.packet...)
		out[at] |= 0x08 // DUP [MQTT-3.3.1-1]
	}
	return out
}
