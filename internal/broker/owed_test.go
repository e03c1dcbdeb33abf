package broker

import (
	"fmt"
	"slices"
	"testing"

	"github.com/homing-mq/homing/internal/mq"
)

// TestDebts: whatever is owed and paid, the order is that of subscribing, and
// memory is of what is owed.
func TestDebts(t *testing.T) {
	r := rng(3)
	s := &Session{traffic: &noTraffic}
	var want []string
	for i := range 20_000 {
		filter := fmt.Sprint(r.IntN(60))
		at := slices.Index(want, filter)
		if (s.owes(filter) != nil) != (at >= 0) {
			t.Fatalf("%s owed: %v", filter, at < 0)
		}
		if at >= 0 {
			want = slices.Delete(want, at, at+1)
		}
		if i/500%2 == 0 && r.IntN(3) > 0 {
			s.owe(mq.Subscription{Filter: filter})
			want = append(want, filter)
		} else {
			s.oweNot(filter)
		}
		switch {
		case len(want) == 0 && s.owed == nil:
		case len(want) == 0 || s.owed == nil:
			t.Fatalf("%d are owed, and %+v", len(want), s.owed)
		case s.owed.first().sub.Filter != want[0] || len(s.owed.at) != len(want):
			t.Fatalf("%s is the first of %d, want %s of %d", s.owed.first().sub.Filter, len(s.owed.at), want[0], len(want))
		case len(s.owed.list) > 2*len(want)+16:
			t.Fatalf("a list of %d for %d", len(s.owed.list), len(want))
		}
	}
	if noTraffic.owed != nil {
		t.Error("somebody changed noTraffic")
	}
}
