package broker

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

// acquireFor is acquire for a connection of who that is about to take the place of
// another: what the client has sent on that one comes first. Its farewell may be
// in there, its acknowledgements, its last message. It refuses who may not have the
// client ID, of which the other connection notices nothing; foreign says that who
// may, but gets nothing of what is there.
func (b *Broker) acquireFor(req *ConnectRequest, who ownerHandle, batch *Batch) (s *Session, foreign bool, err error) {
	for settled := Conn(nil); ; {
		s := b.acquire(req.ClientID)
		policy := OwnerPolicy(b.ownerPolicy.Load())
		foreign := policy != OwnerAny && s.belongsToOther(who, b.Now(batch))
		if foreign && policy == OwnerStrict {
			err := s.refusal(who)
			s.unlock()
			return nil, false, err
		}
		if s.conn == nil || s.conn == settled {
			return s, foreign, nil
		}
		settled = s.conn
		s.mu.Unlock()
		settled.Settle()
	}
}
