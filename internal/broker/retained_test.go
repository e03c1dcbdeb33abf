package broker

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/homing-mq/homing/internal/mq"
)

// TestRetainedFind: every filter finds exactly the retained topics that it
// matches, in chunks of any size. [MQTT-3.3.1-6] [MQTT-4.7.1-2] [MQTT-4.7.2-1]
func TestRetainedFind(t *testing.T) {
	long := strings.Repeat("l", 200) // three of them are more than a key has
	words := []string{"", "a", "b", "aa", "a\x01", "$x", "é", "0", "c", long, long + "m", long[1:]}
	rng := rand.New(rand.NewPCG(1, 2))
	random := func(more ...string) string {
		from := append(more, words...)
		levels := make([]string, 1+rng.IntN(5))
		for i := range levels {
			levels[i] = from[rng.IntN(len(from))]
		}
		return strings.Join(levels, "/")
	}
	for range 300 {
		var r retainedSet
		topics := make(map[string]string) // by key
		for range rng.IntN(60) {
			topic := random()
			if mq.ValidTopic([]byte(topic)) {
				topics[levelKey(topic)] = topic
				r.set(levelKey(topic), retained{seq: 1})
			}
		}
		for range 40 {
			filter := random("+", "+", "+")
			if rng.IntN(3) == 0 {
				filter += "/#"
			}
			if rng.IntN(20) == 0 {
				filter = "#"
			}
			if !mq.ValidFilter([]byte(filter)) {
				continue
			}
			var want []string
			for _, topic := range topics {
				if mq.MatchFilter([]byte(filter), []byte(topic)) {
					want = append(want, topic)
				}
			}
			slices.Sort(want)
			var got []string
			chunk := 1 + rng.IntN(5)
			for from := ""; ; {
				list, next := r.find(filter, from, chunk, nil)
				for _, f := range list {
					topic := topics[f.key]
					if len(topic) <= keyBytes || mq.MatchFilter([]byte(filter), []byte(topic)) {
						got = append(got, topic)
					}
				}
				if from = next; next == "" {
					break
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Fatalf("filter %q of %v: got %q, want %q", filter, topics, got, want)
			}
		}
	}
}
