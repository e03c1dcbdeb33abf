package test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
)

// TestKillDescriptors is TestKill with few file descriptors, while strangers open
// and drop connections at all listeners. A client subscribes and unsubscribes
// long filters all the time, so that metadata needs new files too: what was
// acknowledged is so after a kill. When the strangers have gone all works
// without a restart.
//
// With HOMING_TORTURE the modes share the time.
func TestKillDescriptors(t *testing.T) {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("no shell: ", err)
	}
	for _, mode := range syncModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			k := &killDescriptors{crash: newCrash(t, mode, "mqtts", "rocketmq", "rocketmq-grpc"), gone: make(chan struct{})}
			k.shareTime()
			k.refuses, k.tolerated = true, "cannot accept a connection"
			writeCertificate(t, k.s.dir, 1)
			k.s.settings = append(k.s.settings, "tls.cert=cert.pem", "tls.key=key.pem")
			k.s.command = fewDescriptors
			k.run()
		})
	}
}

const descriptors = 96

// fewDescriptors makes cmd run with a low limit of open files, soft and hard.
func fewDescriptors(cmd *exec.Cmd) {
	shell, _ := exec.LookPath("sh")
	cmd.Args = append([]string{"sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$@"`, descriptors), "sh", cmd.Path}, cmd.Args[1:]...)
	cmd.Path = shell
}

// killDescriptors is a run of TestKillDescriptors.
type killDescriptors struct {
	*crash
	gone      chan struct{} // closed: the strangers go
	strangers sync.WaitGroup
	came      atomic.Int64 // strangers that connected
	sub       subscriber
}

func (k *killDescriptors) run() {
	k.launch()
	k.startTargets()
	k.startSenders()
	k.sub = subscriber{k: k, r: k.random(300)}
	for i := range k.sub.filters {
		k.sub.filters[i].name = fmt.Sprintf("kill/long/%d/%s", i, strings.Repeat("x", 20000+k.sub.r.IntN(40000)))
	}
	k.senders.Go(k.sub.run)
	for i, transport := range []string{"mqtt", "mqtts", "ws", "http", "rocketmq", "rocketmq-grpc"} {
		for j := range 2 {
			r := k.random(uint64(400 + 10*i + j))
			k.strangers.Go(func() { k.crowd(k.addrs[transport], r) })
		}
	}
	kills := k.massacre()
	k.awaitUp()
	close(k.gone)
	k.strangers.Wait()
	k.worksAgain()
	close(k.producing)
	k.drained = k.sub.compare
	k.settle(kills)
	k.t.Logf("%-8s strangers %d  (un)subscriptions acknowledged %d, refused %d, compared %d", k.mode, k.came.Load(),
		k.sub.acked, k.sub.refused, k.sub.compared)
	if k.sub.acked == 0 || k.sub.compared == 0 {
		k.t.Error("no subscription was acknowledged or compared")
	}
}

// The strangers come in waves: while they are there, all descriptors that anybody
// can have are taken.
const (
	wave      = 300 * time.Millisecond // every second one is a pause
	crowdSize = 20                     // connections of a crowd at a time
)

// crowd is strangers at a listener. Some say something, none says what is
// expected.
func (k *killDescriptors) crowd(addr string, r *rand.Rand) {
	var open []net.Conn
	defer func() {
		for _, conn := range open {
			conn.Close()
		}
	}()
	for {
		select {
		case <-k.gone:
			return
		case <-time.After(time.Duration(1+r.IntN(8)) * time.Millisecond):
		}
		if time.Now().UnixNano()/int64(wave)%2 == 0 {
			for _, conn := range open {
				conn.Close()
			}
			open = nil
			continue
		}
		if conn, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
			k.came.Add(1)
			if r.IntN(2) == 0 {
				_, _ = conn.Write([]byte("POST /mqtt HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n")[:1+r.IntN(50)])
			}
			open = append(open, conn)
		}
		if len(open) >= crowdSize || len(open) > 0 && r.IntN(20) == 0 {
			n := 1 + r.IntN(len(open))
			for _, conn := range open[:n] {
				conn.Close()
			}
			open = open[n:]
		}
	}
}

// worksAgain is after the strangers have gone: no restart is needed.
func (k *killDescriptors) worksAgain() {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	said := ""
	k.soon("/readyz says 200", func() bool {
		res, err := client.Get("http://" + k.addrs["http"] + "/readyz")
		if err != nil {
			said = err.Error()
			return false
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		said = fmt.Sprintf("%d %s", res.StatusCode, body)
		return res.StatusCode == http.StatusOK
	})
	if !strings.HasPrefix(said, "200") {
		k.ledger.problem("/readyz without strangers: %s", said)
	}
	p := k.s.connect(mqtt.V5, "newcomer", persistent)
	k.soon("a new client subscribes", func() bool { return p.subscribe(1, "kill/newcomer")[0] == 1 })
	k.soon("a new client sends", func() bool { return p.publish("kill/newcomer", "hello", 1) == 0 })
	p.wants("kill/newcomer", "hello", 1)
	p.leave()
}

// subscriber subscribes and unsubscribes long filters, one after the other.
type subscriber struct {
	k       *killDescriptors
	r       *rand.Rand
	filters [30]filterState

	acked, refused, compared int
}

type filterState struct {
	name  string
	known bool // whether it is subscribed: it was acknowledged
	there bool
}

const subscriberID = "subscriber"

func (s *subscriber) connect() *link {
	how := &mqtt.Connect{ClientID: []byte(subscriberID)}
	expires(never)(how)
	return s.k.connect(mqtt.V5, how)
}

func (s *subscriber) run() {
	for !isClosed(s.k.producing) {
		l := s.connect()
		if l == nil {
			return
		}
		for range 2 { // what was there before a kill
			if f := &s.filters[s.r.IntN(len(s.filters))]; f.known && !s.check(l, f) {
				break
			}
		}
		for !isClosed(s.k.producing) && s.change(l, &s.filters[s.r.IntN(len(s.filters))]) {
			s.k.wait(time.Duration(s.r.IntN(5)) * time.Millisecond)
		}
		l.drop()
	}
}

// change subscribes or unsubscribes. It reports whether it was answered.
func (s *subscriber) change(l *link, f *filterState) bool {
	there := !f.there
	f.known = false
	if there {
		l.send((&mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: []byte(f.name), QoS: 1}}}).Append(nil, l.version))
	} else {
		l.send((&mqtt.Unsubscribe{PacketID: 1, Filters: [][]byte{[]byte(f.name)}}).Append(nil, l.version))
	}
	f.there = there // if it was not answered, the opposite is tried next
	for x := range l.in {
		var codes []mqtt.ReasonCode
		switch x := x.(type) {
		case *mqtt.Suback:
			codes = x.Codes
		case *mqtt.Unsuback:
			codes = x.Codes
		default:
			continue
		}
		if len(codes) != 1 || codes[0].Failed() {
			s.refused++
			f.there = !there
			return true
		}
		f.known = true
		s.acked++
		return true
	}
	return false
}

// check publishes to a filter: the code says whether anybody has subscribed to
// it. It reports whether it was answered.
func (s *subscriber) check(l *link, f *filterState) bool {
	const pid = 7
	l.send((&mqtt.Publish{QoS: 1, PacketID: pid, Topic: []byte(f.name), Payload: []byte("check")}).Append(nil, l.version))
	came, answered := false, false
	for x := range l.in {
		switch x := x.(type) {
		case *mqtt.Publish:
			l.send(mqtt.AppendAck(nil, l.version, mqtt.PUBACK, x.PacketID, 0))
			came = came || string(x.Topic) == f.name
		case *mqtt.Ack:
			if x.Code != 0 && x.Code != mqtt.CodeNoMatchingSubscribers {
				return true // the store has failed
			}
			answered = true
			if there := x.Code == 0; there != f.there {
				s.k.ledger.problem("%.20s: subscribed %v after a kill, acknowledged was %v", f.name, there, f.there)
			}
		}
		if answered && (came || !f.there) {
			s.compared++
			return true
		}
	}
	return false
}

// compare looks at all filters before and after a kill.
func (s *subscriber) compare() {
	for range 2 {
		l := s.connect()
		if l == nil {
			return
		}
		for i := range s.filters {
			if f := &s.filters[i]; f.known && !s.check(l, f) {
				s.k.ledger.problem("%.20s: not answered when the strangers have gone", f.name)
			}
		}
		l.drop()
		s.k.kill()
		s.k.s.launch()
		s.k.awaitUp()
	}
}
