package broker

import (
	"errors"

	"github.com/homing-mq/homing/internal/mq"
)

// ConnectRequest is an authenticated CONNECT.
type ConnectRequest struct {
	ClientID   string
	Conn       Conn
	CleanStart bool
	Expiry     uint32 // session expiry interval in seconds; 3.x: 0 or NeverExpires
	ReceiveMax int    // 1 to 65535
}

// ErrSuperseded tells a connection that another one with the same client ID
// came while it was being accepted.
var ErrSuperseded = errors.New("another connection with the same client ID was accepted")

// Connect attaches a connection to its session: it takes over from an older
// connection [MQTT-3.1.4-3], starts clean or resumes [MQTT-3.1.2-4]
// [MQTT-3.1.2-5], sends CONNACK and begins to send what waits. It may block on
// the store. batch must have nothing to flush; the caller flushes it after.
func (b *Broker) Connect(req ConnectRequest, batch *Batch) (*Session, error) {
	s := b.acquire(req.ClientID)
	old := s.detach(batch)
	resume := s.exists && !req.CleanStart && s.expiry > 0 // else it ends with the connection before
	if old == nil && !s.needsStore(req, resume) {
		// The common case of a million devices that come back: nothing to wait for.
		s.attach(req, resume, batch)
		s.mu.Unlock()
		batch.pump(s)
		return s, nil
	}
	busy := make(chan struct{})
	s.busy = busy
	s.mu.Unlock()
	if old != nil {
		b.Stats.TakenOver.Add(1)
		old.Close(TakenOver)
		old.Quiesce()
	}
	batch.Flush()

	err := s.catchUp()
	if err == nil && !resume {
		err = s.forgetSession()
	}
	if err == nil && req.Expiry > 0 {
		err = s.saveMeta(req.Expiry)
	}
	s.mu.Lock()
	s.busy = nil
	close(busy)
	if err != nil {
		if s.exists && s.expiry != NeverExpires {
			s.expireAt(batch.now + int64(s.expiry)*1000)
		}
		s.unlock()
		return nil, err
	}
	s.attach(req, resume, batch)
	s.mu.Unlock()
	batch.pump(s)
	return s, nil
}

// needsStore reports whether the store must be asked or told before the
// connection is accepted. s is locked and offline.
func (s *Session) needsStore(req ConnectRequest, resume bool) bool {
	switch {
	case !s.confirmed() || s.count > 0 && !resume:
		return true
	case !resume && (s.metaSet || s.exists || len(s.subs) > 0 || s.claimed()):
		return true
	}
	return req.Expiry > 0 && !(s.metaSet && s.metaExp == req.Expiry)
}

// claimed reports whether the client has QoS 2 claims, in memory or stored.
func (s *Session) claimed() bool {
	return len(s.claims) > 0 || s.inbox != mq.NoInbox && len(s.b.store.Claims(s.inbox)) > 0
}

// catchUp waits, if that can matter, until the store shows what was
// acknowledged on the connection before: else it would be sent once more. s is
// busy and unlocked.
func (s *Session) catchUp() error {
	s.mu.Lock()
	behind := !s.confirmed()
	op := mq.Op{Kind: mq.OpSent, Inbox: s.inbox, Seq: s.sentTo}
	s.mu.Unlock()
	if !behind {
		return nil
	}
	return s.b.wait(op)
}

// acquire returns the session locked, when no other goroutine is changing its
// existence.
func (b *Broker) acquire(id string) *Session {
	for {
		s := b.lockedSession([]byte(id))
		if s.busy == nil {
			return s
		}
		busy := s.busy
		s.mu.Unlock()
		<-busy
	}
}

// attach makes the connection the session's. s is locked.
func (s *Session) attach(req ConnectRequest, resume bool, b *Batch) {
	if !resume {
		s.sentTo = 0
		s.life++
	}
	s.exists = true
	s.expiry = req.Expiry
	s.deadline = 0
	s.conn = req.Conn
	s.receiveMax = int32(req.ReceiveMax)
	if resume && !s.loaded {
		s.loadClaims()
	}
	s.loaded = true
	s.rewind()
	s.recount()
	if s.count == 0 {
		s.cursor = s.backlog
	}
	if s.traffic != &noTraffic { // the store has caught up
		s.dropFrom, s.dropTo, s.lowTo = 0, 0, 0
	}
	s.b.Stats.Connected.Add(1)
	req.Conn.SendConnack(s, resume, len(s.claims), b)
}

func (s *Session) loadClaims() {
	if s.inbox == mq.NoInbox {
		return
	}
	for _, pid := range s.b.store.Claims(s.inbox) {
		s.setClaim(pid, claim{done: true})
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
	s.rewind()
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
		s.storePending(e)
		s.requeue(e)
	case writing:
		s.requeue(e)
	case volatile:
		s.hold(-len(e.rec))
		if e.flags&mq.FlagReceived == 0 {
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
	case writing, durable:
		s.tail.push(*q)
	case volatile:
		s.hold(-len(q.rec))
		s.b.drop(mq.DropOffline)
		b.complete(q.origin, q.token, mq.NoTarget)
	}
}

// Disconnect tells that conn, which Connect attached to s, is closed. It does
// nothing if another connection has taken over. expiry, if not nil, replaces
// the session expiry interval (MQTT 5 DISCONNECT). It may block on the store.
func (b *Broker) Disconnect(s *Session, conn Conn, expiry *uint32, batch *Batch) {
	s.mu.Lock()
	if s.conn != conn {
		s.mu.Unlock()
		return
	}
	if expiry != nil {
		s.expiry = *expiry
	}
	s.detach(batch)
	if s.expiry == 0 {
		s.end(batch)
		return
	}
	if s.expiry != NeverExpires {
		s.expireAt(batch.now + int64(s.expiry)*1000)
	}
	expiryChanged := s.expiry != s.metaExp
	s.mu.Unlock()
	if expiryChanged {
		if err := s.saveMeta(s.expiry); err != nil {
			b.log.Error("cannot save a session", "client", s.id, "error", err)
		}
	}
	batch.Flush()
}

// end ends the session. s is locked, not busy and offline; it is unlocked on
// return.
func (s *Session) end(batch *Batch) {
	busy := make(chan struct{})
	s.busy = busy
	s.exists = false
	s.mu.Unlock()
	batch.Flush()
	if err := s.forgetSession(); err != nil {
		s.b.log.Error("cannot end a session in the store", "client", s.id, "error", err)
	}
	s.mu.Lock()
	s.busy = nil
	close(busy)
	s.unlock()
}

// forgetSession removes what belongs to the session, and not to the inbox:
// subscriptions, QoS 2 claims, messages kept only for it. s is busy and
// unlocked.
func (s *Session) forgetSession() error {
	s.mu.Lock()
	s.exists = false
	claimed := s.inbox != mq.NoInbox && s.claimed()
	for _, sub := range s.subs {
		s.b.topics.remove(sub.Filter, s)
		s.b.Stats.Subs.Add(-1)
	}
	s.subs, s.claims, s.sentTo = nil, nil, 0
	s.life++
	s.loaded = true
	clearing := s.count > 0
	op := mq.Op{Kind: mq.OpClear, Inbox: s.inbox, Seq: s.nextSeq - 1}
	hadMeta, before := s.metaSet, s.count
	s.mu.Unlock()
	if claimed {
		// Durable before the session is gone: a claim that came back would
		// swallow a message of the next session.
		if err := s.b.wait(mq.Op{Kind: mq.OpReleaseAll, Inbox: op.Inbox}); err != nil {
			return err
		}
	}
	if clearing {
		if err := s.b.wait(op); err != nil {
			return err
		}
		s.countCleared(before)
	}
	if hadMeta {
		if err := s.b.store.DeleteSession(s.id); err != nil {
			return err
		}
		s.mu.Lock()
		s.metaSet = false
		s.mu.Unlock()
	}
	return nil
}

// countCleared takes the numbers from the store after a clear of an inbox that
// had before entries, and counts what was dropped.
func (s *Session) countCleared(before int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	arrived := s.count - before
	s.recount()
	if gone := before + arrived - s.count; gone > 0 {
		s.b.Stats.Dropped[mq.DropSessionEnded].Add(uint64(gone))
	}
}

// saveMeta makes the session durable before it is promised.
func (s *Session) saveMeta(expiry uint32) error {
	s.mu.Lock()
	same := s.metaSet && s.metaExp == expiry
	s.mu.Unlock()
	if same {
		return nil
	}
	if err := s.b.store.PutSession(s.id, mq.SessionMeta{ExpirySeconds: expiry}); err != nil {
		return err
	}
	s.mu.Lock()
	s.metaSet, s.metaExp = true, expiry
	s.mu.Unlock()
	return nil
}
