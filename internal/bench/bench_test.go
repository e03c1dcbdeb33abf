package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/mqttclient"
)

// newP2P is a short run against a server.
func newP2P(s *faulty) P2P {
	return P2P{
		Connect: Connect{Options: mqttclient.Options{Server: s.url()}},
		Parent:  "homing", Pairs: 3, QoS: 1, Payload: 40, Window: 8,
		Duration: 150 * time.Millisecond, Patience: 300 * time.Millisecond,
	}
}

func perfect(header) fault { return none }

func TestP2P(t *testing.T) {
	for _, v := range []mqtt.Version{mqtt.V31, mqtt.V311, mqtt.V5} {
		for qos := range byte(3) {
			t.Run(fmt.Sprintf("%v QoS %d", v, qos), func(t *testing.T) {
				b := newP2P(newFaulty(t, perfect))
				b.QoS, b.Connect.Options.Version = qos, v
				b.Keep, b.Persistent = qos > 0, qos > 0
				b.Warmup = 20 * time.Millisecond
				if runtime.GOOS == "linux" {
					b.Server = &Process{PID: os.Getpid()}
				}
				r, err := b.Run(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if r.Sent == 0 || r.Received != r.Sent || r.Lost+r.Duplicated+r.OutOfOrder+r.Unacknowledged+r.Foreign != 0 || r.Faults() != "" {
					t.Errorf("report: %+v", r)
				}
				if r.Rate <= 0 || r.Latency.Count == 0 || r.Latency.Count > r.Sent || r.Latency.P50 <= 0 || r.Latency.P50 > r.Latency.Max {
					t.Errorf("rate %v, latency %+v", r.Rate, r.Latency)
				}
				if (qos > 0) != (r.Ack.Count > 0) {
					t.Errorf("%d acknowledgements measured", r.Ack.Count)
				}
				if b.Server != nil && r.ServerMemory == 0 {
					t.Error("no memory measured")
				}
			})
		}
	}
}

// Faults are counted exactly.
func TestP2PCountsFaults(t *testing.T) {
	for qos := range byte(3) {
		t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
			s := newFaulty(t, func(h header) fault {
				switch h.seq % 50 {
				case 10:
					return drop
				case 20:
					return duplicate
				case 30:
					return delay
				case 40:
					return refuse
				case 45:
					return damage
				}
				return none
			})
			b := newP2P(s)
			b.QoS = qos
			r, err := b.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			held := s.held() // to the end
			lost := s.count(drop) + s.count(damage) + held
			if qos == 0 {
				lost += s.count(refuse) // which says nothing
			}
			if s.count(drop) == 0 || s.count(damage) == 0 {
				t.Fatalf("only %d messages", r.Sent)
			}
			if r.Lost != lost || r.Duplicated != s.count(duplicate) || r.OutOfOrder != s.count(delay)-held || r.Foreign != s.count(damage) {
				t.Errorf("lost %d duplicated %d out of order %d foreign %d; the server did %d %d %d %d",
					r.Lost, r.Duplicated, r.OutOfOrder, r.Foreign, lost, s.count(duplicate), s.count(delay)-held, s.count(damage))
			}
			if qos > 0 && r.Refused["0x10 no matching subscribers"] != s.count(refuse) {
				t.Errorf("refused %v, the server did %d", r.Refused, s.count(refuse))
			}
			if r.Faults() == "" {
				t.Error("no faults")
			}
		})
	}
}

func TestP2PCountsUnacknowledged(t *testing.T) {
	b := newP2P(newFaulty(t, func(h header) fault {
		if h.seq == 5 {
			return ignore
		}
		return none
	}))
	r, err := b.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.Unacknowledged != 3 || r.Lost != 0 || r.Sent <= 3*6 {
		t.Errorf("report: %+v", r)
	}
}

// Losses do not stop a QoS 0 pair, even if they fill its window.
func TestP2PGoesOnAfterLosses(t *testing.T) {
	b := newP2P(newFaulty(t, func(h header) fault {
		if h.seq >= 100 && h.seq < 112 {
			return drop
		}
		return none
	}))
	b.QoS, b.Pairs, b.Duration = 0, 1, 1500*time.Millisecond
	r, err := b.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.Lost != 12 || r.Received < 200 {
		t.Errorf("%d lost, %d received", r.Lost, r.Received)
	}
}

// At a fixed rate a stall of the server is charged to every message that was
// due in it, and nothing is left out.
func TestP2PRate(t *testing.T) {
	const stall = 300 * time.Millisecond
	s := newFaulty(t, func(h header) fault {
		if h.seq == 50 {
			time.Sleep(stall) // is the fault
		}
		return none
	})
	for qos := range byte(3) {
		b := newP2P(s)
		b.QoS, b.Pairs, b.Rate, b.Duration = qos, 2, 1000, 600*time.Millisecond
		r, err := b.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if r.NotSent != 0 || r.Latency.Count < 599 || r.Latency.Count > r.Sent {
			t.Errorf("QoS %d: %d sent, %d not sent, %d measured", qos, r.Sent, r.NotSent, r.Latency.Count)
		}
		// Half of the time the server stood still; a message waited for half of
		// that on average.
		if r.Latency.P99 < stall*8/10 || r.Latency.Mean < stall/6 {
			t.Errorf("QoS %d: %v, mean %v", qos, r.Latency, r.Latency.Mean)
		}
	}
}

// A server whose receive maximum is too small for the rate: what was due and not
// sent is told.
func TestP2PBehindRate(t *testing.T) {
	s := newFaulty(t, func(h header) fault {
		if h.seq == 5 {
			return ignore
		}
		return none
	})
	s.receiveMaximum = 1
	b := newP2P(s)
	b.Pairs, b.Rate, b.Duration = 1, 1000, 200*time.Millisecond
	r, err := b.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.Sent != 6 || r.NotSent < 150 {
		t.Errorf("%d sent, %d not sent", r.Sent, r.NotSent)
	}
}

func TestP2PSubscribe(t *testing.T) {
	s := newFaulty(t, perfect)
	b := newP2P(s)
	b.Subscribe = true
	b.Connect.Login = func(id string) (string, string) { return "user", id }
	if _, err := b.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.subs != b.Pairs {
		t.Errorf("%d subscriptions", s.subs)
	}
}

func TestP2PEndsEarly(t *testing.T) {
	t.Run("connection lost", func(t *testing.T) {
		var s *faulty
		s = newFaulty(t, func(h header) fault {
			if h.seq == 20 {
				s.mu.Lock()
				for _, c := range s.clients {
					c.conn.Close()
				}
				s.mu.Unlock()
			}
			return none
		})
		b := newP2P(s)
		b.Duration = time.Minute
		if _, err := b.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "connection ended") {
			t.Errorf("run: %v", err)
		}
	})
	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		b := newP2P(newFaulty(t, func(h header) fault {
			if h.seq == 20 {
				cancel()
			}
			return none
		}))
		b.Duration, b.Rate = time.Minute, 1000
		if _, err := b.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("run: %v", err)
		}
	})
	t.Run("no server", func(t *testing.T) {
		s := newFaulty(t, perfect)
		s.l.Close()
		b := newP2P(s)
		if _, err := b.Run(t.Context()); err == nil {
			t.Error("no error")
		}
	})
}

func TestReports(t *testing.T) {
	r := &P2PReport{
		Version: "5.0", Pairs: 2, QoS: 2, Payload: 64, Window: 16, Seconds: 10, Rate: 1234.5,
		Latency: Latency{10, 1, 1200 * time.Microsecond, 35 * time.Millisecond, time.Second, 2 * time.Second},
		Counts: Counts{
			Sent: 10, Received: 8, Lost: 1, Duplicated: 2, OutOfOrder: 3, Unacknowledged: 4, NotSent: 5, Foreign: 6,
			Refused: map[string]int64{"0x10 no matching subscribers": 7},
		},
		Cost: Cost{ServerCPU: 1.5, ServerSystem: 1.25, ServerCores: 0.5, ServerMemory: 10 << 20},
	}
	var b bytes.Buffer
	if err := r.Print(&b); err != nil {
		t.Fatal(err)
	}
	want := `MQTT 5.0, 2 pairs, QoS 2, 64 bytes, window 16, 10.0 s
rate      1234 messages/s
latency   p50 1.2ms, p99 35ms, p99.9 1s, max 2s
ack       p50 0s, p99 0s, p99.9 0s, max 0s
messages  10 sent, 8 received, 1 lost, 2 duplicated, 3 out of order
          4 not acknowledged
          7 acknowledged with 0x10 no matching subscribers
          5 not sent: the server is slower than the wanted rate
          6 received that are not of this run, or damaged
server    1.50 us CPU/message (1.25 in the kernel), 0.50 cores, RSS 10.0 MiB
client    0.00 us CPU/message
`
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
	r.Via = ViaRemoting
	b.Reset()
	if err := r.Print(&b); err != nil || !strings.HasPrefix(b.String(), "RocketMQ remoting to MQTT 5.0, 2 pairs, ") {
		t.Errorf("got %s, %v", b.String(), err)
	}
	if got := r.Faults(); got != "1 acknowledged messages lost, 2 messages of QoS 2 duplicated, 3 messages out of order" {
		t.Errorf("faults: %s", got)
	}
	if _, err := json.Marshal(r); err != nil {
		t.Error(err)
	}
}

func TestIdle(t *testing.T) {
	s := newFaulty(t, perfect)
	b := Idle{Connect: Connect{Options: mqttclient.Options{Server: s.url()}}, Connections: 50}
	if runtime.GOOS == "linux" {
		b.Server = &Process{PID: os.Getpid()}
	}
	r, err := b.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.Connections != 50 || r.Closed != 0 || len(s.clients) != 50 || r.Rate <= 0 || b.Server != nil && r.MemoryAfter == 0 {
		t.Errorf("report: %+v, %d clients", r, len(s.clients))
	}
	var out bytes.Buffer
	if err := r.Print(&out); err != nil || !strings.HasPrefix(out.String(), "connected 50 in ") {
		t.Errorf("print: %v %s", err, out.String())
	}
	s.l.Close()
	if _, err := b.Run(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "after 0 connections: ") {
		t.Errorf("without a server: %v", err)
	}
}

func TestLoopbackAddresses(t *testing.T) {
	for n, want := range map[int]string{0: "127.0.0.2", 199: "127.0.0.201", 200: "127.0.1.2"} {
		if got := loopback(n).String(); got != want {
			t.Errorf("address %d is %s, want %s", n, got, want)
		}
	}
	for server, want := range map[string]bool{
		"tcp://127.0.0.1:1883": true, "tcp://localhost": true, "tcp://10.0.0.1": false, "tcp://[::1]:1883": false, "tcp://example.com": false,
	} {
		if got := toLoopback(server); got != want {
			t.Errorf("%s: %v", server, got)
		}
	}
}

func TestProcessStatus(t *testing.T) {
	stat := "42 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 13 14 15 16 17 18 19 20 1000 22"
	u, err := parseStat([]byte(stat))
	if err != nil || u.CPU != 3*time.Second || u.System != 500*time.Millisecond || u.Memory != 1000*int64(os.Getpagesize()) {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := parseStat([]byte("42 (x) S 1 2")); err == nil {
		t.Error("short status: no error")
	}
	if _, err := (&Process{PID: 1 << 30}).Usage(); err == nil {
		t.Error("no such process: no error")
	}
}

// actAs makes this test program the server that Spawn starts.
const actAs = "BENCH_TEST_SERVER"

func actAsServer() {
	if os.Getenv(actAs) == "fail" {
		fmt.Fprintln(os.Stderr, "address in use")
		os.Exit(1)
	}
	fmt.Fprintln(os.Stderr, `{"msg":"listening","transport":"http","address":"127.0.0.1:2"}`)
	fmt.Fprintln(os.Stderr, `not JSON`)
	fmt.Fprintln(os.Stderr, `{"msg":"listening","transport":"mqtt","address":"127.0.0.1:1"}`)
	fmt.Fprintln(os.Stderr, `{"msg":"listening","transport":"mqtt","address":"127.0.0.1:4"}`)
	fmt.Fprintln(os.Stderr, `{"msg":"listening","transport":"rocketmq","address":"127.0.0.1:3"}`)
	select {}
}

func TestSpawn(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Skip(err)
	}
	s, err := Spawn(t.Context(), program, nil, []string{actAs + "=yes"})
	if err != nil {
		t.Fatal(err)
	}
	if s.URL != "tcp://127.0.0.1:1" || s.Process.PID == 0 {
		t.Errorf("spawned %+v", s)
	}
	s.Stop()
	if s.cmd.ProcessState == nil {
		t.Error("it still runs")
	}
	if s, err = Spawn(t.Context(), program, nil, []string{actAs + "=yes"}, "rocketmq"); err != nil {
		t.Fatal(err)
	}
	if s.URL != "tcp://127.0.0.1:1" || s.Addresses["rocketmq"] != "127.0.0.1:3" {
		t.Errorf("spawned %+v", s)
	}
	s.Stop()
	if _, err := Spawn(t.Context(), program, nil, []string{actAs + "=fail"}); err == nil || !strings.Contains(err.Error(), "address in use") {
		t.Errorf("spawn: %v", err)
	}
}
