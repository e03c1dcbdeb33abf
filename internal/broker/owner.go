package broker

import (
	"fmt"
	"sync"
	"unique"

	"github.com/homing-mq/homing/internal/mq"
)

// OwnerPolicy says what happens to a connection whose client ID belongs to
// another principal: one with a session, or whose messages wait in the inbox.
// What belongs to nobody that is known is anybody's, and from then on of whoever
// has connected. A connection of nobody that is known, on an open server, is let
// in and changes no owner.
type OwnerPolicy uint8

// The policies.
const (
	OwnerStrict OwnerPolicy = iota // it is refused
	OwnerClean                     // it begins a new session; what has waited is dropped
	OwnerAny                       // it gets all there is
)

// SetSessionOwner puts another policy in the place of Options.SessionOwner, for those
// who connect from now on. It may be called concurrently.
func (b *Broker) SetSessionOwner(p OwnerPolicy) { b.ownerPolicy.Store(uint32(p)) }

// ownerHandle is an owner in eight bytes, whose name all sessions share. The zero
// value is the zero owner.
type ownerHandle = unique.Handle[mq.Owner]

var nobody ownerHandle

func handleOf(o mq.Owner) ownerHandle {
	if o == (mq.Owner{}) {
		return nobody
	}
	return unique.Make(o)
}

func ownerOf(p *mq.Principal) ownerHandle { return handleOf(p.Owner()) }

func valueOf(h ownerHandle) mq.Owner {
	if h == nobody {
		return mq.Owner{}
	}
	return h.Value()
}

// OwnerError says whom a client ID belongs to, and who has asked for it. It is for
// the log: a client is not told names.
type OwnerError struct{ Owner, Login mq.Owner }

func (e *OwnerError) Error() string {
	return fmt.Sprintf("the client ID belongs to %s, not to %s", e.Owner, e.Login)
}

// refusal counts, and returns the error for who. s is locked.
func (s *Session) refusal(who ownerHandle) error {
	s.b.Stats.NotOwner.Add(1)
	return &mq.Error{
		Code: mq.NotAuthorized,
		Text: "this client ID belongs to another login; use another client ID, or log in as whoever has used it before",
		Err:  &OwnerError{Owner: valueOf(s.owner), Login: valueOf(who)},
	}
}

// lives reports whether there is a session without connection that has not
// ended, though it may be there still. s is locked.
func (s *Session) lives(now int64) bool { return s.exists && (s.deadline == 0 || s.deadline > now) }

// belongsToOther reports whether there is anything of another principal: a
// session, or messages. s is locked.
func (s *Session) belongsToOther(who ownerHandle, now int64) bool {
	if s.owner == who || s.owner == nobody || who == nobody {
		return false
	}
	return s.conn != nil || s.lives(now) || s.count > 0
}

// passTo makes who the owner, in memory. s is locked.
func (s *Session) passTo(who ownerHandle) {
	if who == nobody || s.owner == who {
		return
	}
	s.owner, s.unasked = who, true
	s.metaStale, s.ownerStale = s.metaSet, s.ownerKept
}

// passBack undoes passTo. What the store has been told meanwhile may be done or
// not. s is locked.
func (s *Session) passBack(owner ownerHandle) {
	if s.owner == owner {
		return
	}
	s.owner, s.unasked = owner, true
	s.metaStale, s.ownerStale = s.metaSet, s.ownerKept
}

func (s *Session) ownerNow() mq.Owner { return valueOf(s.owner) }

// inboxOwner is what the store is to be told with the end of the session about
// whose messages stay in the inbox; nil: nothing new. s is locked.
func (s *Session) inboxOwner() *mq.Owner {
	switch {
	case s.count > 0 && s.owner != nobody && (!s.ownerKept || s.ownerStale):
		o := s.ownerNow()
		return &o
	case s.count == 0 && s.ownerKept:
		return &mq.Owner{}
	}
	return nil
}

// ownerIsKept is called when the store was told. s is locked.
func (s *Session) ownerIsKept(o *mq.Owner) {
	if o != nil {
		s.ownerKept, s.ownerStale = *o != mq.Owner{}, false
	}
}

// rememberOwner makes the store know whose messages have stayed in the inbox of a
// session that has ended. If there are none, the client ID is nobody's. s is busy
// and unlocked.
func (s *Session) rememberOwner() error {
	s.mu.Lock()
	if s.count == 0 {
		s.owner = nobody
	}
	whose := s.inboxOwner()
	s.mu.Unlock()
	return s.putOwner(whose)
}

// correctOwner replaces what the store says of the inbox if it has passed to
// another: after a crash it would be that one's. s is busy and unlocked.
func (s *Session) correctOwner() error {
	s.mu.Lock()
	var whose *mq.Owner
	if s.ownerStale {
		if whose = s.inboxOwner(); whose == nil {
			whose = &mq.Owner{}
		}
	}
	s.mu.Unlock()
	return s.putOwner(whose)
}

func (s *Session) putOwner(whose *mq.Owner) error {
	if whose == nil {
		return nil
	}
	if err := s.b.store.PutOwner(s.id, *whose); err != nil {
		return err
	}
	s.mu.Lock()
	s.ownerIsKept(whose)
	s.mu.Unlock()
	return nil
}

// dropForeign removes what has waited for another principal, also what was kept
// for the client ID. The session is deleted after that: a crash in between must
// not leave messages that belong to nobody. s is busy and unlocked.
func (s *Session) dropForeign() error {
	s.mu.Lock()
	lost, before, inbox, last := s.orphaned(), s.count, s.inbox, s.nextSeq-1
	ops := []mq.Op{{Kind: mq.OpClear, Inbox: inbox, Seq: last}}
	if ids := s.win.ids; ids != nil && ids.box != mq.NoInbox {
		ops = append(ops, mq.Op{Kind: mq.OpClear, Inbox: ids.box, Seq: last})
	}
	s.mu.Unlock()
	if before == 0 {
		return nil
	}
	// After it the store shows all that was put before.
	if err := s.b.wait(ops...); err != nil {
		return err
	}
	var list [256]mq.Entry
	for after := uint64(0); ; {
		found := s.b.store.List(inbox, after, len(list), list[:0])
		ops = ops[:0]
		for _, e := range found {
			if after = e.Seq; e.Seq <= last {
				ops = append(ops, mq.Op{Kind: mq.OpAck, Inbox: inbox, Seq: e.Seq})
			}
		}
		if len(ops) == 0 {
			break
		}
		if err := s.b.wait(ops...); err != nil {
			return err
		}
	}
	s.countCleared(before, mq.DropOtherOwner)
	if lost {
		s.b.foundOrphan()
	}
	return nil
}

// formerOwner is whose messages wait in an inbox whose session was evicted.
type formerOwner struct {
	owner       ownerHandle
	kept, stale bool // Session.ownerKept, ownerStale
}

// leaveOwner takes over what an evicted session knows. Both are locked.
func (sh *shard) leaveOwner(s *Session) {
	if !s.ownerKept && (s.count == 0 || s.owner == nobody) {
		return
	}
	if sh.owners == nil {
		sh.owners = make(map[string]formerOwner)
	}
	sh.owners[s.id] = formerOwner{s.owner, s.ownerKept, s.ownerStale}
	if s.count == 0 {
		s.b.ownerless.add(s.id)
	}
}

// ownerless are client IDs without messages whose owner the store still knows. mu
// is a leaf.
type ownerless struct {
	mu  sync.Mutex
	ids map[string]struct{}
}

func (o *ownerless) add(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ids == nil {
		o.ids = make(map[string]struct{})
	}
	o.ids[id] = struct{}{}
}

func (o *ownerless) take() map[string]struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	ids := o.ids
	o.ids = nil
	return ids
}

// forgetOwners lets the store forget the owners of inboxes that have become
// empty. What fails is tried again: the session is evicted once more.
func (b *Broker) forgetOwners() {
	for id := range b.ownerless.take() {
		s := b.lockedSession([]byte(id))
		if s.busy != nil || s.conn != nil || s.exists || !s.ownerKept {
			s.unlock() // whoever ends the next session sees to it
			continue
		}
		if !s.confirmed() { // the store may show messages that have gone
			s.confirmSoon()
			b.ownerless.add(id)
			s.unlock()
			continue
		}
		if s.recount(); s.count > 0 {
			s.unlock()
			continue
		}
		s.occupy()
		s.mu.Unlock()
		b.background(func(*Batch) {
			if err := s.rememberOwner(); err != nil {
				b.log.Debug("cannot forget the owner of an empty inbox", "client", s.id, "error", err)
			}
			s.mu.Lock()
			s.vacate()
			s.unlock()
		})
	}
}

// loadOwners brings back whose messages wait after a restart. The sessions are
// loaded.
func (b *Broker) loadOwners() error {
	return b.store.Owners(func(id string, inbox mq.Owner) error {
		owner := handleOf(inbox)
		if s := b.registry.find([]byte(id)); s != nil {
			s.mu.Lock()
			s.ownerKept, s.ownerStale = true, s.owner != owner
			s.mu.Unlock()
			return nil
		}
		sh := b.registry.shard([]byte(id))
		sh.mu.Lock()
		defer sh.mu.Unlock()
		if sh.owners == nil {
			sh.owners = make(map[string]formerOwner)
		}
		sh.owners[id] = formerOwner{owner: owner, kept: true}
		if _, waits := b.store.Lookup(id); !waits {
			b.ownerless.add(id)
		}
		return nil
	})
}
