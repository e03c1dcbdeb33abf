package broker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// owedMessage is one that a client of the model has not acknowledged.
type owedMessage struct {
	n         int // of the publish
	topic     string
	qos       mq.QoS
	retain    bool
	pid       uint16  // once sent
	begun     bool    // sent, on some connection
	here      bool    // sent on this one
	received  bool    // the client has sent PUBREC
	lost      bool    // acknowledged, but a crash may have undone it
	unmarked  bool    // sent before a crash: DUP may be forgotten
	releasing bool    // the client has PUBREL of this connection
	made      *packet // retain and identifiers, of one's own message; nil: those of the time of sending
}

// modelClient is a client, and what the standard says about its session.
type modelClient struct {
	peer
	exists  bool // a session
	expiry  uint32
	away    uint32 // seconds without a connection
	max     int
	subs    map[string]mq.Subscription
	queue   []*owedMessage
	acked   []*owedMessage         // since the last graceful restart
	claims  map[uint16]*modelClaim // QoS 2 publishes without PUBREL
	will    *Will
	willDue bool // it waits for its delay
}

type modelClaim struct {
	n       int
	topic   string
	durable bool
}

// model is the standard, session by session, beside the broker.
type model struct {
	*world
	t       *testing.T
	r       *rand.Rand
	clients []*modelClient
	told    *results
	asked   map[int]bool // QoS 1 and 2 publishes of this life that must be answered
	next    int
	trace   []string
}

var (
	modelTopics  = []string{"a", "a/b", "a/c", "b", "$x/a"}
	modelFilters = []string{"a", "a/#", "a/+", "#", "+", "b", "$x/#", "a/b"}
)

// TestStandard runs random histories of a few clients against a model of what
// MQTT says about their sessions: every packet must be the one it expects.
// [MQTT-3.1.2-4] [MQTT-3.1.2-5] [MQTT-3.1.2-6] [MQTT-3.1.2-23] [MQTT-3.1.4-3] [MQTT-3.2.2-2] [MQTT-3.2.2-3] [MQTT-3.3.1-1] [MQTT-3.3.1-2] [MQTT-3.3.1-3]
// [MQTT-3.3.1-12] [MQTT-3.3.1-13] [MQTT-3.3.4-1] [MQTT-3.3.4-2] [MQTT-3.3.4-3] [MQTT-3.3.4-4] [MQTT-3.3.4-9] [MQTT-3.8.3-3] [MQTT-3.8.4-3] [MQTT-3.8.4-8]
// [MQTT-3.10.4-1] [MQTT-3.10.4-2] [MQTT-4.1.0-1] [MQTT-4.1.0-2] [MQTT-4.3.1-1] [MQTT-4.3.2-2] [MQTT-4.3.3-2] [MQTT-4.3.3-10] [MQTT-4.3.3-12]
// [MQTT-4.4.0-1] [MQTT-4.5.0-1] [MQTT-4.6.0-5] [MQTT-4.9.0-2]
// [MQTT3-3.1.2-4] [MQTT3-3.1.2-5] [MQTT3-3.1.2-6] [MQTT3-3.2.2-1] [MQTT3-3.2.2-2] [MQTT3-3.2.2-3] [MQTT3-3.3.1-1] [MQTT3-3.3.1-9] [MQTT3-3.3.5-1]
// [MQTT3-3.8.4-3] [MQTT3-3.8.4-6] [MQTT3-3.10.4-1] [MQTT3-3.10.4-2] [MQTT3-4.3.3-2] [MQTT3-4.4.0-1] [MQTT3-4.6.0-6]
func TestStandard(t *testing.T) {
	watchdog(t, time.Duration(torture(60))*time.Second)
	for seed := range uint64(torture(10)) {
		r := rng(seed)
		opt := Options{StoreAfter: time.Duration(r.IntN(2)) * time.Millisecond}
		m := &model{world: newWorld(t, opt, store.SyncAlways), t: t, r: r, told: &results{}, asked: map[int]bool{}}
		for i := range 3 {
			m.clients = append(m.clients, &modelClient{peer: peer{id: fmt.Sprint("c", i)}})
		}
		for range 80 {
			m.step(m.clients[r.IntN(len(m.clients))])
			m.check()
			if t.Failed() {
				for _, line := range m.trace {
					t.Log(line)
				}
				t.Fatalf("seed %d", seed)
			}
		}
		m.stop()
	}
}

func (m *model) did(format string, args ...any) {
	m.trace = append(m.trace, fmt.Sprintf(format, args...))
}

func (m *model) step(c *modelClient) {
	r := m.r
	switch n := r.IntN(40); {
	case c.wire == nil && n < 20, n < 3:
		m.connectClient(c)
	case n < 16:
		m.publishFrom(c)
	case c.wire != nil && n < 22:
		m.subscribeClient(c)
	case c.wire != nil && n < 24:
		m.unsubscribeClient(c)
	case c.wire != nil && n < 32:
		m.ackSome(c)
	case c.wire != nil && n < 35:
		m.disconnectClient(c, r.IntN(2) == 0)
	case n < 37:
		m.did("100 s pass")
		m.pass(100 * time.Second)
		m.afterTime(100)
	case n == 37:
		m.restartAll()
	case n == 38:
		m.loseAll()
	}
}

func (m *model) connectClient(c *modelClient) {
	clean := m.r.IntN(4) == 0
	c.peer.expiry = []uint32{0, 60, 600, NeverExpires}[m.r.IntN(4)]
	c.receiveMax = []int{1, 2, 5, 100}[m.r.IntN(4)]
	var will *Will
	if c == m.clients[0] && m.r.IntN(2) == 0 { // one client, so that the order of wills is known
		m.next++
		topic := modelTopics[m.r.IntN(len(modelTopics))]
		will = &Will{Delay: uint32(m.r.IntN(2)) * 50, Message: mq.Message{Topic: []byte(topic), Payload: fmt.Append(nil, m.next), QoS: mq.QoS(m.r.IntN(3))}}
	}
	m.did("%s connects clean %v expiry %d receive max %d will %v", c.id, clean, c.peer.expiry, c.receiveMax, will != nil)
	resumed := c.exists && !clean && c.expiry > 0
	before := c.will
	switch {
	case before == nil:
	case !resumed:
		m.end(c)
	case before.Delay == 0:
		m.offline(c)
		m.publishModelWill(c)
	}
	c.will, c.willDue = nil, false
	if !resumed {
		m.end(c)
	}
	m.offline(c)
	if err := c.connect(m.world, clean, will); err != nil {
		m.t.Error(err)
		return
	}
	if c.wire.present != resumed {
		m.t.Errorf("session present: %v, want %v", c.wire.present, resumed)
	}
	c.exists, c.expiry, c.max, c.will, c.willDue = true, c.peer.expiry, c.receiveMax, will, false
	if resumed {
		m.sendAgain(c)
	}
}

// sendAgain repeats what the client has no PUBCOMP for, as it must.
func (m *model) sendAgain(c *modelClient) {
	for pid, cl := range c.claims {
		m.did("%s sends %d again", c.id, pid)
		msg := &mq.Message{Topic: []byte(cl.topic), Payload: fmt.Append(nil, cl.n), QoS: 2}
		c.batch.Begin()
		again := QoS2Publish{Conn: c.wire, PacketID: pid, Dup: true, Room: 65535}
		if r := m.b.PublishQoS2(Source{Principal: &mq.Principal{}, Session: c.wire.sess}, msg, again, &c.batch); r != ClaimRepeated {
			m.t.Errorf("identifier %d is taken for new", pid)
		}
		c.batch.Flush()
	}
}

// offline: what is not acknowledged waits for the next connection.
func (m *model) offline(c *modelClient) {
	c.wire = nil
	c.away = 0
	c.queue = slices.DeleteFunc(c.queue, func(q *owedMessage) bool { return q.qos == 0 })
	for _, q := range c.queue {
		q.here, q.releasing = false, false
	}
}

// end ends the session of the model, which publishes its will.
func (m *model) end(c *modelClient) {
	c.exists, c.subs, c.queue, c.acked, c.claims = false, nil, nil, nil, nil
	m.offline(c)
	if c.will != nil {
		m.publishModelWill(c)
	}
}

func (m *model) publishModelWill(c *modelClient) {
	w := &c.will.Message
	var n int
	_, _ = fmt.Sscan(string(w.Payload), &n)
	c.will, c.willDue = nil, false
	m.did("  the will %d of %s on %s, qos %d", n, c.id, w.Topic, w.QoS)
	m.route(nil, n, string(w.Topic), w.QoS, false)
}

// leaveModel is the end of a connection.
func (m *model) leaveModel(c *modelClient, discard bool) {
	if discard {
		c.will = nil
	}
	m.offline(c)
	switch {
	case c.expiry == 0:
		m.end(c)
	case c.will != nil && c.will.Delay == 0:
		m.publishModelWill(c)
	case c.will != nil:
		c.willDue = true
	}
}

func (m *model) disconnectClient(c *modelClient, properly bool) {
	how := Departure{DiscardWill: properly}
	if m.r.IntN(4) == 0 && c.expiry > 0 {
		expiry := []uint32{0, 60, NeverExpires}[m.r.IntN(3)]
		how.Expiry, c.expiry = &expiry, expiry
	}
	m.did("%s disconnects properly %v expiry %d", c.id, properly, c.expiry)
	wire := c.wire
	m.leaveModel(c, properly)
	c.wire = wire
	c.leave(m.world, how)
}

// afterTime lets seconds pass in the model. Wills are due after at most 50,
// sessions end after 60 or much later.
func (m *model) afterTime(seconds uint32) {
	for _, c := range m.clients {
		if c.willDue && min(c.will.Delay, c.expiry) <= seconds && c.expiry > c.will.Delay {
			m.publishModelWill(c)
		}
	}
	for _, c := range m.clients {
		if c.wire != nil || !c.exists {
			continue
		}
		if c.away += seconds; c.expiry <= c.away {
			m.end(c)
		}
	}
}

func (m *model) restartAll() {
	for _, c := range m.clients {
		if c.wire != nil {
			m.disconnectClient(c, m.r.IntN(2) == 0)
			m.check() // others may have got a will
		}
	}
	m.did("restart")
	m.world.restart()
	m.settled()
	for _, c := range m.clients {
		c.acked = nil
		m.forgetClaims(c)
	}
}

// settled begins a new life of the server.
func (m *model) settled() {
	m.told, m.asked = &results{}, map[int]bool{}
	m.housekeep()
}

// forgetClaims drops those that were never stored: nobody was subscribed.
func (m *model) forgetClaims(c *modelClient) {
	for pid, cl := range c.claims {
		if !cl.durable {
			delete(c.claims, pid)
		}
	}
}

// loseAll is a power loss after the store had time to do what it promised.
func (m *model) loseAll() {
	m.check()
	m.did("crash")
	for _, c := range m.clients {
		c.peer.owes, c.peer.wire = nil, nil
		c.held = nil // the model looks at packets
		away := c.away
		m.offline(c)
		c.away = away
		for _, q := range c.acked {
			q.lost, q.here, q.releasing = true, false, false
		}
		c.queue = append(c.queue, c.acked...)
		slices.SortFunc(c.queue, func(x, y *owedMessage) int { return x.n - y.n })
		c.acked = nil
		for _, q := range c.queue {
			q.unmarked = q.begun
		}
		m.forgetClaims(c)
	}
	m.crash(m.r.IntN(101))
	m.settled()
	for _, c := range m.clients { // their time counts from now on
		switch {
		case !c.exists:
		case c.expiry == 0:
			m.end(c)
		case c.will != nil && !c.willDue && c.will.Delay == 0:
			m.publishModelWill(c)
		case c.will != nil:
			c.willDue = true
		}
	}
}

func (m *model) subscribeClient(c *modelClient) {
	f := modelFilters[m.r.IntN(len(modelFilters))]
	sub := mq.Subscription{
		Filter: f, QoS: mq.QoS(m.r.IntN(3)), NoLocal: m.r.IntN(3) == 0, RetainAsPublished: m.r.IntN(3) == 0,
		RetainHandling: 2, ID: uint32(m.r.IntN(3)),
	}
	m.did("%s subscribes %+v", c.id, sub)
	if got := c.subscribe(m.world, sub); got[0] != Granted {
		m.t.Errorf("subscribe: %v", got)
	}
	if c.subs == nil {
		c.subs = map[string]mq.Subscription{}
	}
	c.subs[f] = sub
}

func (m *model) unsubscribeClient(c *modelClient) {
	f := modelFilters[m.r.IntN(len(modelFilters))]
	_, had := c.subs[f]
	m.did("%s unsubscribes %s", c.id, f)
	if got := c.unsubscribe(m.world, f); got[0] != had {
		m.t.Errorf("unsubscribe %s: was there %v, want %v", f, got[0], had)
	}
	delete(c.subs, f)
}

// publishFrom publishes some, from the client or from nobody.
func (m *model) publishFrom(c *modelClient) {
	topic := modelTopics[m.r.IntN(len(modelTopics))]
	qos := mq.QoS(m.r.IntN(3))
	msg := &mq.Message{Topic: []byte(topic), QoS: qos, Retain: m.r.IntN(4) == 0}
	src := Source{Principal: &mq.Principal{}}
	if c.wire != nil && m.r.IntN(2) == 0 {
		src.Session = c.wire.sess
	}
	if src.Session != nil && qos == 2 {
		m.publishClaimed(c, src, msg)
		return
	}
	m.next++
	msg.Payload = fmt.Append(nil, m.next)
	m.did("publish %d on %s qos %d retain %v from %v", m.next, topic, qos, msg.Retain, src.Session != nil)
	if src.Session == nil {
		c = nil
	}
	m.route(c, m.next, topic, qos, msg.Retain)
	m.asked[m.next] = qos > 0
	m.batch.Begin()
	m.b.Publish(src, msg, m.told, uint64(m.next), &m.batch)
	m.batch.Flush()
}

// publishClaimed sends a QoS 2 message, one again, or PUBREL.
func (m *model) publishClaimed(c *modelClient, src Source, msg *mq.Message) {
	pid := uint16(1 + m.r.IntN(3))
	cl := c.claims[pid]
	c.batch.Begin()
	switch {
	case cl != nil && m.r.IntN(2) == 0:
		m.did("%s releases %d", c.id, pid)
		if m.b.Pubrel(src.Session, c.wire, pid, &c.batch) != AckTaken {
			m.t.Errorf("identifier %d is unknown", pid)
		}
		delete(c.claims, pid)
	case cl != nil:
		m.did("%s sends %d again", c.id, pid)
		msg.Topic, msg.Payload = []byte(cl.topic), fmt.Append(nil, cl.n)
		if r := m.b.PublishQoS2(src, msg, QoS2Publish{Conn: c.wire, PacketID: pid, Dup: true, Room: 65535}, &c.batch); r != ClaimRepeated {
			m.t.Errorf("identifier %d is taken for new", pid)
		}
	default:
		m.next++
		msg.Payload = fmt.Append(nil, m.next)
		m.did("publish %d on %s as %s identifier %d retain %v", m.next, msg.Topic, c.id, pid, msg.Retain)
		matched := m.route(c, m.next, string(msg.Topic), 2, msg.Retain)
		if c.claims == nil {
			c.claims = map[uint16]*modelClaim{}
		}
		c.claims[pid] = &modelClaim{n: m.next, topic: string(msg.Topic), durable: (matched || msg.Retain) && c.expiry > 0}
		if r := m.b.PublishQoS2(src, msg, QoS2Publish{Conn: c.wire, PacketID: pid, Room: 65535}, &c.batch); r != ClaimNew {
			m.t.Errorf("identifier %d is not taken for new", pid)
		}
	}
	c.batch.Flush()
	m.settle()
}

// route puts a message into the queues of the model. It reports whether it is
// for anybody.
func (m *model) route(from *modelClient, n int, topic string, qos mq.QoS, retain bool) (matched bool) {
	for _, c := range m.clients {
		best, marked := -1, false
		for _, sub := range c.subs {
			marked = marked || special(&sub)
			if mq.MatchFilter([]byte(sub.Filter), []byte(topic)) && !(sub.NoLocal && c == from) {
				best = max(best, int(sub.QoS))
			}
		}
		matched = matched || best >= 0
		q := &owedMessage{n: n, topic: topic, qos: min(qos, mq.QoS(max(best, 0))), retain: retain}
		if best < 0 || !c.exists || c.wire == nil && q.qos == 0 {
			continue
		}
		if c == from && marked { // made for it now: No Local subscriptions have no part in it
			q.made = &packet{}
			q.made.retain, q.made.ids = c.header(q, true)
		}
		c.queue = append(c.queue, q)
	}
	return matched
}

// ackSome acknowledges some of what has come, in any order.
func (m *model) ackSome(c *modelClient) {
	for range 1 + m.r.IntN(4) {
		var can []*owedMessage
		for _, q := range c.queue {
			if q.here && (!q.received || q.releasing) {
				can = append(can, q)
			}
		}
		if len(can) == 0 {
			return
		}
		q := can[m.r.IntN(len(can))]
		c.batch.Begin()
		switch {
		case q.qos == 1:
			m.did("%s PUBACK %d", c.id, q.n)
			m.b.Puback(c.wire.sess, c.wire, q.pid, &c.batch)
			c.finish(q)
		case !q.received:
			m.did("%s PUBREC %d", c.id, q.n)
			q.received = true
			m.b.Pubrec(c.wire.sess, c.wire, q.pid, false, &c.batch)
		default:
			m.did("%s PUBCOMP %d", c.id, q.n)
			m.b.Pubcomp(c.wire.sess, c.wire, q.pid, &c.batch)
			c.finish(q)
		}
		c.batch.Flush()
		m.check()
	}
}

func (c *modelClient) finish(q *owedMessage) {
	c.queue = slices.DeleteFunc(c.queue, func(o *owedMessage) bool { return o == q })
	q.lost = false
	if c.expiry > 0 {
		c.acked = append(c.acked, q)
	}
}

// check waits until every client has what the model says, and nothing else.
func (m *model) check() {
	m.t.Helper()
	m.settle()
	missing := ""
	poll(5*time.Second, func() bool {
		missing = ""
		for _, c := range m.clients {
			m.take(c)
			if what := c.missing(); what != "" {
				missing = what
			}
		}
		for n, must := range m.asked {
			if _, told := m.told.get(n); must && !told {
				missing = fmt.Sprintf("the answer to publish %d", n)
			}
		}
		return missing == "" || m.t.Failed()
	})
	if missing != "" {
		m.t.Errorf("missing: %s", missing)
	}
}

// take looks at what has come for a client.
func (m *model) take(c *modelClient) {
	if c.wire == nil {
		return
	}
	in, acks := c.wire.take()
	for _, a := range acks {
		if a.kind == Pubrel {
			m.takeRelease(c, a.pid)
		}
	}
	for _, k := range in {
		m.takePublish(c, k)
	}
	inflight := 0
	for _, q := range c.queue {
		if q.here {
			inflight++
		}
	}
	if inflight > c.max {
		m.t.Errorf("%s has %d in flight, takes %d", c.id, inflight, c.max)
	}
}

func (m *model) takeRelease(c *modelClient, pid uint16) {
	for _, q := range c.queue {
		if q.qos == 2 && q.pid == pid && q.begun && (q.received || q.lost) {
			q.here, q.releasing, q.received, q.lost = true, true, true, false
			return
		}
	}
	m.t.Errorf("%s: PUBREL %d for nothing", c.id, pid)
}

func (m *model) takePublish(c *modelClient, k packet) {
	var q *owedMessage
	for _, o := range slices.Clone(c.queue) {
		if o.here || o.received && !o.lost {
			continue
		}
		if o.lost && (o.qos == 2 || fmt.Sprint(o.n) != k.payload) {
			if o.qos == 1 {
				c.queue = slices.DeleteFunc(c.queue, func(x *owedMessage) bool { return x == o })
			}
			continue
		}
		q = o
		break
	}
	if q == nil {
		m.t.Errorf("%s: too much: %v", c.id, k)
		return
	}
	retain, ids := c.header(q, false)
	if q.made != nil {
		retain, ids = q.made.retain, q.made.ids
	}
	want := packet{topic: q.topic, payload: fmt.Sprint(q.n), qos: q.qos, pid: q.pid, dup: q.begun, retain: retain, ids: ids}
	if !q.begun {
		want.pid = k.pid
	}
	if q.unmarked {
		want.dup = k.dup
	}
	if want.String() != k.String() || (q.qos > 0) != (k.pid > 0) {
		m.t.Errorf("%s: got %v, want %v", c.id, k, want)
	}
	for _, o := range c.queue {
		if q.qos > 0 && o != q && o.here && o.pid == k.pid {
			m.t.Errorf("%s: identifier %d is in use", c.id, k.pid)
		}
	}
	q.here, q.begun, q.lost, q.unmarked, q.pid = true, true, false, false, k.pid
	if q.qos == 0 {
		c.queue = slices.DeleteFunc(c.queue, func(o *owedMessage) bool { return o == q })
	}
}

// header is what the client's subscriptions say about a message now.
func (c *modelClient) header(q *owedMessage, own bool) (retain bool, ids []uint32) {
	for _, sub := range c.subs {
		if mq.MatchFilter([]byte(sub.Filter), []byte(q.topic)) && !(own && sub.NoLocal) {
			retain = retain || q.retain && sub.RetainAsPublished
			if sub.ID > 0 {
				ids = append(ids, sub.ID)
			}
		}
	}
	slices.Sort(ids)
	return retain, ids
}

// missing says what should have come and has not.
func (c *modelClient) missing() string {
	if c.wire == nil {
		return ""
	}
	inflight := 0
	for _, q := range c.queue {
		if q.here {
			inflight++
		}
		if q.here && q.received && !q.releasing {
			return fmt.Sprintf("%s: PUBREL of %d", c.id, q.n)
		}
	}
	for _, q := range c.queue {
		if !q.here && !q.lost && inflight < c.max {
			return fmt.Sprintf("%s: %+v", c.id, *q)
		}
	}
	return ""
}
