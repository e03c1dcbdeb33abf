package test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
)

// TestKillStandard is TestKill for what else the standard has: ordinary topics
// with persistent subscribers, a shared subscription whose members come and go,
// retained messages and wills. At the end nothing that was acknowledged is lost,
// QoS 2 has not come twice, what is retained is the last that was acknowledged or
// something later, and each client that has vanished has its will published.
func TestKillStandard(t *testing.T) {
	t.Parallel()
	k := &killStandard{
		crash: newCrash(t, "always"), letters: make(map[string]*letter), kept: make(map[string]*history), wills: make(map[string]*lastWill),
	}
	k.run()
}

// killStandard is a run of TestKillStandard. What is below the crash is guarded
// by the ledger's lock.
type killStandard struct {
	*crash
	readers []*reader
	letters map[string]*letter // by payload
	kept    map[string]*history
	wills   map[string]*lastWill
	owing   int // what missing would find, without a limit
	marks   int // the readers that have seen the mark

	acked, delivered, looked int
}

// letter is a message to an ordinary topic.
type letter struct {
	topic string
	acked bool
	got   map[string]int // by reader; the group is one
	exact map[string]int // the same for what came with QoS 2
}

// history is what was sent to a topic that retains, again when it was sent again.
type history struct {
	values []string // "" clears; the first is from before
	floor  int      // what is retained is this one or a later one
}

// lastWill is the will of a client.
type lastWill struct {
	must, never bool // it must or must not be published; neither: who knows
	retain      bool
	got         int
}

const (
	topicPlain = "std/plain/"
	topicShare = "std/share/"
	topicKept  = "std/kept/"
	topicWill  = "std/will/"
)

func (k *killStandard) run() {
	k.launch()
	k.settleIn()
	for i, r := range k.readers {
		r.r = k.random(uint64(100 + i))
		k.targets.Go(r.run)
	}
	for i, kind := range senderKinds {
		w := &writer{k: k, id: "writer-" + kind.name, kind: kind, r: k.random(uint64(200 + i))}
		for n := range 3 {
			w.keeps = append(w.keeps, fmt.Sprintf("%s%s/%d", topicKept, w.id, n))
			k.kept[w.keeps[n]] = &history{values: []string{""}}
		}
		k.senders.Go(w.run)
	}
	for i := range 4 {
		m := &mortals{k: k, name: fmt.Sprintf("mortal-%d", i), r: k.random(uint64(300 + i))}
		k.senders.Go(m.run)
	}
	k.targets.Go(k.lookAtKept)
	kills := k.massacre()
	close(k.producing)
	k.end(kills)
}

// settleIn makes the sessions and subscriptions.
func (k *killStandard) settleIn() {
	k.readers = []*reader{
		{id: "plain-offline", version: mqtt.V5, filter: topicPlain + "#", away: true},
		{id: "plain-offline3", version: mqtt.V311, filter: topicPlain + "+", away: true},
		{id: "plain-online", version: mqtt.V5, filter: topicPlain + "#"},
		{id: "plain-leaves", version: mqtt.V311, filter: topicPlain + "#", leaves: true},
		{id: "member-stays", version: mqtt.V5, filter: "$share/g/" + topicShare + "#"},
		{id: "member-leaves", version: mqtt.V311, filter: "$share/g/" + topicShare + "#", leaves: true},
		{id: "member-usurps", version: mqtt.V5, filter: "$share/g/" + topicShare + "#", usurps: true},
		{id: "member-clean", version: mqtt.V5, filter: "$share/g/" + topicShare + "#", leaves: true, clean: true},
		{id: "witness", version: mqtt.V5, filter: topicWill + "#", leaves: true},
	}
	for _, r := range k.readers {
		r.k, r.held = k, make(map[uint16]string)
		if r.clean {
			continue
		}
		p := k.s.connect(r.version, r.id, persistent)
		p.subscribe(2, r.filter)
		p.conn.Close()
	}
}

// end waits until all is delivered, kills once more and looks at what is kept.
func (k *killStandard) end(kills int) {
	k.awaitUp()
	close(k.draining)
	k.progress("everybody has an answer", waitGroup(&k.senders))
	k.progress("everything acknowledged is delivered", k.when(func() bool { return k.read(&k.owing) == 0 }))
	k.kill()
	k.s.launch()
	k.awaitUp()
	p := k.s.connect(mqtt.V5, "marker", persistent)
	for _, r := range k.readers {
		p.publish("kill/p2p/"+r.id, "mark", 1)
	}
	k.progress("the readers are back", k.when(func() bool { return k.read(&k.marks) >= len(k.readers) }))
	for topic := range k.kept {
		k.lookAt(topic)
	}
	for id, w := range k.wills {
		if w.retain && w.must {
			// One whose publication the last kill cut off is published by the restart, soon.
			got := k.retainedOf(topicWill + id)
			for end := time.Now().Add(10 * time.Second); got != id && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
				got = k.retainedOf(topicWill + id)
			}
			if got != id {
				k.ledger.problem("the retained will of %s is %q", id, got)
			}
		}
	}
	close(k.over)
	k.targets.Wait()
	for _, m := range k.missing(20) {
		k.t.Errorf("seed %d: lost: %s", k.seed, m)
	}
	_, problems := k.ledger.close()
	for _, p := range problems {
		k.t.Errorf("seed %d: %s", k.seed, p)
	}
	k.t.Logf("kills %d  letters %d  acknowledged %d  delivered %d  wills %d  looked at what is kept %d times", kills+1, len(k.letters),
		k.acked, k.delivered, len(k.wills), k.looked)
	if code := k.s.stop(); code != 0 {
		k.t.Errorf("the server ended with %d:\n%s", code, k.s.tail())
	}
}

func (k *killStandard) read(n *int) int {
	k.ledger.mu.Lock()
	defer k.ledger.mu.Unlock()
	return *n
}

// missing describes what must have come and has not, up to most.
func (k *killStandard) missing(most int) (list []string) {
	k.ledger.mu.Lock()
	defer k.ledger.mu.Unlock()
	for payload, l := range k.letters {
		for _, who := range k.audience(l.topic) {
			if l.acked && l.got[who] == 0 && len(list) < most {
				list = append(list, payload+" to "+who)
			}
		}
	}
	for id, w := range k.wills {
		if w.must && w.got == 0 && len(list) < most {
			list = append(list, "the will of "+id)
		}
	}
	return list
}

// audience is who must get what is sent to a topic.
func (k *killStandard) audience(topic string) []string {
	if strings.HasPrefix(topic, topicShare) {
		return []string{"group"}
	}
	return []string{"plain-offline", "plain-offline3", "plain-online", "plain-leaves"}
}

// lookAtKept looks at what is kept for a topic, again and again.
func (k *killStandard) lookAtKept() {
	var topics []string
	for topic := range k.kept {
		topics = append(topics, topic)
	}
	for i := 0; !isClosed(k.draining); i++ {
		k.lookAt(topics[i%len(topics)])
		k.pause(5 * time.Millisecond)
	}
}

// lookAt compares what is retained with what was sent. What is replaced while it
// is looked up comes by the subscription, perhaps too late for us: then it looks
// once more.
func (k *killStandard) lookAt(topic string) {
	var got string
	var may []string
	for range 10 {
		k.ledger.mu.Lock()
		floor := k.kept[topic].floor
		k.ledger.mu.Unlock()
		if got = k.retainedOf(topic); got == unknown {
			return
		}
		k.ledger.mu.Lock()
		k.looked++
		may = slices.Clone(k.kept[topic].values[floor:])
		k.ledger.mu.Unlock()
		if slices.Contains(may, got) {
			return
		}
	}
	k.ledger.problem("%s has %q, and the last that was acknowledged is one of %q", topic, got, may)
}

const unknown = "?"

// retainedOf returns what is retained for a topic, unknown if the server goes
// while it is asked.
func (k *killStandard) retainedOf(topic string) string {
	l := k.connect(mqtt.V5, &mqtt.Connect{ClientID: []byte("looker"), CleanStart: true})
	if l == nil {
		return unknown
	}
	defer l.drop()
	s := mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: []byte(topic), QoS: 1}}}
	l.send(s.Append(nil, mqtt.V5))
	got := ""
	for x := range l.in {
		switch x := x.(type) {
		case *mqtt.Suback: // what is retained comes right after it
			l.send((&mqtt.Pingreq{}).Append(nil, mqtt.V5))
		case *mqtt.Pingresp:
			return got
		case *mqtt.Publish:
			if x.Retain {
				got = string(x.Payload)
			}
			if x.QoS == 1 {
				l.send(mqtt.AppendAck(nil, mqtt.V5, mqtt.PUBACK, x.PacketID, 0))
			}
		}
	}
	return unknown
}

// reader is a subscriber.
type reader struct {
	k       *killStandard
	id      string
	version mqtt.Version
	filter  string
	clean   bool // QoS 1: a clean client may take QoS 2 to the grave
	away    bool // until the end
	leaves  bool
	usurps  bool // takes over its own connection

	r    *rand.Rand
	held map[uint16]string // QoS 2: received, PUBREL has not come
	last map[string]int    // by writer and topic
}

func (r *reader) run() {
	if r.last = make(map[string]int); r.away {
		select {
		case <-r.k.draining:
		case <-r.k.over:
		}
	}
	l := r.connect()
	for l != nil {
		next := r.converse(l)
		l.drop()
		if l = next; l == nil {
			l = r.connect()
		}
	}
}

func (r *reader) connect() *link {
	how := &mqtt.Connect{ClientID: []byte(r.id), CleanStart: r.clean}
	if !r.clean {
		expires(never)(how)
	}
	l := r.k.connect(r.version, how)
	switch {
	case l == nil:
	case r.clean:
		clear(r.held)
		l.send((&mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: []byte(r.filter), QoS: 1}}}).Append(nil, r.version))
	case !l.present:
		r.k.ledger.problem("%s: the server has lost the session", r.id)
	}
	return l
}

// converse goes on until the connection ends. It returns the connection that
// took over, if that is why.
func (r *reader) converse(l *link) (next *link) {
	var bored <-chan time.Time
	if r.leaves || r.usurps {
		bored = time.After(time.Duration(r.r.IntN(300)) * time.Millisecond)
	}
	for {
		select {
		case x, ok := <-l.in:
			if !ok || !l.send(r.handle(x)) {
				return nil
			}
		case <-bored:
			if isClosed(r.k.draining) {
				continue
			}
			if r.usurps {
				return r.connect()
			}
			if r.r.IntN(2) == 0 {
				l.send((&mqtt.Disconnect{}).Append(nil, r.version))
			}
			l.conn.Close()
			r.k.pause(time.Duration(r.r.IntN(150)) * time.Millisecond)
			return nil
		case <-r.k.over:
			return nil
		}
	}
}

// handle takes a packet and returns the answer.
func (r *reader) handle(x any) []byte {
	switch x := x.(type) {
	case *mqtt.Publish:
		payload := string(x.Payload)
		if x.QoS < 2 {
			r.take(x, payload)
			return mqtt.AppendAck(nil, r.version, mqtt.PUBACK, x.PacketID, 0)
		}
		if before, ok := r.held[x.PacketID]; !ok {
			r.held[x.PacketID] = payload
			r.take(x, payload)
		} else if before != payload {
			r.k.ledger.problem("%s: packet identifier %d is of %q, and now of %q", r.id, x.PacketID, before, payload)
		}
		return mqtt.AppendAck(nil, r.version, mqtt.PUBREC, x.PacketID, 0)
	case *mqtt.Ack:
		delete(r.held, x.PacketID)
		return mqtt.AppendAck(nil, r.version, mqtt.PUBCOMP, x.PacketID, 0)
	}
	return nil
}

// take books a message.
func (r *reader) take(m *mqtt.Publish, payload string) {
	r.k.ledger.change(func() {
		if payload == "mark" {
			r.k.marks++
			return
		}
		if w := r.k.wills[payload]; w != nil {
			if w.got++; w.got == 1 && w.must {
				r.k.owing--
			}
			if w.never {
				r.k.ledger.problems = append(r.k.ledger.problems, "the will of "+payload+" was published, and must not be")
			}
			return
		}
		l := r.k.letters[payload]
		if l == nil || l.topic != string(m.Topic) {
			r.k.ledger.problems = append(r.k.ledger.problems, fmt.Sprintf("%s: never sent: %v", r.id, show([]any{m})))
			return
		}
		who := r.id
		shared := strings.HasPrefix(l.topic, topicShare)
		if shared {
			who = "group"
		}
		r.k.delivered++
		if l.got[who]++; l.got[who] == 1 && l.acked {
			r.k.owing--
		}
		if m.QoS == 2 {
			if l.exact[who]++; l.exact[who] > 1 {
				r.k.ledger.problems = append(r.k.ledger.problems, fmt.Sprintf("%s: QoS 2 twice: %v", r.id, show([]any{m})))
			}
		}
		var writer string
		var n int
		_, _ = fmt.Sscanf(payload, "%s %d", &writer, &n)
		if !shared && l.got[who] == 1 {
			if n < r.last[writer] {
				r.k.ledger.problems = append(r.k.ledger.problems, fmt.Sprintf("%s: %s comes first after %d", r.id, payload, r.last[writer]))
			}
			r.last[writer] = max(n, r.last[writer])
		}
	})
}

// writer publishes to ordinary topics, some of it retained.
type writer struct {
	k     *killStandard
	id    string
	kind  senderKind
	keeps []string // topics it retains in; at most one publish each is under way
	r     *rand.Rand

	n        int
	lastID   uint16
	inflight []*sent // in the order of sending
}

// sent is a message whose exchange is not over.
type sent struct {
	m         mqtt.Publish
	released  bool // PUBREC has come
	told      bool
	first, at int // in the history of its topic
}

func (w *writer) finished() bool {
	return isClosed(w.k.over) || isClosed(w.k.producing) && len(w.inflight) == 0
}

func (w *writer) run() {
	how := &mqtt.Connect{ClientID: []byte(w.id), CleanStart: !w.kind.persistent}
	if w.kind.persistent {
		expires(never)(how)
	}
	for !w.finished() {
		l := w.k.connect(w.kind.version, how)
		if l == nil {
			return
		}
		if !w.kind.persistent {
			w.inflight = nil
		}
		w.resume(l)
		w.converse(l)
		l.drop()
	}
}

// resume sends again what is unfinished, in order.
func (w *writer) resume(l *link) {
	var b []byte
	for _, u := range w.inflight {
		if u.released {
			b = mqtt.AppendAck(b, l.version, mqtt.PUBREL, u.m.PacketID, 0)
			continue
		}
		u.m.Dup = true
		w.note(u)
		b = u.m.Append(b, l.version)
	}
	l.send(b)
}

// note writes a publish that is being sent into the history of its topic.
func (w *writer) note(u *sent) {
	if !u.m.Retain {
		return
	}
	w.k.ledger.change(func() {
		h := w.k.kept[string(u.m.Topic)]
		u.at = len(h.values)
		h.values = append(h.values, string(u.m.Payload))
	})
}

func (w *writer) converse(l *link) {
	tick := time.NewTicker(sendEvery)
	defer tick.Stop()
	var bored <-chan time.Time
	if w.kind.restless {
		bored = time.After(time.Duration(50+w.r.IntN(1000)) * time.Millisecond)
	}
	for !w.finished() {
		select {
		case x, ok := <-l.in:
			if !ok || !l.send(w.answer(x)) {
				return
			}
		case <-tick.C:
			if !isClosed(w.k.producing) && !l.send(w.produce()) {
				return
			}
		case <-bored:
			if !isClosed(w.k.draining) {
				return
			}
		case <-w.k.over:
			return
		}
	}
}

func (w *writer) produce() (b []byte) {
	for range 1 + w.r.IntN(2) {
		if len(w.inflight) >= w.kind.window {
			return b
		}
		w.n++
		u := &sent{m: mqtt.Publish{QoS: byte(1 + w.r.IntN(2)), Payload: fmt.Appendf(nil, "%s %d", w.id, w.n)}}
		topic := topicPlain + "x"
		switch w.r.IntN(5) {
		case 0, 1:
			topic = topicShare + "x"
		case 2:
			topic = w.keeps[w.r.IntN(len(w.keeps))]
			if w.busy(topic) {
				continue
			}
			u.m.Retain = true
			switch w.r.IntN(4) {
			case 0:
				u.m.Payload = nil
			case 1:
				u.m.QoS = 0
			}
		default:
		}
		u.m.Topic = []byte(topic)
		if w.note(u); u.m.Retain {
			u.first = u.at
		} else {
			w.k.ledger.change(func() {
				w.k.letters[string(u.m.Payload)] = &letter{topic: topic, got: make(map[string]int), exact: make(map[string]int)}
			})
		}
		if u.m.QoS > 0 {
			u.m.PacketID = w.freeID()
			w.inflight = append(w.inflight, u)
		}
		b = u.m.Append(b, w.kind.version)
	}
	return b
}

func (w *writer) busy(topic string) bool {
	for _, u := range w.inflight {
		if u.m.Retain && string(u.m.Topic) == topic {
			return true
		}
	}
	return false
}

func (w *writer) freeID() uint16 {
	for {
		if w.lastID++; w.lastID != 0 && w.find(w.lastID) < 0 {
			return w.lastID
		}
	}
}

func (w *writer) find(id uint16) int {
	for i, u := range w.inflight {
		if u.m.PacketID == id {
			return i
		}
	}
	return -1
}

// answer handles a packet and returns what to send.
func (w *writer) answer(x any) []byte {
	a, ok := x.(*mqtt.Ack)
	if !ok {
		return nil
	}
	i := w.find(a.PacketID)
	if i < 0 {
		return nil // of a PUBREL that answered a second PUBREC
	}
	u := w.inflight[i]
	if a.Type != mqtt.PUBCOMP && !u.told {
		w.told(u, a)
	}
	if a.Type == mqtt.PUBREC && !a.Code.Failed() {
		u.released = true
		return mqtt.AppendAck(nil, w.kind.version, mqtt.PUBREL, a.PacketID, 0)
	}
	if a.Type == mqtt.PUBCOMP && !u.released {
		w.k.ledger.problem("%s: PUBCOMP without PUBREL for %s", w.id, u.m.Payload)
	}
	w.inflight = append(w.inflight[:i:i], w.inflight[i+1:]...)
	return nil
}

// told takes down that a message was acknowledged.
func (w *writer) told(u *sent, a *mqtt.Ack) {
	u.told = true
	if a.Code.Failed() { // the server is shutting down
		return
	}
	w.k.ledger.change(func() {
		w.k.acked++
		if !u.m.Retain {
			l := w.k.letters[string(u.m.Payload)]
			l.acked = true
			for _, who := range w.k.audience(l.topic) {
				if l.got[who] == 0 {
					w.k.owing++
				}
			}
			return
		}
		h, at := w.k.kept[string(u.m.Topic)], u.at
		if u.m.QoS == 2 { // the second one may have been taken for what it is
			at = u.first
		}
		h.floor = max(h.floor, at)
	})
}

// mortals are clients with wills, one after the other.
type mortals struct {
	k    *killStandard
	name string
	r    *rand.Rand
	n    int
}

// How a client with a will ends.
const (
	fateVanishes = iota // without a word
	fateStays           // until the server goes
	fateReplaced        // by another one with its client ID, which starts clean
	fateGoodbye         // with DISCONNECT
	fateDelayed         // fateVanishes, and the will comes later
	fateReturns         // fateVanishes, and comes back in time
	fates
)

func (m *mortals) run() {
	for !isClosed(m.k.producing) {
		m.live()
	}
}

// live is one client's life.
func (m *mortals) live() {
	m.n++
	id := fmt.Sprintf("%s-%d", m.name, m.n)
	fate := m.r.IntN(fates)
	w := &lastWill{retain: m.r.IntN(2) == 0}
	// A clean start would end the session of a CONNECT that was not answered.
	how := &mqtt.Connect{ClientID: []byte(id), CleanStart: fate != fateReturns, HasWill: true}
	how.Will = mqtt.Will{Topic: []byte(topicWill + id), Payload: []byte(id), QoS: byte(1 + m.r.IntN(2)), Retain: w.retain}
	delay, expiry := uint32(0), uint32([]int{0, 60}[m.r.IntN(2)])
	switch fate {
	case fateDelayed:
		delay, expiry = 1, 60
	case fateReturns:
		delay, expiry = 600, 600
	}
	if delay > 0 {
		how.Will.Properties.WillDelay = delay
		how.Will.Properties.Set(mqtt.PropWillDelay)
	}
	expires(expiry)(how)
	m.k.ledger.change(func() { m.k.wills[id] = w })
	server := m.k.up.passable()
	l := m.k.connect(mqtt.V5, how)
	if l == nil {
		return
	}
	defer l.drop()
	m.k.pause(time.Duration(m.r.IntN(60)) * time.Millisecond)
	again := &mqtt.Connect{ClientID: []byte(id), CleanStart: fate != fateReturns}
	expires(expiry)(again)
	switch fate {
	case fateStays:
		select {
		case <-l.ended:
		case <-m.k.producing:
			l.conn.Close()
		}
	case fateGoodbye:
		l.send((&mqtt.Disconnect{}).Append(nil, l.version))
		<-l.ended
	case fateReplaced:
	default:
		l.conn.Close()
	}
	if fate == fateReplaced || fate == fateGoodbye || fate == fateReturns {
		l2 := m.k.connect(mqtt.V5, again)
		if l2 == nil {
			return
		}
		defer l2.drop()
		l2.send((&mqtt.Disconnect{}).Append(nil, l2.version))
		<-l2.ended
	}
	m.k.ledger.change(func() {
		switch fate {
		case fateReturns:
			w.never = true
		case fateGoodbye:
			w.never = server == m.k.up.passable()
		default:
			if w.must = true; w.got == 0 {
				m.k.owing++
			}
		}
		if w.never && w.got > 0 {
			m.k.ledger.problems = append(m.k.ledger.problems, fmt.Sprintf("the will of %s was published, and must not be: fate %d", id, fate))
		}
	})
}
