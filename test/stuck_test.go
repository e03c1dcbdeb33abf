package test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
)

const (
	floodSize = 4 << 10 // bytes of a message to the stuck target
	floodQoS0 = 30000   // messages; 120 MB in all
	floodQoS1 = 6000
	// memoryBound is what the server may grow while it is flooded: far less
	// than the flood, more than the bounds of one client and the collector's
	// slack.
	memoryBound = 48 << 20
)

// TestStuckTarget: a target that does not read its socket while it is flooded
// neither slows others nor grows the server; when it reads again, what was kept
// arrives in order.
func TestStuckTarget(t *testing.T) {
	if testing.Short() {
		t.Skip("slow: measures")
	}
	// QoS 1 goes to the store; the disk is not what is measured.
	s := startServer(t, "store.sync=os", "p2p.inbox-limit=0", "p2p.inbox-bytes=0", "limits.pending-bytes=4MiB", "limits.outbox=256KiB")
	others := newPairs(t, s, 4)

	healthy := s.connect(mqtt.V5, "reads", persistent)
	read := make(chan int)
	go func() { read <- readAll(healthy, floodQoS1) }()
	without := others.during(func() { flood(s, "reads") })
	<-read

	stuck := stuckTarget(t, s)
	before := s.rss()
	dropped := s.dropped("slow_consumer")
	with := others.during(func() { flood(s, "stuck") })
	grown := s.rss() - before
	dropped = s.dropped("slow_consumer") - dropped

	t.Logf("latency of the others: %v with a target that reads, %v with one that does not; memory grew by %d MiB for a flood of %d MiB; %d of %d QoS 0 messages dropped",
		without, with, grown>>20, floodSize*(floodQoS0+floodQoS1)>>20, dropped, floodQoS0)
	if with.p50 > 5*without.p50+5*time.Millisecond || with.p99 > 5*without.p99+50*time.Millisecond {
		t.Errorf("the others are slowed down: %v, without a stuck target %v", with, without)
	}
	if grown > memoryBound {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}
	if dropped < floodQoS0/2 || dropped > floodQoS0 {
		t.Errorf("%d of %d QoS 0 messages are counted as dropped for slow_consumer", dropped, floodQoS0)
	}
	resume(t, stuck)
}

// stuckTarget connects a persistent client and does not read.
func stuckTarget(t *testing.T, s *server) net.Conn {
	t.Helper()
	conn, err := s.dial("mqtt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.(*net.TCPConn).SetReadBuffer(16 << 10); err != nil {
		t.Fatal(err)
	}
	c := &mqtt.Connect{ClientID: []byte("stuck")}
	persistent(c)
	if _, err := conn.Write(c.Append(nil, mqtt.V5)); err != nil {
		t.Fatal(err)
	}
	var connack [4]byte // the rest of it stays unread
	if _, err := conn.Read(connack[:2]); err != nil {
		t.Fatal(err)
	}
	rest := make([]byte, connack[1])
	if _, err := conn.Read(rest); err != nil {
		t.Fatal(err)
	}
	return conn
}

// flood sends QoS 0 and QoS 1 messages, each with its number.
func flood(s *server, target string) {
	var wg sync.WaitGroup
	for qos, n := range []int{floodQoS0, floodQoS1} {
		sender := s.connect(mqtt.V5, fmt.Sprint("flood-", qos), persistent)
		wg.Go(func() {
			defer sender.conn.Close()
			sender.floodWith(target, byte(qos), n)
		})
	}
	wg.Wait()
}

// floodWith keeps at most 100 messages unacknowledged, with QoS 0 unanswered.
func (p *peer) floodWith(target string, qos byte, n int) {
	filling := strings.Repeat("x", floodSize)
	const window = 100
	for i := range n {
		p.post(&mqtt.Publish{Topic: []byte(topicOf(target)), Payload: fmt.Appendf(nil, "%d %s", i, filling), QoS: qos})
		switch {
		case qos == 1 && i >= window:
			receive[*mqtt.Ack](p)
		case qos == 0 && i%window == 0:
			p.ping()
		}
	}
	for range min(n, window) * int(qos) {
		receive[*mqtt.Ack](p)
	}
	p.ping()
}

// readAll takes messages until it has so many with QoS 1, in order, and
// returns how many it had with QoS 0.
func readAll(p *peer, want int) (qos0 int) {
	for next := 0; next < want; {
		m := p.message()
		if m.QoS == 0 {
			qos0++
			continue
		}
		var i int
		if _, err := fmt.Sscan(string(m.Payload[:10]), &i); err != nil || i != next {
			p.t.Errorf("%s: received QoS 1 message %.10s, want %d", p.id, m.Payload, next)
			return qos0
		}
		next++
	}
	return qos0
}

// resume reads again.
func resume(t *testing.T, conn net.Conn) {
	if err := conn.(*net.TCPConn).SetReadBuffer(1 << 20); err != nil {
		t.Fatal(err)
	}
	p := newPeer(t, conn, mqtt.V5)
	p.id = "stuck"
	t.Logf("the target reads again and receives all QoS 1 messages and %d with QoS 0", readAll(p, floodQoS1))
}

// pairs are senders and targets whose latency is measured.
type pairs struct {
	t       *testing.T
	senders []*peer
	targets []*peer
}

func newPairs(t *testing.T, s *server, n int) *pairs {
	p := &pairs{t: t}
	for i := range n {
		p.targets = append(p.targets, s.connect(mqtt.V5, fmt.Sprint("pair-target-", i)))
		p.senders = append(p.senders, s.connect(mqtt.V5, fmt.Sprint("pair-sender-", i)))
	}
	return p
}

// latency is from PUBLISH to PUBACK of a QoS 1 message that the target
// acknowledges at once.
type latency struct{ p50, p99 time.Duration }

func (l latency) String() string { return fmt.Sprintf("p50 %v p99 %v", l.p50, l.p99) }

// during measures while f runs.
func (p *pairs) during(f func()) latency {
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for i, sender := range p.senders {
		target := p.targets[i]
		wg.Go(func() {
			for !isClosed(stop) {
				began := time.Now()
				id := sender.post(&mqtt.Publish{Topic: []byte(topicOf(target.id)), Payload: []byte("x"), QoS: 1})
				target.message()
				sender.acknowledged(id)
				mu.Lock()
				all = append(all, time.Since(began))
				mu.Unlock()
			}
		})
	}
	f()
	close(stop)
	wg.Wait()
	slices.Sort(all)
	if len(all) < 100 {
		p.t.Fatalf("only %d messages while the flood ran", len(all))
	}
	return latency{all[len(all)/2], all[len(all)*99/100]}
}
