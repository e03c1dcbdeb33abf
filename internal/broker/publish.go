package broker

import (
	"errors"

	"github.com/homing-mq/homing/internal/mq"
)

// Source says who publishes.
type Source struct {
	Principal *mq.Principal
	Session   *Session // nil for gateways without sessions
	// Stops: the protocol has no code for a refusal, so the sender's connection ends
	// with the first one, and it sends everything again that is not acknowledged.
	// When a message fails in the store, what comes behind it is refused until the
	// session has a new connection.
	Stops bool
}

// Publish is the one way into the server: MQTT, RocketMQ and HTTP senders and
// the server itself meet here. It authorizes m, routes it and delivers it.
//
// With QoS 1 and 2, done is told the outcome when the message is safe or
// refused (contract section 5); that may be during b.Flush or much later. With
// QoS 0 done is not used. m is borrowed until Publish returns.
//
// The result is OK, or why the message was refused before it was routed; done
// is told that too.
//
// Messages of one goroutine reach each target in the order of the calls.
// [MQTT-4.6.0-5] [MQTT-4.6.0-6] [MQTT3-4.6.0-5] [MQTT3-4.6.0-6]
func (b *Broker) Publish(src Source, m *mq.Message, done Completer, token uint64, batch *Batch) mq.Code {
	return b.publish(src, &delivery{m: m, origin: done, token: token}, batch)
}

// delivery is one message on its way to one or several sessions.
type delivery struct {
	m      *mq.Message
	qos    mq.QoS // towards the target; at most m.QoS
	kind   Kind
	origin Completer // told the outcome; nil: nobody
	token  uint64
	rec    []byte // the record of m once one was needed; shared by targets

	// On whose account is what it makes the store hold: from's, or if that is nil
	// of the number.
	from    *mq.Principal
	account mq.Account

	// along is committed together with what is stored of a QoS 2 message, as one
	// unit: the claim of its identifier if the sender has a persistent session,
	// or the end of what it was stored as before. Kind 0: nothing.
	along mq.Op

	gate      *Session // whose messages are refused once it has stopped; nil: no matter
	lent      bool     // by a shared subscription, which is the origin
	delayed   bool     // its time has come; if the store fails it is tried again
	publisher *Session // of an ordinary topic; nil: none of ours
	rights    uint64   // the version of the rules that its matches were found under

	admitted bool // the store has been asked

	// refused is why the message as a whole was refused at once, so that its
	// sender will hear this code; OK: it was not, or not yet.
	refused mq.Code

	// grouped: puts are collected in group, not submitted.
	grouped bool
	group   []mq.Op
}

// record returns the record form of the message: the one copy that is made.
func (d *delivery) record() []byte {
	if d.rec == nil {
		d.rec = mq.AppendRecord(make([]byte, 0, mq.RecordSize(d.m)), d.m)
	}
	return d.rec
}

func (b *Broker) publish(src Source, d *delivery, batch *Batch) mq.Code {
	m := d.m
	d.from = src.Principal
	if m.QoS == 0 {
		d.origin = nil
	}
	if src.Stops {
		d.gate = src.Session
	}
	kind, target := mq.ParseTopic(m.Topic)
	why, code := b.permits(src, m, kind)
	if code != mq.OK {
		b.refuse(d, why, code, batch)
	} else {
		code = b.route(src, d, kind, target, batch)
	}
	batch.refused = d.refused
	return code
}

// Permits reports, without counting, whether Publish would refuse m before it is
// routed: for who sends several messages that belong together.
func (b *Broker) Permits(src Source, m *mq.Message) mq.Code {
	kind, _ := mq.ParseTopic(m.Topic)
	_, code := b.permits(src, m, kind)
	return code
}

// permits says whether the source may publish m now, or why not. What a receiver
// sees must be permitted, too, as it goes by that.
func (b *Broker) permits(src Source, m *mq.Message, kind mq.TopicKind) (mq.DropReason, mq.Code) {
	why, code := b.permitsTopic(src, m.Topic, kind)
	if code == mq.OK && len(m.RealTopic) > 0 {
		shown, _ := mq.ParseTopic(m.RealTopic)
		why, code = b.permitsTopic(src, m.RealTopic, shown)
	}
	if code == mq.OK && b.closing.Load() {
		return mq.DropShutdown, mq.ShuttingDown
	}
	return why, code
}

// permitsTopic says whether the source may publish to a topic of that kind.
func (b *Broker) permitsTopic(src Source, topic []byte, kind mq.TopicKind) (mq.DropReason, mq.Code) {
	switch {
	case kind == mq.TopicBadP2P:
		return mq.DropBadTopic, mq.BadTopic
	case kind == mq.TopicInvalid:
		return mq.DropBadTopic, mq.Malformed
	case kind == mq.TopicSystem && isServerTopic(topic), !b.auth.Allow(src.Principal, mq.Publish, topic):
		return mq.DropNotAuthorized, mq.NotAuthorized
	}
	return 0, mq.OK
}

// route delivers a message that is permitted.
func (b *Broker) route(src Source, d *delivery, kind mq.TopicKind, target []byte, batch *Batch) mq.Code {
	m := d.m
	d.qos = m.QoS
	if kind == mq.TopicP2P {
		d.kind = P2P
		b.Stats.Received[P2P][m.QoS].Add(1)
		b.publishP2P(d, target, batch)
		return mq.OK
	}
	d.kind = PubSub
	b.Stats.Received[PubSub][m.QoS].Add(1)
	return b.publishPlain(src, d, batch)
}

// isServerTopic reports whether only the server publishes there.
func isServerTopic(topic []byte) bool {
	return len(topic) >= 4 && string(topic[:4]) == "$SYS"
}

// refuse counts a message that goes nowhere and tells its sender. It returns
// code.
func (b *Broker) refuse(d *delivery, why mq.DropReason, code mq.Code, batch *Batch) mq.Code {
	if !d.delayed || !again(code) {
		b.drop(why)
	}
	if _, one := d.origin.(*fanout); !one || fails(code) {
		d.refused = code
	}
	batch.complete(d.origin, d.token, code)
	return code
}

// publishP2P hands the message to the one session, or inbox, it names.
func (b *Broker) publishP2P(d *delivery, target []byte, batch *Batch) {
	s := b.lockedIfKnown(target)
	if s == nil {
		if d.qos == 0 || !b.keeps(d.m.Keep, false) {
			b.refuse(d, mq.DropOffline, mq.NoTarget, batch)
			return
		}
		s = b.lockedSession(target)
	}
	defer s.unlock()
	s.deliver(d, batch)
}

// keeps applies p2p.keep: whether a P2P message with QoS 1 or 2 waits for its
// target.
func (b *Broker) keeps(sender, target bool) bool {
	switch b.opt.Keep {
	case KeepSender:
		return sender
	case KeepTarget:
		return target
	case KeepAlways:
		return true
	case KeepNever:
		return false
	default:
		return sender || target
	}
}

// survives reports whether an entry written now outlives the target's clean
// start: it does, unless only the target's session is why it is kept.
func (b *Broker) survives(d *delivery, s *Session) bool {
	if d.kind == PubSub {
		return false
	}
	// Nobody asked: it is written because the target did not answer, and the
	// promise is to the sender.
	return b.keeps(d.m.Keep, false) || !b.keeps(d.m.Keep, s.persistent())
}

// deliver takes the message into s: sent, queued, kept or refused. s is locked.
func (s *Session) deliver(d *delivery, b *Batch) {
	if d.stopped() {
		s.b.refuse(d, mq.DropStoreFailed, mq.StoreFailed, b)
		return
	}
	if d.qos == 0 {
		s.deliverQoS0(d, b)
		return
	}
	s.own()
	online := s.conn != nil
	keep, store := s.persistent(), s.persistent()
	if d.kind == P2P {
		keep, store = s.b.keeps(d.m.Keep, keep), s.b.opt.Keep != KeepNever
	}
	switch {
	case online && !s.conn.Takes(d.m, s.header(d.m, d.qos)): // told before it is stored and acknowledged
		s.b.refuse(d, mq.DropTooLarge, mq.NoTarget, b)
	case !online && !keep:
		s.b.refuse(d, mq.DropOffline, mq.NoTarget, b)
	case online && !s.behind() && (d.qos == 1 && !d.grouped || !store) && s.admitsNext() && s.sendNow(d, store, b):
	case store:
		s.keep(d, b)
	default:
		s.queue(d, b)
	}
}

func (s *Session) deliverQoS0(d *delivery, b *Batch) {
	switch {
	case s.conn == nil, s.lender() != nil && s.lender().online.Load() == 0:
		s.b.drop(mq.DropOffline)
	case s.behind():
		s.own()
		// Not ahead of what came before: wait in memory, within the bound.
		if s.crowded() {
			s.b.drop(mq.DropSlowConsumer)
			return
		}
		q := queued{seq: s.nextSeq - 1, rec: d.record(), origin: d.gated(), state: volatile, qos0: true}
		s.hold(len(q.rec))
		s.tail.push(q)
	default:
		s.sendQoS0(d.m, d.kind, b)
	}
}

// delivered counts a PUBLISH that was sent. A shared subscription's members
// count theirs.
func (s *Session) delivered(kind Kind, qos mq.QoS) {
	if s.lender() == nil {
		s.b.Stats.Delivered[kind][qos].Add(1)
	}
}

// sendQoS0 sends or drops.
func (s *Session) sendQoS0(m *mq.Message, kind Kind, b *Batch) {
	switch s.conn.SendPublish(m, s.header(m, 0), b) {
	case Sent:
		s.delivered(kind, 0)
	case SendFull:
		s.b.drop(mq.DropSlowConsumer)
	case SendTooLarge:
		s.b.drop(mq.DropTooLarge)
	case SendClosed:
		s.b.drop(mq.DropOffline)
	}
}

// sendNow sends the message as the next of the window. It reports false if the
// connection did not take it; then nothing has happened.
// [MQTT-4.3.2-2] [MQTT-4.3.3-2] [MQTT3-4.3.2-1] [MQTT3-4.3.3-1]
func (s *Session) sendNow(d *delivery, store bool, b *Batch) bool {
	seq := s.nextSeq
	h := s.header(d.m, d.qos)
	h.Seq, h.PacketID = seq, packetID(seq)
	switch s.conn.SendPublish(d.m, h, b) {
	case Sent:
	case SendTooLarge:
		s.b.refuse(d, mq.DropTooLarge, mq.NoTarget, b)
		return true
	case SendFull:
		s.full = true
		return false
	case SendClosed:
		return false
	}
	s.delivered(d.kind, d.qos)
	s.nextSeq, s.cursor, s.sentTo = seq+1, seq, seq
	e := inflight{seq: seq, sentAt: b.mono, state: volatile, flags: mq.Flags(d.qos) | mq.FlagSent, lent: d.lent}
	if !d.lent {
		e.rec = d.record()
	}
	e.size = uint32(len(e.rec))
	s.hold(len(e.rec))
	if !store {
		if d.kind == P2P || d.lent { // p2p.keep: never: only the target's acknowledgement counts
			e.origin, e.token = d.origin, d.token
		} else {
			b.complete(d.origin, d.token, mq.OK)
		}
		s.win.push(e)
		return true
	}
	e.state, e.origin, e.token = pending, d.origin, d.token
	if s.b.survives(d, s) {
		e.flags |= mq.FlagKeep
	}
	e.nokeep = d.kind == P2P && !s.b.keeps(d.m.Keep, s.persistent())
	linger := s.linger()
	e.due = b.mono + linger
	s.win.push(e)
	if linger == 0 || s.pendingBytes > s.b.opt.PendingSize || s.b.pendingBytes.Load() > s.b.opt.PendingAll {
		s.flushPending(seq, b)
	} else {
		s.armLinger(e.due)
	}
	return true
}

// keep writes the message to the store and queues it for sending.
// [MQTT3-3.1.2-5]
func (s *Session) keep(d *delivery, b *Batch) {
	if !d.admitted {
		if err := s.b.store.Admit(mq.RecordSize(d.m)); err != nil {
			s.b.refuse(d, dropOf(err), codeOf(err), b)
			return
		}
	}
	if !s.makeRoom(mq.RecordSize(d.m), b) {
		s.b.refuse(d, mq.DropInboxFull, mq.InboxFull, b)
		return
	}
	in, err := s.occupied(d.by)
	if err != nil {
		s.b.refuse(d, dropOf(err), codeOf(err), b)
		return
	}
	s.flushPending(s.nextSeq, b)
	seq := s.allot()
	flags := mq.Flags(d.qos)
	if s.b.survives(d, s) {
		flags |= mq.FlagKeep
	}
	rec := d.record()
	s.tail.push(queued{seq: seq, rec: rec, origin: d.origin, token: d.token, state: writing, flags: flags})
	s.count++
	s.bytes += int64(len(rec))
	s.b.submitted(1)
	op := mq.Op{
		Kind: mq.OpPut, Inbox: in, Seq: seq, Flags: flags, Expiry: d.m.Expiry, Record: rec,
		Owner: s, Token: uint64(monotonic()),
	}
	switch {
	case d.grouped:
		d.group = append(d.group, op)
	case d.along.Kind == mq.OpClaim:
		op.Origin, op.PacketID = d.along.Inbox, d.along.PacketID
		s.b.store.Submit(op)
	case d.along.Kind != 0:
		s.b.store.SubmitGroup([]mq.Op{op, d.along})
	default:
		s.b.store.Submit(op)
	}
	b.pump(s)
}

// queue holds the message in memory until the window opens: it is never stored.
func (s *Session) queue(d *delivery, b *Batch) {
	limit := s.b.opt.InboxLimit
	if s.crowded() || limit > 0 && s.tail.n >= limit {
		code := mq.OK
		if d.kind == P2P {
			code = mq.InboxFull
		}
		s.b.refuse(d, mq.DropSlowConsumer, code, b)
		return
	}
	q := queued{seq: s.allot(), rec: d.record(), state: volatile, flags: mq.Flags(d.qos)}
	s.hold(len(q.rec))
	if d.kind == P2P {
		q.origin, q.token = d.origin, d.token
	} else {
		b.complete(d.origin, d.token, mq.OK)
		q.origin = d.gated()
	}
	s.tail.push(q)
	b.pump(s)
}

// crammed reports whether a message of size bytes is over the inbox limit.
func (s *Session) crammed(size int) bool {
	o := &s.b.opt
	return o.InboxLimit > 0 && s.waiting() >= o.InboxLimit ||
		o.InboxBytes > 0 && s.waiting() > 0 && s.bytes-s.heldBytes+int64(size) > o.InboxBytes
}

// makeRoom applies the inbox limit before a message of size bytes is kept. It
// reports false if the message must be refused.
func (s *Session) makeRoom(size int, b *Batch) bool {
	for s.crammed(size) {
		if s.b.opt.RejectFull {
			return false
		}
		if !s.dropOldest(b) {
			return true
		}
	}
	return true
}

// dropOldest pushes the first message out that waits to be sent.
func (s *Session) dropOldest(b *Batch) bool {
	seq, size, ok := s.b.store.Oldest(s.inbox, max(s.cursor, s.lowTo))
	for ok && s.dropped(seq) {
		after := seq
		if seq > s.dropFrom && seq <= s.dropTo {
			after = s.dropTo
		}
		seq, size, ok = s.b.store.Oldest(s.inbox, max(s.cursor, after))
	}
	var q *queued
	if ok {
		q = s.tail.find(seq) // stored, and still in memory
	} else {
		q = s.firstKept()
	}
	if q != nil {
		seq, size, ok = q.seq, len(q.rec), true
		b.complete(q.origin, q.token, mq.OK) // it was kept; now it is pushed out
		s.tail.kill(q)
	}
	if !ok {
		return false
	}
	switch {
	case seq <= s.dropFrom:
		s.lowTo = seq
	case s.cursor >= s.dropTo:
		s.dropFrom, s.dropTo = s.cursor, seq
	default:
		s.dropTo = seq
	}
	s.b.drop(mq.DropInboxFull)
	s.forget(seq, size)
	return true
}

// dropped reports whether the inbox limit pushed an entry out, or it has expired.
// The store may still show it.
func (s *Session) dropped(seq uint64) bool {
	return seq <= s.lowTo || seq > s.dropFrom && seq <= s.dropTo || s.wasPurged(seq)
}

// firstKept returns the first entry of the tail that is or will be in the store.
func (s *Session) firstKept() *queued {
	for i := range s.tail.n {
		if q := s.tail.at(i); q.state == writing || q.state == durable {
			return q
		}
	}
	return nil
}

// forget removes an entry from the store, and its packet identifier.
func (s *Session) forget(seq uint64, size int) {
	s.count--
	s.bytes -= int64(size)
	op := mq.Op{Kind: mq.OpAck, Inbox: s.inbox, Seq: seq}
	if name := s.unname(seq); name.Kind != 0 {
		s.changeTogether([]mq.Op{op, name})
		return
	}
	s.change(op)
}

func codeOf(err error) mq.Code {
	var e *mq.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return mq.StoreFailed
}

func dropOf(err error) mq.DropReason {
	switch codeOf(err) {
	case mq.StoreFull:
		return mq.DropStoreFull
	case mq.InboxesFull:
		return mq.DropInboxesFull
	}
	return mq.DropStoreFailed
}
