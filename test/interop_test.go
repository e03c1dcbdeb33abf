package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
)

// flavour is somebody else's client in one of its modes.
type flavour struct {
	name    string
	missing func() string // what is not installed; "": nothing
	connect func(t testing.TB, s *server, id string, persistent bool) client
}

// client is a connection of a flavour.
type client interface {
	// publish returns when the message is acknowledged, with QoS 0 when it is
	// sent.
	publish(topic, payload string, qos byte)
	// next waits for a message.
	next() arrived
	// close disconnects in good order.
	close()
}

type arrived struct {
	Topic, Payload string
	QoS            byte
	Retain         bool
}

var flavours = []flavour{
	{"mosquitto 3.1", mosquittoMissing, connectMosquitto("31")},
	{"mosquitto 3.1.1", mosquittoMissing, connectMosquitto("311")},
	{"mosquitto 5", mosquittoMissing, connectMosquitto("5")},
	{"MQTT.js 3.1.1", nodeMissing, connectScript("mqtt", 4, nodeClient)},
	{"MQTT.js 5 over WebSocket", nodeMissing, connectScript("ws", 5, nodeClient)},
	{"paho-mqtt 3.1.1 over WebSocket", pythonMissing, connectScript("ws", 4, pythonClient)},
	{"paho-mqtt 5", pythonMissing, connectScript("mqtt", 5, pythonClient)},
}

func mosquittoMissing() string {
	for _, name := range []string{"mosquitto_pub", "mosquitto_sub"} {
		if _, err := exec.LookPath(name); err != nil {
			return name
		}
	}
	return ""
}

func nodeClient() *exec.Cmd { return exec.Command("node", "clients/client.mjs") }

func nodeMissing() string {
	if _, err := os.Stat("clients/node_modules/mqtt/package.json"); err != nil {
		return "MQTT.js in test/clients/node_modules"
	}
	return ""
}

func pythonClient() *exec.Cmd {
	return exec.Command(filepath.Join("clients", "venv", "bin", "python"), "clients/client.py")
}

func pythonMissing() string {
	if err := exec.Command("clients/venv/bin/python", "-c", "import paho.mqtt.client").Run(); err != nil {
		return "paho-mqtt in test/clients/venv"
	}
	return ""
}

// need skips the test by name if a client is missing; in CI it fails.
func need(t *testing.T, missing string) {
	t.Helper()
	switch {
	case missing == "":
	case os.Getenv("CI") == "true":
		t.Fatalf("not installed: %s; test/clients/install.sh should have done it", missing)
	default:
		t.Skipf("not installed: %s; run test/clients/install.sh", missing)
	}
}

// available lists the flavours that are installed.
func available() (list []flavour) {
	for _, f := range flavours {
		if f.missing() == "" {
			list = append(list, f)
		}
	}
	return list
}

// TestClients: a device that never subscribes receives P2P at each QoS, each
// client from each; nobody else sees anything of it.
// [MQTT3-7.0.0-2]
func TestClients(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("slow: starts other programs")
	}
	s := startServer(t)
	observer, other := s.connect(mqtt.V5, "observer"), s.connect(mqtt.V5, "other device")
	observer.subscribe(2, "#", "orders/#", "+/+/+")
	senders := make(map[string]client)
	for i, f := range available() {
		senders[f.name] = f.connect(t, s, fmt.Sprint("sender-", i), false)
	}
	for i, f := range flavours {
		t.Run(f.name, func(t *testing.T) {
			need(t, f.missing())
			s.use(t)
			id := fmt.Sprint("device-", i)
			target := f.connect(t, s, id, false)
			for name, sender := range senders {
				for qos := range byte(3) {
					topic, payload := topicOf(id)+"/sub", fmt.Sprintf("from %s QoS %d", name, qos)
					sender.publish(topic, payload, qos)
					if got, want := target.next(), (arrived{topic, payload, qos, false}); got != want {
						t.Errorf("received %+v, want %+v", got, want)
					}
				}
			}
			target.close()
		})
	}
	sender := s.connect(mqtt.V5, "marker")
	for _, p := range []*peer{observer, other} {
		p.wantsNothing(sender)
	}
}

// TestClientsOffline: each client gets its inbox in order when it comes back.
func TestClientsOffline(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("slow: starts other programs")
	}
	s := startServer(t)
	for i, f := range flavours {
		t.Run(f.name, func(t *testing.T) {
			need(t, f.missing())
			s.use(t)
			id := fmt.Sprint("device-", i)
			device := f.connect(t, s, id, true)
			s.departure(device.close)
			sender := s.connect(mqtt.V311, "sender")
			// Some clients hand a QoS 2 message over with its PUBREL, behind QoS 1
			// messages that came after it: one QoS after the other.
			const n = 30
			acknowledged := s.metric("homing_messages_acknowledged_total")
			for j := range n {
				sender.publish(topicOf(id), fmt.Sprint(j), 1+byte(2*j/n))
			}
			device = f.connect(t, s, id, true)
			for j := range n {
				if got, want := device.next(), (arrived{topicOf(id), fmt.Sprint(j), 1 + byte(2*j/n), false}); got != want {
					t.Fatalf("received %+v, want %+v", got, want)
				}
			}
			eventually(t, "all are acknowledged", func() bool {
				return s.metric("homing_messages_acknowledged_total") == acknowledged+n
			})
			s.departure(device.close)
			p := s.connect(mqtt.V311, id, persistent)
			p.wantsNothing(sender)
			p.leave()
			sender.leave()
		})
	}
}

// queue holds what a client has received.
type queue struct {
	t    testing.TB
	name string
	ch   chan arrived
}

func newQueue(t testing.TB, name string) queue { return queue{t, name, make(chan arrived, 1024)} }

func (q queue) next() arrived {
	q.t.Helper()
	select {
	case m := <-q.ch:
		return m
	case <-time.After(patience):
		q.t.Fatalf("%s receives nothing", q.name)
		return arrived{}
	}
}

func hostPort(addr string) (host, port string) {
	host, port, _ = strings.Cut(addr, ":")
	return host, port
}
