package rocketmqserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/homing-mq/homing/internal/auth"
	"github.com/homing-mq/homing/internal/gateway"
	"github.com/homing-mq/homing/internal/rocketmq"
	pb "github.com/homing-mq/homing/internal/rocketmqpb"
)

// TestOtherProtocols: the first bytes end what is not the protocol of a port, at
// once, and the log says what it was.
func TestOtherProtocols(t *testing.T) {
	log := new(lockedBuffer)
	r := newRig(t, rigOptions{log: slog.New(slog.NewTextHandler(log, nil)), server: func(o *Options) { o.FrameTime = time.Minute }})
	for _, tt := range []struct{ speaks, first string }{
		{"HTTP", "GET / HTTP/1.1\r\n"}, {"HTTP", "POST / HTTP/1.1\r\n"}, {"HTTP", "PUT / HTTP"}, {"SSH", "SSH-2.0-OpenSSH_9\r\n"},
		{"the PROXY protocol", "PROXY TCP4 1.2.3.4 1.2.3.4 5 6\r\n"}, {"the PROXY protocol", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"},
		{"MQTT", "\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"}, {"HTTP/2", http2Greeting}, {"RocketMQ", "\x00\x00\x00\x6a\x00\x00\x00\x60{"},
	} {
		for port, addr := range map[string]string{"rocketmq": r.remoting, "rocketmq-grpc": r.grpc} {
			if port == "rocketmq" && tt.speaks == "RocketMQ" || port == "rocketmq-grpc" && tt.speaks == "HTTP/2" {
				continue
			}
			before := len(log.String())
			nc, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			_, _ = io.WriteString(nc, tt.first)
			_ = nc.SetReadDeadline(time.Now().Add(patience))
			if _, err := io.ReadAll(nc); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%q on %s: still open", tt.first, port)
			}
			want := "the client speaks " + tt.speaks
			r.waitFor(fmt.Sprintf("the log says %q of %q on %s", want, tt.first, port), func() bool { return strings.Contains(log.String()[before:], want) })
		}
	}
}

// TestGRPCWithoutCall: a connection that asks for nothing ends, and one that has
// called stays.
func TestGRPCWithoutCall(t *testing.T) {
	log := new(lockedBuffer)
	r := newRig(t, rigOptions{log: slog.New(slog.NewTextHandler(log, nil)), auth: auth.Options{}, server: func(o *Options) {
		o.FrameTime, o.IdleTimeout = 500*time.Millisecond, time.Hour
	}})
	p := r.producer()
	route := func() {
		t.Helper()
		if _, err := p.QueryRoute(calling(t), &pb.QueryRouteRequest{Topic: &pb.Resource{Name: "t"}}); err != nil {
			t.Fatal(err)
		}
	}
	route()
	nc := r.greeted(http2Greeting + emptySettings)
	_ = nc.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadAll(nc); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("still open")
	}
	if !strings.Contains(log.String(), "no call came in time") {
		t.Errorf("log: %s", log)
	}
	route()
	if n := r.Stats.Accepted[GRPC].Load(); n != 2 {
		t.Errorf("%d connections were made: the one that had called was closed", n)
	}
}

// TestProxyProtocol: behind a load balancer the client's address is that of the
// header: for the limit and the log. What comes behind the header is not lost.
func TestProxyProtocol(t *testing.T) {
	log := new(lockedBuffer)
	r := newRig(t, rigOptions{log: slog.New(slog.NewTextHandler(log, nil)), server: func(o *Options) {
		o.Proxies, _ = gateway.ParseProxies([]string{"127.0.0.0/8"})
		o.PerAddress = 1
	}})
	for i := range 2 {
		c := r.dial()
		if _, err := fmt.Fprintf(c.nc, "PROXY TCP4 203.0.113.%d 10.0.0.1 12345 9876\r\n", i); err != nil {
			t.Fatal(err)
		}
		c.request(rocketmq.HeartBeat, 0, []byte(`{"clientID":"a"}`))
		_ = c.nc.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.ReadFull(c.nc, make([]byte, 4)); err != nil {
			t.Errorf("no answer: %v", err)
		}
		conn, err := grpc.NewClient("passthrough:///"+r.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(func(_ context.Context, addr string) (net.Conn, error) {
			nc, err := net.Dial("tcp", addr)
			if err == nil {
				_, err = fmt.Fprintf(nc, "PROXY TCP4 203.0.113.%d 10.0.0.1 12345 8081\r\n", i)
			}
			return nc, err
		}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := pb.NewMessagingServiceClient(conn).QueryRoute(calling(t), &pb.QueryRouteRequest{Topic: &pb.Resource{Name: "t"}}); err != nil {
			t.Error(err)
		}
	}
	for p := range Protocols {
		if n := r.Connections(p); n != 2 {
			t.Errorf("%v: %d connections", p, n)
		}
	}
	for i, addr := range []string{r.remoting, r.grpc} {
		for _, begin := range []string{"PROXY TCP4 203.0.113.1 10.0.0.1 777 1\r\n", "\x00\x00\x00\x6a\x00\x00\x00\x60{"} {
			nc, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			_, _ = io.WriteString(nc, begin)
			_ = nc.SetReadDeadline(time.Now().Add(patience))
			if _, err := io.ReadAll(nc); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%d: %q: still open", i, begin)
			}
		}
	}
	for p := range Protocols {
		r.waitFor("both are counted", func() bool { return r.Stats.Misled[p].Load() == 1 && r.Stats.OverLimit[p].Load() == 1 })
	}
	if n := strings.Count(log.String(), "203.0.113.1:777"); n != 2 {
		t.Errorf("the log names the client over its limit %d times: %s", n, log)
	}
}
