package mq

import "time"

// Inbox is a handle of one durable queue in an open Store. It is valid until
// Forget or Close; handles are not stable across restarts.
//
// An inbox has a name: the client ID it belongs to, or for one that belongs to
// the server itself a name starting with InternalInbox. A name has at most
// MaxInboxName bytes.
type Inbox uint32

// NoInbox is never a valid handle.
const NoInbox Inbox = 0

// What the names of the server's own inboxes start with. U+0000 keeps them
// apart from client IDs, which cannot contain it. [MQTT-1.5.4-2] [MQTT3-1.5.3-2]
const (
	InternalInbox = "\x00"
	// RetainedInbox, then the topic: the retained message of that topic. It has
	// one entry, or two for a moment: the new one is put and the old one
	// acknowledged. Store.Expired does not apply the retention to it.
	RetainedInbox = InternalInbox + "r"
	// SharedInbox, then share name, slash and topic filter: what waits for the
	// members of a shared subscription.
	SharedInbox = InternalInbox + "s"
	// DelayedInbox, then a number: messages that wait for their time. The Expiry
	// of their entries is that time; Store.Expired passes them over.
	DelayedInbox = InternalInbox + "d"
	// IdentifierInbox, then a client ID: the packet identifiers of entries of that
	// client's inbox that do not follow from their seqs. An entry has the seq of
	// the one it is about, and the identifier as its Expiry; Store.Expired passes
	// it over.
	IdentifierInbox = InternalInbox + "p"
)

// MaxInboxName is the longest name of an inbox in bytes: a prefix and an MQTT
// UTF-8 string.
const MaxInboxName = MaxClientID + 16

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
	// [MQTT-3.1.2-23]. 0 is a clean session; it is stored only while it has a
	// will.
	ExpirySeconds uint32
	// Deadline is when it ends if the client does not come back, Unix ms.
	// 0 while the client is connected.
	Deadline int64
	// Will is the will message as the broker encodes it; nil or empty: none.
	// The store does not look into it. PutSession does not keep the slice.
	Will []byte
	// WillDue is when the will of an offline session is to be published, Unix
	// ms. 0 while the client is connected.
	WillDue int64
	// Owner is whom it belongs to; the zero value: nobody that is known.
	Owner Owner
}

// Store is the durable half of all inboxes, and the metadata of sessions. All
// methods may be called concurrently. Errors it returns are *Error.
//
// Submit is asynchronous: ops are written in the order submitted, many in one
// group commit, and the Done callback given at opening is called once per
// commit, from one goroutine, in order, with those ops that have an owner and
// the error that befell them all. Ops become visible to Read, Stats and Claims
// before Done is called.
//
// Of the puts to one inbox none overtakes another that fails: those submitted
// behind it, until Done has returned from telling so, fail, too.
type Store interface {
	// Inbox returns the handle of the inbox with that name. It is made if
	// there is none; that alone writes nothing. It is NoInbox if the name is
	// longer than MaxInboxName.
	Inbox(name string) Inbox
	// Occupy is Inbox for an OpPut that is about to be submitted to an inbox that
	// may be empty. It fails with InboxesFull if one more inbox that holds
	// messages, or its name, is over a limit of the store, or over the share of
	// the account, and then makes none. Else the inbox counts as one that holds
	// messages, on the account if it did not before, until it is empty after that
	// OpPut is done. The server's own inboxes do not count, but those of shared
	// subscriptions. An OpPut without Occupy is taken over the limits, and counted.
	Occupy(name string, by Account) (Inbox, error)
	// Lookup is Inbox without making one.
	Lookup(name string) (Inbox, bool)
	// Forget gives a handle back: nothing more is submitted or asked with it,
	// nor as Origin, unless Inbox or Lookup returns it again. An inbox has one
	// handle, however often it was asked for: its users agree on who forgets
	// it. Entries and claims stay, and Inbox finds them again, under the same
	// handle or another.
	//
	// Ops submitted before may still be under way: they are carried out on this
	// inbox and no other, and Done tells of them. Only an OpPut should not be:
	// NextSeq does not count it yet, so who takes the inbox next might give its
	// seq a second time. If the inbox has no entry and no claim once all that
	// was submitted before is done, and nobody has asked for it again, its seqs
	// start over.
	Forget(in Inbox)
	// Names calls yield for every inbox that has at least one entry and whose
	// name starts with prefix, in no particular order, until yield fails, and
	// returns that error. It looks at the whole index, bit by bit: it is meant
	// for start-up. yield is called without locks and may call the store. An
	// inbox that has entries during the whole call is yielded exactly once;
	// one that gets or loses its entries meanwhile may be missed, or yielded
	// again after it was forgotten.
	Names(prefix string, yield func(name string) error) error
	// Unkept is Names for the inboxes of clients that have at least one entry
	// without FlagKeep.
	Unkept(yield func(name string) error) error

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

	// NextSeq returns a seq above that of every OpPut of the inbox that is done;
	// those under way are the caller's to count.
	NextSeq(in Inbox) uint64
	Stats(in Inbox) InboxStats
	// Oldest returns seq and record size of the first entry above after.
	Oldest(in Inbox, after uint64) (seq uint64, size int, ok bool)
	// Read appends to dst the entries with after < seq <= to, in order, until
	// maxBytes of records are read (at least one entry if there is one). buf is
	// the memory for the records; the grown buffer is returned. It does not
	// check expiry. It returns those before one that cannot be read; if that is
	// the first, the error is an *UnreadableError.
	Read(in Inbox, after, to uint64, maxBytes int, dst []Entry, buf []byte) ([]Entry, []byte, error)
	// List appends to dst at most n entries above after, in order, without their
	// records: it reads memory only.
	List(in Inbox, after uint64, n int, dst []Entry) []Entry
	// Claims returns the packet identifiers claimed by the client of in.
	Claims(in Inbox) []uint16

	// Expired calls yield for entries that are past their expiry or the
	// retention at now, until it returns false; the retention does not apply
	// to a RetainedInbox, and neither to a DelayedInbox or an IdentifierInbox. It
	// removes nothing: the caller answers with OpAck. It looks at a bounded part of the index per call and goes on where it
	// stopped.
	Expired(now time.Time, yield func(name string, seq uint64) bool)

	// The metadata methods return when the change is as durable as the sync
	// mode promises. While the metadata is away they fail, reading never says
	// that there is nothing. A change that failed may yet be done. At the disk
	// limit, sessions and subscriptions that are not there yet are refused with
	// StoreFull; all others may change, and go.
	PutSession(clientID string, meta SessionMeta) error
	// DeleteSession deletes a session and its subscriptions and, if inbox is not
	// nil, does what PutOwner does, as one unit.
	DeleteSession(clientID string, inbox *Owner) error
	// PutOwner remembers whom the messages belong to that wait in the inbox of a
	// client without a session; it forgets it if that is the zero value.
	PutOwner(clientID string, inbox Owner) error
	// Owners calls yield for every owner that PutOwner has put, until it fails.
	Owners(yield func(clientID string, inbox Owner) error) error
	// Sessions calls yield for every session until it fails. yield may keep
	// meta.Will.
	Sessions(yield func(clientID string, meta SessionMeta) error) error
	// Session returns what PutSession has stored last, and whether it has.
	Session(clientID string) (meta SessionMeta, ok bool, err error)
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
	// Reader is who subscribed, if only a part of the filter was granted then: what
	// does not come by it is not missed. nil: all of it was. Its ClientID is not
	// stored.
	Reader *Principal
	// RetainedOwed: the retained messages of this subscription were not all
	// delivered yet.
	RetainedOwed bool
	// Asks is the broker's note whether its owner may have all of it now. It is
	// not stored.
	Asks uint8
}
