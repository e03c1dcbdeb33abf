package broker

import "strings"

// What subscriptions may cost. A subscription takes memory, which is bounded by
// their number and the bytes of their filters; and it takes time of every publish.
//
// A search looks at each node of the tree once at most, but + makes it go two ways:
// filters that have a + or a name at each of many levels make it look at all of
// them. It cannot give up half-way, since then messages were lost. So the tree
// always knows the most steps that a search can take (node.steps of its root), and
// a filter that would raise this above a limit is refused when it is subscribed.
//
// Only dear filters are refused. All others together, of all clients, can make a
// search look at some 7 000 nodes, which only topic names of more than 20 levels
// get near to: the nodes at depth d that are reached by p times + are C(d, p) at
// most.

// plainWays and plainBytes say which filters are not dear: ways are the nodes that
// filters with so many levels and so many + at most can have on the way of one
// topic name. This takes in all filters with 10 levels, those of 14 levels with 3
// times +, of 22 with 2, of 62 with 1, and all without +.
const (
	plainWays  = 2047
	plainBytes = 512
)

// dear reports whether a filter with wildcards counts towards the limits on steps.
func dear(filter string) bool {
	path, _, _ := cutHash(filter)
	if !hasWildcards(filter) {
		return false
	}
	if len(path) > plainBytes {
		return true
	}
	levels, pluses := strings.Count(path, "/")+1, strings.Count(path, "+")
	if pluses == 0 {
		return false
	}
	ways, nodes := 0, 1 // nodes is C(levels+1, i+1): those with i times +
	for i := range pluses + 1 {
		nodes = nodes * (levels + 1 - i) / (i + 1)
		if ways += nodes; ways > plainWays {
			return true
		}
	}
	return false
}

// shape is a tree of the dear filters of one client, without subscribers. What a
// search takes in the tree of all is at most the sum of what it takes in these.
type shape struct {
	root node
	more map[string]int // subscriptions of a filter besides the first: shared ones
}

// present marks the filters of a shape.
var present = &subscribers{}

func (h *shape) add(filter string) {
	_, place := trail{&h.root}.grow(filter)
	if *place == nil {
		*place = present
		return
	}
	if h.more == nil {
		h.more = make(map[string]int)
	}
	h.more[filter]++
}

func (h *shape) remove(filter string) {
	if h.more[filter] > 0 {
		if h.more[filter]--; h.more[filter] == 0 {
			delete(h.more, filter)
		}
		return
	}
	if way, place := (trail{&h.root}).find(filter); place != nil && *place != nil {
		*place = nil
		way.prune()
	}
}

// SubscriptionLimit is a limit that refuses a subscription.
type SubscriptionLimit uint8

// The limits.
const (
	LimitCount    SubscriptionLimit = iota // subscriptions of one client
	LimitBytes                             // of the filters of one client
	LimitAllBytes                          // of all filters
	LimitSteps                             // of a search among the filters of one client
	LimitAllSteps                          // of a search among all filters
	SubscriptionLimits
)

func (l SubscriptionLimit) String() string {
	return [...]string{"count", "bytes", "bytes_total", "steps", "steps_total"}[l]
}

// reserve makes room in the tree for a filter that the session has not subscribed
// to, and reports whether it may. With always it may. add or cancel follows.
func (t *topicTree) reserve(s *Session, filter string, always bool) (over SubscriptionLimit, ok bool) {
	filter = topicFilter(filter)
	if t.steps == 0 && t.clientSteps == 0 || !dear(filter) {
		return 0, true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.shapes[s]
	if h == nil {
		h = &shape{}
		t.shapes[s] = h
	}
	before := h.root.steps
	h.add(filter)
	if exceeds(h.root.steps, before, t.clientSteps) && !always {
		t.refund(s, filter)
		return LimitSteps, false
	}
	before = t.root.steps
	var room [24]*node
	way, place := t.way(room[:0]).grow(filter)
	switch {
	case *place != nil:
	case exceeds(t.root.steps, before, t.steps) && !always:
		way.prune()
		t.refund(s, filter)
		return LimitAllSteps, false
	default:
		*place = &subscribers{}
	}
	return 0, true
}

func exceeds(steps, before int32, limit int) bool {
	return limit > 0 && steps > before && int(steps) > limit
}

// cancel takes a reservation back, of a subscription that was not made.
func (t *topicTree) cancel(s *Session, filter string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	filter = topicFilter(filter)
	t.refund(s, filter)
	var room [24]*node
	if way, place := t.way(room[:0]).find(filter); place != nil && *place != nil && len((*place).list) == 0 {
		*place = nil
		way.prune()
	}
}

// release ends what reserve has counted for a subscription.
func (t *topicTree) release(s *Session, filter string) {
	if filter = topicFilter(filter); dear(filter) {
		t.mu.Lock()
		t.refund(s, filter)
		t.mu.Unlock()
	}
}

// releaseAll is release for all subscriptions of a session.
func (t *topicTree) releaseAll(s *Session) {
	t.mu.Lock()
	delete(t.shapes, s)
	t.mu.Unlock()
}

// refund takes a filter from the client's shape. The lock is held.
func (t *topicTree) refund(s *Session, filter string) {
	if h := t.shapes[s]; h != nil {
		if h.remove(filter); h.root.empty() {
			delete(t.shapes, s)
		}
	}
}

// Steps is the most that it takes to find the subscribers of one message: about as
// many nodes of the tree of filters are looked at.
func (b *Broker) Steps() int {
	b.topics.mu.RLock()
	defer b.topics.mu.RUnlock()
	return int(b.topics.root.steps)
}

// admission decides about the new filters of one SUBSCRIBE.
type admission struct {
	s     *Session
	fresh map[string]struct{}
	bytes int64 // of these
}

// admit reports whether the session may have one more subscription. If so, it has a
// reservation.
func (a *admission) admit(filter string) bool {
	s, b := a.s, a.s.b
	s.mu.Lock()
	_, had := s.subs[filter]
	count, bytes, account := len(s.subs)+len(a.fresh), int64(s.subBytes)+a.bytes+int64(len(filter)), s.account
	s.mu.Unlock()
	if _, again := a.fresh[filter]; had || again {
		return true
	}
	over, ok := LimitCount, false
	switch o := &b.opt; {
	case o.SubscriptionLimit > 0 && count >= o.SubscriptionLimit:
	case o.SubscriptionBytes > 0 && bytes > o.SubscriptionBytes:
		over = LimitBytes
	case !b.filters.fits(account, a.bytes+int64(len(filter))):
		over = LimitAllBytes
	default:
		over, ok = b.topics.reserve(s, filter, false)
	}
	if !ok {
		b.Stats.SubsRefused[over].Add(1)
		return false
	}
	if a.fresh == nil {
		a.fresh = make(map[string]struct{})
	}
	a.fresh[filter] = struct{}{}
	a.bytes += int64(len(filter))
	return true
}

// cancel gives all reservations back.
func (a *admission) cancel() {
	for filter := range a.fresh {
		a.s.b.topics.cancel(a.s, filter)
	}
}

// topicFilter is the part of a filter that is compared with topic names: without
// the share name.
func topicFilter(filter string) string {
	if isShared(filter) {
		_, filter, _ = cutShare(filter)
	}
	return filter
}
