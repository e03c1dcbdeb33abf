package inboxlog

import (
	"fmt"
	"strings"

	"github.com/homing-mq/homing/internal/mq"
)

// holders counts the inboxes that hold messages, and bounds them. An inbox counts
// while it has an entry, or a put to it is promised: Occupy was called, and the put
// is not done. index.mu guards it.
type holders struct {
	inboxes mq.Quota
	names   mq.Quota // bytes of their names
	owners  [][]mq.Account
}

// Occupy makes an inbox count as one that holds messages; see mq.Store.
func (l *Log) Occupy(name string, by mq.Account) (mq.Inbox, error) {
	if len(name) > mq.MaxInboxName {
		return mq.NoInbox, mq.Errorf(mq.StoreFailed, "the name of an inbox has %d bytes; %d are allowed", len(name), mq.MaxInboxName)
	}
	ix := l.ix
	ix.mu.Lock()
	defer ix.mu.Unlock()
	id := ix.find(ix.table.hash(name), name)
	if id == 0 || !ix.slot(id).counts() {
		if why := ix.overLimit(name, by); why != "" {
			return mq.NoInbox, &mq.Error{Code: mq.InboxesFull, Text: why}
		}
	}
	if id == 0 {
		id = ix.make(name)
	}
	s := ix.slot(id)
	if !s.counts() {
		ix.hold(id, s, by)
	}
	s.state |= slotHeld | slotPromised
	return mq.Inbox(id), nil
}

// counts reports whether the inbox is one that holds messages.
func (s *slot) counts() bool { return s.count > 0 || s.state&slotPromised != 0 }

// overLimit is why no inbox with that name may begin to hold messages; "": it may.
func (ix *index) overLimit(name string, by mq.Account) string {
	h := &ix.holders
	switch {
	case !limited(name):
		return ""
	case !h.inboxes.Fits(by, 1):
		return fmt.Sprintf("%d inboxes hold messages: the limit, or the sender's share of it, is reached", h.inboxes.Used())
	case !h.names.Fits(by, int64(len(name))):
		return fmt.Sprintf("the names of inboxes that hold messages have %d bytes: the limit, or the sender's share of it, is reached", h.names.Used())
	}
	return ""
}

// limited reports whether the inbox is a client's or a shared subscription's. What
// the server has for itself is bounded where it is made.
func limited(name string) bool {
	return !strings.HasPrefix(name, mq.InternalInbox) || strings.HasPrefix(name, mq.SharedInbox)
}

// hold counts the inbox of slot id, which did not count. Locked: mu.
func (ix *index) hold(id uint32, s *slot, by mq.Account) {
	h := &ix.holders
	if !limited(asString(ix.name(s))) {
		return
	}
	if by != mq.Nobody {
		h.setOwner(id, by)
	}
	h.inboxes.Add(by, 1)
	h.names.Add(by, int64(s.nameLen()))
}

// let is the reverse of hold.
func (ix *index) let(id uint32, s *slot) {
	h := &ix.holders
	if !limited(asString(ix.name(s))) {
		return
	}
	by := h.owner(id)
	if by != mq.Nobody {
		h.setOwner(id, mq.Nobody)
	}
	h.inboxes.Add(by, -1)
	h.names.Add(by, -int64(s.nameLen()))
}

// kept says that a put to the inbox of slot id is done.
func (ix *index) kept(id uint32) { ix.slot(id).state &^= slotPromised }

// breakPromise is called for an op that is not done.
func (l *Log) breakPromise(op *mq.Op) {
	if op.Kind == mq.OpPut {
		l.ix.mu.Lock()
		defer l.ix.mu.Unlock()
		l.ix.unpromise(uint32(op.Inbox))
	}
}

// unpromise says that no put comes that Occupy has promised.
func (ix *index) unpromise(id uint32) {
	s := ix.valid(id)
	if s == nil || s.state&slotPromised == 0 {
		return
	}
	s.state &^= slotPromised
	if s.count == 0 {
		ix.let(id, s)
	}
}

func (h *holders) owner(id uint32) mq.Account {
	chunk := int(id >> slotBits)
	if chunk >= len(h.owners) || h.owners[chunk] == nil {
		return mq.Nobody
	}
	return h.owners[chunk][id&(1<<slotBits-1)]
}

func (h *holders) setOwner(id uint32, by mq.Account) {
	chunk := int(id >> slotBits)
	for chunk >= len(h.owners) {
		h.owners = append(h.owners, nil)
	}
	if h.owners[chunk] == nil {
		h.owners[chunk] = make([]mq.Account, 1<<slotBits)
	}
	h.owners[chunk][id&(1<<slotBits-1)] = by
}
