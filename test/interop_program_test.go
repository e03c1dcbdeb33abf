package test

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// mosquittoClient is a mosquitto_sub that runs, and a mosquitto_pub for each
// message.
type mosquittoClient struct {
	queue
	s       *server
	id      string
	version string
	sub     *process
}

// connectMosquitto starts mosquitto_sub, which must have a filter.
func connectMosquitto(version string) func(testing.TB, *server, string, bool) client {
	return func(t testing.TB, s *server, id string, persistent bool) client {
		t.Helper()
		m := &mosquittoClient{queue: newQueue(t, "mosquitto_sub "+id), s: s, id: id, version: version}
		host, port := hostPort(s.addr["mqtt"])
		args := []string{"-h", host, "-p", port, "-i", id, "-V", "mqttv" + version, "-t", "unused", "-q", "2", "-F", "MESSAGE %q %r %t %p"}
		if persistent {
			args = append(args, "-c")
			if version == "5" {
				args = append(args, "-x", "4294967295")
			}
		}
		const subacks = `homing_packets_total{direction="out",type="SUBACK"}`
		before := s.metric(subacks)
		m.sub = start(t, exec.Command("mosquitto_sub", args...))
		eventually(t, "mosquitto_sub is connected", func() bool { return s.metric(subacks) > before })
		go lines(m.sub, func(line string) {
			rest, ok := strings.CutPrefix(line, "MESSAGE ")
			if !ok {
				return
			}
			var a arrived
			var retain int
			if _, err := fmt.Sscanf(rest, "%d %d %s", &a.QoS, &retain, &a.Topic); err != nil {
				a.Topic = line
			}
			_, a.Payload, _ = strings.Cut(rest, a.Topic+" ")
			a.Retain = retain != 0
			m.ch <- a
		})
		return m
	}
}

func (m *mosquittoClient) publish(topic, payload string, qos byte) {
	m.t.Helper()
	host, port := hostPort(m.s.addr["mqtt"])
	p := start(m.t, exec.Command("mosquitto_pub", "-h", host, "-p", port, "-V", "mqttv"+m.version,
		"-i", m.id+"-pub", "-t", topic, "-m", payload, "-q", fmt.Sprint(qos)))
	if code := p.wait(); code != 0 || len(p.output()) > 0 {
		m.t.Fatalf("mosquitto_pub: exit code %d\n%s", code, p.tail())
	}
}

func (m *mosquittoClient) close() {
	m.t.Helper()
	m.sub.stop()
}

// lines calls f with each line of the output, from the first on, until the
// program ends.
func lines(p *process, f func(string)) {
	seen := 0
	for {
		p.mu.Lock()
		fresh, changed := p.lines[seen:], p.changed
		p.mu.Unlock()
		for _, line := range fresh {
			f(line)
		}
		seen += len(fresh)
		select {
		case <-changed:
		case <-p.done:
			return
		}
	}
}

// scriptClient is one of the programs in clients.
type scriptClient struct {
	queue
	p    *process
	acks chan struct{}
}

func connectScript(transport string, version int, command func() *exec.Cmd) func(testing.TB, *server, string, bool) client {
	return func(t testing.TB, s *server, id string, persistent bool) client {
		t.Helper()
		url := transport + "://" + s.addr[transport]
		if transport == "ws" {
			url += "/mqtt"
		}
		options, err := json.Marshal(map[string]any{"url": url, "version": version, "id": id, "persistent": persistent})
		if err != nil {
			t.Fatal(err)
		}
		cmd := command()
		cmd.Args = append(cmd.Args, string(options))
		c := &scriptClient{acks: make(chan struct{}, 1024), p: start(t, cmd)}
		c.queue = newQueue(t, cmd.Path+" "+id)
		c.p.line(`"connected"`)
		go lines(c.p, c.event)
		return c
	}
}

func (c *scriptClient) event(line string) {
	var e struct {
		arrived
		Event string
	}
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		return // a warning of the language
	}
	switch e.Event {
	case "message":
		c.ch <- e.arrived
	case "acknowledged":
		c.acks <- struct{}{}
	}
}

func (c *scriptClient) publish(topic, payload string, qos byte) {
	c.t.Helper()
	line, err := json.Marshal(map[string]any{"topic": topic, "payload": payload, "qos": qos})
	if err != nil {
		c.t.Fatal(err)
	}
	c.p.say(string(line))
	select {
	case <-c.acks:
	case <-c.p.done:
		c.t.Fatalf("%s: ended\n%s", c.name, c.p.tail())
	case <-timeout():
		c.t.Fatalf("%s: no acknowledgement\n%s", c.name, c.p.tail())
	}
}

func (c *scriptClient) close() {
	c.t.Helper()
	c.p.in.Close()
	c.p.wait()
}
