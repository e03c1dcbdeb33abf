package broker

import "github.com/homing-mq/homing/internal/mq"

// An inbox is orphaned if it has messages that were kept for a session, and there
// is no such session. That does not happen but by loss of metadata: a session is
// cleared before it is deleted. The messages were acknowledged, so they are
// delivered to the client when it comes back, unless it starts clean; see
// forgetSession.

// crossCheck looks at start for inboxes that belong to sessions which are not in
// the metadata. The sessions are loaded.
func (b *Broker) crossCheck() error {
	orphans := 0
	err := b.store.Unkept(func(name string) error {
		if b.registry.find([]byte(name)) == nil {
			orphans++
		}
		return nil
	})
	if err != nil {
		return err
	}
	var shares []string // shared subscriptions without a member
	err = b.store.Names(mq.SharedInbox, func(name string) error {
		if b.registry.find([]byte(name)) == nil {
			shares = append(shares, name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if orphans == 0 {
		for _, name := range shares {
			b.clearShare(name)
		}
		return nil
	}
	// Sessions were lost, and members with them: what waits for those that
	// subscribe again is not dropped. The retention ends it.
	b.Stats.Orphans.Store(int64(orphans))
	b.log.Warn("metadata was lost: there are messages for sessions that the server does not know; they are delivered when the clients connect without clean start. "+
		"Subscriptions must be made again. Run homing store check",
		"inboxes", orphans, "shared_subscriptions", len(shares))
	return nil
}

// orphaned reports whether the inbox is. s is locked, and has no connection.
func (s *Session) orphaned() bool {
	if s.exists || s.metaSet || s.count == 0 || s.inbox == mq.NoInbox {
		return false
	}
	list := make([]mq.Entry, 0, 16)
	for after := uint64(0); ; after = list[len(list)-1].Seq {
		list = s.b.store.List(s.inbox, after, cap(list), list[:0])
		for i := range list {
			if list[i].Flags&mq.FlagKeep == 0 {
				return true
			}
		}
		if len(list) < cap(list) {
			return false
		}
	}
}

// foundOrphan is called when the client of an orphaned inbox has come back.
func (b *Broker) foundOrphan() {
	if b.Stats.Orphans.Load() > 0 {
		b.Stats.Orphans.Add(-1)
	}
}

// adopt makes the messages of an orphaned inbox those of the session that
// begins. What the client had sent PUBREC for it has; it knows nothing of that
// exchange any more, since CONNACK tells it that the session is new. ops are done
// with it. s is busy and unlocked.
func (s *Session) adopt(ops []mq.Op) error {
	var list [64]mq.Entry
	for after := uint64(0); ; {
		found := s.b.store.List(s.inbox, after, len(list), list[:0])
		for _, e := range found {
			if after = e.Seq; e.Flags&mq.FlagReceived != 0 {
				ops = append(ops, mq.Op{Kind: mq.OpAck, Inbox: s.inbox, Seq: e.Seq})
			}
		}
		if len(found) < len(list) {
			break
		}
	}
	s.b.log.Info("messages of a session that was lost are delivered", "client", s.id)
	if len(ops) == 0 {
		return nil
	}
	return s.b.wait(ops...)
}
