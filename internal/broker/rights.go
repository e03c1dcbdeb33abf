package broker

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/homing-mq/homing/internal/mq"
)

// A right to subscribe is asked for when it is used, not only when it is granted.
//
// A subscription has in the topic tree whether its owner may have all that its
// filter matches (asks). If not, the owner's right to the topic is asked for each
// message. When the rules change all subscriptions are asked about again, session
// by session (Broker.reviewRights). Until that is done every match is asked about,
// so that what is decided is right at once. What a session has waiting from before
// is asked about when it is sent (Session.doubted).
//
// A member of a shared subscription may have all of its filter or gets nothing of
// the group; see member.bar.

// Values of asks.
const (
	asksNothing uint8 = iota // all of it
	asksPart                 // a part, as was said when it was granted: the rest is not missed
	asksRevoked              // less than was granted: what does not come is counted
	asksBarred               // of a shared subscription: no member may have anything
	asksNobody               // all of it, for now: it is not known for whom. See Session.unknown
)

// rights knows whether what is noted in the topic tree is what the rules say.
type rights struct {
	b       *Broker
	settled atomic.Uint64 // the version of the rules that all subscriptions were asked about under

	mu       sync.Mutex // one review at a time; held during it. Guards gateways
	gateways []func()
}

// init is called before the sessions are loaded: each asks for itself.
func (r *rights) init(b *Broker) {
	r.b = b
	r.settled.Store(b.auth.Version())
	b.auth.Changed(b.reviewRights)
}

// OnRevoked registers what a gateway does when logins may have ended whose
// connections have no session: it closes them. It is called without locks.
func (b *Broker) OnRevoked(f func()) {
	b.rights.mu.Lock()
	defer b.rights.mu.Unlock()
	b.rights.gateways = append(b.rights.gateways, f)
}

// reviewRights puts a change of the rules, or of logins, into effect: when it
// returns the connections of logins that have ended are closing, and nothing
// comes any more by a right that has gone. It goes through all sessions, one
// locked at a time.
func (b *Broker) reviewRights() {
	r := &b.rights
	r.mu.Lock()
	defer r.mu.Unlock()
	version := b.auth.Version()
	changed := version != r.settled.Load()
	var batch Batch
	for i := range b.registry.shards {
		if b.closing.Load() {
			return
		}
		batch.Begin()
		for _, s := range b.registry.shards[i].snapshot() {
			s.review(changed, &batch)
			if len(batch.ended)+len(batch.pumps) >= reviewChunk {
				batch.Flush()
				batch.Begin()
			}
		}
		batch.Flush()
	}
	r.settled.Store(version)
	for _, f := range r.gateways {
		f()
	}
}

// wait waits for a review that is under way; later ones do nothing once
// Broker.closing is set.
func (r *rights) wait() {
	r.mu.Lock()
	defer r.mu.Unlock()
}

// reviewChunk is how many connections are closed, or subscriptions asked about, at
// a time.
const reviewChunk = 256

// review does what reviewRights is for with one session, which is not locked.
// changed: rights are different.
func (s *Session) review(changed bool, b *Batch) {
	s.mu.Lock()
	if s.dead {
		s.mu.Unlock()
		return
	}
	if l := s.lender(); l != nil {
		if changed {
			l.reviewMembers(b)
		}
		s.mu.Unlock()
		return
	}
	if s.conn != nil && s.conn.Revoked() {
		b.revoke(s.conn)
	}
	if !changed {
		s.mu.Unlock()
		return
	}
	s.doubt()
	if len(s.subs) <= reviewChunk {
		s.judgeAll()
		s.mu.Unlock()
		return
	}
	filters := make([]string, 0, len(s.subs))
	for filter := range s.subs {
		filters = append(filters, filter)
	}
	s.mu.Unlock()
	for part := range slices.Chunk(filters, reviewChunk) {
		s.mu.Lock()
		for _, filter := range part {
			if sub, ok := s.subs[filter]; ok { // else it has gone meanwhile
				s.rejudge(&sub)
			}
		}
		s.mu.Unlock()
	}
}

// askAgain asks about what a session has when it is resumed by another than it was
// asked about for. s is locked.
func (s *Session) askAgain(resumed bool, b *Batch) {
	again := resumed && (s.unasked || s.unknown)
	s.unasked, s.unknown = false, false
	if !again {
		return
	}
	s.doubt()
	s.judgeAll()
	if s.share != nil && len(s.share.in) > 0 {
		for _, m := range s.share.in {
			m.asked.Store(neverAsked)
			b.rejoin(m.of.s)
		}
	}
}

// judgeAll asks about all subscriptions of the session. s is locked.
func (s *Session) judgeAll() {
	for _, sub := range s.subs {
		s.rejudge(&sub)
	}
}

// rejudge asks about a subscription that the session has, and notes what is
// different. s is locked.
func (s *Session) rejudge(sub *mq.Subscription) {
	if isShared(sub.Filter) {
		return // the group does
	}
	if asks := s.judge(sub); asks != sub.Asks {
		sub.Asks = asks
		s.subs[sub.Filter] = *sub
		s.b.topics.add(*sub, s)
	}
}

// judge says what of a subscription, which is not shared, must be asked for each
// message. The answer is right as long as s is locked, and is noted before it is
// unlocked: who changes the rules comes by later.
func (s *Session) judge(sub *mq.Subscription) uint8 {
	if s.unknown {
		return asksNobody
	}
	switch s.b.rights.grant(s.owner, s.id, sub.Filter) {
	case mq.GrantAll:
		return asksNothing
	case mq.GrantPart:
		if sub.Reader != nil {
			return asksPart
		}
	}
	return asksRevoked
}

// askers are principals without a login, to ask for the rights of names.
var askers = sync.Pool{New: func() any { return new(mq.Principal) }}

func asker(owner ownerHandle, clientID string) *mq.Principal {
	p, o := askers.Get().(*mq.Principal), valueOf(owner)
	*p = mq.Principal{Kind: o.Kind, ClientID: clientID}
	switch o.Kind {
	case mq.KindUser:
		p.User = o.Name
	case mq.KindKey:
		p.AccessKey = o.Name
	}
	return p
}

func (r *rights) allow(owner ownerHandle, clientID string, topic []byte) bool {
	p := asker(owner, clientID)
	defer askers.Put(p)
	return r.b.auth.Allow(p, mq.Subscribe, topic)
}

func (r *rights) grant(owner ownerHandle, clientID, filter string) mq.Grant {
	p := asker(owner, clientID)
	defer askers.Put(p)
	return r.b.auth.Grant(p, []byte(filter))
}

// mayRead reports whether the owner of the session may have a message of a topic
// that is not P2P, as the rules are now. The members of a shared subscription are
// asked when they get it. s is locked.
func (s *Session) mayRead(topic []byte) bool {
	return s.unknown || s.lender() != nil || s.b.rights.allow(s.owner, s.id, topic)
}

// doubt notes that messages wait, or may be sent again, which came under other
// rules. s is locked.
func (s *Session) doubt() {
	s.doubted = s.doubted || s.count > 0 || s.tail.n > 0 || s.win.n > 0
}

// trust ends that when none is left. s is locked.
func (s *Session) trust() {
	if s.doubted && s.count == 0 && s.tail.n == 0 && s.win.n == 0 {
		s.doubted = false
	}
}

// mayStillRead reports whether a message that has waited may be sent. P2P needs no
// right of the target. s is locked.
func (s *Session) mayStillRead(topic []byte) bool {
	return !s.doubted || kindOf(topic) == P2P || s.mayRead(topic)
}

// unsettled reports whether the topic tree may not know yet what the rules say. r
// may be nil.
func (r *rights) unsettled() bool { return r != nil && r.settled.Load() != r.b.auth.Version() }

// comes reports whether a match that is to be asked about may have the message.
func (r *rights) comes(m *match, topic []byte, unsettled bool) bool {
	switch {
	case m.asks == asksNobody:
		return true
	case m.s.rank() == 0: // a group asks its members
		return unsettled || m.asks != asksBarred
	}
	return r.allow(m.owner, m.s.id, topic)
}

// neverAsked is no version that rules have.
const neverAsked = ^uint64(0)

// entitled reports whether the member may have what the group has, as the rules
// are now. Both sessions are locked.
func (m *member) entitled() bool {
	return m.s.unknown || m.s.b.rights.grant(m.s.owner, m.s.id, m.sub.Filter) == mq.GrantAll
}

// mayTake reports whether the member may have a message as the rules of a version
// are. The group's session is locked, the member's not.
func (m *member) mayTake(version uint64) bool {
	if m.barred || m.asked.Load() == version {
		return !m.barred
	}
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	return m.entitled()
}

// bar asks about a member, and notes whether it is one that gets nothing; it
// reports whether that is new. The group's session is locked, the member's not.
func (m *member) bar() (changed bool) {
	s := m.s
	version := s.b.auth.Version()
	s.mu.Lock()
	defer s.mu.Unlock()
	barred := !m.entitled()
	m.asked.Store(version)
	if barred == m.barred {
		return false
	}
	m.barred = barred
	if s.conn != nil && !m.left {
		m.of.online.Add(map[bool]int32{true: -1, false: 1}[barred])
	}
	if !barred {
		m.ready.Store(true)
	}
	return true
}

// reviewMembers asks about all members of a group. Its session is locked.
func (l *lender) reviewMembers(b *Batch) {
	changed := false
	for _, m := range l.members {
		changed = m.bar() || changed
	}
	if changed {
		l.enroll()
		b.pump(l.s)
	}
}

// rejoin notes a group to ask about its members.
func (b *Batch) rejoin(g *Session) { b.regroup = append(b.regroup, g) }

// rejoinAll does that. No lock may be held.
func (b *Batch) rejoinAll() {
	for _, g := range b.regroup {
		g.mu.Lock()
		if l := g.lender(); l != nil {
			l.reviewMembers(b)
		}
		g.mu.Unlock()
	}
	clear(b.regroup)
	b.regroup = b.regroup[:0]
}
