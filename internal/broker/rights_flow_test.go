package broker

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mq"
)

// guarded is a wire that notices what is sent on a topic that is forbidden.
type guarded struct {
	wire
	forbidden *atomic.Bool
	broken    *atomic.Int64
}

func (l *guarded) SendPublish(m *mq.Message, h Header, b *Batch) SendResult {
	// Before: what is sent now may have been decided before it was forbidden, and
	// then whoever forbids it waits for the lock that is held now.
	forbidden := l.forbidden.Load()
	if forbidden && strings.HasPrefix(string(m.Topic), "a/secret/") {
		l.broken.Add(1)
	}
	return l.wire.SendPublish(m, h, b)
}

// flow is a client whose goroutine receives, acknowledges, and now and then comes
// again or subscribes again.
type flow struct {
	who
	w       *rightsWorld
	filter  string
	qos     mq.QoS
	slow    bool
	returns bool
	guard   *guarded
	seen    map[string]bool
}

func (f *flow) connect(forbidden *atomic.Bool, broken *atomic.Int64) {
	f.p = &mq.Principal{Kind: mq.KindUser, ClientID: f.id, User: f.user, Standing: new(mq.Standing)}
	room := -1
	if f.slow {
		room = 3
	}
	f.guard = &guarded{wire: wire{room: room}, forbidden: forbidden, broken: broken}
	f.batch.Begin()
	s, err := f.w.b.Connect(ConnectRequest{ClientID: f.id, Principal: f.p, Conn: f.guard, Expiry: f.expiry, ReceiveMax: 20}, &f.batch)
	if err != nil {
		f.w.t.Error(err)
		return
	}
	f.guard.sess, f.owes = s, nil
	f.batch.Flush()
	f.subscribe()
}

// subscribe is refused while there is no right.
func (f *flow) subscribe() {
	f.batch.Begin()
	f.w.b.Subscribe(f.guard.sess, f.p, []mq.Subscription{{Filter: f.filter, QoS: f.qos}}, &f.batch)
	f.batch.Flush()
}

// step receives and acknowledges what is there.
func (f *flow) step() {
	in, acks := f.guard.take()
	f.batch.Begin()
	for _, k := range in {
		f.seen[k.payload] = true
		switch k.qos {
		case 1:
			f.w.b.Puback(f.guard.sess, f.guard, k.pid, &f.batch)
		case 2:
			f.w.b.Pubrec(f.guard.sess, f.guard, k.pid, false, &f.batch)
		}
	}
	for _, a := range acks {
		if a.kind == Pubrel {
			f.w.b.Pubcomp(f.guard.sess, f.guard, a.pid, &f.batch)
		}
	}
	f.batch.Flush()
	if f.slow {
		f.guard.mu.Lock()
		f.guard.room, f.guard.missed = 3, false
		f.guard.mu.Unlock()
		f.batch.Begin()
		f.w.b.Drained(f.guard.sess, f.guard, &f.batch)
		f.batch.Flush()
	}
}

func (f *flow) leave() {
	f.step()
	f.batch.Begin()
	f.w.b.Disconnect(f.guard.sess, f.guard, proper, &f.batch)
	f.batch.Flush()
}

// TestRightsWhileMessagesFlow changes the rules while messages flow to all kinds of
// subscriptions. From when a right has been taken away until it is given back
// nothing is sent by it, to anybody; and what is published afterwards arrives.
func TestRightsWhileMessagesFlow(t *testing.T) {
	w := newRightsWorld(t)
	var forbidden atomic.Bool
	var broken atomic.Int64
	flows := []*flow{
		{filter: "a/#", qos: 0}, {filter: "a/secret/#", qos: 1}, {filter: "a/secret/1", qos: 2},
		{filter: "a/#", qos: 1, slow: true}, {filter: "a/#", qos: 2, slow: true},
		{filter: "a/#", qos: 1, returns: true}, {filter: "a/secret/#", qos: 2, returns: true},
		{filter: "$share/g/a/#", qos: 1}, {filter: "$share/g/a/#", qos: 2, returns: true}, {filter: "$share/h/a/secret/#", qos: 2},
	}
	stop := make(chan struct{})
	var receivers, publishers sync.WaitGroup
	for i, f := range flows {
		f.who = who{peer: peer{id: fmt.Sprint("c", i), expiry: uint32(i%2) * 3600}, user: "bob"}
		f.w, f.seen = w, map[string]bool{}
		f.connect(&forbidden, &broken)
		receivers.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			for {
				select {
				case <-stop:
					return
				default:
				}
				f.step()
				if f.returns && r.IntN(20) == 0 {
					f.leave()
					f.connect(&forbidden, &broken)
				}
				time.Sleep(50 * time.Microsecond) // lets others run
			}
		})
	}

	// epoch is even while the right is there: since before it changes, and after
	// that was confirmed.
	var epoch atomic.Int64
	var mu sync.Mutex
	arrives, never := map[string]bool{}, map[string]bool{}
	done := make(chan struct{})
	for g := range 2 {
		publishers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				text := fmt.Sprintf("%d-%d", g, n)
				before := epoch.Load()
				w.annAt(fmt.Sprint("a/secret/", n%2), text, mq.QoS(1+n%2), n%7 == 0, g<<32|n)
				mu.Lock()
				switch after := epoch.Load(); {
				case before != after || before < 0:
				case before%2 == 0:
					arrives[text] = true
				case n%7 != 0: // what is retained comes to who subscribes when it may again
					never[text] = true
				}
				mu.Unlock()
				if n%50 == 0 {
					time.Sleep(100 * time.Microsecond)
				}
			}
		})
	}
	changing := int64(-1) // neither
	for i := range int64(40) {
		time.Sleep(3 * time.Millisecond)
		epoch.Store(changing)
		w.k.change(func() { w.k.allow["sub bob"] = []string{"a/open/#"} })
		forbidden.Store(true)
		epoch.Store(2*i + 1)
		time.Sleep(3 * time.Millisecond)
		epoch.Store(changing)
		forbidden.Store(false)
		w.k.change(func() { w.k.allow["sub bob"] = []string{"a/#"} })
		epoch.Store(2*i + 2)
	}
	close(done)
	publishers.Wait()
	// Given back for good, it works for everybody. What waited when it was taken away
	// may be gone.
	close(stop)
	receivers.Wait()
	for _, f := range flows {
		if f.returns {
			f.subscribe()
		}
	}
	w.annAt("a/secret/1", "last", 1, false, 1<<40)
	end, last := time.Now().Add(20*time.Second), map[*flow]bool{}
	for len(last) < len(flows)-1 { // group g has two members, of which one gets it
		for _, f := range flows {
			if f.step(); f.seen["last"] {
				last[f] = true
			}
		}
		if time.Now().After(end) {
			for _, f := range flows {
				if !last[f] {
					t.Errorf("the last message did not come to %s", f.id)
				}
			}
			t.FailNow()
		}
	}
	got := 0
	for text := range arrives {
		if flows[1].seen[text] {
			got++
		}
	}
	if got < len(arrives)/4 || len(arrives) < 100 || len(never) < 100 {
		t.Errorf("%d of %d messages arrived, %d were to come to nobody: that proves little", got, len(arrives), len(never))
	}
	if n := broken.Load(); n != 0 {
		t.Errorf("%d packets were sent by a right that had gone", n)
	}
	for i, f := range flows {
		n := 0
		for text := range never {
			if f.seen[text] && !strings.HasPrefix(f.filter, "$share") { // a group keeps them until it may have them
				n++
			}
		}
		if n > 0 {
			t.Errorf("client %d got %d of %d messages that were published while it had no right to them", i, n, len(never))
		}
	}
	t.Logf("%d of %d published with the right arrived, %d were published without; %d not delivered", got, len(arrives), len(never), w.revoked())
}
