package broker

import (
	"bytes"
	"strings"
)

// node is a place in a tree of topic filters with wildcards. Filters that are the
// same up to some level share the path to there. Where nothing branches off and no
// filter ends, levels are not nodes: the edge to a node has as many levels as it
// can. So there are at most two nodes for each filter, however many levels it has.
//
// Memory: the label of a node in which a filter ends is a part of that filter;
// others are copies. So what was removed does not stay because of a short label
// that points into it.
type node struct {
	label string       // levels of the edge that leads here, with + as they are
	here  *subscribers // filters that end here
	hash  *subscribers // filters that end with # below
	kids  *kids        // nil: none
	steps int32        // what a search takes at most from here on: see weight
	wild  bool         // label has a + level
}

// kids are the children of a node, by the first level of their labels.
type kids struct {
	plus  *node            // the one with level +; nil: none
	list  []*node          // the others, up to manyKids; then they are in index
	index map[string]*node // nil: not many
	steps map[int32]int32  // of those in index: how many have how many steps
	most  int32            // the highest of these
}

const manyKids = 8

// weight is what a search takes to compare the label and look into the node: one
// step, and more for a long label, so that a step is always about as long.
func (n *node) weight() int32 {
	w := 1 + len(n.label)/64
	if n.wild {
		w += strings.Count(n.label, "/") / 8
	}
	return int32(w)
}

// weigh finds out how many steps a search takes at most from n on: it goes to one
// of the children that are no wildcard, and to the one that is.
func (n *node) weigh() {
	n.steps = n.weight()
	if k := n.kids; k != nil {
		n.steps += k.dearest()
		if k.plus != nil {
			n.steps += k.plus.steps
		}
	}
}

func newNode(label string) *node {
	n := &node{}
	n.setLabel(label)
	return n
}

func (n *node) setLabel(label string) {
	n.label, n.wild = label, hasPlus(label)
	n.weigh()
}

// hasPlus reports whether one of the levels is a +; of a valid filter.
func hasPlus(levels string) bool { return strings.IndexByte(levels, '+') >= 0 }

// firstLevel is the first of one or more levels.
func firstLevel(levels string) string {
	level, _, _ := strings.Cut(levels, "/")
	return level
}

// startsWith reports whether the first of the levels is this one.
func startsWith[T string | []byte](levels string, level T) bool {
	n := len(level)
	return len(levels) >= n && levels[:n] == string(level) && (len(levels) == n || levels[n] == '/')
}

// commonLevels is how many bytes the levels have that both begin with: at least
// their first is the same.
func commonLevels(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	if (n == len(a) || a[n] == '/') && (n == len(b) || b[n] == '/') {
		return n
	}
	return strings.LastIndexByte(a[:n], '/')
}

// attach makes c a child.
func (n *node) attach(c *node) {
	if n.kids == nil {
		n.kids = &kids{}
	}
	if startsWith(c.label, "+") {
		n.kids.plus = c
	} else {
		n.kids.add(c)
	}
}

func (n *node) detach(c *node) {
	if k := n.kids; c == k.plus {
		k.plus = nil
	} else {
		k.remove(c)
	}
	if n.kids.empty() {
		n.kids = nil
	}
}

// child is the child whose label begins with the level, or nil.
func (n *node) child(level string) *node {
	if level == "+" && n.kids != nil {
		return n.kids.plus
	}
	return findKid(n.kids, level)
}

// findKid is the child whose label begins with a level that is not +, or nil.
func findKid[T string | []byte](k *kids, level T) *node {
	if k == nil {
		return nil
	}
	if k.index != nil {
		return k.index[string(level)]
	}
	for _, c := range k.list {
		if startsWith(c.label, level) {
			return c
		}
	}
	return nil
}

func (k *kids) empty() bool { return k.plus == nil && len(k.list) == 0 && len(k.index) == 0 }

func (k *kids) add(c *node) {
	if k.index == nil {
		if len(k.list) < manyKids {
			k.list = append(k.list, c)
			return
		}
		k.index = make(map[string]*node, 2*manyKids)
		k.steps = make(map[int32]int32)
		for _, o := range k.list {
			k.enter(o)
		}
		k.list = nil
	}
	k.enter(c)
}

func (k *kids) enter(c *node) {
	k.index[firstLevel(c.label)] = c
	k.count(c.steps, 1)
}

// remove takes c out, whose steps are those that it was entered with.
func (k *kids) remove(c *node) {
	if k.index == nil {
		for i, o := range k.list {
			if o == c {
				last := len(k.list) - 1
				k.list[i], k.list[last] = k.list[last], nil
				k.list = k.list[:last]
				return
			}
		}
		return
	}
	delete(k.index, firstLevel(c.label))
	k.count(c.steps, -1)
	if len(k.index) <= manyKids/2 {
		for _, o := range k.index {
			k.list = append(k.list, o)
		}
		k.index, k.steps, k.most = nil, nil, 0
	}
}

// count notes that n more children in the index have so many steps.
func (k *kids) count(steps, n int32) {
	if k.steps[steps] += n; k.steps[steps] > 0 {
		k.most = max(k.most, steps)
		return
	}
	delete(k.steps, steps)
	if steps == k.most {
		k.most = 0
		for s := range k.steps {
			k.most = max(k.most, s)
		}
	}
}

// dearest is the highest number of steps that one of the children takes, but that
// with +.
func (k *kids) dearest() int32 {
	most := k.most
	for _, c := range k.list {
		most = max(most, c.steps)
	}
	return most
}

// only is the one child that there is, or nil.
func (n *node) only() *node {
	k := n.kids
	switch {
	case k == nil || len(k.index) > 0:
		return nil
	case len(k.list) == 0:
		return k.plus
	case len(k.list) == 1 && k.plus == nil:
		return k.list[0]
	}
	return nil
}

func (n *node) empty() bool {
	return n.here == nil && n.hash == nil && n.kids == nil
}

// trail are the nodes from the root to one.
type trail []*node

func (t trail) end() *node { return t[len(t)-1] }

// cutHash splits a filter into its levels, and whether # follows. bare tells that
// there are none: it is #.
func cutHash(filter string) (path string, hash, bare bool) {
	if filter == "#" {
		return "", true, true
	}
	path, hash = strings.CutSuffix(filter, "/#")
	return path, hash, false
}

// place is where the subscribers of a filter are: in the node at the end of its
// path.
func (n *node) place(hash bool) **subscribers {
	if hash {
		return &n.hash
	}
	return &n.here
}

// grow appends to t, which is the root, the nodes on the path of a filter, which
// are made if they are not there.
func (t trail) grow(filter string) (way trail, place **subscribers) {
	rest, hash, done := cutHash(filter)
	for !done {
		n := t.end()
		c := n.child(firstLevel(rest))
		if c == nil {
			c = newNode(rest)
			n.attach(c)
			t = append(t, c)
			break
		}
		common := commonLevels(c.label, rest)
		if common < len(c.label) {
			c = n.split(c, common)
		}
		t = append(t, c)
		if done = common == len(rest); !done {
			rest = rest[common+1:]
		}
	}
	t.weigh()
	return t, t.end().place(hash)
}

// split puts a node into the edge to c, after so many bytes of its label.
func (n *node) split(c *node, at int) *node {
	n.detach(c)
	upper := &node{}
	below := c.label[at+1:]
	head := strings.Clone(c.label[:at])
	c.setLabel(below)
	upper.attach(c)
	upper.setLabel(head)
	n.attach(upper)
	return upper
}

// weigh passes on what the last node takes now. The others are what they were
// weighed as.
func (t trail) weigh() {
	for i := len(t) - 1; i >= 0; i-- {
		c := t[i]
		before := c.steps
		c.weigh()
		if i > 0 {
			t[i-1].reweighed(c, before)
		}
	}
}

// reweighed notes that child c has other steps than before.
func (n *node) reweighed(c *node, before int32) {
	if k := n.kids; c != k.plus && k.index != nil && c.steps != before {
		n.kids.count(c.steps, 1)
		n.kids.count(before, -1)
	}
}

// find appends to t, which is the root, the nodes on the path of a filter. place is
// nil if it is not in the tree.
func (t trail) find(filter string) (way trail, place **subscribers) {
	rest, hash, done := cutHash(filter)
	for !done {
		c := t.end().child(firstLevel(rest))
		if c == nil || !strings.HasPrefix(rest, c.label) {
			return t, nil
		}
		t = append(t, c)
		if done = len(rest) == len(c.label); done {
			break
		}
		if rest[len(c.label)] != '/' {
			return t, nil
		}
		rest = rest[len(c.label)+1:]
	}
	return t, t.end().place(hash)
}

// prune takes away what is not needed any more after the last node has lost a
// filter: nodes without filters and with less than two children.
func (t trail) prune() {
	for i := len(t) - 1; i > 0; i-- {
		n, parent := t[i], t[i-1]
		before := n.steps
		switch c := n.only(); {
		case n.empty():
			parent.detach(n)
		case c != nil && n.here == nil && n.hash == nil:
			parent.detach(n)
			c.setLabel(n.label + "/" + c.label)
			parent.attach(c)
		default:
			n.weigh()
			parent.reweighed(n, before)
		}
	}
	t[0].weigh()
}

// firstOf is the first level of a topic name. bytes.Cut is slower.
func firstOf(topic []byte) []byte {
	if i := bytes.IndexByte(topic, '/'); i >= 0 {
		return topic[:i]
	}
	return topic
}

// enter compares the label with the levels that a topic name begins with, of which
// the first is known to match. rest are those that follow, more whether there are
// any.
func (n *node) enter(topic, first []byte) (rest []byte, more, ok bool) {
	size := len(n.label)
	switch {
	case n.wild && size == 1:
		size = len(first)
	case n.wild:
		return enterWild(n.label, topic)
	case size == len(first): // so it is this level
	case len(topic) < size || string(topic[:size]) != n.label:
		return nil, false, false
	}
	switch {
	case len(topic) == size:
		return nil, false, true
	case topic[size] != '/':
		return nil, false, false
	}
	return topic[size+1:], true, true
}

func enterWild(label string, topic []byte) (rest []byte, more, ok bool) {
	for {
		level, labels, below := strings.Cut(label, "/")
		have, rest, more := bytes.Cut(topic, []byte{'/'})
		switch {
		case level != "+" && level != string(have):
			return nil, false, false
		case !below:
			return rest, more, true
		case !more:
			return nil, false, false
		}
		label, topic = labels, rest
	}
}

// search looks for the subscribers of what is left of a topic name; more tells
// whether there are levels left.
func (n *node) search(topic []byte, more bool, g *gathering) {
	if n.hash != nil {
		g.add(n.hash)
	}
	if !more {
		if n.here != nil {
			g.add(n.here)
		}
		return
	}
	if n.kids == nil {
		return
	}
	first := firstOf(topic)
	if n.kids.plus != nil {
		g.try(n.kids.plus, topic, first)
	}
	if c := findKid(n.kids, first); c != nil {
		g.try(c, topic, first)
	}
}

// of is search for the subscriptions of one session.
func (n *node) of(s *Session, topic []byte, more bool, dst []match) []match {
	dst = n.hash.of(s, dst)
	if !more {
		return n.here.of(s, dst)
	}
	if n.kids == nil {
		return dst
	}
	first := firstOf(topic)
	if n.kids.plus != nil {
		dst = n.kids.plus.tryOf(s, topic, first, dst)
	}
	if c := findKid(n.kids, first); c != nil {
		dst = c.tryOf(s, topic, first, dst)
	}
	return dst
}

func (n *node) tryOf(s *Session, topic, first []byte, dst []match) []match {
	if rest, more, ok := n.enter(topic, first); ok {
		return n.of(s, rest, more, dst)
	}
	return dst
}
