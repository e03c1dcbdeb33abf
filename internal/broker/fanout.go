package broker

import (
	"slices"
	"sync/atomic"

	"github.com/homing-mq/homing/internal/mq"
)

// publishPlain delivers a message of an ordinary topic to its subscribers, one
// copy each, with the highest QoS that overlapping subscriptions grant
// [MQTT-3.3.4-2], and retains it. It returns why it was refused.
// [MQTT-4.5.0-1] [MQTT3-4.5.0-1] [MQTT3-3.3.5-1]
func (b *Broker) publishPlain(src Source, d *delivery, batch *Batch) mq.Code {
	var f *fanout
	if d.origin != nil {
		f = &fanout{origin: d.origin, token: d.token, unit: d.along.Kind != 0}
		f.left.Store(1) // ours, until all have been offered the message
	}
	if d.along.Kind != 0 {
		// Asked once, for all: if only some could be stored, a claim would stay and
		// swallow the sender's next message. What clears a retained message makes room.
		if err := b.store.Admit(mq.RecordSize(d.m)); err != nil && (!d.m.Retain || len(d.m.Payload) > 0) {
			return b.refuse(d, dropOf(err), codeOf(err), batch)
		}
		d.admitted = true
		b.groups.Lock()
		defer b.groups.Unlock()
		d.grouped = true
	}
	if d.m.Retain { // else nothing retained changes [MQTT-3.3.1-8] [MQTT3-3.3.1-12]
		b.retained.mu.Lock()
		if code := b.mayRetain(d); code != mq.OK {
			b.retained.mu.Unlock()
			return b.refuse(d, dropFor(code), code, batch)
		}
		if d.grouped { // with all sessions locked
			defer b.retained.mu.Unlock()
		} else {
			if d.stopped() {
				b.retained.mu.Unlock()
				return b.refuse(d, mq.DropStoreFailed, mq.StoreFailed, batch)
			}
			// Retained before it is matched: who subscribes meanwhile gets it twice
			// rather than not at all.
			b.retain(d, f)
			b.retained.mu.Unlock()
		}
	}
	d.rights = b.auth.Version()
	batch.matches = b.topics.match(d.m.Topic, src.Session, batch.matches[:0])
	d.publisher = src.Session
	if len(batch.matches) == 0 && !d.m.Retain {
		return b.refuse(d, mq.DropNoSubscriber, mq.NoTarget, batch)
	}
	if f != nil {
		d.origin = f
	}
	if d.grouped {
		b.offerGroup(d, f, batch)
	} else {
		b.offerAll(d, f, batch)
	}
	clear(batch.matches)
	if f != nil {
		f.Complete(0, mq.OK, batch)
	}
	return mq.OK
}

func dropFor(code mq.Code) mq.DropReason {
	switch code {
	case mq.RetainedFull:
		return mq.DropRetainedFull
	case mq.RetainedBytes:
		return mq.DropRetainedBytes
	case mq.StoreFull:
		return mq.DropStoreFull
	}
	return mq.DropStoreFailed
}

// groupSize is how many inboxes share one stored payload at most: their
// sessions are locked at the same time.
const groupSize = 64

// offerAll delivers to every match: first to those that are online, one by one;
// then to those for which the message is only stored, in groups that share the
// payload.
func (b *Broker) offerAll(d *delivery, f *fanout, batch *Batch) {
	offline := batch.matches[:0]
	for _, m := range batch.matches {
		m.s.mu.Lock()
		if m.qos > 0 && d.m.QoS > 0 && m.s.persistent() && m.s.away() {
			m.s.mu.Unlock()
			offline = append(offline, m)
			continue
		}
		m.offer(d, f, batch)
		m.s.unlock()
	}
	for len(offline) > 0 {
		n := min(groupSize, len(offline))
		b.offerStored(offline[:n], d, f, batch)
		offline = offline[n:]
	}
}

// away reports whether there is nobody to send to. s is locked.
func (s *Session) away() bool {
	if l := s.lender(); l != nil {
		return l.online.Load() == 0
	}
	return s.conn == nil
}

// offerStored delivers to sessions that were away a moment ago. Groups are locked
// before clients, as in offerGroup.
func (b *Broker) offerStored(list []match, d *delivery, f *fanout, batch *Batch) {
	if len(list) > 1 {
		b.groups.Lock()
		defer b.groups.Unlock()
		d.grouped, d.group = true, batch.group[:0]
		slices.SortStableFunc(list, func(x, y match) int { return x.s.rank() - y.s.rank() })
	}
	for i := range list {
		list[i].s.mu.Lock()
		list[i].offer(d, f, batch)
	}
	if d.grouped {
		if len(d.group) > 0 {
			b.store.SubmitGroup(d.group)
		}
		clear(d.group)
		batch.group, d.group, d.grouped = d.group[:0], nil, false
	}
	for _, m := range list {
		m.s.unlock()
	}
}

// offer delivers to one subscriber, whose session is locked.
func (m *match) offer(d *delivery, f *fanout, b *Batch) {
	if m.s.b.auth.Version() != d.rights && !m.s.mayRead(d.m.Topic) {
		m.s.b.drop(mq.DropRevoked) // since it was matched
		return
	}
	d.qos = min(d.m.QoS, m.qos) // [MQTT-3.8.4-8] [MQTT3-3.8.4-6]
	if d.qos > 0 && f != nil {
		f.left.Add(1)
	}
	if m.s != d.publisher || m.s.special == 0 {
		m.s.deliver(d, b)
		return
	}
	// One's own message: No Local subscriptions have no part in it.
	own := *d
	msg := m.s.address(d.m)
	own.m, own.rec = &msg, nil
	m.s.deliver(&own, b)
	d.group, d.refused = own.group, own.refused
}

// offerGroup delivers a QoS 2 message of a persistent sender, or one that was
// delayed: what is stored for its subscribers, the retained message, and the claim
// of its packet identifier or the end of the delay are one unit. Half of it after
// a crash would be a loss or a duplicate for the others. Broker.groups is locked.
//
// Shared subscriptions come first, while no client is locked: they lock members,
// which may be among the matches.
func (b *Broker) offerGroup(d *delivery, f *fanout, batch *Batch) {
	f.left.Add(1)
	if d.stopped() { // all or nothing; what fails from now on is left to the store's order
		b.refuse(d, mq.DropStoreFailed, mq.StoreFailed, batch)
		return
	}
	d.gate = nil
	if d.m.Retain {
		b.retain(d, f)
	}
	slices.SortStableFunc(batch.matches, func(x, y match) int { return x.s.rank() - y.s.rank() })
	for i := range batch.matches {
		batch.matches[i].s.mu.Lock()
		batch.matches[i].offer(d, f, batch)
	}
	b.submitted(1)
	// The puts side by side: they share the payload.
	slices.SortStableFunc(d.group, func(x, y mq.Op) int { return int(x.Kind) - int(y.Kind) })
	d.along.Owner = f
	b.store.SubmitGroup(append(d.group, d.along))
	for _, m := range batch.matches {
		m.s.unlock()
	}
}

// fanout answers the sender when every target has been answered for.
type fanout struct {
	origin Completer
	token  uint64
	unit   bool // what is stored for the targets is one unit
	left   atomic.Int32
	failed atomic.Uint32 // the mq.Code of a store that failed; else 0
}

// fails reports whether what one target is refused with is the outcome of the
// whole publish.
func fails(code mq.Code) bool { return code == mq.StoreFull || code == mq.StoreFailed }

// Complete counts one target. What a single subscriber misses is no failure of
// the publish; a store that cannot keep it is.
func (f *fanout) Complete(_ uint64, code mq.Code, b *Batch) {
	if fails(code) {
		f.failed.Store(uint32(code))
	}
	if f.left.Add(-1) == 0 {
		b.complete(f.origin, f.token, mq.Code(f.failed.Load()))
	}
}
