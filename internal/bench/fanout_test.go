package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/mqttclient"
)

// newFanout is a short run against a server.
func newFanout(s *faulty) Fanout {
	return Fanout{
		Connect: Connect{Options: mqttclient.Options{Server: s.url()}},
		Topic:   "bench/fanout", Subscribers: 5, Payload: 40, Window: 4,
		Duration: 150 * time.Millisecond, Patience: 300 * time.Millisecond,
	}
}

func TestFanout(t *testing.T) {
	for _, v := range []mqtt.Version{mqtt.V311, mqtt.V5} {
		for qos := range byte(3) {
			for _, window := range []int{1, 7} {
				t.Run(fmt.Sprintf("%v QoS %d window %d", v, qos, window), func(t *testing.T) {
					s := newFaulty(t, perfect)
					b := newFanout(s)
					b.QoS, b.Window, b.Connect.Options.Version = qos, window, v
					b.Warmup = 20 * time.Millisecond
					if runtime.GOOS == "linux" {
						b.Server = &Process{PID: os.Getpid()}
					}
					r, err := b.Run(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					if r.Sent < 10 || r.Received != 5*r.Sent || r.Lost+r.Duplicated+r.OutOfOrder+r.Unacknowledged+r.Foreign != 0 || r.Faults() != "" {
						t.Errorf("report: %+v", r)
					}
					if r.Rate <= 0 || r.Latency.Count <= 5 || r.Latency.Count > r.Received || r.Latency.P50 <= 0 {
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
}

// The next message is not sent before the window has a place for it. One that
// nobody gets has its place until a later one shows that it is lost.
func TestFanoutKeepsWindow(t *testing.T) {
	b := newFanout(newFaulty(t, func(h header) fault {
		if h.seq == 9 {
			return drop
		}
		return none
	}))
	b.Window = 1
	r, err := b.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.Sent != 10 || r.Lost != 5 {
		t.Errorf("window 1: %d sent, %d lost; message 9 is under way to the end", r.Sent, r.Lost)
	}
	b.Window = 3
	if r, err = b.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.Sent < 20 || r.Lost != 5 {
		t.Errorf("window 3: %d sent, %d lost", r.Sent, r.Lost)
	}
}

// Losses that fill the window do not stop the run for good.
func TestFanoutGoesOnAfterLosses(t *testing.T) {
	b := newFanout(newFaulty(t, func(h header) fault {
		if h.seq >= 100 && h.seq < 104 {
			return drop
		}
		return none
	}))
	b.Duration = 1500 * time.Millisecond
	r, err := b.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.Lost != 4*5 || r.Sent < 200 {
		t.Errorf("%d lost, %d sent", r.Lost, r.Sent)
	}
}

// Faults are counted once for each subscriber.
func TestFanoutCountsFaults(t *testing.T) {
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
			b := newFanout(s)
			b.QoS = qos
			r, err := b.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			held := s.held() // to the end, by each connection
			lost := 5*(s.count(drop)+s.count(damage)) + held
			if qos == 0 {
				lost += 5 * s.count(refuse) // which says nothing
			}
			if s.count(drop) == 0 || s.count(damage) == 0 {
				t.Fatalf("only %d messages", r.Sent)
			}
			if r.Lost != lost || r.Duplicated != 5*s.count(duplicate) || r.OutOfOrder != 5*s.count(delay)-held || r.Foreign != 5*s.count(damage) {
				t.Errorf("lost %d duplicated %d out of order %d foreign %d; the server did %d %d %d %d",
					r.Lost, r.Duplicated, r.OutOfOrder, r.Foreign, lost, 5*s.count(duplicate), 5*s.count(delay)-held, 5*s.count(damage))
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

// At a fixed rate all that was due is sent, and a stall is charged to it.
func TestFanoutRate(t *testing.T) {
	const stall = 300 * time.Millisecond
	for qos := range byte(3) {
		b := newFanout(newFaulty(t, func(h header) fault {
			if h.seq == 50 {
				time.Sleep(stall) // is the fault
			}
			return none
		}))
		b.QoS, b.Window, b.Rate, b.Duration = qos, 0, 500, 600*time.Millisecond
		r, err := b.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if r.NotSent != 0 || r.Sent < 299 || r.Sent > 305 || r.Latency.Count < 5*299 || r.Received != 5*r.Sent {
			t.Errorf("QoS %d: %d sent, %d not sent, %d received, %d measured", qos, r.Sent, r.NotSent, r.Received, r.Latency.Count)
		}
		if r.Latency.P99 < stall*8/10 || r.Latency.Mean < stall/6 {
			t.Errorf("QoS %d: %v, mean %v", qos, r.Latency, r.Latency.Mean)
		}
	}
}

// What was due and not sent is told: here the server's receive maximum is full.
func TestFanoutBehindRate(t *testing.T) {
	s := newFaulty(t, func(h header) fault {
		if h.seq == 5 {
			return ignore
		}
		return none
	})
	s.receiveMaximum = 1
	b := newFanout(s)
	b.QoS, b.Rate = 1, 1000
	r, err := b.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.Sent != 6 || r.NotSent < 100 || r.Unacknowledged != 1 {
		t.Errorf("%d sent, %d not sent, %d not acknowledged", r.Sent, r.NotSent, r.Unacknowledged)
	}
}

func TestFanoutEndsEarly(t *testing.T) {
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
	b := newFanout(s)
	b.Duration = time.Minute
	if _, err := b.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "connection ended") {
		t.Errorf("run: %v", err)
	}
	for _, wrong := range []func(*Fanout){
		func(b *Fanout) { b.Subscribers = 0 },
		func(b *Fanout) { b.Payload = MinPayload - 1 },
		func(b *Fanout) { b.Window = 0 },
		func(b *Fanout) { b.Duration = 0 },
	} {
		b := newFanout(s)
		wrong(&b)
		if _, err := b.Run(t.Context()); err == nil {
			t.Errorf("no error: %+v", b)
		}
	}
}

func TestFanoutReport(t *testing.T) {
	r := &FanoutReport{
		Version: "5.0", Subscribers: 2, QoS: 1, Payload: 64, TargetRate: 100, Seconds: 10, Rate: 200,
		Counts: Counts{Sent: 1000, Received: 2000, NotSent: 5},
		Cost:   Cost{ServerCPU: 1.5, ServerSystem: 1.25, ServerCores: 0.5, ServerMemory: 10 << 20},
	}
	var b bytes.Buffer
	if err := r.Print(&b); err != nil {
		t.Fatal(err)
	}
	want := `MQTT 5.0, 2 subscribers, QoS 1, 64 bytes, 100 messages/s wanted, 10.0 s
rate      200 messages/s received, 100.0/s by each
latency   p50 0s, p99 0s, p99.9 0s, max 0s
ack       p50 0s, p99 0s, p99.9 0s, max 0s
messages  1000 sent, 2000 received, 0 lost, 0 duplicated, 0 out of order
          5 not sent: the server is slower than the wanted rate
server    1.50 us CPU/message received (1.25 in the kernel), 0.50 cores, RSS 10.0 MiB
client    0.00 us CPU/message received
`
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
	j, err := json.Marshal(r)
	if err != nil || !strings.Contains(string(j), `"sent":1000,`) || !strings.Contains(string(j), `"serverKernelMicrosPerMessage":1.25,`) {
		t.Errorf("%v %s", err, j)
	}
}
