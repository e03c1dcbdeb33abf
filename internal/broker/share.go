package broker

import (
	"slices"
	"strings"
	"sync/atomic"

	"github.com/homing-mq/homing/internal/mq"
)

// A shared subscription (MQTT 5, 4.8.2) is a Session without a client: its
// inbox, named mq.SharedInbox + share name + "/" + filter, holds what no member
// has acknowledged, its connection is a lender, and its window is what members
// have. Each message is lent to one member, as an entry of the member's window
// that is nowhere stored and whose sender is the lender: it is told when the
// member has acknowledged, or has gone.
//
// A message that goes to a member with QoS 2 is moved into the member's inbox
// before it is sent, if the member's session is persistent: the exchange must
// be completed with that client [MQTT-4.8.2-4].
//
// Locks: the group's session, then the member's. Members reach the group
// through Batch only.

// share is what a Session has to do with shared subscriptions.
type share struct {
	lender *lender   // this session is a group
	in     []*member // this session is in groups
	hungry bool      // one of them found it busy: feed
}

// lender is the connection of a group's session, and the group.
type lender struct {
	s      *Session
	filter string       // topic filter
	online atomic.Int32 // members with a connection

	// Guarded by s.mu.
	members  []*member
	turn     int      // where the next search begins
	returned []uint64 // seqs in the window that nobody has now, ascending
}

// member is a session in a group.
type member struct {
	of    *lender
	s     *Session
	ready atomic.Bool // may take a message; false until it says so

	// Guarded by of.s.mu.
	sub  mq.Subscription
	lent int  // messages it has
	left bool // the group

	// barred: it gets nothing, because it may not have all of the filter. Set with
	// both sessions locked.
	barred bool
	asked  atomic.Uint64 // the version of the rules that barred was found under
}

// rank orders locks: shared subscriptions come before clients.
func (s *Session) rank() int {
	if strings.HasPrefix(s.id, mq.InternalInbox) {
		return 0
	}
	return 1
}

func shareInbox(filter string) string { return mq.SharedInbox + filter[len(sharePrefix):] }

// join makes the session a member of a group, or changes its options.
func (b *Broker) join(s *Session, sub mq.Subscription, batch *Batch) {
	g := b.acquireGroup(sub.Filter)
	l := g.group()
	i := slices.IndexFunc(l.members, func(m *member) bool { return m.s == s })
	if i < 0 {
		i = len(l.members)
		l.members = append(l.members, &member{of: l, s: s})
	}
	m := l.members[i]
	m.sub = sub
	s.mu.Lock()
	s.putSubscription(sub)
	if s.share == nil {
		s.share = &share{}
	}
	if !slices.Contains(s.share.in, m) {
		s.share.in = append(s.share.in, m)
		if s.conn != nil {
			l.online.Add(1)
		}
	}
	m.ready.Store(true)
	s.mu.Unlock()
	m.bar()
	l.enroll()
	g.mu.Unlock()
	batch.pump(g)
}

// acquireGroup returns the session of a shared subscription locked, with a store
// that shows what was acknowledged or cleared if it is to be read anew. It may
// block on the store.
func (b *Broker) acquireGroup(filter string) *Session {
	g := b.acquire(shareInbox(filter))
	if g.exists || g.confirmed() {
		return g
	}
	g.occupy()
	g.mu.Unlock()
	if err := g.catchUp(); err != nil {
		b.log.Error("cannot wait for what a shared subscription has acknowledged; it may come again", "filter", filter, "error", err)
	}
	g.mu.Lock()
	g.vacate()
	return g
}

// group makes a session the one of a shared subscription. s is locked.
func (s *Session) group() *lender {
	if s.exists {
		return s.share.lender
	}
	_, filter, _ := strings.Cut(s.id[len(mq.SharedInbox):], "/")
	s.share = &share{lender: &lender{s: s, filter: filter}}
	s.exists, s.expiry, s.receiveMax = true, NeverExpires, maxLent
	s.conn = s.share.lender
	s.rewind()
	s.recount()
	s.b.Stats.Groups.Add(1)
	return s.share.lender
}

// maxLent is how many messages a group has lent at most: its window.
const maxLent = 65535

// enroll puts the group into the topic tree with what its members grant, those
// that get nothing apart. s is
// locked.
func (l *lender) enroll() {
	sub := mq.Subscription{Filter: l.filter, Asks: asksBarred}
	for _, m := range l.members {
		if !m.barred {
			sub.QoS, sub.Asks = max(sub.QoS, m.sub.QoS), asksNothing
		}
	}
	l.s.b.topics.add(sub, l.s)
}

// leave ends the membership of a session for a filter. The group ends with its
// last member, and what waits in it is dropped. No lock may be held; it may
// block on the store.
func (b *Broker) leave(s *Session, filter string, batch *Batch) {
	g := b.acquire(shareInbox(filter))
	if !g.exists {
		g.unlock()
		return
	}
	l := g.share.lender
	i := slices.IndexFunc(l.members, func(m *member) bool { return m.s == s })
	if i < 0 {
		g.unlock()
		return
	}
	m := l.members[i]
	l.members = slices.Delete(l.members, i, i+1)
	m.left = true
	s.mu.Lock()
	if k := slices.Index(s.share.in, m); k >= 0 {
		s.share.in = slices.Delete(s.share.in, k, k+1)
	}
	if s.conn != nil && !m.barred {
		l.online.Add(-1)
	}
	s.mu.Unlock()
	if len(l.members) > 0 {
		l.enroll()
		g.mu.Unlock()
		batch.pump(g)
		return
	}
	b.topics.remove(l.filter, g)
	g.detach(batch)
	b.Stats.Connected.Add(1) // detach took it for a client
	b.Stats.Groups.Add(-1)
	g.share = nil
	g.end(batch)
}

// clearShare drops what a shared subscription has left that has no member any
// more.
func (b *Broker) clearShare(name string) {
	s := b.lockedSession([]byte(name))
	defer s.unlock()
	if !s.exists {
		b.Stats.Dropped[mq.DropSessionEnded].Add(uint64(max(s.count, 0)))
		s.change(mq.Op{Kind: mq.OpClear, Inbox: s.inbox, Seq: s.nextSeq - 1})
	}
}

// SendPublish implements Conn: it lends m to the member that has least, of those
// that are online and have room. The group's session is locked.
func (l *lender) SendPublish(m *mq.Message, h Header, b *Batch) SendResult {
	var small []*member // for which it is too large
	defer func() {
		for _, m := range small {
			m.ready.Store(true)
		}
	}()
	for best := l.choose(); best != nil; best = l.choose() {
		switch best.take(m, h, b) {
		case Sent:
			if h.QoS > 0 {
				best.lent++
			}
			return Sent
		case SendTooLarge:
			small = append(small, best)
		}
	}
	switch {
	case len(small) > 0 && len(small) == int(l.online.Load()):
		return SendTooLarge
	case h.QoS == 0 && l.online.Load() == 0:
		return SendClosed
	}
	return SendFull
}

// choose returns the ready member that has least, beginning with another one
// each time, or nil.
func (l *lender) choose() *member {
	var best *member
	version := l.s.b.auth.Version()
	for i := range l.members {
		at := (l.turn + i) % len(l.members)
		m := l.members[at]
		if !m.ready.Load() || !m.mayTake(version) || best != nil && m.lent >= best.lent {
			continue
		}
		if best = m; m.lent == 0 {
			l.turn = at + 1
			break
		}
	}
	return best
}

// take sends m to the member's client, if that can be done now; otherwise the
// member is not ready until feed says so. The group's session is locked.
func (m *member) take(msg *mq.Message, h Header, b *Batch) SendResult {
	s := m.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil || s.dead {
		m.ready.Store(false)
		return SendClosed
	}
	own := *msg
	own.Addressed, own.Live = true, true
	own.Retain = msg.Retain && (m.sub.RetainAsPublished || s.retain == RetainAlways)
	if m.sub.ID != 0 {
		b.props = mq.AppendSubscriptionID(append(b.props[:0], msg.Props...), m.sub.ID)
		own.Props = b.props
	}
	qos := min(h.QoS, m.sub.QoS) // [MQTT-4.8.2-3]
	r := SendFull
	switch {
	case !s.conn.Takes(&own, s.header(&own, qos)):
		return m.refuse(SendTooLarge)
	case qos == 2 && s.persistent():
		if !s.full && s.backlog <= s.cursor && s.owed == nil && s.win.unack+s.tail.n < int(min(s.receiveMax, maxMoved)) &&
			!s.crammed(mq.RecordSize(&own)) {
			return m.move(&own, h.Seq, b)
		}
	case s.behind():
	case qos == 0:
		if r = s.conn.SendPublish(&own, s.header(&own, 0), b); r == Sent {
			s.b.Stats.Delivered[PubSub][0].Add(1)
			if h.QoS > 0 {
				b.complete(m, h.Seq, mq.OK)
			}
			return Sent
		}
		s.full = s.full || r == SendFull // Drained pumps then, and feeds
	case s.admitsNext():
		s.own()
		if s.sendNow(&delivery{m: &own, qos: qos, kind: PubSub, origin: m, token: h.Seq, lent: true}, false, b) {
			return Sent
		}
	}
	s.share.hungry = true
	return m.refuse(r)
}

// maxMoved is how many QoS 2 messages are moved to one member at a time.
const maxMoved = 100

// refuse makes the member not ready.
func (m *member) refuse(r SendResult) SendResult {
	m.ready.Store(false)
	return r
}

// move puts a message into the member's inbox and takes it out of the group's,
// as one unit. Both sessions are locked.
func (m *member) move(msg *mq.Message, seq uint64, b *Batch) SendResult {
	m.s.own()
	m.s.keep(&delivery{m: msg, qos: 2, kind: PubSub, origin: m, token: seq, along: mq.Op{Kind: mq.OpAck, Inbox: m.of.s.inbox, Seq: seq}}, b)
	return Sent
}

// Complete implements Completer: the member has acknowledged a message it had, a
// refusal included [MQTT-4.8.2-6], or cannot any more.
func (m *member) Complete(seq uint64, code mq.Code, b *Batch) {
	l := m.of
	l.s.mu.Lock()
	defer l.s.unlock()
	m.lent--
	e := l.s.win.findSeq(seq)
	switch {
	case l.s.conn != Conn(l) || e == nil || e.state == acked:
	case code == mq.OK:
		l.s.acknowledge(e, b)
	default:
		at, _ := slices.BinarySearch(l.returned, seq)
		l.returned = slices.Insert(l.returned, at, seq)
		if code == mq.NoTarget {
			b.pump(l.s)
		} else {
			l.stall()
		}
	}
}

// giveBack lets the group have back what it has lent, unless that was sent with
// QoS 2: then nobody else may get it [MQTT-4.8.2-5].
func (s *Session) giveBack(e *inflight, b *Batch) {
	if e.flags&mq.FlagQoS == 1 {
		b.complete(e.origin, e.token, mq.NoTarget)
		return
	}
	if e.flags&mq.FlagReceived == 0 {
		s.b.drop(mq.DropSessionEnded)
	}
	b.complete(e.origin, e.token, mq.OK)
}

// feed lets the groups of a session know that it may have room again. s is
// locked.
func (s *Session) feed(b *Batch) {
	if s.share == nil || !s.share.hungry || s.conn == nil || s.full {
		return
	}
	s.share.hungry = false
	for _, m := range s.share.in {
		m.ready.Store(true)
		b.pump(m.of.s)
	}
}

// arrive and depart tell the groups of a session that its client is there, or
// not. s is locked.
func (s *Session) arrive() {
	if s.share == nil {
		return
	}
	for _, m := range s.share.in {
		if !m.barred {
			m.of.online.Add(1)
		}
	}
	s.share.hungry = len(s.share.in) > 0
}

func (s *Session) depart() {
	if s.share == nil {
		return
	}
	for _, m := range s.share.in {
		if !m.barred {
			m.of.online.Add(-1)
		}
	}
}

// sendReturned sends the first message that a member has given back to another
// one. It reports whether there may be more to send. s is locked; the lock may
// be released meanwhile.
func (l *lender) sendReturned(b *Batch) bool {
	s, seq := l.s, l.returned[0]
	e := s.win.findSeq(seq)
	if e == nil || e.state == acked {
		l.returned = l.returned[1:]
		return true
	}
	rec := e.rec
	if rec == nil {
		s.mu.Unlock()
		entries, buf, err := s.b.store.Read(s.inbox, seq-1, seq, 1, b.entries[:0], b.buf[:0])
		b.entries, b.buf = entries, buf
		s.mu.Lock()
		if e = s.win.findSeq(seq); e == nil || e.state == acked || len(l.returned) == 0 || l.returned[0] != seq {
			return true
		}
		if err != nil {
			at, giveUp, later := s.b.judge(s.id, err)
			if !giveUp {
				s.b.stall(s, later)
				return false
			}
			if at == seq {
				s.b.drop(mq.DropStoreFailed)
				l.returned = l.returned[1:]
				s.acknowledge(e, b)
			}
			return true
		}
		if len(entries) == 1 {
			rec = entries[0].Record
		}
	}
	m := &b.msg
	if rec == nil || mq.DecodeRecord(m, rec) != nil || m.Expired(s.b.Now(b)) {
		s.b.drop(mq.DropExpired)
		l.returned = l.returned[1:]
		s.acknowledge(e, b)
		return true
	}
	switch l.SendPublish(m, Header{Seq: seq, QoS: mq.QoS(e.flags & mq.FlagQoS)}, b) {
	case Sent:
	case SendTooLarge:
		s.b.drop(mq.DropTooLarge)
		s.acknowledge(e, b)
	default:
		s.full = true
		return false
	}
	l.returned = l.returned[1:]
	return true
}

// stall notes that something failed that may go well later.
func (l *lender) stall() { l.s.b.stall(l.s, 0) }

// The rest of Conn: a group has no client of its own.

// Takes implements Conn: every member says for itself.
func (l *lender) Takes(*mq.Message, Header) bool { return true }

// SendConnack implements Conn.
func (l *lender) SendConnack(*Session, bool, *Batch) {}

// SendAck implements Conn. What a member gets with QoS 2 is between it and its
// client.
func (l *lender) SendAck(AckKind, uint16, mq.Code, *Batch) {}

// Flush implements Conn.
func (l *lender) Flush(*Batch) {}

// Close implements Conn: the store has failed; it is tried again.
func (l *lender) Close(CloseReason) { l.stall() }

// Revoked implements Conn: members have logins, and are asked themselves.
func (l *lender) Revoked() bool { return false }

// Settle implements Conn.
func (l *lender) Settle() {}

// Quiesce implements Conn.
func (l *lender) Quiesce() {}
