package broker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// TestTopicTreeDeep is TestTopicTree with more levels and more names, and looks
// into the tree after each change.
func TestTopicTreeDeep(t *testing.T) {
	for seed := range uint64(torture(6)) {
		treeOfMany(t, rng(seed))
	}
}

func treeOfMany(t *testing.T, r *rand.Rand) {
	names := 2 + r.IntN(20) // more than manyKids, or less
	levels := func(most int, wild bool) string {
		out := make([]string, 1+r.IntN(most))
		for i := range out {
			switch out[i] = fmt.Sprint(r.IntN(names)); {
			case wild && r.IntN(3) == 0:
				out[i] = "+"
			case r.IntN(20) == 0:
				out[i] = ""
			case i == 0 && r.IntN(20) == 0:
				out[i] = "$x"
			}
		}
		return strings.Join(out, "/")
	}
	var tree topicTree
	tree.init(nil)
	sessions := []*Session{{id: "0"}, {id: "1"}, {id: "2"}}
	list := map[listed]mq.Subscription{}
	for i := range 1500 {
		k := listed{sessions[r.IntN(3)], levels(9, true)}
		if r.IntN(4) == 0 {
			k.filter += "/#"
		}
		if !mq.ValidFilter([]byte(k.filter)) {
			continue
		}
		if i%300 > 200 && len(list) > 0 { // it shrinks now and then
			for k = range list {
				break
			}
			delete(list, k)
			tree.remove(k.filter, k.s)
		} else {
			sub := mq.Subscription{Filter: k.filter, QoS: mq.QoS(r.IntN(3))}
			list[k] = sub
			tree.add(sub, k.s)
		}
		if i%10 == 0 {
			soundTree(t, &tree.root, list)
			if topic := levels(11, false); mq.ValidTopic([]byte(topic)) {
				sameMatches(t, &tree, list, topic, nil)
				boundedSearch(t, &tree, topic)
			}
		}
	}
	for k := range list {
		tree.remove(k.filter, k.s)
	}
	if !tree.root.empty() || len(tree.exact) > 0 {
		t.Fatalf("left in an empty tree: %+v %v", tree.root, tree.exact)
	}
}

// boundedSearch: no search looks at more nodes than the tree says.
func boundedSearch(t *testing.T, tree *topicTree, topic string) (visits int) {
	t.Helper()
	g := gathering{tree: tree, topic: []byte(topic)}
	tree.search(&g)
	if g.visits > int(tree.root.steps) {
		t.Fatalf("%q: %d nodes were looked at, the tree says %d at most", topic, g.visits, tree.root.steps)
	}
	g.done()
	return g.visits
}

// soundTree checks that the tree is as small as can be, and has weighed itself well.
func soundTree(t *testing.T, root *node, list map[listed]mq.Subscription) {
	t.Helper()
	filters := map[string]bool{}
	for k := range list {
		if hasWildcards(k.filter) {
			filters[k.filter] = true
		}
	}
	nodes, sets := 0, 0
	var look func(n *node) int32
	look = func(n *node) int32 {
		nodes++
		children, steps, dearest := 0, n.weight(), int32(0)
		if n.kids != nil && n.kids.plus != nil {
			children++
			steps += look(n.kids.plus)
		}
		if n.kids != nil {
			all := slices.Clone(n.kids.list)
			for level, c := range n.kids.index {
				if all = append(all, c); firstLevel(c.label) != level {
					t.Fatalf("child %q is at %q", c.label, level)
				}
			}
			if n.kids.empty() {
				t.Fatal("children without any")
			}
			for _, c := range all {
				children++
				dearest = max(dearest, look(c))
			}
		}
		if n.here != nil {
			sets++
		}
		if n.hash != nil {
			sets++
		}
		if n != root && n.here == nil && n.hash == nil && children < 2 {
			t.Fatalf("node %q is of no use", n.label)
		}
		if steps += dearest; n.steps != steps {
			t.Fatalf("node %q takes %d steps, and says %d", n.label, steps, n.steps)
		}
		return steps
	}
	look(root)
	if sets != len(filters) || nodes > 2*len(filters)+1 {
		t.Fatalf("%d nodes with %d sets for %d filters", nodes, sets, len(filters))
	}
}

// pattern is a filter with a + at each level whose bit is set in places; all other
// levels are "a".
func pattern(places uint64, levels int, end string) string {
	out := make([]string, levels)
	for i := range out {
		if out[i] = "a"; places>>i&1 == 1 {
			out[i] = "+"
		}
	}
	return strings.Join(out, "/") + end
}

const (
	limitSteps  = 16384
	limitClient = 2048
)

func worldOfSteps(t *testing.T, auth mq.Authorizer) *world {
	w := newWorld(t, Options{SubscriptionLimit: 10000, MatchSteps: limitSteps, MatchStepsClient: limitClient}, store.SyncOS)
	if auth != nil {
		w.stop()
		w.auth = auth
		w.start()
	}
	return w
}

// ask subscribes to filters, and tells how many were granted.
func (w *world) ask(p *peer, filters ...string) (granted int) {
	w.t.Helper()
	for chunk := range slices.Chunk(filters, 500) {
		subs := make([]mq.Subscription, len(chunk))
		for i, f := range chunk {
			subs[i].Filter = f
		}
		for i, r := range w.b.Subscribe(p.wire.sess, &mq.Principal{ClientID: p.id}, subs, &w.batch) {
			switch r {
			case Granted:
				granted++
			case TooMany:
			default:
				w.t.Fatalf("%q: result %d", chunk[i], r)
			}
		}
		w.batch.Flush()
	}
	return granted
}

// TestDearFilters: whatever clients subscribe to, a search takes no more steps than
// the limit; and filters as everybody has them are never refused.
func TestDearFilters(t *testing.T) {
	w := worldOfSteps(t, nil)
	defer w.stop()
	var dearOnes []string // 8192 filters with 199 levels: + or a in the first 13
	for i := range uint64(8192) {
		dearOnes = append(dearOnes, pattern(i, 198, "/b"))
	}
	topic := strings.TrimSuffix(strings.Repeat("a/", 198), "/") + "/c"
	clients, granted := 0, 0
	var last *peer
	for got := -1; got != 0 && clients < 100; clients++ {
		last = w.online(&peer{id: fmt.Sprint("greedy", clients), expiry: 100}, true)
		// What the others have is in the tree already, and costs the server nothing.
		rand.Shuffle(len(dearOnes), func(i, k int) { dearOnes[i], dearOnes[k] = dearOnes[k], dearOnes[i] })
		got = w.ask(last, dearOnes[:2000]...)
		granted += got
		if clients == 0 && (got == 0 || w.b.Steps() > limitClient) {
			t.Fatalf("one client got %d filters of %d steps", got, w.b.Steps())
		}
	}
	start := time.Now()
	visits := boundedSearch(t, &w.b.topics, topic)
	t.Logf("%d filters granted to %d clients; %d steps, %d nodes looked at, %v", granted, clients, w.b.Steps(), visits, time.Since(start))
	if s := w.b.Steps(); s > limitSteps || s < limitClient {
		t.Errorf("a search takes %d steps, the limit is %d", s, limitSteps)
	}
	if n := w.b.Stats.SubsRefused[LimitSteps].Load(); n == 0 {
		t.Error("no refusal counted")
	}

	innocent := w.online(&peer{id: "innocent"}, true)
	var usual []string
	for i := range uint64(1024) { // all that can be made of ten levels
		usual = append(usual, pattern(i, 10, ""), pattern(i, 10, "/#"))
	}
	usual = append(usual, "#", "+/+/+/+", "a/+/a/a/a/a/a/a/a/a/+/a/a", pattern(1<<60, 62, ""), pattern(0, 199, "/#"))
	if n := w.ask(innocent, usual...); n != len(usual) {
		t.Errorf("%d of %d usual filters granted", n, len(usual))
	}
	w.send("a/a/a/a/a/a/a/a/a/a", "1", 1, false, &results{}, 1)
	if w.drain(innocent); len(innocent.got) != 1 {
		t.Errorf("%d messages arrived, want 1", len(innocent.got))
	}
}

// TestPlainFilters: all filters together that are never refused make a search look
// at some 7 000 nodes.
func TestPlainFilters(t *testing.T) {
	var tree topicTree
	tree.init(nil)
	s, filters := &Session{}, 0
	var all func(places uint64, from, levels int)
	all = func(places uint64, from, levels int) {
		filter := pattern(places, levels, "")
		if levels > 63 || dear(filter) {
			return
		}
		filters++
		tree.add(mq.Subscription{Filter: filter + "/#"}, s)
		for i := from; i < levels; i++ {
			all(places|1<<i, i+1, levels)
		}
	}
	for levels := range 64 {
		if levels > 0 {
			all(0, 0, levels)
		}
	}
	start := time.Now()
	visits := boundedSearch(t, &tree, deep("a", 199))
	t.Logf("%d filters, %d nodes looked at, %d steps, %v", filters, visits, tree.root.steps, time.Since(start))
	if visits > 7200 || filters < 3000 {
		t.Errorf("%d filters made a search look at %d nodes", filters, visits)
	}
	if !dear(pattern(7, 15, "/b")) || !dear("+/"+strings.Repeat("a", plainBytes)) || dear(strings.Repeat("a", 2000)) {
		t.Error("what is dear has changed")
	}
}

// noSubscriptions is a store that can be made to refuse subscriptions.
type noSubscriptions struct {
	mq.Store
	fails atomic.Bool
}

func (h *noSubscriptions) PutSubscriptions(clientID string, subs []mq.Subscription) error {
	if h.fails.Load() {
		return &mq.Error{Code: mq.StoreFailed, Text: "fails"}
	}
	return h.Store.PutSubscriptions(clientID, subs)
}

// TestStepsComeBack: what was counted for a filter goes with it: when it is
// unsubscribed, could not be stored, or the session ends; and a restart counts it
// again.
func TestStepsComeBack(t *testing.T) {
	w := worldOfSteps(t, nil)
	h := &noSubscriptions{}
	w.wrap = func(st mq.Store) mq.Store { h.Store = st; return h }
	w.stop()
	w.start()
	defer func() { w.stop() }()
	p := w.online(&peer{id: "p", expiry: 100}, true)
	filters := []string{pattern(0x5555, 100, "/b"), pattern(0xAAAA, 100, "/#"), "$share/g/" + pattern(0x5555, 100, "/b"), "$share/h/" + pattern(0xAAAA, 100, "/#"), pattern(0x777, 14, "")}
	nothing := func(when string) {
		t.Helper()
		if w.b.topics.mu.Lock(); !w.b.topics.root.empty() || len(w.b.topics.shapes) > 0 {
			t.Errorf("%s: %+v, %d shapes", when, w.b.topics.root, len(w.b.topics.shapes))
		}
		w.b.topics.mu.Unlock()
		if n, s := w.b.Stats.SubBytes.Load(), w.b.Steps(); n != 0 || s > 1 {
			t.Errorf("%s: %d bytes, %d steps", when, n, s)
		}
	}
	unsubscribe := func(filters ...string) {
		t.Helper()
		if _, err := w.b.Unsubscribe(p.wire.sess, filters, &w.batch); err != nil {
			t.Fatal(err)
		}
		w.batch.Flush()
	}
	if n := w.ask(p, append(filters, filters...)...); n != 2*len(filters) {
		t.Fatalf("%d of %d granted", n, 2*len(filters))
	}
	steps, size := w.b.Steps(), w.b.Stats.SubBytes.Load()
	unsubscribe(filters[2:]...)
	if n := len(w.b.topics.shapes); n != 1 {
		t.Errorf("%d shapes with two filters left", n)
	}
	unsubscribe(filters...)
	nothing("unsubscribed")

	h.fails.Store(true)
	subs := make([]mq.Subscription, len(filters))
	for i := range subs {
		subs[i].Filter = filters[i]
	}
	if r := w.b.Subscribe(p.wire.sess, &mq.Principal{}, subs, &w.batch); r[0] != StoreError {
		t.Fatalf("result %d of a store that fails", r[0])
	}
	nothing("not stored")
	h.fails.Store(false)

	w.ask(p, filters...)
	w.stop()
	w.start()
	if w.b.Steps() != steps || w.b.Stats.SubBytes.Load() != size || len(w.b.topics.shapes) != 1 {
		t.Errorf("%d steps, %d bytes after a restart; %d and %d before", w.b.Steps(), w.b.Stats.SubBytes.Load(), steps, size)
	}
	p = w.online(&peer{id: "p"}, true) // starts clean
	nothing("session ended")
}

// TestSubscriptionBytes: filters are bounded by bytes, those of one client and all.
func TestSubscriptionBytes(t *testing.T) {
	w := newWorld(t, Options{SubscriptionBytes: 10_000, SubscriptionAll: 25_000}, store.SyncOS)
	defer w.stop()
	var got []int
	for c := range 4 {
		p := w.online(&peer{id: fmt.Sprint(c)}, true)
		n := 0
		for i := range 20 {
			n += w.ask(p, fmt.Sprintf("%03d/", 100*c+i)+strings.Repeat("x", 996))
		}
		got = append(got, n)
		if w.ask(p, fmt.Sprintf("%03d/", 100*c)+strings.Repeat("x", 996)) != min(n, 1) {
			t.Error("a subscription that is there was refused")
		}
	}
	if want := []int{10, 10, 5, 0}; !slices.Equal(got, want) {
		t.Errorf("%d of 20 filters granted, want %d", got, want)
	}
	one, all := w.b.Stats.SubsRefused[LimitBytes].Load(), w.b.Stats.SubsRefused[LimitAllBytes].Load()
	if one != 20 || all != 15+20+1 {
		t.Errorf("%d and %d refusals counted, want 20 and 36", one, all)
	}
}

// readers grants parts only, and counts how often it is asked.
type readers struct{ asked atomic.Int64 }

func (r *readers) Allow(_ *mq.Principal, a mq.Action, _ []byte) bool {
	if a == mq.Subscribe {
		r.asked.Add(1)
	}
	return true
}
func (r *readers) Grant(*mq.Principal, []byte) mq.Grant { return mq.GrantPart }
func (r *readers) Version() uint64                      { return 0 }
func (r *readers) Changed(func())                       {}

// TestOverlappingClients: of clients with many filters that all match, each gets a
// message once, and rights are asked once for each, not for each filter.
func TestOverlappingClients(t *testing.T) {
	const clients = 40
	auth := &readers{}
	w := worldOfSteps(t, auth)
	defer w.stop()
	var filters []string
	for i := range uint64(1024) {
		filters = append(filters, pattern(i, 10, ""))
		if i < 512 {
			filters = append(filters, pattern(i, 9, "/#"))
		}
	}
	var all []*peer
	for i := range clients {
		p, who := w.online(&peer{id: fmt.Sprint("p", i)}, true), &mq.Principal{}
		for chunk := range slices.Chunk(filters, 512) { // as a connection would: one principal
			subs := make([]mq.Subscription, len(chunk))
			for i := range subs {
				subs[i].Filter = chunk[i]
			}
			w.b.Subscribe(p.wire.sess, who, subs, &w.batch)
		}
		all = append(all, p)
	}
	w.batch.Flush()
	auth.asked.Store(0)
	start := time.Now()
	found := w.b.topics.match([]byte(deep("a", 10)), nil, nil)
	t.Logf("%d subscriptions of %d clients united in %v", clients*len(filters), clients, time.Since(start))
	if n := auth.asked.Load(); len(found) != clients || n != clients {
		t.Errorf("%d clients found, want %d; rights asked %d times", len(found), clients, n)
	}
	w.send(deep("a", 10), "1", 0, false, &results{}, 1)
	w.drain(all...)
	for _, p := range all {
		if len(p.got) != 1 {
			t.Errorf("client %s got %d messages, want 1", p.id, len(p.got))
		}
	}
}

// TestSubscriptionsOf: the subscriptions of one session that match are the same
// whether they are looked for in the tree or among its own.
func TestSubscriptionsOf(t *testing.T) {
	w := worldOfSteps(t, nil)
	defer w.stop()
	p := w.online(&peer{id: "p"}, true)
	r := rng(1)
	filters := []string{"$share/g/a/+", "a/#"}
	for range 20 {
		if f := randomFilter(r); mq.ValidFilter([]byte(f)) && !strings.Contains(f, "p2p") {
			filters = append(filters, f)
		}
	}
	w.ask(p, filters...)
	want := map[string]int{}
	topics := []string{"a/a", "a", "a/b/aa/b", "$x/a", "/a", "b//a/"}
	for range 100 {
		if topic := randomTopic(r); mq.ValidTopic([]byte(topic)) {
			topics = append(topics, topic)
		}
	}
	s := p.wire.sess
	few := w.b.Steps()
	for _, topic := range topics {
		want[topic] = len(w.b.topics.of(s, []byte(topic), nil))
	}
	greedy := w.online(&peer{id: "greedy"}, true)
	for i := range uint64(200) {
		w.ask(greedy, "z/"+pattern(i, 9, "/b"))
	}
	if few >= ownFrom || w.b.Steps() < 2*len(filters) || w.b.Steps() < ownFrom {
		t.Fatalf("%d steps, then %d: both ways are not tried", few, w.b.Steps())
	}
	for _, topic := range topics {
		if n := len(w.b.topics.of(s, []byte(topic), nil)); n != want[topic] {
			t.Errorf("%q: %d subscriptions match, then %d", topic, want[topic], n)
		}
	}
}
