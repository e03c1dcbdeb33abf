package broker

import (
	"sync"
	"sync/atomic"

	"github.com/homing-mq/homing/internal/mq"
)

// Session is all that the core has in memory about one client ID. It outlives
// connections; without a connection, a persistent session or unfinished writes
// it is evicted and only the store knows the inbox.
//
// Gateways hold it as a handle between Connect and Disconnect. Its methods are
// spread over the files of the package by verb.
type Session struct {
	id string
	b  *Broker

	mu sync.Mutex // guards all below

	conn Conn // nil: offline

	// busy is not nil while a Connect or the end of the session waits for the
	// store; others wait until it is closed.
	busy chan struct{}

	receiveMax int32    // of conn: how many unacknowledged QoS 1 and 2 it takes
	inbox      mq.Inbox // NoInbox until something must be stored
	// expiry is the session expiry interval in seconds, 0: ends with the
	// connection, NeverExpires: does not end.
	expiry  uint32
	metaExp uint32 // the expiry that the store has
	life    uint32 // counts the sessions of this client ID: claims belong to one

	subBytes uint32 // of the filters in subs

	dead      bool // evicted from the registry; look it up again
	exists    bool // there is an MQTT session, connected or persistent
	metaSet   bool // the store has metadata of this session
	metaMore  bool // and a deadline or a will in it
	loaded    bool // claims were read from the store
	pumping   bool // one goroutine at a time sends from backlog and tail
	again     bool // and another one asked meanwhile
	full      bool // the outbox is; Drained clears it
	retain    RetainRule
	account   mq.Account // of conn's principal; stays when it is gone
	purged    bool       // see Broker.purged
	unmarked  bool       // something was sent that the store has without FlagSent
	lingering bool       // on the wheel
	owing     bool       // a goroutine is about to send retained messages
	doubted   bool       // of what waits some may be of a time with other rights: see doubt
	late      late       // see lookBehind

	metaStale  bool // the store's metadata of this session may tell another owner
	ownerKept  bool // the store has an owner of the inbox, see Store.PutOwner
	ownerStale bool // and it may be another one
	unknown    bool // on whose behalf it has subscriptions: it is of a time when that was not stored
	unasked    bool // it has passed to another, and what it has was not asked about for that one

	owner ownerHandle // whom the session belongs to, or else what waits in the inbox

	will    *Will  // to be published when the connection ends, or later; nil: none
	share   *share // nil: has nothing to do with shared subscriptions
	special int32  // subscriptions with an identifier or Retain As Published

	// stopped: a message that the client has sent on this connection failed in the
	// store. See Source.Stops. It is set with the target's session locked, and looked
	// at in the same way, so the lock of this one does not matter.
	stopped atomic.Bool

	deadline int64  // Unix ms when an offline session ends; 0: not set
	expiring *timer // in Broker.expiries; nil: none
	// changedAt is when an op that removes or changes a stored entry was last
	// submitted; see change. monotonic time, microseconds; 0: never.
	changedAt int64

	nextSeq uint64 // of the next message
	cursor  uint64 // everything up to here was sent on this connection, or is gone
	backlog uint64 // the store may have unsent entries in (cursor, backlog]
	sentTo  uint64 // highest seq ever sent in this session: resend with DUP
	// count and bytes are of all entries in the store or submitted to it and
	// not acknowledged.
	count int
	bytes int64

	// traffic is noTraffic, which nobody may change, until own is called: most
	// sessions are idle, and half of their memory would be this.
	*traffic

	subs map[string]mq.Subscription

	sender atomic.Pointer[sender] // nil: has sent no QoS 2 message; set with mu held
}

// traffic is the part of a session that only one with messages needs.
type traffic struct {
	win  window
	tail tail

	held      int // of Session.count, those in the window
	heldBytes int64
	// The inbox limit pushed out what lies in (dropFrom, dropTo] and, since the
	// last connection, what lies up to lowTo. See dropped.
	dropFrom, dropTo, lowTo uint64
	unsafe                  uint64 // no entry of the window below is pending

	owed *debts // subscriptions whose retained messages are not all sent; nil: none

	pendingBytes int64 // in memory only: pending and volatile entries
	charged      int64 // of these, what counts on the account; see charge
	ackTime      int64 // moving average of the target's acknowledgement time, us; 0: unknown
}

var noTraffic traffic

// own makes sure that the session has traffic of its own.
func (s *Session) own() {
	if s.traffic == &noTraffic {
		s.traffic = &traffic{}
	}
}

// disown gives it up where it says nothing. The session is offline.
func (s *Session) disown() {
	if s.win.n == 0 && s.tail.n == 0 && s.pendingBytes == 0 && s.dropTo == 0 && s.owed == nil && s.win.ids == nil {
		s.traffic = &noTraffic
	}
}

// NeverExpires is the session expiry interval of a session that does not end
// [MQTT-3.1.2-23].
const NeverExpires = 0xFFFFFFFF

// ClientID returns the client ID. It does not change.
func (s *Session) ClientID() string { return s.id }

// persistent reports whether the session outlives its connection.
func (s *Session) persistent() bool { return s.exists && s.expiry > 0 }

// behind reports whether something has to be sent before a message that
// arrives now.
func (s *Session) behind() bool {
	return s.tail.n > 0 || s.backlog > s.cursor || s.pumping || s.full || s.owed != nil
}

// waiting is the number of messages the inbox limit counts: kept, and not sent.
func (s *Session) waiting() int { return s.count - s.held }

// box makes sure that there is an inbox handle.
func (s *Session) box() mq.Inbox {
	if s.inbox == mq.NoInbox {
		s.inbox = s.b.store.Inbox(s.id)
		s.nextSeq = max(s.nextSeq, s.b.store.NextSeq(s.inbox))
	}
	return s.inbox
}

// occupied is box for a message that is to be stored: it fails if one more inbox
// that holds messages is over a limit. by says on whose account it is.
func (s *Session) occupied(by func() mq.Account) (mq.Inbox, error) {
	if s.count > 0 {
		return s.box(), nil
	}
	in, err := s.b.store.Occupy(s.id, by())
	if err != nil {
		return mq.NoInbox, err
	}
	if s.inbox == mq.NoInbox {
		s.inbox = in
		s.nextSeq = max(s.nextSeq, s.b.store.NextSeq(in))
	}
	return in, nil
}

// open takes over what the store has for this client ID.
func (s *Session) open() {
	s.nextSeq = 1
	if _, ok := s.b.store.Lookup(s.id); !ok {
		return
	}
	s.inbox = s.b.store.Inbox(s.id)
	s.nextSeq = s.b.store.NextSeq(s.inbox)
	s.rewind()
	s.recount()
	s.doubt() // what the store has may be of any time
	if s.count > 0 {
		s.loadIdentifiers()
	}
}

// recount takes count and bytes from the store, and adds what is submitted and
// does not show there yet.
func (s *Session) recount() {
	if s.inbox == mq.NoInbox {
		return
	}
	st := s.b.store.Stats(s.inbox)
	s.count, s.bytes = st.Count, st.Bytes
	if st.Count > 0 {
		s.own()
	}
	for i := range s.tail.n {
		if q := s.tail.at(i); q.state == writing && q.seq > st.Last {
			s.count++
			s.bytes += int64(len(q.rec))
		}
	}
}

// rewind makes everything unacknowledged to be sent again, from the first on.
// [MQTT-4.4.0-1] [MQTT3-4.4.0-1] [MQTT3-4.6.0-1]
func (s *Session) rewind() {
	s.cursor, s.backlog = 0, s.nextSeq-1
	s.full = false
	if s.traffic != &noTraffic {
		s.held, s.heldBytes, s.ackTime = 0, 0, 0
	}
}

// lender returns the group that this session is, or nil.
func (s *Session) lender() *lender {
	if s.share == nil {
		return nil
	}
	return s.share.lender
}

// idle reports whether nothing is lost by evicting the session.
func (s *Session) idle() bool {
	return s.conn == nil && !s.exists && s.busy == nil && s.tail.n == 0 && !s.pumping && !s.lingering && !s.sender.Load().holds()
}
