package test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
)

// scenarioPatience bounds the wait for a packet. It is shorter than the delays
// that scenarios use for what must not happen soon.
const scenarioPatience = 15 * time.Second

// actor is one name of a scenario: a connection, or several after one another.
type actor struct {
	run      *scenarioRun
	name     string
	id       string // client ID of the last CONNECT
	conn     net.Conn
	accepted bool         // it has got CONNACK without error
	in       chan arrival // packets and, last, an error
	head     any          // read from in, not yet taken; nil: none
	headAt   time.Time    // when head came
	nextID   uint16
	sent     uint16 // packet identifier of the last PUBLISH, SUBSCRIBE or UNSUBSCRIBE it sent
	got      uint16 // that of the last PUBLISH it got
	scram    scramClient
}

// arrival is a packet or an error, and when it came.
type arrival struct {
	what any
	at   time.Time
}

// dial opens a connection.
func (a *actor) dial() error {
	conn, err := a.run.server.dial(a.run.transport)
	if err != nil {
		return err
	}
	a.conn, a.accepted, a.head, a.nextID = conn, false, nil, 0
	a.in = make(chan arrival, 1<<12)
	go readScenario(conn, a.run.version, a.in)
	return nil
}

// readScenario reads packets until the connection ends.
func readScenario(conn net.Conn, v mqtt.Version, in chan<- arrival) {
	r := bufio.NewReader(conn)
	for {
		x, err := readAny(r, v)
		if err != nil {
			in <- arrival{err, time.Now()}
			return
		}
		in <- arrival{x, time.Now()}
	}
}

// readAny is readPacket with AUTH.
func readAny(r *bufio.Reader, v mqtt.Version) (any, error) {
	if b, err := r.Peek(1); err != nil || mqtt.TypeOf(b[0]) != mqtt.AUTH {
		return readPacket(r, v)
	}
	first, _ := r.ReadByte()
	size, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, err
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	p := new(mqtt.Auth)
	return p, p.Decode(first, body, v)
}

// peek returns what is next, a packet or an error; nil: nothing came in time.
func (a *actor) peek(wait time.Duration) any {
	if a.head != nil || a.conn == nil {
		return a.head
	}
	var x arrival
	select {
	case x = <-a.in:
	default:
		if wait > 0 {
			select {
			case x = <-a.in:
			case <-time.After(wait):
			}
		}
	}
	a.head, a.headAt = x.what, x.at
	return a.head
}

// take removes what peek has returned.
func (a *actor) take() {
	switch x := a.head.(type) {
	case error:
		a.forget()
		a.run.tracef("%s: < closed", a.name)
		return
	case *mqtt.Publish:
		if x.QoS > 0 {
			a.got = x.PacketID
		}
	case *mqtt.Auth:
		a.scram.challenge = string(x.Properties.AuthData)
	case *mqtt.Connack:
		if x.Code == 0 {
			a.welcome(x)
		}
	}
	a.run.tracef("%s: < %s", a.name, a.run.text(a.head))
	a.head = nil
}

func (a *actor) welcome(c *mqtt.Connack) {
	if a.id == "" {
		a.id = string(c.Properties.AssignedClientID)
	}
	a.accepted = true
	a.run.accepted[a.id]++
}

// forget closes the connection.
func (a *actor) forget() {
	if a.conn != nil {
		a.conn.Close()
	}
	a.conn, a.head = nil, nil
}

// send does what a line says, with a packet.
func (a *actor) send(name string, words []word) error {
	if name == "CONNECT" {
		if a.conn == nil {
			if err := a.dial(); err != nil {
				return err
			}
		}
		if !has(words, "id") {
			words = append([]word{{key: "id", value: a.name}}, words...)
		}
	}
	if a.conn == nil {
		return fmt.Errorf("%s is not connected", a.name)
	}
	words = a.identify(name, words)
	for _, w := range words {
		if w.key == "auth-data" {
			a.scram.answer(w.value, a.run.vars)
		}
	}
	p, err := a.run.build(name, words)
	if err != nil {
		return err
	}
	if c, ok := p.(*mqtt.Connect); ok {
		a.id = string(c.ClientID)
		a.run.vars["id:"+a.name] = a.id
	}
	a.run.tracef("%s: %s %s", a.name, name, sentence(words))
	if err := a.write(p.Append(nil, a.run.version)); err != nil {
		return err
	}
	if name == "DISCONNECT" {
		return a.left()
	}
	return nil
}

func (a *actor) write(b []byte) error {
	_ = a.conn.SetWriteDeadline(time.Now().Add(scenarioPatience))
	if _, err := a.conn.Write(b); err != nil {
		return fmt.Errorf("%s cannot send: %w; next from the server: %s", a.name, err, a.run.text(a.peek(time.Second)))
	}
	return nil
}

// identify adds the packet identifier that goes without saying, and keeps that
// of a new exchange.
func (a *actor) identify(name string, words []word) []word {
	if has(words, "id") {
		for _, w := range words {
			if n, err := strconv.ParseUint(expand(w.value, a.run.vars), 10, 16); w.key == "id" && err == nil && startsExchange(name) {
				a.sent = uint16(n)
				a.nextID = max(a.nextID, a.sent)
			}
		}
		return words
	}
	id := a.got
	switch {
	case name == "PUBLISH" && !has(words, "q1") && !has(words, "q2"):
		return words
	case startsExchange(name):
		a.nextID++
		a.sent = a.nextID
		id = a.sent
	case name == "PUBREL":
		id = a.sent
	case name != "PUBACK" && name != "PUBREC" && name != "PUBCOMP":
		return words
	}
	return append([]word{number("id", uint32(id))}, words...)
}

func startsExchange(name string) bool {
	return name == "PUBLISH" || name == "SUBSCRIBE" || name == "UNSUBSCRIBE"
}

// answering adds the packet identifier that an expectation has without saying.
func (a *actor) answering(name string, words []word) []word {
	if has(words, "id") {
		return words
	}
	switch name {
	case "PUBACK", "PUBREC", "PUBCOMP", "SUBACK", "UNSUBACK":
		return append([]word{number("id", uint32(a.sent))}, words...)
	case "PUBREL":
		return append([]word{number("id", uint32(a.got))}, words...)
	}
	return words
}

func has(words []word, key string) bool {
	for _, w := range words {
		if w.key == key {
			return true
		}
	}
	return false
}

// left waits for the end of the connection after DISCONNECT. The server closes
// it when the session knows of it.
func (a *actor) left() error {
	x := a.peek(scenarioPatience)
	if _, ok := x.(error); !ok {
		return fmt.Errorf("%s: after DISCONNECT there came %s", a.name, a.run.text(x))
	}
	a.take()
	return nil
}

// drop closes the connection and waits until the server has noticed.
func (a *actor) drop() error {
	if a.conn == nil {
		return fmt.Errorf("%s is not connected", a.name)
	}
	if x := a.peek(0); x != nil {
		return fmt.Errorf("%s: there came %s", a.name, a.run.text(x))
	}
	a.run.tracef("%s: drop", a.name)
	a.forget()
	if a.accepted {
		return a.run.noticed(a.id)
	}
	return nil
}

// expect takes the next packet if it is what is wanted.
func (a *actor) expect(s step, words []word) error {
	x := a.peek(scenarioPatience)
	found, ok := a.matches(s, words, x)
	if !ok {
		return fmt.Errorf("%s: unexpected\n  want %s\n  got  %s", a.name, strings.TrimSpace(s.what+" "+sentence(a.answering(s.what, words))), a.run.text(x))
	}
	a.accept(found)
	return nil
}

func (a *actor) accept(found map[string]string) {
	a.take()
	for k, v := range found {
		a.run.vars[k] = v
	}
}

// matches compares what came with an expectation.
func (a *actor) matches(s step, words []word, x any) (map[string]string, bool) {
	if _, ended := x.(error); ended || s.what == "closed" || x == nil {
		return nil, ended && s.what == "closed"
	}
	name, got := a.run.describe(x, a.run.version)
	if name != s.what {
		return nil, false
	}
	want := a.answering(s.what, words)
	if name == "PUBLISH" && !has(want, "q1") && !has(want, "q2") && !has(want, "q0") {
		want = append([]word{{key: "q0"}}, want...)
	}
	if name == "PUBLISH" && !has(want, "payload") && !has(want, "payload-size") {
		want = append(want, word{key: "payload"})
	}
	return match(name, want, got, a.run.vars)
}

// quiet checks that nothing comes within a time. What comes after it, on a slow
// machine, is left for the next line.
func (a *actor) quiet(d time.Duration) error {
	end := time.Now().Add(d)
	if x := a.peek(d); x != nil && (d == 0 || a.headAt.Before(end)) {
		return fmt.Errorf("%s: unexpected\n  want nothing\n  got  %s", a.name, a.run.text(x))
	}
	return nil
}
