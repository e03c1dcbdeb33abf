package broker

import (
	"sync/atomic"

	"github.com/homing-mq/homing/internal/mq"
)

// publishPlain delivers a message of an ordinary topic to its subscribers, one
// copy each, with the highest QoS that overlapping subscriptions grant
// [MQTT-3.3.4-2].
func (b *Broker) publishPlain(src Source, d *delivery, batch *Batch) {
	batch.matches = b.topics.match(d.m.Topic, batch.matches[:0])
	if len(batch.matches) == 0 {
		b.refuse(d, mq.DropNoSubscriber, mq.NoTarget, batch)
		return
	}
	var f *fanout
	if d.origin != nil {
		f = &fanout{origin: d.origin, token: d.token}
		f.left.Store(1) // ours, until all have been offered the message
		d.origin = f
	}
	for i := range batch.matches {
		m := batch.matches[i]
		if m.noLocal && m.s == src.Session {
			continue // [MQTT-3.8.3-3]
		}
		d.qos = min(d.m.QoS, m.qos) // [MQTT-3.8.4-8]
		if d.qos > 0 && f != nil {
			f.left.Add(1)
		}
		m.s.take(d, batch)
	}
	clear(batch.matches)
	if f == nil {
		return
	}
	if d.claimPID != 0 {
		f.left.Add(1)
		b.submitted(1)
		b.store.Submit(mq.Op{Kind: mq.OpClaim, Inbox: d.claimOf, PacketID: d.claimPID, Owner: f})
	}
	f.Complete(0, mq.OK, batch)
}

// take is deliver for a session that is not locked.
func (s *Session) take(d *delivery, b *Batch) {
	s.mu.Lock()
	defer s.unlock()
	s.deliver(d, b)
}

// fanout answers the sender when every target has been answered for.
type fanout struct {
	origin Completer
	token  uint64
	left   atomic.Int32
	failed atomic.Uint32 // the mq.Code of a store that failed; else 0
}

// Complete counts one target. What a single subscriber misses is no failure of
// the publish; a store that cannot keep it is.
func (f *fanout) Complete(_ uint64, code mq.Code, b *Batch) {
	if code == mq.StoreFull || code == mq.StoreFailed {
		f.failed.Store(uint32(code))
	}
	if f.left.Add(-1) == 0 {
		b.complete(f.origin, f.token, mq.Code(f.failed.Load()))
	}
}
