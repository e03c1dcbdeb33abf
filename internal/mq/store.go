package mq

import "time"

// Inbox is a handle of one client ID's durable queue in an open Store. It is
// valid until Forget or Close; handles are not stable across restarts.
type Inbox uint32

// NoInbox is never a valid handle.
const NoInbox Inbox = 0

// Flags are what the store remembers of one entry of an inbox.
type Flags uint8

// The flags. The two low bits are the QoS of the delivery, which for a
// subscription can be lower than that of the publish.
const (
	FlagQoS      Flags = 0x03 // mask
	FlagKeep     Flags = 0x04 // the sender asked: survives OpClear
	FlagSent     Flags = 0x08 // was sent to the target at least once: redeliver with DUP
	FlagReceived Flags = 0x10 // QoS 2: the target has sent PUBREC; only PUBREL is owed
)

// OpKind says what an Op does.
type OpKind uint8

// The operations. Each is applied to the index in the order submitted.
const (
	// OpPut appends Record as entry Seq of Inbox. Seq must be above every Seq
	// put there before. With Origin set it also claims (Origin, PacketID), in
	// the same atomic unit.
	OpPut OpKind = iota + 1
	// OpAck removes entry Seq. Removing what is not there is no error.
	OpAck
	// OpSent sets FlagSent on every entry up to and including Seq.
	OpSent
	// OpReceived sets FlagReceived on entry Seq.
	OpReceived
	// OpClear removes every entry up to and including Seq that has not
	// FlagKeep; of the remaining ones it clears FlagSent, and it removes those
	// with FlagReceived (the target has them). A new session starts this way.
	OpClear
	// OpClaim remembers that the client of Inbox has sent a QoS 2 PUBLISH with
	// PacketID that the server has taken over. [MQTT-4.3.3-10]
	OpClaim
	// OpRelease forgets such a claim (PUBREL). [MQTT-4.3.3-12]
	OpRelease
	// OpReleaseAll forgets all claims of Inbox (its session ended).
	OpReleaseAll
)

// Op is one operation on a Store. It is passed by value; Record belongs to the
// store until the op is done and must not change before.
type Op struct {
	Kind     OpKind
	Flags    Flags
	PacketID uint16
	Inbox    Inbox
	Origin   Inbox
	Seq      uint64
	Expiry   int64 // Unix ms; 0: only the retention limits it
	Record   []byte
	// Owner and Token are given back by the Done callback. An op without
	// owner is lazy: it is written along with others, never waited for. Only
	// ops whose loss means a duplicate, never a loss, may be lazy.
	Owner any
	Token uint64
}

// Entry is one stored message as Read returns it.
type Entry struct {
	Seq    uint64
	Flags  Flags
	Expiry int64  // Unix ms; 0: none of its own
	Record []byte // aliases the buffer given to Read
}

// InboxStats describes one inbox.
type InboxStats struct {
	Count int   // entries
	Bytes int64 // of their records
	First uint64
	Last  uint64 // seq of the first and last entry; 0 and 0 when empty
}

// SessionMeta is what outlives a restart of an MQTT session.
type SessionMeta struct {
	// ExpirySeconds is the session expiry interval; 0xFFFFFFFF: never ends
	// [MQTT-3.1.2-23]. A clean session is not stored at all.
	ExpirySeconds uint32
	// Deadline is when it ends if the client does not come back, Unix ms.
	// 0 while the client is connected.
	Deadline int64
}

// Store is the durable half of all inboxes, and the metadata of sessions. All
// methods may be called concurrently. Errors it returns are *Error.
//
// Submit is asynchronous: ops are written in the order submitted, many in one
// group commit, and the Done callback given at opening is called once per
// commit, from one goroutine, in order, with those ops that have an owner and
// the error that befell them all. Ops become visible to Read, Stats and Claims
// before Done is called.
type Store interface {
	// Inbox returns the handle for a client ID. It is made if there is none;
	// that alone writes nothing.
	Inbox(clientID string) Inbox
	// Lookup is Inbox without making one.
	Lookup(clientID string) (Inbox, bool)
	// Forget gives a handle back. If the inbox has entries or claims they
	// stay, and Inbox finds them again under a new or the same handle. The
	// caller must have no ops of it under way.
	Forget(in Inbox)

	// Admit says whether an OpPut of size bytes would be accepted now:
	// StoreFull over the disk limit, StoreFailed after an unrecoverable error.
	// It is cheap.
	Admit(size int) error
	// Throttle blocks while more than a bounded number of bytes wait to be
	// written. Call it without locks, before producing more.
	Throttle()

	Submit(op Op)
	// SubmitGroup writes ops as one atomic unit: after a crash all or none.
	// The slice is not kept.
	SubmitGroup(ops []Op)

	// NextSeq returns a seq above every one the inbox has seen.
	NextSeq(in Inbox) uint64
	Stats(in Inbox) InboxStats
	// Oldest returns seq and record size of the first entry above after.
	Oldest(in Inbox, after uint64) (seq uint64, size int, ok bool)
	// Read appends to dst the entries with after < seq <= to, in order, until
	// maxBytes of records are read (at least one entry if there is one). buf is
	// the memory for the records; the grown buffer is returned. It does not
	// check expiry.
	Read(in Inbox, after, to uint64, maxBytes int, dst []Entry, buf []byte) ([]Entry, []byte, error)
	// Claims returns the packet identifiers claimed by the client of in.
	Claims(in Inbox) []uint16

	// Expired calls yield for entries that are past their expiry or the
	// retention at now, until it returns false. It removes nothing: the caller
	// answers with OpAck. clientID is valid during the call only. It looks at
	// a bounded part of the index per call and goes on where it stopped.
	Expired(now time.Time, yield func(clientID string, seq uint64) bool)

	// The metadata methods return when the change is as durable as the sync
	// mode promises.
	PutSession(clientID string, meta SessionMeta) error
	DeleteSession(clientID string) error // and its subscriptions
	Sessions(yield func(clientID string, meta SessionMeta) error) error
	PutSubscriptions(clientID string, subs []Subscription) error
	DeleteSubscriptions(clientID string, filters []string) error
	Subscriptions(clientID string) ([]Subscription, error)
}

// Subscription is one topic filter of a session with its options.
type Subscription struct {
	Filter            string
	QoS               QoS
	NoLocal           bool   // MQTT 5 [MQTT-3.8.3-3]
	RetainAsPublished bool   // MQTT 5
	RetainHandling    uint8  // MQTT 5: 0, 1 or 2
	ID                uint32 // subscription identifier; 0: none
}
