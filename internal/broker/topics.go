package broker

import (
	"bytes"
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
}

type node struct {
	children map[string]*node
	plus     *node
	here     *subscribers // filters that end at this level
	hash     *subscribers // filters that end with # below this level
}

// match is one subscriber of a topic.
type match struct {
	s       *Session
	owner   ownerHandle // of s
	qos     mq.QoS
	noLocal bool
	rap     bool   // Retain As Published
	asks    uint8  // whether s may have all that the filter matches
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
	t.exact, t.rights = make(map[string]*subscribers), r
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

// add puts or replaces the subscription of s. It is called with s locked.
func (t *topicTree) add(sub mq.Subscription, s *Session) {
	m := match{s: s, owner: s.owner, asks: sub.Asks, qos: sub.QoS, noLocal: sub.NoLocal, rap: sub.RetainAsPublished, id: sub.ID}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !strings.ContainsAny(sub.Filter, "+#") {
		u := t.exact[sub.Filter]
		if u == nil {
			u = &subscribers{}
			t.exact[sub.Filter] = u
		}
		u.put(m)
		return
	}
	n, place := &t.root, (**subscribers)(nil)
	for rest, more := sub.Filter, true; more && place == nil; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		if level == "#" {
			place = &n.hash
		} else {
			n = n.child(level)
		}
	}
	if place == nil {
		place = &n.here
	}
	if *place == nil {
		*place = &subscribers{}
	}
	(*place).put(m)
}

func (n *node) child(level string) *node {
	if level == "+" {
		if n.plus == nil {
			n.plus = &node{}
		}
		return n.plus
	}
	c := n.children[level]
	if c == nil {
		if n.children == nil {
			n.children = make(map[string]*node)
		}
		c = &node{}
		n.children[strings.Clone(level)] = c
	}
	return c
}

// remove takes the subscription of s away, and nodes that are then empty.
func (t *topicTree) remove(filter string, s *Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !strings.ContainsAny(filter, "+#") {
		if u := t.exact[filter]; u != nil {
			if u.remove(s); len(u.list) == 0 {
				delete(t.exact, filter)
			}
		}
		return
	}
	t.root.remove(filter, s)
}

// remove reports whether the node is empty after.
func (n *node) remove(filter string, s *Session) bool {
	level, rest, more := strings.Cut(filter, "/")
	var next *node
	switch level {
	case "#":
		n.hash = n.hash.without(s)
		return n.empty()
	case "+":
		next = n.plus
	default:
		next = n.children[level]
	}
	if next == nil {
		return n.empty()
	}
	if more {
		if !next.remove(rest, s) {
			return false
		}
	} else {
		next.here = next.here.without(s)
		if !next.empty() {
			return false
		}
	}
	if level == "+" {
		n.plus = nil
	} else {
		delete(n.children, level)
	}
	return n.empty()
}

func (u *subscribers) without(s *Session) *subscribers {
	if u == nil {
		return nil
	}
	if u.remove(s); len(u.list) == 0 {
		return nil
	}
	return u
}

func (n *node) empty() bool {
	return n.here == nil && n.hash == nil && n.plus == nil && len(n.children) == 0
}

// match appends the subscribers of a topic name to dst, each session once, but
// No Local subscriptions of the publisher [MQTT-3.8.3-3], which may be nil. A
// wildcard in level 1 does not match a topic that starts with $ [MQTT-4.7.2-1].
// [MQTT-3.3.2-3] [MQTT-4.7.3-4] [MQTT3-3.3.2-3] [MQTT3-4.7.2-1] [MQTT3-4.7.3-4]
func (t *topicTree) match(topic []byte, publisher *Session, dst []match) []match {
	t.mu.RLock()
	defer t.mu.RUnlock()
	sets := 0
	if u := t.exact[string(topic)]; u != nil {
		dst = append(dst, u.list...)
		sets++
	}
	if topic[0] == '$' {
		level, rest, more := bytes.Cut(topic, []byte{'/'})
		if c := t.root.children[string(level)]; c != nil {
			dst = c.matchFrom(rest, more, dst, &sets)
		}
	} else {
		dst = t.root.matchFrom(topic, true, dst, &sets)
	}
	dst = t.rights.readable(dst, topic, publisher)
	if sets > 1 {
		dst = unite(dst)
	}
	return dst
}

// of appends the subscriptions of one session that match a topic name to dst.
func (t *topicTree) of(s *Session, topic []byte, dst []match) []match {
	t.mu.RLock()
	defer t.mu.RUnlock()
	dst = t.exact[string(topic)].of(s, dst)
	n, rest, more := &t.root, topic, true
	if topic[0] == '$' {
		var level []byte
		level, rest, more = bytes.Cut(topic, []byte{'/'})
		if n = t.root.children[string(level)]; n == nil {
			return dst
		}
	}
	return n.of(s, rest, more, dst)
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

// of is matchFrom for one session.
func (n *node) of(s *Session, topic []byte, more bool, dst []match) []match {
	dst = n.hash.of(s, dst)
	if !more {
		return n.here.of(s, dst)
	}
	level, rest, more := bytes.Cut(topic, []byte{'/'})
	if n.plus != nil {
		dst = n.plus.of(s, rest, more, dst)
	}
	if c := n.children[string(level)]; c != nil {
		dst = c.of(s, rest, more, dst)
	}
	return dst
}

// matchFrom matches the remaining levels; more is false when there are none.
func (n *node) matchFrom(topic []byte, more bool, dst []match, sets *int) []match {
	if n.hash != nil {
		dst = append(dst, n.hash.list...)
		*sets++
	}
	if !more {
		if n.here != nil {
			dst = append(dst, n.here.list...)
			*sets++
		}
		return dst
	}
	if n.plus == nil && len(n.children) == 0 {
		return dst
	}
	level, rest, more := bytes.Cut(topic, []byte{'/'})
	if n.plus != nil {
		dst = n.plus.matchFrom(rest, more, dst, sets)
	}
	if c := n.children[string(level)]; c != nil {
		dst = c.matchFrom(rest, more, dst, sets)
	}
	return dst
}

// unite leaves one match for each session, with the highest QoS
// [MQTT-3.3.4-2] [MQTT3-3.3.5-1].
func unite(list []match) []match {
	if len(list) <= 8 {
		out := list[:0]
	next:
		for _, m := range list {
			for i := range out {
				if out[i].s == m.s {
					out[i].merge(m)
					continue next
				}
			}
			out = append(out, m)
		}
		return out
	}
	at := make(map[*Session]int, len(list))
	out := list[:0]
	for _, m := range list {
		if i, ok := at[m.s]; ok {
			out[i].merge(m)
			continue
		}
		at[m.s] = len(out)
		out = append(out, m)
	}
	return out
}

func (m *match) merge(o match) {
	m.qos = max(m.qos, o.qos)
}
