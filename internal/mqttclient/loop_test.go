package mqttclient_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/mqttclient"
)

// attempts is what happens on one dial after another: a script for a Loop.
type attempts []func(*peer)

// dial plays the next attempt over a pipe; the last one again and again.
func (a *attempts) dial(t *testing.T) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) {
		play := (*a)[0]
		if len(*a) > 1 {
			*a = (*a)[1:]
		}
		if play == nil {
			return nil, errors.New("nobody there")
		}
		client, server := net.Pipe()
		go func() {
			play(newPeer(t, server))
			server.Close()
		}()
		return client, nil
	}
}

func TestLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		accept := func(p *peer) { p.accept(new(mqtt.Connack)) }
		last := func(p *peer) {
			accept(p)
			p.expect(mqtt.DISCONNECT, new(mqtt.Disconnect))
		}
		script := &attempts{nil, nil, nil, accept, nil, last}
		var pauses []time.Duration
		connected := 0
		l := mqttclient.Loop{
			Options: mqttclient.Options{DialConn: script.dial(t)},
			OnConnect: func(context.Context, *mqttclient.Client) error {
				if connected++; connected == 2 {
					cancel()
				}
				return nil
			},
			OnRetry: func(_ error, pause time.Duration) { pauses = append(pauses, pause) },
			First:   time.Second, Longest: 3 * time.Second,
		}
		if err := l.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
		if connected != 2 || len(pauses) != 5 {
			t.Fatalf("connected %d times, pauses %v", connected, pauses)
		}
		for i, full := range []time.Duration{1, 2, 3, 1, 2} {
			if p := pauses[i]; p < full*time.Second/2 || p > full*time.Second {
				t.Errorf("pause %d is %v, want %d s or a bit less", i, p, full)
			}
		}
	})
}

func TestLoopGivesUp(t *testing.T) {
	for name, play := range map[string]func(*peer){
		"refused": func(p *peer) { p.accept(&mqtt.Connack{Code: mqtt.CodeNotAuthorized}) },
		"taken over": func(p *peer) {
			p.accept(new(mqtt.Connack))
			p.send(&mqtt.Disconnect{Code: mqtt.CodeSessionTakenOver})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := mqttclient.Loop{Options: mqttclient.Options{DialConn: (&attempts{play}).dial(t)}}
				if err := l.Run(t.Context()); err == nil {
					t.Error("no error")
				}
			})
		})
	}
	l := mqttclient.Loop{Options: mqttclient.Options{Server: "nonsense"}}
	if err := l.Run(t.Context()); err == nil {
		t.Error("a bad URL is tried again")
	}
}

func TestLoopOnConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		accept := func(p *peer) { p.accept(new(mqtt.Connack)); _, _, _ = p.next() }
		n := 0
		l := mqttclient.Loop{
			Options: mqttclient.Options{DialConn: (&attempts{accept}).dial(t)},
			OnConnect: func(context.Context, *mqttclient.Client) error {
				if n++; n < 3 {
					return errors.New("not yet")
				}
				return &mqttclient.PermanentError{Err: errors.New("enough")}
			},
		}
		if err := l.Run(t.Context()); err == nil || err.Error() != "enough" {
			t.Errorf("run: %v", err)
		}
		if n != 3 {
			t.Errorf("%d attempts", n)
		}
	})
}
