package test

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/rocketmq"
)

// routeFrom asks a name server where to send to.
func routeFrom(t *testing.T, addr string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	ask := rocketmq.Command{Code: int32(rocketmq.GetRouteInfoByTopic), Ext: rocketmq.Fields{{Key: []byte("topic"), Value: []byte("parent")}}}
	if _, err := conn.Write(ask.Append(nil, rocketmq.JSON, nil)); err != nil {
		t.Fatal(err)
	}
	var b []byte
	for {
		f, _, complete, err := rocketmq.Split(b, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if complete {
			route, err := rocketmq.RouteAddr(f.Body)
			if err != nil {
				t.Fatal(err)
			}
			return route
		}
		more := make([]byte, 4096)
		n, err := conn.Read(more)
		if err != nil && (n == 0 || err != io.EOF) {
			t.Fatal(err)
		}
		b = append(b, more[:n]...)
	}
}

// TestRocketMQAddresses: clients are sent to the address they have asked, also by
// the VIP channel's port, unless another one is advertised.
func TestRocketMQAddresses(t *testing.T) {
	s := newServer(t, "rocketmq.vip-channel=true", "listen.ws=", "listen.http=")
	main := freeAddr(t)
	host, port, _ := net.SplitHostPort(main)
	n, _ := strconv.Atoi(port)
	vip := net.JoinHostPort(host, strconv.Itoa(n-2))
	s.addr = map[string]string{"mqtt": "127.0.0.1:0", "rocketmq": main}
	s.launch()
	for _, addr := range []string{main, vip} {
		if !s.find(func(lines []string) bool { return strings.Contains(strings.Join(lines, "\n"), fmt.Sprintf("%q", addr)) }) {
			t.Fatalf("it does not listen on %s:\n%s", addr, s.tail())
		}
		if got := routeFrom(t, addr); got != main {
			t.Errorf("asked at %s, it sends to %s, want %s", addr, got, main)
		}
	}
	s.stop()

	s = newServer(t, "rocketmq.advertise=mq.example.com:19876", "listen.ws=", "listen.http=")
	s.addr = map[string]string{"mqtt": "127.0.0.1:0", "rocketmq": "127.0.0.1:0"}
	s.start()
	if got := routeFrom(t, s.addr["rocketmq"]); got != "mq.example.com:19876" {
		t.Errorf("it sends to %s, not the advertised address", got)
	}
}

// TestRocketMQShutdown: with p2p.keep: never only the target can answer for a
// message. One that does not holds the shutdown up no longer than its connection.
func TestRocketMQShutdown(t *testing.T) {
	s := newServer(t, "p2p.keep=never")
	s.addr["rocketmq"] = "127.0.0.1:0"
	s.start()
	d := s.connect(mqtt.V5, "dev", persistent)
	conn, err := net.DialTimeout("tcp", s.addr["rocketmq"], patience)
	if err != nil {
		t.Fatal(err)
	}
	l := newRemotingLink(conn, rocketmq.JSON)
	e := entry{sender: "x", target: "dev", seq: 1, qos: 1}
	l.send(1, []parcel{{entry: e, body: e.payload(3)}}, false)
	d.arrival() // which is not acknowledged
	begun := time.Now()
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(begun); took > 8*time.Second {
		t.Errorf("it has stopped after %v", took)
	}
	if a, ok := <-l.answers(); !ok || a.list[0] == accepted {
		t.Errorf("answer %+v %v", a, ok)
	}
}
