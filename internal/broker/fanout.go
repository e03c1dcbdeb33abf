package broker

import (
	"slices"
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
	if src.Session != nil { // No Local [MQTT-3.8.3-3]
		batch.matches = slices.DeleteFunc(batch.matches, func(m match) bool { return m.noLocal && m.s == src.Session })
	}
	if d.claimPID != 0 {
		b.offerGroup(d, f, batch)
	} else {
		for _, m := range batch.matches {
			m.s.mu.Lock()
			m.offer(d, f, batch)
			m.s.unlock()
		}
	}
	clear(batch.matches)
	if f != nil {
		f.Complete(0, mq.OK, batch)
	}
}

// offer delivers to one subscriber, whose session is locked.
func (m *match) offer(d *delivery, f *fanout, b *Batch) {
	d.qos = min(d.m.QoS, m.qos) // [MQTT-3.8.4-8]
	if d.qos > 0 && f != nil {
		f.left.Add(1)
	}
	m.s.deliver(d, b)
}

// offerGroup delivers a QoS 2 message of a persistent sender: what is stored for
// its subscribers, and the claim of its packet identifier, are one unit. Half of
// it after a crash would be a loss or a duplicate for the others.
//
// It is the one place that holds several sessions, and one at a time does it.
func (b *Broker) offerGroup(d *delivery, f *fanout, batch *Batch) {
	b.groups.Lock()
	defer b.groups.Unlock()
	d.grouped = true
	for i := range batch.matches {
		batch.matches[i].s.mu.Lock()
		batch.matches[i].offer(d, f, batch)
	}
	f.left.Add(1)
	b.submitted(1)
	b.store.SubmitGroup(append(d.group, mq.Op{Kind: mq.OpClaim, Inbox: d.claimOf, PacketID: d.claimPID, Owner: f}))
	for _, m := range batch.matches {
		m.s.unlock()
	}
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
