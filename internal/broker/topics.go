package broker

import (
	"strings"
	"sync"

	"github.com/homing-mq/homing/internal/mq"
)

// topicTree finds the subscribers of a topic name. Filters without wildcards
// are in one map; the others in a tree by level.
type topicTree struct {
	mu     sync.RWMutex
	exact  map[string]*subscribers
	root   node
	rights *rights // who may have what it finds; nil in tests: all

	steps, clientSteps int // limits on the steps of a search; 0: none. See admit.go
	shapes             map[*Session]*shape
}

// match is one subscriber of a topic.
type match struct {
	s       *Session
	owner   ownerHandle // of s
	qos     mq.QoS
	noLocal bool
	rap     bool   // Retain As Published
	asks    uint8  // whether s may have all that the filter matches; while matches are gathered, with a verdict
	id      uint32 // subscription identifier; 0: none
}

// subscribers is a set of sessions in a slice; the index is made when it is
// large.
type subscribers struct {
	list  []match
	index map[*Session]int
}

const indexFrom = 16

func (t *topicTree) init(r *rights) {
	t.exact, t.shapes, t.rights = make(map[string]*subscribers), make(map[*Session]*shape), r
	t.root.weigh()
}

func (u *subscribers) find(s *Session) int {
	if u.index != nil {
		if i, ok := u.index[s]; ok {
			return i
		}
		return -1
	}
	for i := range u.list {
		if u.list[i].s == s {
			return i
		}
	}
	return -1
}

func (u *subscribers) put(m match) {
	if i := u.find(m.s); i >= 0 {
		u.list[i] = m
		return
	}
	u.list = append(u.list, m)
	switch {
	case u.index != nil:
		u.index[m.s] = len(u.list) - 1
	case len(u.list) == indexFrom:
		u.index = make(map[*Session]int, 2*indexFrom)
		for i := range u.list {
			u.index[u.list[i].s] = i
		}
	}
}

func (u *subscribers) remove(s *Session) {
	i := u.find(s)
	if i < 0 {
		return
	}
	last := len(u.list) - 1
	u.list[i] = u.list[last]
	u.list[last] = match{}
	u.list = u.list[:last]
	if u.index != nil {
		delete(u.index, s)
		if i < last {
			u.index[u.list[i].s] = i
		}
	}
}

// hasWildcards tells of a valid filter.
func hasWildcards(filter string) bool { return strings.ContainsAny(filter, "+#") }

// add puts or replaces the subscription of s. It is called with s locked.
func (t *topicTree) add(sub mq.Subscription, s *Session) {
	m := matchOf(sub, s)
	t.mu.Lock()
	defer t.mu.Unlock()
	if !hasWildcards(sub.Filter) {
		u := t.exact[sub.Filter]
		if u == nil {
			u = &subscribers{}
			t.exact[sub.Filter] = u
		}
		u.put(m)
		return
	}
	var room [24]*node
	_, place := t.way(room[:0]).grow(sub.Filter)
	if *place == nil {
		*place = &subscribers{}
	}
	(*place).put(m)
}

func matchOf(sub mq.Subscription, s *Session) match {
	return match{s: s, owner: s.owner, asks: sub.Asks, qos: sub.QoS, noLocal: sub.NoLocal, rap: sub.RetainAsPublished, id: sub.ID}
}

// way is the one to the root.
func (t *topicTree) way(room []*node) trail { return append(room, &t.root) }

// remove takes the subscription of s away, and nodes that are then not needed.
func (t *topicTree) remove(filter string, s *Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !hasWildcards(filter) {
		if u := t.exact[filter]; u != nil {
			if u.remove(s); len(u.list) == 0 {
				delete(t.exact, filter)
			}
		}
		if len(t.exact) == 0 {
			t.exact = make(map[string]*subscribers) // a map does not shrink
		}
		return
	}
	var room [24]*node
	if way, place := t.way(room[:0]).find(filter); place != nil && *place != nil {
		if (*place).remove(s); len((*place).list) == 0 {
			*place = nil
			way.prune()
		}
	}
}

// match appends the subscribers of a topic name to dst, each session once, but
// No Local subscriptions of the publisher [MQTT-3.8.3-3], which may be nil. A
// wildcard in level 1 does not match a topic that starts with $ [MQTT-4.7.2-1].
// [MQTT-3.3.2-3] [MQTT-4.7.3-4] [MQTT3-3.3.2-3] [MQTT3-4.7.2-1] [MQTT3-4.7.3-4]
func (t *topicTree) match(topic []byte, publisher *Session, dst []match) []match {
	t.mu.RLock()
	defer t.mu.RUnlock()
	g := gathering{topic: topic, publisher: publisher, tree: t, dst: dst, unsettled: t.rights.unsettled()}
	t.search(&g)
	return g.done()
}

// search finds the sets of subscribers. The lock is held.
func (t *topicTree) search(g *gathering) {
	if u := t.exact[string(g.topic)]; u != nil {
		g.add(u)
	}
	if g.topic[0] == '$' {
		first := firstOf(g.topic)
		if c := findKid(t.root.kids, first); c != nil {
			g.try(c, g.topic, first)
		}
	} else {
		t.root.search(g.topic, true, g)
	}
}

// ownFrom is how many steps a search takes at least where it may be cheaper to look
// at all subscriptions of the session.
const ownFrom = 64

// of appends the subscriptions of one session that match a topic name to dst. s is
// locked.
func (t *topicTree) of(s *Session, topic []byte, dst []match) []match {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.root.steps >= ownFrom && len(s.subs) < int(t.root.steps/2) {
		for filter, sub := range s.subs {
			if !isShared(filter) && mq.MatchFilter([]byte(filter), topic) {
				dst = append(dst, matchOf(sub, s))
			}
		}
		return dst
	}
	dst = t.exact[string(topic)].of(s, dst)
	if topic[0] == '$' {
		if first := firstOf(topic); findKid(t.root.kids, first) != nil {
			return findKid(t.root.kids, first).tryOf(s, topic, first, dst)
		}
		return dst
	}
	return t.root.of(s, topic, true, dst)
}

func (u *subscribers) of(s *Session, dst []match) []match {
	if u == nil {
		return dst
	}
	if i := u.find(s); i >= 0 {
		dst = append(dst, u.list[i])
	}
	return dst
}
