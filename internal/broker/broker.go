package broker

import (
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/homing-mq/homing/internal/clock"
	"github.com/homing-mq/homing/internal/mq"
)

// KeepPolicy says whose wish decides that a P2P message waits for an offline
// target (contract section 4).
type KeepPolicy uint8

// The policies.
const (
	KeepEither KeepPolicy = iota
	KeepSender
	KeepTarget
	KeepAlways
	KeepNever
)

// Options configure a Broker. Zero values are not defaults; the command takes
// them from the configuration.
type Options struct {
	Store mq.Store
	Auth  mq.Authorizer
	Log   *slog.Logger
	// Clock is the server's time, the store's too; the broker calls its Check.
	// nil: one that starts with the wall clock's and remembers nothing.
	Clock *clock.Clock

	Keep              KeepPolicy
	RetainedLimit     int   // retained messages; 0: no limit
	RetainedBytes     int64 // of their records and topic names; 0: no limit
	DelayedLimit      int   // messages that wait for their time; 0: no limit
	DelayedBytes      int64 // of their records; 0: no limit
	WillLimit         int   // wills; 0: no limit
	WillBytes         int64 // of wills as they are stored; 0: no limit
	Share             int   // percent of each of these that one account may have; see mq.Limit
	SubscriptionLimit int   // of one client; 0: no limit

	SubscriptionBytes int64 // of the filters of one client; 0: no limit
	SubscriptionAll   int64 // and of all clients
	MatchSteps        int   // most steps of a search for subscribers, see admit.go; 0: no limit
	MatchStepsClient  int   // and among the filters of one client

	SessionOwner OwnerPolicy

	InboxLimit  int   // messages waiting per client; 0: no limit
	InboxBytes  int64 // of their records; 0: no limit
	RejectFull  bool  // refuse the new message instead of dropping the oldest
	StoreAfter  time.Duration
	PendingSize int64 // bytes of pending and memory-only messages per session
	PendingAll  int64 // and in all sessions

	wall func() int64 // Unix ms for delayed messages, in tests; nil: the clock's
}

// Broker is the core. Its methods may be called concurrently, each goroutine
// with a Batch of its own.
type Broker struct {
	store    mq.Store
	auth     mq.Authorizer
	log      *slog.Logger
	clock    *clock.Clock
	opt      Options
	registry registry
	topics   topicTree

	ownerPolicy atomic.Uint32 // an OwnerPolicy

	rights   rights
	retained retainedSet
	delays   delays
	wheel    wheel
	expiries timeQueue
	wills    timeQueue     // when those of offline sessions are due
	willed   willed        // how many wills there are
	filters  filters       // what the filters of subscriptions take, by account
	memory   memory        // what messages in memory take, by account
	slots    chan struct{} // of background
	groups   sync.Mutex    // see offerGroup

	purged purged

	stalledMu sync.Mutex // a leaf; guards stalled
	stalled   []stalled

	unreadable unreadable
	ownerless  ownerless

	Stats Stats

	pendingBytes atomic.Int64
	applied      atomic.Int64 // what was submitted up to then (monotonic, us) shows in the store
	unanswered   atomic.Int64 // ops with an owner that the store has not done yet
	closing      atomic.Bool

	searches chan struct{} // bounds how many goroutines look for retained messages

	wg   sync.WaitGroup
	stop chan struct{}
}

// New starts a broker: it loads the persistent sessions and runs until Close.
// The store must call Committed with what it has done.
func New(opt Options) (*Broker, error) {
	b := &Broker{store: opt.Store, auth: opt.Auth, log: opt.Log, clock: opt.Clock, opt: opt, stop: make(chan struct{}), slots: make(chan struct{}, backgroundSlots), searches: make(chan struct{}, max(runtime.GOMAXPROCS(0)/2, 1))}
	if b.clock == nil {
		b.clock = clock.New(clock.Options{Log: b.log})
	}
	b.SetSessionOwner(opt.SessionOwner)
	b.registry.init()
	b.limit()
	b.topics.init(&b.rights)
	b.topics.steps, b.topics.clientSteps = opt.MatchSteps, opt.MatchStepsClient
	b.rights.init(b)
	b.wheel.init()
	b.delays.init(b)
	if err := b.loadRetained(); err != nil {
		return nil, err
	}
	if err := b.loadSessions(); err != nil {
		return nil, err
	}
	if err := b.loadOwners(); err != nil {
		return nil, err
	}
	if err := b.crossCheck(); err != nil {
		return nil, err
	}
	if err := b.delays.load(); err != nil {
		return nil, err
	}
	b.wg.Go(b.runLinger)
	b.wg.Go(b.delays.run)
	b.wg.Go(b.runHousekeeping)
	return b, nil
}

// Close stores what is pending and stops. The connections must be closed
// before, and the store after.
func (b *Broker) Close() {
	b.closing.Store(true)
	b.delays.held.Store(true)
	b.rights.wait()
	close(b.stop)
	b.wg.Wait()
}

// loadSessions brings back the persistent sessions after a restart, and what
// wills the others have left.
func (b *Broker) loadSessions() error {
	now := b.clock.Now()
	var batch Batch
	return b.store.Sessions(func(id string, meta mq.SessionMeta) error {
		s := b.newSession(id)
		if err := s.load(meta, now); err != nil {
			return err
		}
		subs, err := b.store.Subscriptions(id)
		if err != nil {
			return err
		}
		var reader *mq.Principal // most subscriptions of a session were made by the same
		for _, sub := range subs {
			if sub.Reader != nil && reader != nil && *sub.Reader == *reader {
				sub.Reader = reader
			}
			reader = sub.Reader
			b.topics.reserve(s, sub.Filter, true)
			b.subscribe(s, sub, sub.RetainedOwed, &batch)
		}
		return nil
	})
}

// load takes over the stored metadata. A session without deadline was connected
// when the server crashed: its time counts from now on.
func (s *Session) load(meta mq.SessionMeta, now int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exists, s.expiry = true, meta.ExpirySeconds
	s.metaSet, s.metaExp = true, meta.ExpirySeconds
	s.owner = handleOf(meta.Owner)
	s.unknown = s.owner == nobody
	s.metaMore = meta.Deadline != 0 || len(meta.Will) > 0
	if len(meta.Will) > 0 {
		will, err := decodeWill(meta.Will, s.id)
		if err != nil {
			return fmt.Errorf("session of %q: %w", s.id, err)
		}
		s.will = will
		s.b.willed.take(will, len(meta.Will))
		if s.will.due = meta.WillDue; s.will.due == 0 {
			s.delayWill(now)
		} else {
			s.b.wills.set(&s.will.timer, s.will.due)
		}
		will.leave()
	}
	if meta.ExpirySeconds != NeverExpires {
		deadline := meta.Deadline
		if deadline == 0 {
			deadline = now + int64(meta.ExpirySeconds)*1000
		}
		s.expireAt(deadline)
	}
	return nil
}

// Throttle blocks while the store is behind. Gateways call it without locks,
// and with nothing to flush, before they take more messages.
func (b *Broker) Throttle() { b.store.Throttle() }
