package broker

import (
	"fmt"
	"strings"
	"testing"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// connectedAs connects for a principal, with a link that takes no output.
func (w *world) connectedAs(who *mq.Principal, id string, clean bool) *Session {
	w.t.Helper()
	w.batch.Begin()
	s, err := w.b.Connect(ConnectRequest{ClientID: id, Principal: who, Conn: &link{full: true}, CleanStart: clean, Expiry: NeverExpires, ReceiveMax: 10}, &w.batch)
	if err != nil {
		w.t.Fatal(err)
	}
	w.batch.Flush()
	return s
}

// subscribedTo returns how many of n filters of 1000 bytes were granted.
func (w *world) subscribedTo(s *Session, who *mq.Principal, n int) (granted int) {
	for i := range n {
		filter := fmt.Sprintf("%s/%02d/", s.id, i)
		filter += strings.Repeat("x", 1000-len(filter))
		if w.b.Subscribe(s, who, []mq.Subscription{{Filter: filter}}, &w.batch)[0] == Granted {
			granted++
		}
	}
	w.batch.Flush()
	return granted
}

// One account may have a share of subscription-bytes-total, over any number of its
// clients, also after a restart when they have come back; others have the rest.
func TestShareOfSubscriptions(t *testing.T) {
	w := newWorld(t, Options{SubscriptionAll: 20_000, Share: 75}, store.SyncOS)
	defer func() { w.stop() }()
	got := 0
	for i := range 5 {
		got += w.subscribedTo(w.connectedAs(greedy, fmt.Sprint("g", i), true), greedy, 4)
	}
	if got != 15 {
		t.Errorf("one account has %d filters of 1000 bytes, its share is 15", got)
	}
	if n := w.b.Stats.SubsRefused[LimitAllBytes].Load(); n != 5 {
		t.Errorf("%d refusals counted, want 5", n)
	}
	if got := w.subscribedTo(w.connectedAs(modest, "m", true), modest, 10); got != 5 {
		t.Errorf("another account has %d, want 5", got)
	}
	w.stop()
	w.start()
	for i := range 5 {
		w.connectedAs(greedy, fmt.Sprint("g", i), false)
	}
	m := w.connectedAs(modest, "m", false)
	if u := &w.b.filters.used; u.Used() != 20_000 || u.Of(mq.AccountOf(greedy)) != 15_000 || u.Of(mq.AccountOf(modest)) != 5_000 {
		t.Errorf("after a restart %d bytes, %d and %d", u.Used(), u.Of(mq.AccountOf(greedy)), u.Of(mq.AccountOf(modest)))
	}
	w.b.Disconnect(m, m.conn, Departure{}, &w.batch)
	w.batch.Flush()
	w.connectedAs(modest, "m", true)
	if u := &w.b.filters.used; u.Used() != 15_000 || u.Of(mq.AccountOf(modest)) != 0 {
		t.Errorf("after a clean start %d bytes, %d of who has none", u.Used(), u.Of(mq.AccountOf(modest)))
	}
}

// What a session holds is on the account of whoever it passes to.
func TestAccountOfPassedSession(t *testing.T) {
	w := newWorld(t, Options{SessionOwner: OwnerAny, SubscriptionAll: 20_000, PendingSize: 1 << 20, PendingAll: 4 << 20, Share: 75}, store.SyncOS)
	defer func() { w.stop() }()
	s := w.connectedAs(greedy, "d", true)
	w.subscribedTo(s, greedy, 3)
	w.b.Subscribe(s, greedy, []mq.Subscription{{Filter: "t", QoS: 0}}, &w.batch)
	for range 5 {
		w.b.Publish(Source{Principal: greedy}, &mq.Message{Topic: []byte("t"), Payload: make([]byte, 100_000), QoS: 1}, &results{}, 0, &w.batch)
	}
	w.batch.Flush()
	for _, who := range []*mq.Principal{modest, greedy, modest} {
		w.connectedAs(who, "d", false)
		other := greedy
		if who == greedy {
			other = modest
		}
		mine, theirs := mq.AccountOf(who), mq.AccountOf(other)
		for name, u := range map[string]*mq.Quota{"filters": &w.b.filters.used, "memory": &w.b.memory.used} {
			if u.Of(theirs) != 0 || u.Of(mine) != u.Used() {
				t.Errorf("%s: %d on the account of who has passed the session on, %d of %d on that of who has it", name, u.Of(theirs), u.Of(mine), u.Used())
			}
		}
	}
}
