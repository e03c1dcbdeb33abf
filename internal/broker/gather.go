package broker

import (
	"math/bits"
	"slices"
	"sync"
	"unsafe"

	"github.com/homing-mq/homing/internal/mq"
)

// gathering collects the subscribers of one topic name: each session once, with
// the highest QoS of its subscriptions that match [MQTT-3.3.4-2]
// [MQTT3-3.3.5-1].
type gathering struct {
	topic     []byte
	publisher *Session // its No Local subscriptions are left out [MQTT-3.8.3-3]; may be nil
	tree      *topicTree
	dst       []match
	sets      int
	visits    int   // nodes that the search has looked at
	seen      *seen // nil: while there are few
	unsettled bool  // the rules have just changed: every match is asked about
	denied    bool  // a match is
}

// The verdict about a session of which matches are gathered is in the upper bits of
// match.asks. Its owner is asked about the topic once, however many of its
// subscriptions match.
const (
	asksBits = 0x07 // what match.asks has in the tree

	verdictAsked   = 0x10 // the owner was asked about
	verdictAllowed = 0x20 // and may have it
	verdictGranted = 0x40 // a subscription brings it without asking
	verdictMissed  = 0x80 // one that was granted once does not bring it any more
)

func (m *match) comes() bool { return m.asks&(verdictAllowed|verdictGranted) != 0 }

// fewMatches are united by looking at all.
const fewMatches = 12

// try goes on in a child whose first level is that of the topic.
func (g *gathering) try(n *node, topic, first []byte) {
	g.visits++
	if rest, more, ok := n.enter(topic, first); ok {
		n.search(rest, more, g)
	}
}

// add takes the subscribers of one filter, each of which is in there once.
func (g *gathering) add(u *subscribers) {
	g.sets++
	switch {
	case g.seen != nil:
	case g.sets == 1 || len(g.dst)+len(u.list) <= fewMatches:
		g.dst = append(g.dst, u.list...)
		return
	default:
		g.seen = allSeen.Get().(*seen)
		so := g.dst
		g.dst = g.dst[:0] // never ahead of what is read
		for i := range so {
			g.unite(so[i])
		}
	}
	for i := range u.list {
		g.unite(u.list[i])
	}
}

// unite puts one match into dst, or into that of the same session.
func (g *gathering) unite(m match) {
	if m.noLocal && m.s == g.publisher {
		return
	}
	at := g.seen.at(m.s, g.dst)
	if *at == 0 {
		g.ask(&m)
		g.dst = append(g.dst, m)
		*at = uint32(len(g.dst))
		g.seen.fit(g.dst)
		return
	}
	g.merge(&g.dst[*at-1], &m)
}

// plain reports whether a match brings the message without asking.
func (g *gathering) plain(m *match) bool { return m.asks == asksNothing && !g.unsettled }

// ask sets the verdict of the first match of a session.
func (g *gathering) ask(m *match) {
	switch asks := m.asks; {
	case g.plain(m):
		m.asks |= verdictGranted
	case g.tree.rights.comes(m, g.topic, g.unsettled):
		m.asks |= verdictAsked | verdictAllowed
	default:
		g.denied = true
		if m.asks |= verdictAsked; asks != asksPart {
			m.asks |= verdictMissed
		}
	}
}

// merge adds a match of the same session to the first one.
func (g *gathering) merge(o, m *match) {
	verdict := o.asks &^ asksBits
	brings := true
	switch {
	case g.plain(m):
		verdict |= verdictGranted
	case o.asks&verdictAsked == 0 || o.owner != m.owner || m.asks == asksNobody:
		one := *m
		g.ask(&one)
		brings = one.comes()
		verdict |= one.asks &^ asksBits
	case o.asks&verdictAllowed == 0:
		brings = false
		if m.asks != asksPart {
			verdict |= verdictMissed
		}
	}
	qos := o.qos
	switch {
	case brings && !o.comes():
		*o = *m
	case brings:
		o.qos = max(qos, m.qos)
	}
	o.asks = o.asks&asksBits | verdict
}

// done returns what was found.
func (g *gathering) done() []match {
	if g.seen == nil {
		g.few()
	} else {
		g.seen.giveBack()
	}
	if !g.denied {
		return g.dst
	}
	return slices.DeleteFunc(g.dst, func(m match) bool {
		if m.comes() {
			return false
		}
		if m.asks&verdictMissed != 0 {
			g.tree.rights.b.drop(mq.DropRevoked)
		}
		return true
	})
}

// few does what unite does, without a table.
func (g *gathering) few() {
	if g.sets == 1 && g.asIs() { // each session once
		return
	}
	out := g.dst[:0]
next:
	for i := range g.dst {
		m := &g.dst[i]
		if m.noLocal && m.s == g.publisher {
			continue
		}
		if g.sets > 1 {
			for k := range out {
				if out[k].s == m.s {
					g.merge(&out[k], m)
					continue next
				}
			}
		}
		g.ask(m)
		out = append(out, *m)
	}
	clear(g.dst[len(out):])
	g.dst = out
}

// asIs reports whether all matches bring the message: nearly always.
func (g *gathering) asIs() bool {
	for i := range g.dst {
		if m := &g.dst[i]; m.noLocal || !g.plain(m) {
			return false
		}
	}
	return true
}

// seen says where in a list of matches a session is: open addressing, by address.
// A map would take several times as long.
type seen struct {
	cells []uint32 // index + 1; 0: empty. A power of two of them, half of them empty
	shift uint
}

var allSeen = sync.Pool{New: func() any {
	x := &seen{}
	x.size(64)
	return x
}}

// keptCells is the largest table that is kept for later.
const keptCells = 1 << 13

func (x *seen) size(cells int) {
	x.cells = make([]uint32, cells)
	x.shift = uint(64 - bits.TrailingZeros(uint(cells)))
}

// at returns the cell of a session, or the empty one for it.
func (x *seen) at(s *Session, list []match) *uint32 {
	h := uint64(uintptr(unsafe.Pointer(s))) * 0x9E3779B97F4A7C15 >> x.shift
	for ; ; h = (h + 1) & uint64(len(x.cells)-1) {
		if c := &x.cells[h]; *c == 0 || list[*c-1].s == s {
			return c
		}
	}
}

// fit makes room for one more.
func (x *seen) fit(list []match) {
	if 2*len(list) < len(x.cells) {
		return
	}
	x.size(2 * len(x.cells))
	for i := range list {
		*x.at(list[i].s, list) = uint32(i + 1)
	}
}

func (x *seen) giveBack() {
	if len(x.cells) > keptCells {
		return
	}
	clear(x.cells)
	allSeen.Put(x)
}
