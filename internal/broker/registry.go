package broker

import (
	"hash/maphash"
	"sync"

	"github.com/homing-mq/homing/internal/mq"
)

const shardCount = 64

// registry finds sessions by client ID.
type registry struct {
	seed   maphash.Seed
	shards [shardCount]shard
}

type shard struct {
	mu       sync.RWMutex
	sessions map[string]*Session
	owners   map[string]formerOwner // of inboxes with messages, or in the store, whose session was evicted
	// changedAt is the latest Session.changedAt of those that were evicted.
	changedAt int64
	subs      sync.Mutex // held while stored subscriptions of one of them change
	_         [16]byte   // keep neighbours off the cache line
}

func (r *registry) init() {
	r.seed = maphash.MakeSeed()
	for i := range r.shards {
		r.shards[i].sessions = make(map[string]*Session)
	}
}

func (r *registry) shard(id []byte) *shard {
	return &r.shards[maphash.Bytes(r.seed, id)%shardCount]
}

// find returns the session of a client ID, or nil.
func (r *registry) find(id []byte) *Session {
	sh := r.shard(id)
	sh.mu.RLock()
	s := sh.sessions[string(id)]
	sh.mu.RUnlock()
	return s
}

// lockedSession returns the session of a client ID with its lock held, making
// one if there is none.
// [MQTT-3.1.3-2] [MQTT3-3.1.3-2]
func (b *Broker) lockedSession(id []byte) *Session {
	for {
		s := b.registry.find(id)
		if s == nil {
			s = b.newSession(string(id))
		}
		s.mu.Lock()
		if !s.dead {
			return s
		}
		s.mu.Unlock()
	}
}

// lockedIfKnown is lockedSession for a session that may not be there: it does
// not make one and then returns nil.
func (b *Broker) lockedIfKnown(id []byte) *Session {
	for {
		s := b.registry.find(id)
		if s == nil {
			return nil
		}
		s.mu.Lock()
		if !s.dead {
			return s
		}
		s.mu.Unlock()
	}
}

func (b *Broker) newSession(id string) *Session {
	sh := b.registry.shard([]byte(id))
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if s := sh.sessions[id]; s != nil {
		return s
	}
	s := &Session{id: id, b: b, receiveMax: 1, traffic: &noTraffic}
	if s.open(); s.inbox != mq.NoInbox {
		s.changedAt = sh.changedAt // it may be the one that was evicted
	}
	if o, ok := sh.owners[id]; ok {
		s.owner, s.ownerKept, s.ownerStale = o.owner, o.kept, o.stale
		delete(sh.owners, id)
	}
	sh.sessions[id] = s
	return s
}

// evictIdle removes the session from the registry if it is idle. Its lock must
// be held, and is released.
func (s *Session) evictIdle() {
	if s.dead || !s.idle() {
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	sh := s.b.registry.shard([]byte(s.id))
	sh.mu.Lock()
	s.mu.Lock()
	gone := !s.dead && s.idle()
	if gone {
		s.dead = true
		delete(sh.sessions, s.id)
		sh.changedAt = max(sh.changedAt, s.changedAt)
		sh.leaveOwner(s)
		s.forgetPurged()
	}
	if gone && s.expiring != nil {
		s.b.expiries.remove(s.expiring)
	}
	if gone && s.inbox != mq.NoInbox {
		// Before anybody can make a new session with the same handle.
		s.b.store.Forget(s.inbox)
		s.forgetIdentifiers()
	}
	s.mu.Unlock()
	sh.mu.Unlock()
}

// unlock releases the session, and evicts it if nothing is lost by that.
func (s *Session) unlock() {
	if s.exists || s.dead || !s.idle() {
		s.mu.Unlock()
		return
	}
	s.evictIdle()
}
