package test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
)

// scenarioTransports are those that each scenario runs over, by the names that
// the tests get.
var scenarioTransports = []struct{ name, transport string }{{"TCP", "mqtt"}, {"TLS", "mqtts"}, {"WebSocket", "ws"}}

// scenarioRun is one file with one version over one transport.
type scenarioRun struct {
	builder
	sc        *scenario
	version   mqtt.Version
	transport string
	server    *server
	actors    map[string]*actor
	order     []*actor
	accepted  map[string]int // accepted CONNECTs by client ID, since the server started
	trace     []string
}

// TestScenarios runs all files of test/scenarios with each version over each
// transport. They mostly wait, so many run at a time: t.Run is called from many
// goroutines, as t.Parallel would let only few in.
func TestScenarios(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("scenarios/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	shared := tlsServer(t, "store.sync=os", "limits.failed-logins=0")
	places := make(chan struct{}, 48)
	var wg sync.WaitGroup
	n := 0
	for _, file := range files {
		sc, err := loadScenario(file)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, v := range sc.versions {
			for _, over := range scenarioTransports {
				n++
				r := &scenarioRun{sc: sc, version: v, transport: over.transport, server: shared}
				r.idSuffix = fmt.Sprintf("-%d", n)
				r.level = fmt.Sprintf("run%d/", n)
				places <- struct{}{}
				wg.Go(func() {
					defer func() { <-places }()
					t.Run(fmt.Sprintf("%s/%v/%s", strings.TrimSuffix(sc.file, ".txt"), v, over.name), r.test)
				})
			}
		}
	}
	wg.Wait()
}

func (r *scenarioRun) test(t *testing.T) {
	r.vars, r.accepted, r.actors = map[string]string{}, map[string]int{}, map[string]*actor{}
	defer func() {
		for _, a := range r.order {
			a.forget()
		}
	}()
	if r.sc.alone {
		r.level = ""
		r.server = r.sc.ownServer(t, r.transport)
	}
	at := r.sc.steps[len(r.sc.steps)-1].line
	err := func() error {
		for _, s := range r.sc.steps {
			if s.only != 0 && s.only != r.version {
				continue
			}
			at = s.line
			if err := r.do(s); err != nil {
				return err
			}
		}
		return r.settle()
	}()
	if err != nil {
		if n := len(r.trace) - 25; n > 0 {
			r.trace = append([]string{"..."}, r.trace[n:]...)
		}
		t.Errorf("scenarios/%s:%d: %v\n  so far:\n    %s", r.sc.file, at, err, strings.Join(r.trace, "\n    "))
	}
}

// ownServer is a server for one run. Its ports stay the same when it restarts.
func (sc *scenario) ownServer(t *testing.T, transport string) *server {
	s := newServer(t, append([]string{"store.sync=os"}, sc.settings...)...)
	s.config = sc.config
	if transport == "mqtts" {
		writeCertificate(t, s.dir, 1)
		s.settings = append(s.settings, "tls.cert=cert.pem", "tls.key=key.pem")
		s.addr["mqtts"] = ""
	}
	s.fixPorts()
	for _, u := range sc.users {
		s.passwd(u[0], u[1])
	}
	s.start()
	return s
}

func (r *scenarioRun) tracef(format string, args ...any) {
	r.trace = append(r.trace, strings.TrimSpace(fmt.Sprintf(format, args...)))
}

// text shows what came from a server.
func (r *scenarioRun) text(x any) string {
	switch x := x.(type) {
	case nil:
		return "nothing"
	case error:
		return fmt.Sprintf("closed (%v)", x)
	}
	name, words := r.describe(x, r.version)
	return strings.TrimSpace(name + " " + sentence(words))
}

func (r *scenarioRun) actor(name string) *actor {
	if name == "it" || name == "other" {
		if a, ok := r.actors[name]; ok {
			return a
		}
	}
	if r.actors[name] == nil {
		a := &actor{run: r, name: name}
		r.actors[name] = a
		r.order = append(r.order, a)
	}
	return r.actors[name]
}

// do runs a step.
func (r *scenarioRun) do(s step) error {
	words := only(s.words, r.version)
	switch {
	case s.verb == "any-order":
		return r.anyOrder(s.block)
	case len(s.who) == 0:
		d, err := time.ParseDuration(words[0].key)
		time.Sleep(d)
		return err
	case s.who[0] == "server":
		return r.control(s.verb)
	case len(s.who) > 1:
		return r.oneOf(s, words)
	}
	a := r.actor(s.who[0])
	switch s.verb {
	case "<":
		return a.expect(s, words)
	case "drop":
		return a.drop()
	case "nothing":
		d, err := time.ParseDuration(words[0].key)
		if err != nil {
			return err
		}
		return a.quiet(d)
	case "raw":
		b, err := rawBytes(words)
		if err != nil {
			return err
		}
		if a.conn == nil {
			if err := a.dial(); err != nil {
				return err
			}
		}
		r.tracef("%s: raw %x", a.name, b)
		return a.write(b)
	}
	return a.send(s.verb, words)
}

// control starts and ends the server.
func (r *scenarioRun) control(verb string) error {
	r.tracef("server: %s", verb)
	switch verb {
	case "kill":
		r.server.kill()
		return nil
	case "start":
		return r.restarted()
	}
	if code := r.server.stop(); code != 0 {
		return fmt.Errorf("the server ended with %d", code)
	}
	if verb == "restart" {
		return r.restarted()
	}
	return nil
}

// restarted starts the server again. The old connections must have ended
// without anything unexpected.
func (r *scenarioRun) restarted() error {
	for _, a := range r.order {
		for a.conn != nil {
			x := a.peek(scenarioPatience)
			_, ended := x.(error)
			if _, bye := x.(*mqtt.Disconnect); !ended && !bye {
				return fmt.Errorf("%s: unexpected\n  want closed\n  got  %s", a.name, r.text(x))
			}
			a.take()
		}
	}
	clear(r.accepted)
	r.server.start()
	return nil
}

// noticed waits until the server has logged the end of all connections of a
// client ID that the scenario has ended.
func (r *scenarioRun) noticed(id string) error {
	want := r.accepted[id]
	for _, a := range r.order {
		if a.conn != nil && a.accepted && a.id == id {
			want--
		}
	}
	name, _ := json.Marshal(id)
	ok := r.server.find(func(lines []string) bool {
		n := 0
		for _, l := range lines {
			if strings.Contains(l, `"connection closed"`) && strings.Contains(l, `"client":`+string(name)) {
				n++
			}
		}
		return n >= want
	})
	if !ok {
		return fmt.Errorf("the server does not notice the end of %s", id)
	}
	return nil
}

// oneOf is an expectation that one of several clients must meet.
func (r *scenarioRun) oneOf(s step, words []word) error {
	for end := time.Now().Add(scenarioPatience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		for _, name := range s.who {
			a := r.actor(name)
			if a.peek(0) == nil {
				continue
			}
			for _, name := range s.who {
				if b := r.actor(name); b != a {
					r.actors["other"] = b
				}
			}
			r.actors["it"] = a
			return a.expect(s, words)
		}
	}
	return fmt.Errorf("%s: nothing came", strings.Join(s.who, "/"))
}

// anyOrder takes for each client as many packets as are expected, in any order.
func (r *scenarioRun) anyOrder(block []step) error {
	left := make([]step, 0, len(block))
	for _, s := range block {
		if s.only == 0 || s.only == r.version {
			left = append(left, s)
		}
	}
	for len(left) > 0 {
		a := r.actor(left[0].who[0])
		x := a.peek(scenarioPatience)
		hit := -1
		for i, s := range left {
			if r.actor(s.who[0]) != a {
				continue
			}
			if found, ok := a.matches(s, only(s.words, r.version), x); ok {
				a.accept(found)
				hit = i
				break
			}
		}
		if hit < 0 {
			var want []string
			for _, s := range left {
				want = append(want, fmt.Sprintf("%s: %s %s", s.who[0], s.what, sentence(only(s.words, r.version))))
			}
			return fmt.Errorf("%s: unexpected\n  want any of\n    %s\n  got  %s", a.name, strings.Join(want, "\n    "), r.text(x))
		}
		left = append(left[:hit], left[hit+1:]...)
	}
	return nil
}

// settle checks that nothing has come that was not expected. Each client pings
// twice: what one does at its first may reach another before its second.
func (r *scenarioRun) settle() error {
	for range 2 {
		for _, a := range r.order {
			switch {
			case a.conn == nil:
				continue
			case !a.accepted:
				if err := a.quiet(0); err != nil {
					return fmt.Errorf("at the end: %w", err)
				}
				continue
			}
			if x := a.peek(0); x != nil {
				return fmt.Errorf("at the end: %w", a.quiet(0))
			}
			if err := a.send("PINGREQ", nil); err != nil {
				return err
			}
			if err := a.expect(step{what: "PINGRESP"}, nil); err != nil {
				return fmt.Errorf("at the end: %w", err)
			}
		}
	}
	return nil
}
