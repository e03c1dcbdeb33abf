package broker

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

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

	Keep        KeepPolicy
	InboxLimit  int   // messages waiting per client; 0: no limit
	InboxBytes  int64 // of their records; 0: no limit
	RejectFull  bool  // refuse the new message instead of dropping the oldest
	StoreAfter  time.Duration
	PendingSize int64 // bytes of pending and memory-only messages per session
	PendingAll  int64 // and in all sessions
}

// Broker is the core. Its methods may be called concurrently, each goroutine
// with a Batch of its own.
type Broker struct {
	store    mq.Store
	auth     mq.Authorizer
	log      *slog.Logger
	opt      Options
	registry registry
	topics   topicTree
	wheel    wheel
	expiries expiryQueue
	groups   sync.Mutex // see offerGroup
	Stats    Stats

	pendingBytes atomic.Int64
	applied      atomic.Int64 // what was submitted up to then (monotonic, us) shows in the store
	unanswered   atomic.Int64 // ops with an owner that the store has not done yet
	closing      atomic.Bool

	wg   sync.WaitGroup
	stop chan struct{}
}

// New starts a broker: it loads the persistent sessions and runs until Close.
// The store must call Committed with what it has done.
func New(opt Options) (*Broker, error) {
	b := &Broker{store: opt.Store, auth: opt.Auth, log: opt.Log, opt: opt, stop: make(chan struct{})}
	b.registry.init()
	b.topics.init()
	b.wheel.init()
	if err := b.loadSessions(); err != nil {
		return nil, err
	}
	b.wg.Go(b.runLinger)
	b.wg.Go(b.runHousekeeping)
	return b, nil
}

// Close stores what is pending and stops. The connections must be closed
// before, and the store after.
func (b *Broker) Close() {
	b.closing.Store(true)
	close(b.stop)
	b.wg.Wait()
}

// loadSessions brings back the persistent sessions after a restart.
func (b *Broker) loadSessions() error {
	now := time.Now().UnixMilli()
	return b.store.Sessions(func(id string, meta mq.SessionMeta) error {
		s := b.newSession(id)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.exists, s.expiry = true, meta.ExpirySeconds
		s.metaSet, s.metaExp = true, meta.ExpirySeconds
		if meta.ExpirySeconds != NeverExpires {
			// A crash does not tell when the client left: count from now.
			s.deadline = meta.Deadline
			if s.deadline == 0 {
				s.deadline = now + int64(meta.ExpirySeconds)*1000
			}
			s.expireAt(s.deadline)
		}
		subs, err := b.store.Subscriptions(id)
		if err != nil {
			return err
		}
		for _, sub := range subs {
			s.addSubscription(sub)
		}
		return nil
	})
}

// Throttle blocks while the store is behind. Gateways call it without locks,
// and with nothing to flush, before they take more messages.
func (b *Broker) Throttle() { b.store.Throttle() }
