package broker

import (
	"errors"

	"github.com/homing-mq/homing/internal/mq"
)

// ConnectRequest is an authenticated CONNECT.
type ConnectRequest struct {
	ClientID   string
	Principal  *mq.Principal // who connects; nil: nobody that is known. See OwnerPolicy
	Conn       Conn
	CleanStart bool
	Expiry     uint32 // session expiry interval in seconds; 3.x: 0 or NeverExpires
	ReceiveMax int    // 1 to 65535
	Retain     RetainRule
	Will       *Will // owned by the broker from then on; nil: none
}

// RetainRule says what RETAIN a connection gets with a message that came by a
// subscription when it was published. That of a retained message is always 1.
type RetainRule uint8

// The rules.
const (
	RetainBySubscription RetainRule = iota // as its options say: MQTT 5 [MQTT-3.3.1-12] [MQTT-3.3.1-13]
	RetainCleared                          // 0: MQTT 3 [MQTT3-3.3.1-9]
	RetainAlways                           // as published: bridges with MQTT 3
)

// ErrSuperseded tells a connection that another one with the same client ID
// came while it was being accepted.
var ErrSuperseded = errors.New("another connection with the same client ID was accepted")

// Connect attaches a connection to its session: it takes over from an older
// connection [MQTT-3.1.4-3], starts clean or resumes [MQTT-3.1.2-4]
// [MQTT-3.1.2-5], sends CONNACK and begins to send what waits. It may block on
// the store. batch must have nothing to flush; the caller flushes it after.
// A principal that may not have the client ID gets an *mq.Error with NotAuthorized
// that wraps an *OwnerError, and changes nothing.
// [MQTT-3.1.2-6] [MQTT-3.1.4-4] [MQTT3-3.1.2-4] [MQTT3-3.1.2-6] [MQTT3-3.1.4-2] [MQTT3-3.1.4-3]
func (b *Broker) Connect(req ConnectRequest, batch *Batch) (*Session, error) {
	who := ownerOf(req.Principal)
	s, foreign, err := b.acquireFor(&req, who, batch)
	if err != nil {
		return nil, err
	}
	if err := b.willed.admit(req.Will, s.will); err != nil {
		b.Stats.WillsRefused.Add(1)
		s.unlock()
		return nil, err
	}
	old := s.detach(batch)
	// Else it ends with the connection before, or has ended [MQTT-4.1.0-2].
	resume := s.exists && !foreign && !req.CleanStart && s.expiry > 0 && (old != nil || s.lives(b.Now(batch)))
	owner := s.owner
	s.passTo(who)
	if old == nil && !s.needsStore(req, resume) {
		// The common case of a million devices that come back: nothing to wait for.
		s.attach(req, resume, batch)
		s.mu.Unlock()
		batch.pump(s)
		return s, nil
	}
	// The will of the connection before: the session ends, or there is no delay
	// in which to come back [MQTT-3.1.3-9].
	before := s.takeWill(!resume || s.will != nil && s.will.Delay == 0)
	s.occupy()
	s.mu.Unlock()
	if old != nil {
		b.Stats.TakenOver.Add(1)
		old.Close(TakenOver)
		old.Quiesce()
	}
	if !b.publishWill(before, batch) && b.closing.Load() {
		err = &mq.Error{Code: mq.ShuttingDown, Text: "the server is shutting down"}
	}
	b.willed.drop(before) // what was not published by now never is
	if err == nil {
		err = s.catchUp()
	}
	if err == nil && foreign {
		err = s.dropForeign()
	}
	if err == nil && !resume {
		err = s.forgetSession(req.CleanStart || foreign, batch)
	}
	if err == nil {
		err = s.correctOwner()
	}
	if err == nil {
		err = s.saveMeta(mq.SessionMeta{ExpirySeconds: req.Expiry, Will: req.Will.encode()})
	}
	s.mu.Lock()
	s.vacate()
	if err != nil {
		s.passBack(owner)
		b.willed.drop(req.Will)
		if s.exists && s.expiry != NeverExpires {
			s.expireAt(b.Now(batch) + int64(s.expiry)*1000)
		}
		s.unlock()
		return nil, err
	}
	s.attach(req, resume, batch)
	s.mu.Unlock()
	batch.pump(s)
	return s, nil
}

// occupy keeps others from changing the session's existence, until vacate. s
// is locked.
func (s *Session) occupy() { s.busy = make(chan struct{}) }

func (s *Session) vacate() {
	close(s.busy)
	s.busy = nil
}

// needsStore reports whether the store must be asked or told before the
// connection is accepted. s is locked and offline.
func (s *Session) needsStore(req ConnectRequest, resume bool) bool {
	switch {
	case !s.confirmed() || s.stopped.Load() || s.count > 0 && !resume || s.ownerStale:
		return true
	case !resume && (s.metaSet || s.exists || len(s.subs) > 0 || s.claimed()):
		return true
	case req.Will != nil || s.will != nil:
		return true
	}
	return s.lacksMeta(req.Expiry)
}

// lacksMeta reports whether the store must be told of a session that is
// connected and has no will.
func (s *Session) lacksMeta(expiry uint32) bool {
	return !s.hasMeta(expiry) && (expiry > 0 || s.metaSet)
}

// hasMeta reports whether the store knows exactly this: a connected session
// without will, and whose it is.
func (s *Session) hasMeta(expiry uint32) bool {
	return s.metaSet && !s.metaMore && !s.metaStale && s.metaExp == expiry
}

// claimed reports whether the client has QoS 2 claims, in memory or stored.
func (s *Session) claimed() bool {
	return s.sender.Load().holds() || s.inbox != mq.NoInbox && len(s.b.store.Claims(s.inbox)) > 0
}

// catchUp waits, if that can matter, until the store shows what was
// acknowledged on the connection before: else it would be sent once more; and if a
// message that the client sent on it has failed, until the store has answered for
// those behind: what it sends again must not fail with them. s is busy and unlocked.
func (s *Session) catchUp() error {
	s.mu.Lock()
	behind := !s.confirmed()
	if s.stopped.Load() {
		behind = true
		s.box()
	}
	op := mq.Op{Kind: mq.OpSent, Inbox: s.inbox, Seq: s.sentTo}
	s.mu.Unlock()
	if !behind {
		return nil
	}
	return s.b.wait(op)
}

// attach makes the connection the session's. s is locked.
// [MQTT-3.2.2-2] [MQTT-3.2.2-3] [MQTT3-3.2.2-1] [MQTT3-3.2.2-2] [MQTT3-3.2.2-3]
func (s *Session) attach(req ConnectRequest, resume bool, b *Batch) {
	if !resume {
		s.sentTo = 0
		s.life++
	}
	s.exists = true
	s.askAgain(resume, b)
	s.expiry = req.Expiry
	s.deadline = 0
	s.will = req.Will
	s.bill(mq.AccountOf(req.Principal))
	s.conn = req.Conn
	s.late &^= lateReported
	s.stopped.Store(false)
	s.receiveMax = int32(req.ReceiveMax)
	s.retain = req.Retain
	if resume && !s.loaded {
		s.loadClaims()
	}
	s.loaded = true
	if sd := s.sender.Load(); sd != nil {
		sd.reconnect()
	}
	s.rewind()
	s.recount()
	if s.count == 0 {
		s.cursor = s.backlog
	}
	s.forgetPurged()
	if s.traffic != &noTraffic { // the store has caught up
		s.dropFrom, s.dropTo, s.lowTo = 0, 0, 0
	}
	s.b.Stats.Connected.Add(1)
	s.arrive()
	req.Conn.SendConnack(s, resume, b)
	if req.Principal.Ended() { // while it was let in: whoever ended it has not seen the connection
		b.revoke(req.Conn)
	}
}

// detach ends the session's connection, if any, and returns it. What was sent
// and not acknowledged waits for the next one: pending entries are stored, or
// dropped if nobody asked to keep them. s is locked.
func (s *Session) detach(b *Batch) Conn {
	old := s.conn
	if old == nil {
		return nil
	}
	s.conn = nil
	s.b.Stats.Connected.Add(-1)
	s.depart()
	s.rewind()
	s.setOvertaken(false)
	if s.traffic == &noTraffic {
		return old
	}
	win, rest := s.win, s.tail
	s.win.reset()
	s.tail = tail{}
	for i := range win.n {
		s.detachEntry(win.at(i), b)
	}
	for i := range rest.n {
		s.detachQueued(rest.at(i), b)
	}
	s.unsafe = s.nextSeq
	s.rewind()
	s.disown()
	return old
}

func (s *Session) detachEntry(e *inflight, b *Batch) {
	switch e.state {
	case pending:
		if e.nokeep {
			s.hold(-len(e.rec))
			s.b.drop(mq.DropOffline)
			b.complete(e.origin, e.token, mq.NoTarget)
			return
		}
		if s.storePending(e, b) {
			s.requeue(e)
			return
		}
		s.hold(-len(e.rec))
		s.endIdentifier(e.seq)
		s.b.drop(mq.DropInboxesFull)
	case writing:
		s.requeue(e)
	case volatile:
		s.hold(-len(e.rec))
		s.endIdentifier(e.seq)
		if e.lent {
			s.giveBack(e, b)
		} else if e.flags&mq.FlagReceived == 0 {
			s.b.drop(mq.DropOffline)
			b.complete(e.origin, e.token, mq.NoTarget)
		}
	}
}

// requeue puts an entry of the window whose write is under way into the tail.
func (s *Session) requeue(e *inflight) {
	s.tail.push(queued{seq: e.seq, rec: e.rec, origin: e.origin, token: e.token, state: writing, flags: e.flags})
}

func (s *Session) detachQueued(q *queued, b *Batch) {
	switch q.state {
	case writing:
		s.tail.push(*q)
	case durable: // the store has it, and is read from the beginning next time
	case volatile:
		s.hold(-len(q.rec))
		s.endIdentifier(q.seq)
		s.b.drop(mq.DropOffline)
		b.complete(q.origin, q.token, mq.NoTarget)
	}
}

// Departure says how a connection ended.
type Departure struct {
	Expiry      *uint32 // replaces the session expiry interval (MQTT 5 DISCONNECT); nil: does not
	DiscardWill bool    // a proper DISCONNECT: the will is not published [MQTT-3.1.2-10]
}

// Disconnect tells that conn, which Connect attached to s, is closed. It does
// nothing if another connection has taken over. It may block on the store.
// [MQTT-4.1.0-1] [MQTT3-4.1.0-1] [MQTT3-4.1.0-2]
func (b *Broker) Disconnect(s *Session, conn Conn, how Departure, batch *Batch) {
	s.mu.Lock()
	if s.conn != conn {
		s.mu.Unlock()
		return
	}
	if how.Expiry != nil {
		s.expiry = *how.Expiry
	}
	if how.DiscardWill {
		b.willed.drop(s.will)
		s.will = nil
	}
	s.detach(batch)
	if s.expiry == 0 {
		s.end(batch)
		return
	}
	var will *Will
	if s.will != nil && s.will.Delay > 0 {
		s.delayWill(b.Now(batch))
	} else {
		will = s.takeWill(true)
	}
	if s.expiry != NeverExpires {
		s.expireAt(b.Now(batch) + int64(s.expiry)*1000)
	} else if s.will == nil && will == nil && s.hasMeta(s.expiry) {
		s.mu.Unlock() // the common case: nothing new for the store
		batch.Flush()
		return
	}
	s.occupy()
	s.mu.Unlock()
	settled := b.publishWill(will, batch)
	if !settled && !b.closing.Load() { // else the next start does it
		s.mu.Lock()
		s.retryWill(will, b.Now(batch))
		s.mu.Unlock()
		settled = true
	}
	if settled {
		s.keepMeta()
	}
	s.mu.Lock()
	s.vacate()
	s.unlock()
}

// end ends the session, and publishes its will [MQTT-3.1.2-8]. s is locked, not
// busy and offline; it is unlocked on return.
func (s *Session) end(batch *Batch) {
	will := s.takeWill(true)
	s.occupy()
	s.exists = false
	s.mu.Unlock()
	if s.b.publishWill(will, batch) || !s.b.closing.Load() { // else the next start does it
		s.b.willed.drop(will)
		err := s.forgetSession(true, batch)
		if err == nil {
			err = s.rememberOwner()
		}
		if err != nil {
			s.b.log.Error("cannot end a session in the store", "client", s.id, "error", err)
		}
	}
	s.mu.Lock()
	s.vacate()
	s.unlock()
}

// forgetSession removes what belongs to the session, and not to the inbox:
// subscriptions, QoS 2 claims, messages kept only for it. If there is no session,
// but such messages, it was lost: without clean those stay. The claims go: the
// client is told that the session is new, and forgets its half. s is busy and
// unlocked.
// [MQTT3-3.1.2-6]
func (s *Session) forgetSession(clean bool, batch *Batch) error {
	s.mu.Lock()
	lost := s.orphaned()
	s.exists = false
	claimed := s.inbox != mq.NoInbox && s.claimed()
	shared := s.dropSubscriptions()
	s.sentTo = 0
	s.sender.Store(nil)
	s.life++
	s.loaded = true
	clearing := s.count > 0
	op := mq.Op{Kind: mq.OpClear, Inbox: s.inbox, Seq: s.nextSeq - 1}
	ops := []mq.Op{op}
	if ids := s.win.ids; ids != nil && ids.box != mq.NoInbox {
		ops = append(ops, mq.Op{Kind: mq.OpClear, Inbox: ids.box, Seq: op.Seq})
	}
	hadMeta, before := s.metaSet, s.count
	s.mu.Unlock()
	for _, filter := range shared {
		s.b.leave(s, filter, batch)
	}
	if claimed {
		// Durable before the session is gone: a claim that came back would
		// swallow a message of the next session.
		if err := s.b.wait(mq.Op{Kind: mq.OpReleaseAll, Inbox: op.Inbox}); err != nil {
			return err
		}
	}
	switch {
	case lost && !clean:
		if err := s.adopt(ops[1:]); err != nil {
			return err
		}
	case clearing:
		if err := s.b.wait(ops...); err != nil {
			return err
		}
		s.countCleared(before, mq.DropSessionEnded)
	}
	if lost {
		s.b.foundOrphan()
	}
	s.mu.Lock()
	s.forgetIdentifiers()
	s.mu.Unlock()
	if hadMeta {
		s.mu.Lock()
		whose := s.inboxOwner()
		s.mu.Unlock()
		unlock := s.keepSubscriptions()
		err := s.b.store.DeleteSession(s.id, whose)
		unlock()
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.metaSet, s.metaStale = false, false
		s.ownerIsKept(whose)
		s.mu.Unlock()
	}
	return nil
}

// countCleared takes the numbers from the store after a clear of an inbox that
// had before entries, and counts what was dropped.
func (s *Session) countCleared(before int, why mq.DropReason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	arrived := s.count - before
	s.recount()
	if gone := before + arrived - s.count; gone > 0 {
		s.b.Stats.Dropped[why].Add(uint64(gone))
	}
}

// saveMeta makes what outlives a restart of the session durable before it is
// promised. s is busy and unlocked.
func (s *Session) saveMeta(meta mq.SessionMeta) error {
	more := meta.Deadline != 0 || len(meta.Will) > 0
	s.mu.Lock()
	needed := more || s.lacksMeta(meta.ExpirySeconds)
	meta.Owner = s.ownerNow()
	s.mu.Unlock()
	if !needed {
		return nil
	}
	if err := s.b.store.PutSession(s.id, meta); err != nil {
		s.mu.Lock()
		s.metaMore = true // it may be done all the same: the store is told again
		s.metaStale = true
		s.mu.Unlock()
		return err
	}
	s.mu.Lock()
	s.metaSet, s.metaExp, s.metaMore, s.metaStale = true, meta.ExpirySeconds, more, false
	s.mu.Unlock()
	return nil
}

// keepMeta is saveMeta for a session that goes on without a connection.
func (s *Session) keepMeta() {
	s.mu.Lock()
	meta := mq.SessionMeta{ExpirySeconds: s.expiry, Deadline: s.deadline}
	will := s.will
	s.mu.Unlock()
	var err error
	if will != nil {
		meta.WillDue = will.due
		meta.Will, err = s.b.stored(will)
	}
	if err == nil {
		err = s.saveMeta(meta)
	}
	if err != nil {
		s.b.log.Error("cannot save a session", "client", s.id, "error", err)
		return
	}
	if will != nil {
		s.mu.Lock()
		will.leave()
		s.mu.Unlock()
	}
}
