package broker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/homing-mq/homing/internal/mq"
)

// levels of random topics and filters: few, so that filters overlap.
var someLevels = []string{"", "a", "b", "aa", "$x", "p2p"}

func randomTopic(r *rand.Rand, more ...string) string {
	from := slices.Concat(someLevels, more)
	levels := make([]string, 1+r.IntN(4))
	for i := range levels {
		levels[i] = from[r.IntN(len(from))]
	}
	return strings.Join(levels, "/")
}

func randomFilter(r *rand.Rand) string {
	switch f := randomTopic(r, "+", "+", "+"); {
	case r.IntN(12) == 0:
		return "#"
	case r.IntN(3) == 0:
		return f + "/#"
	default:
		return f
	}
}

// TestTopicTree: the tree finds whom a list of all subscriptions finds, with the
// highest QoS, and leaves nothing behind.
// [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.2-1] [MQTT-4.7.3-4] [MQTT-3.3.4-2] [MQTT3-4.7.1-2] [MQTT3-4.7.1-3]
// [MQTT3-4.7.2-1] [MQTT3-4.7.3-4] [MQTT3-3.3.5-1]
func TestTopicTree(t *testing.T) {
	for seed := range uint64(torture(12)) {
		treeAgainstList(t, rng(seed), 2+int(seed%3)*20)
	}
}

type listed struct {
	s      *Session
	filter string
}

func treeAgainstList(t *testing.T, r *rand.Rand, count int) {
	var tree topicTree
	tree.init(nil)
	sessions := make([]*Session, count)
	for i := range sessions {
		sessions[i] = &Session{id: fmt.Sprint(i)}
	}
	list := map[listed]mq.Subscription{}
	for range 4000 {
		k := listed{sessions[r.IntN(count)], randomFilter(r)}
		switch n := r.IntN(10); {
		case n < 3 && mq.ValidFilter([]byte(k.filter)):
			sub := mq.Subscription{Filter: k.filter, QoS: mq.QoS(r.IntN(3)), NoLocal: r.IntN(2) == 0}
			list[k] = sub
			tree.add(sub, k.s)
		case n < 6:
			if r.IntN(3) > 0 { // one that is there
				for k = range list {
					break
				}
			}
			if k.filter != "" {
				delete(list, k)
				tree.remove(k.filter, k.s)
			}
		default:
			if topic := randomTopic(r); mq.ValidTopic([]byte(topic)) {
				sameMatches(t, &tree, list, topic, sessions[r.IntN(count)])
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

func sameMatches(t *testing.T, tree *topicTree, list map[listed]mq.Subscription, topic string, publisher *Session) {
	t.Helper()
	want := map[*Session]mq.QoS{}
	for k, sub := range list {
		if mq.MatchFilter([]byte(k.filter), []byte(topic)) && (!sub.NoLocal || k.s != publisher) {
			want[k.s] = max(want[k.s], sub.QoS)
		}
	}
	got := tree.match([]byte(topic), publisher, nil)
	if len(got) != len(want) {
		t.Fatalf("%q: %d sessions found, want %d", topic, len(got), len(want))
	}
	for _, m := range got {
		if qos, ok := want[m.s]; !ok || m.qos != qos {
			t.Fatalf("%q: found %+v, want QoS %d", topic, m, qos)
		}
		delete(want, m.s)
	}
}
