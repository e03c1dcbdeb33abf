package test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
)

// TestKillTakeover is TestKill for clients that write something, close at once
// and connect again at once with the same client ID: PUBLISH of each QoS, the
// acknowledgements, DISCONNECT or nothing, over TCP, TLS and WebSocket. Besides
// what TestKill asks for: while a server lives, what a client had written before
// it came back is handled. A QoS 0 message reaches the witness, a message of a
// clean sender its target, an acknowledged message does not come again, a will
// is discarded by DISCONNECT, and a session ends with it.
//
// With HOMING_TORTURE the modes share the time.
func TestKillTakeover(t *testing.T) {
	for _, mode := range syncModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			k := &killTakeover{crash: newCrash(t, mode, "mqtts"), wills: make(map[string]*parting)}
			k.shareTime()
			writeCertificate(t, k.s.dir, 1)
			k.s.settings = append(k.s.settings, "tls.cert=cert.pem", "tls.key=key.pem")
			k.targetKinds, k.senderKinds = hastyTargets, hastySenders
			k.census = k.everythingArrives
			k.run()
		})
	}
}

// shareTime is for a test whose modes share the time of HOMING_TORTURE, and
// that needs fewer kills otherwise.
func (c *crash) shareTime() {
	c.kills = 3
	c.torture /= time.Duration(len(syncModes))
}

var hastyTargets = []targetKind{
	{name: "hasty", version: mqtt.V5, hasty: true, slow: 4 * time.Millisecond},
	{name: "hasty3", version: mqtt.V311, hasty: true, slow: 10 * time.Millisecond},
	{name: "hasty-tls", version: mqtt.V311, hasty: true, slow: 4 * time.Millisecond, transport: "mqtts"},
	{name: "hasty-ws", version: mqtt.V5, hasty: true, slow: 4 * time.Millisecond, transport: "ws"},
	{name: "hasty-clean", version: mqtt.V5, hasty: true, clean: true, slow: 4 * time.Millisecond},
	{name: "usurps-ws", version: mqtt.V311, usurps: true, slow: 5 * time.Millisecond, transport: "ws"},
	{name: "prompt", version: mqtt.V311},
}

// A clean 3.1.1 sender is not told that a message was not kept: it sends to
// targets whose session is persistent.
var hastySenders = []senderKind{
	{name: "v5", version: mqtt.V5, persistent: true, window: 20, hasty: true},
	{name: "v3", version: mqtt.V311, persistent: true, window: 20, hasty: true, transport: "ws"},
	{name: "clean", version: mqtt.V5, window: 15, hasty: true, transport: "mqtts"},
	{name: "clean3", version: mqtt.V311, window: 15, hasty: true},
	{name: "clean-ws", version: mqtt.V5, window: 15, hasty: true, transport: "ws"},
}

const (
	witnessID   = "witnessID" // an attentive subscriber that takes QoS 0
	topicNews   = "kill/news"
	topicLeaver = "kill/will/"
)

// killTakeover is a run of TestKillTakeover.
type killTakeover struct {
	*crash
	wills map[string]*parting // by payload; guarded by the ledger's lock

	censuses  int
	due       int          // messages and wills that were due then
	farewells atomic.Int64 // with DISCONNECT and a will
	sessions  atomic.Int64 // ended with DISCONNECT
}

// parting is how a client with a will has gone.
type parting struct {
	never bool            // with DISCONNECT
	life  <-chan struct{} // without, and the server that lives so long knows
	got   int
}

func (k *killTakeover) run() {
	k.launch()
	for i, kind := range k.targetKinds { // before the first message from a clean sender
		if !kind.clean {
			k.s.connect(kind.version, fmt.Sprintf("target-%d-%s", i, kind.name), persistent).conn.Close()
		}
	}
	k.startTargets()
	k.targets.Go(k.watch)
	for i, kind := range k.senderKinds {
		targets := []string{witnessID, witnessID, witnessID}
		for _, id := range k.ids {
			if kind.persistent || kind.version == mqtt.V5 || !mayRepeat(id) {
				targets = append(targets, id)
			}
		}
		k.senders.Go(newCrashSender(k.crash, "sender-"+kind.name, kind, targets, k.random(uint64(200+i))).run)
	}
	for i, transport := range []string{"", "mqtts", "ws"} {
		k.senders.Go((&leaver{k: k, transport: transport, name: fmt.Sprintf("leaver-%d", i), r: k.random(uint64(300 + i))}).run)
	}
	kills := k.massacre()
	k.awaitUp()
	eventually(k.t, "something was due", func() bool {
		k.everythingArrives()
		return k.due > 0
	})
	close(k.producing)
	k.settle(kills)
	published := 0
	for _, w := range k.wills {
		published += min(w.got, 1)
	}
	k.t.Logf("%-8s while the server lived %d messages and wills were due in %d looks; DISCONNECT with a will %d, that ends a session %d, wills published %d",
		k.mode, k.due, k.censuses, k.farewells.Load(), k.sessions.Load(), published)
}

// everythingArrives waits for all that this server had before its sender came
// back, and looks at each once.
func (k *killTakeover) everythingArrives() {
	life := k.up.life()
	if life == nil {
		return
	}
	var missing map[string]func() bool
	k.ledger.change(func() {
		missing = k.ledger.owing(life)
		for id, w := range k.wills {
			if w.life == life {
				w.life = nil
				missing["the will of "+id] = func() bool { return w.got > 0 }
			}
		}
	})
	k.censuses++
	k.due += len(missing)
	k.soon("all that was written before its sender came back has arrived", func() bool {
		k.ledger.mu.Lock()
		defer k.ledger.mu.Unlock()
		maps.DeleteFunc(missing, func(_ string, arrived func() bool) bool { return arrived() })
		return len(missing) == 0
	})
	for what := range missing {
		k.ledger.problem("written before its sender came back, and lost: %s", what)
	}
}

// owing takes what must be delivered while a server lives: by description,
// whether it was. mu is held, and must be held to ask.
func (l *ledger) owing(life <-chan struct{}) map[string]func() bool {
	list := make(map[string]func() bool)
	for p, a := range l.accounts {
		for i := range a.fates {
			if f := &a.fates[i]; f.life == life {
				f.life = nil
				list[fmt.Sprintf("%v seq %d QoS %d", p, i+1, f.qos)] = func() bool { return a.fates[i].delivered > 0 }
			}
		}
	}
	return list
}

// watch is the witness. It reads all the time.
func (k *killTakeover) watch() {
	for {
		l := k.connect(mqtt.V5, &mqtt.Connect{ClientID: []byte(witnessID), CleanStart: true})
		if l == nil {
			return
		}
		s := mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: []byte(topicNews)}, {Topic: []byte(topicLeaver + "#")}}}
		l.send(s.Append(nil, l.version))
		for open := true; open; {
			select {
			case x, ok := <-l.in:
				if open = ok; ok {
					k.saw(x, l)
				}
			case <-k.over:
				l.drop()
				return
			}
		}
		l.drop()
	}
}

func (k *killTakeover) saw(x any, l *link) {
	switch x := x.(type) {
	case *mqtt.Suback:
		if l.life != nil {
			k.watching.Store(l.life)
		}
	case *mqtt.Publish:
		if string(x.Topic) == topicNews {
			e, err := parseEntry(x)
			if err != nil {
				k.ledger.problem("%s: received %v: %v", witnessID, show([]any{x}), err)
				return
			}
			k.ledger.deliver(e, fmt.Sprintf("dup %v", x.Dup))
			return
		}
		k.ledger.change(func() {
			w := k.wills[string(x.Payload)]
			if w == nil {
				w = new(parting)
				k.wills[string(x.Payload)] = w
			}
			if w.got++; w.never {
				k.ledger.problems = append(k.ledger.problems, fmt.Sprintf("the will of %s is published after DISCONNECT", x.Payload))
			}
		})
	}
}

// comeBack notes what the server must have of the connection before: it is the
// same server.
func (s *crashSender) comeBack(l *link) {
	if l.life != nil && l.life == s.life {
		s.c.takeovers.Add(1)
		if !s.left {
			s.c.thrown.Add(1)
		}
		for _, e := range s.written {
			if e.target == witnessID || e.qos > 0 && !s.kind.persistent && !mayRepeat(e.target) {
				s.c.ledger.note(e, func(f *fate) { f.life = l.life })
			}
		}
	}
	s.written, s.life = nil, l.life
}

// parting is the last that a hasty sender writes before it closes, if anything.
func (s *crashSender) parting(l *link) {
	var b []byte
	if s.r.IntN(2) == 0 {
		select {
		case x, ok := <-l.in:
			if ok {
				b = s.answer(x, l.version)
			}
		default:
		}
	}
	if s.r.IntN(4) > 0 && !isClosed(s.c.producing) {
		b = slices.Concat(b, s.produce(l.version))
	}
	if s.r.IntN(2) == 0 {
		b = (&mqtt.Disconnect{}).Append(b, l.version)
	}
	s.send(l, b)
}

// parting is the last that a hasty target writes before it closes, if anything.
func (t *crashTarget) parting(l *link) {
	if t.r.IntN(4) == 0 {
		return
	}
	for range t.r.IntN(8) {
		select {
		case x, ok := <-l.in:
			if !ok {
				return
			}
			t.handle(x, l.version)
		default:
		}
	}
	var farewell []byte
	if t.r.IntN(2) == 0 {
		farewell = (&mqtt.Disconnect{}).Append(nil, l.version)
	}
	t.acknowledge(l, time.Now().Add(t.kind.slow), farewell...)
}

// wait lets some time pass, less when the run is over.
func (c *crash) wait(d time.Duration) {
	select {
	case <-time.After(d):
	case <-c.over:
	}
}

// leaver is clients, one after the other, that say farewell or do not, close and
// come back at once.
type leaver struct {
	k         *killTakeover
	transport string
	name      string
	r         *rand.Rand
	n         int
}

func (v *leaver) run() {
	for !isClosed(v.k.producing) {
		v.n++
		id := fmt.Sprintf("%s-%d", v.name, v.n)
		if v.r.IntN(3) == 0 {
			v.endSession(id)
		} else {
			v.leaveWill(id, v.r.IntN(3) > 0)
		}
		v.k.wait(time.Duration(v.r.IntN(20)) * time.Millisecond)
	}
}

// leaveWill connects with a will, goes with or without DISCONNECT and is back.
func (v *leaver) leaveWill(id string, farewell bool) {
	version := versions[v.r.IntN(2)]
	how := &mqtt.Connect{ClientID: []byte(id), CleanStart: true, HasWill: true}
	how.Will = mqtt.Will{Topic: []byte(topicLeaver + id), QoS: byte(v.r.IntN(3))}
	var l *link
	will, tries := "", 0
	v.k.whenUp(func() (err error) {
		// A server that is killed before it answers may have the will, and publish it.
		tries++
		will = fmt.Sprintf("%s/%d", id, tries)
		how.Will.Payload = []byte(will)
		l, err = v.k.linkUp(v.transport, version, how)
		return err
	})
	if l == nil {
		return
	}
	watched := l.life != nil && v.k.watching.Load() == l.life
	if farewell {
		l.send((&mqtt.Disconnect{}).Append(nil, version))
	}
	l.drop()
	again := v.k.connectOver(v.transport, version, &mqtt.Connect{ClientID: []byte(id), CleanStart: true})
	if again == nil {
		return
	}
	defer again.drop()
	if again.life == nil || again.life != l.life {
		return // who knows what the server had
	}
	v.k.takeovers.Add(1)
	v.k.ledger.change(func() {
		w := v.k.wills[will]
		if w == nil {
			w = new(parting)
			v.k.wills[will] = w
		}
		switch {
		case farewell:
			v.k.farewells.Add(1)
			if w.never = true; w.got > 0 {
				v.k.ledger.problems = append(v.k.ledger.problems, fmt.Sprintf("the will of %s was published after DISCONNECT", will))
			}
		case watched:
			w.life = l.life
		}
	})
}

// endSession ends a persistent session with DISCONNECT: it must not be there
// when the client is back.
func (v *leaver) endSession(id string) {
	how := &mqtt.Connect{ClientID: []byte(id)}
	expires(600)(how)
	l := v.k.connectOver(v.transport, mqtt.V5, how)
	if l == nil {
		return
	}
	bye := new(mqtt.Disconnect)
	bye.Properties.Set(mqtt.PropSessionExpiry) // 0
	l.send(bye.Append(nil, mqtt.V5))
	l.drop()
	again := v.k.connectOver(v.transport, mqtt.V5, &mqtt.Connect{ClientID: []byte(id)})
	if again == nil {
		return
	}
	defer again.drop()
	if again.life == nil || again.life != l.life {
		return
	}
	v.k.takeovers.Add(1)
	v.k.sessions.Add(1)
	if again.present {
		v.k.ledger.problem("%s: the session is there after DISCONNECT with session expiry 0", id)
	}
}
