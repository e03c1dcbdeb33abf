package bench

import (
	"bytes"
	"context"
	"errors"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/mqttclient"
)

func newCycles(s *faulty) Cycles {
	return Cycles{
		Connect: Connect{Options: mqttclient.Options{Server: s.url()}},
		Clients: 3, Warmup: 20 * time.Millisecond, Duration: 150 * time.Millisecond,
	}
}

func TestCycles(t *testing.T) {
	for _, c := range []struct {
		name                    string
		version                 mqtt.Version
		persistent, will, login bool
		first                   string
	}{
		{"clean", mqtt.V31, false, false, false, "MQTT 3.1, 3 clients, clean, "},
		{"persistent", mqtt.V311, true, false, true, "MQTT 3.1.1, 3 clients, persistent, login, "},
		{"persistent with will", mqtt.V5, true, true, true, "MQTT 5.0, 3 clients, persistent, will, login, "},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newFaulty(t, perfect)
			b := newCycles(s)
			b.Connect.Options.Version, b.Persistent = c.version, c.persistent
			if c.will {
				b.Connect.Options.Will = &mqtt.Will{Topic: []byte("will")}
			}
			if c.login {
				b.Connect.Login = func(id string) (string, string) { return "user", id }
			}
			if runtime.GOOS == "linux" {
				b.Server = &Process{PID: os.Getpid()}
			}
			r, err := b.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			ends := 0 // of sessions
			for _, p := range s.connects {
				if p.CleanStart == c.persistent {
					ends++
				}
				if p.Version != c.version || p.HasWill != c.will || p.HasUsername != c.login {
					t.Fatalf("CONNECT %+v", p)
				}
				if c.version == mqtt.V5 && (p.Properties.SessionExpiry > 0) == p.CleanStart {
					t.Fatalf("CONNECT %+v", p)
				}
			}
			if c.persistent && ends != b.Clients || !c.persistent && ends != 0 {
				t.Errorf("%d sessions ended", ends)
			}
			if s.left != len(s.connects) || len(s.clients) != b.Clients {
				t.Errorf("%d of %d disconnected, %d client IDs", s.left, len(s.connects), len(s.clients))
			}
			if n := int64(len(s.connects)); r.Connects < 3 || r.Connects > n || r.Connect.Count < 3 || r.Connect.Count > r.Connects+3 {
				t.Errorf("%d connects in all, report: %+v", n, r)
			}
			if r.Rate <= 0 || r.Connect.P50 <= 0 || r.Cycle.Mean < r.Connect.Mean || b.Server != nil && r.ServerMemory == 0 {
				t.Errorf("report: %+v", r)
			}
			var out bytes.Buffer
			if err := r.Print(&out); err != nil || !bytes.HasPrefix(out.Bytes(), []byte(c.first)) {
				t.Errorf("print: %v %s", err, out.String())
			}
		})
	}
}

func TestCyclesEndEarly(t *testing.T) {
	t.Run("refused", func(t *testing.T) {
		s := newFaulty(t, perfect)
		s.refusal = mqtt.CodeNotAuthorized
		b := newCycles(s)
		b.Duration = time.Hour
		var refused *mqttclient.RefusedError
		if _, err := b.Run(t.Context()); !errors.As(err, &refused) {
			t.Errorf("run: %v", err)
		}
	})
	t.Run("context", func(t *testing.T) {
		b := newCycles(newFaulty(t, perfect))
		b.Duration = time.Hour
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := b.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("run: %v", err)
		}
	})
	t.Run("no clients", func(t *testing.T) {
		b := newCycles(newFaulty(t, perfect))
		b.Clients = 0
		if _, err := b.Run(t.Context()); err == nil {
			t.Error("no error")
		}
	})
}
