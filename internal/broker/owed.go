package broker

import (
	"slices"

	"github.com/homing-mq/homing/internal/mq"
)

// owed is a new subscription whose retained messages are being sent, as fast as
// the client takes them: from Broker.retained, in order of its keys. What is
// published meanwhile comes by the subscription.
type owed struct {
	sub  mq.Subscription
	from string // the key that comes next
	at   int64  // not before: the store could not read it, monotonic
}

// debts are the owed of a session, in the order in which they were subscribed. There
// is at least one.
type debts struct {
	list []*owed // those that are not in at any more are passed over; the first is
	at   map[string]*owed
}

// first is the one whose messages are sent now.
func (d *debts) first() *owed { return d.list[0] }

func (d *debts) holds(o *owed) bool { return d.at[o.sub.Filter] == o }

// remove takes one out, and leaves none behind that is the first.
func (d *debts) remove(filter string) {
	delete(d.at, filter)
	for len(d.list) > 0 && !d.holds(d.list[0]) {
		d.list[0] = nil
		d.list = d.list[1:]
	}
	if len(d.list) > 2*len(d.at)+16 {
		d.list = slices.DeleteFunc(d.list, func(o *owed) bool { return !d.holds(o) })
	}
}

// owe notes that retained messages are to be sent for a subscription. s is
// locked.
func (s *Session) owe(sub mq.Subscription) {
	s.own()
	s.oweNot(sub.Filter)
	if s.owed == nil {
		s.owed = &debts{at: make(map[string]*owed)}
	}
	o := &owed{sub: sub}
	s.owed.list = append(s.owed.list, o)
	s.owed.at[sub.Filter] = o
}

// owes returns what is still to be sent for a filter, or nil. s is locked.
func (s *Session) owes(filter string) *owed {
	if s.owed == nil {
		return nil
	}
	return s.owed.at[filter]
}

// oweNot ends that. s is locked.
func (s *Session) oweNot(filter string) {
	if s.owed == nil {
		return
	}
	if s.owed.remove(filter); len(s.owed.at) == 0 {
		s.owed = nil
	}
}

// retainedChunk is how many retained messages are looked up at a time.
const retainedChunk = 32

// sendRetainedApart lets another goroutine go on with the retained messages: to
// find them can take long, and whoever pumps now serves others too. s is locked.
func (s *Session) sendRetainedApart() {
	if s.owing {
		return
	}
	s.owing = true
	s.b.wg.Go(func() {
		batch := Batch{patient: true}
		batch.Begin()
		s.mu.Lock()
		s.owing = false
		s.pumpLocked(&batch)
		batch.Flush()
	})
}

// sendRetained sends some retained messages [MQTT3-3.3.1-6], and reports whether there may be
// more to do. s is locked; the lock is released meanwhile.
func (s *Session) sendRetained(b *Batch) bool {
	if !s.win.room(s.receiveMax) {
		return false
	}
	o, conn := s.owed.first(), s.conn
	filter := o.sub.Filter
	from := o.from
	s.mu.Unlock()
	list, next, err := s.b.lookUp(filter, from, b)

	// Under both locks: a message that replaces one of these is matched after,
	// so that the client never gets the old one last.
	r := &s.b.retained
	r.mu.Lock()
	defer r.mu.Unlock()
	s.mu.Lock()
	if s.conn != conn || s.owed == nil || s.owed.first() != o || o.from != from {
		return true
	}
	if s.tail.n > 0 || s.backlog > s.cursor {
		return true // what came meanwhile goes first
	}
	for i := range list {
		now, ok := r.topics.Get(list[i].key)
		if ok && !now.gone && now.seq == list[i].seq && !s.sendFound(o, list[i].rec, b) {
			return false
		}
		o.from = list[i].key + "\x00"
	}
	if err != nil {
		return s.skipRetained(o, next, err)
	}
	if o.from = next; next == "" {
		s.oweNot(o.sub.Filter)
		if o.sub.RetainedOwed {
			s.b.wg.Go(func() { s.settle(o.sub.Filter) })
		}
	}
	return true
}

// skipRetained deals with the retained message of a key that cannot be read. It
// reports whether there may be more to send; otherwise the pump comes again.
// Broker.retained and s are locked.
func (s *Session) skipRetained(o *owed, key string, err error) bool {
	o.from = key
	now, _ := s.b.retained.topics.Get(key)
	seq, giveUp, at := s.b.judge(mq.RetainedInbox+topicOf(key), err)
	switch {
	case giveUp:
		o.from = key + "\x00"
		s.b.removeRetained(key, seq, mq.DropStoreFailed)
	case seq != 0 && (now.gone || now.seq != seq): // replaced meanwhile
	default:
		o.at = at
		s.b.stall(s, at)
		return false
	}
	return true
}

// lookUp finds retained messages and reads their records. next is the key to go
// on with, "" at the end; with an error, the one whose message cannot be read. No
// lock may be held.
func (b *Broker) lookUp(filter, from string, batch *Batch) (list []found, next string, err error) {
	if batch.patient {
		b.searches <- struct{}{} // some for all clients, so that the rest of the server goes on
	}
	b.retained.mu.Lock()
	list, next = b.retained.find(filter, from, retainedChunk, batch.found[:0])
	b.retained.mu.Unlock()
	if batch.patient {
		<-b.searches
	}
	batch.found = list
	batch.buf = batch.buf[:0]
	for i := range list {
		f := &list[i]
		if f.rec != nil {
			continue
		}
		entries, grown, err := b.store.Read(f.in, f.seq-1, f.seq, 1, batch.entries[:0], batch.buf)
		batch.entries, batch.buf = entries, grown
		if err != nil {
			return list[:i], f.key, err
		}
		if len(entries) == 1 {
			f.rec = entries[0].Record
		}
	}
	return list, next, nil
}

// sendFound sends one retained message. It reports false if the client does not
// take it now. s is locked, and has nothing else to send before.
func (s *Session) sendFound(o *owed, rec []byte, b *Batch) bool {
	m := &b.msg
	if rec == nil || mq.DecodeRecord(m, rec) != nil || m.Expired(s.b.Now(b)) {
		return true // replaced meanwhile, damaged or worthless
	}
	if len(m.Topic) > keyBytes && !mq.MatchFilter([]byte(o.sub.Filter), m.Topic) {
		return true // its key has not all of the topic
	}
	if !s.mayRead(m.Topic) {
		if s.subs[o.sub.Filter].Asks != asksPart {
			s.b.drop(mq.DropRevoked)
		}
		return true
	}
	m.Retain, m.Addressed, m.Live = true, true, false // [MQTT3-3.3.1-8]
	if o.sub.ID != 0 {
		b.props = mq.AppendSubscriptionID(append(b.props[:0], m.Props...), o.sub.ID)
		m.Props = b.props
	}
	qos := min(m.QoS, o.sub.QoS)
	kept := qos == 2 && s.persistent() // written ahead
	if s.tail.n > 0 && (!kept || s.crammed(mq.RecordSize(m))) {
		return false // not ahead of what is being written; the store's answer pumps again
	}
	h := s.header(m, qos)
	if qos == 0 {
		switch s.conn.SendPublish(m, h, b) {
		case Sent:
			s.b.Stats.Delivered[PubSub][0].Add(1)
		case SendTooLarge:
			s.b.drop(mq.DropTooLarge)
		case SendFull:
			s.full = true
			return false
		case SendClosed:
			return false
		}
		return true
	}
	d := delivery{m: m, qos: qos, kind: PubSub}
	switch {
	case !s.conn.Takes(m, h):
		s.b.drop(mq.DropTooLarge)
	case kept:
		s.keep(&d, b)
	case !s.admitsNext():
		return false
	default:
		return s.sendNow(&d, s.persistent(), b)
	}
	return true
}

// settle notes in the store that nothing is owed for a subscription any more.
func (s *Session) settle(filter string) {
	defer s.keepSubscriptions()()
	s.mu.Lock()
	sub, ok := s.subs[filter]
	ok = ok && sub.RetainedOwed && s.persistent()
	ok = ok && s.owes(filter) == nil // else subscribed again meanwhile
	if sub.RetainedOwed = false; ok {
		s.subs[filter] = sub
	}
	s.mu.Unlock()
	if !ok {
		return
	}
	if err := s.b.store.PutSubscriptions(s.id, []mq.Subscription{sub}); err != nil {
		s.b.log.Error("cannot store that retained messages were sent", "client", s.id, "error", err)
	}
}
