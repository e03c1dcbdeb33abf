package test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/xdg-go/scram"

	"github.com/homing-mq/homing/internal/mqtt"
)

// scramNonce is the client's part of every SCRAM exchange, so that scripts can
// hold its beginning.
const scramNonce = "fuzznonce"

// attacker plays one script.
type attacker struct {
	*script
	conn    net.Conn
	writing sync.Mutex
	scram   *scram.Client

	// Of the reader.
	connect  mqtt.Connect // if the script begins with an unbroken one
	limits   fuzzLimits
	answered bool            // CONNACK came
	over     string          // why nothing more may come
	aliases  map[uint16]bool // set by the server
	underWay map[uint16]bool // packet identifiers from the server, not acknowledged
}

// fuzzLimits are settings of the server that its packets keep to.
type fuzzLimits struct {
	inflight int // of a client without a receive maximum
}

// errViolation is what the server must not do.
type errViolation struct{ text string }

func (e *errViolation) Error() string { return e.text }

func violation(format string, args ...any) error { return &errViolation{fmt.Sprintf(format, args...)} }

// play runs the script. The only error is an *errViolation.
func (a *attacker) play(s *server) error {
	conn, err := a.dial(s)
	if err != nil {
		return violation("cannot connect over %s: %v", a.transport, err)
	}
	defer conn.Close()
	a.conn = conn
	if tcp := tcpOf(conn); tcp != nil && a.reader == "none" {
		_ = tcp.SetReadBuffer(4 << 10) // so that not much has room in it
	}
	var broken error
	done := make(chan struct{})
	go func() {
		defer close(done)
		if a.reader != "none" {
			broken = a.read()
		}
	}()
	for _, x := range a.steps {
		time.Sleep(x.pause)
		if a.write(x.data) != nil {
			break
		}
	}
	a.end(done)
	conn.Close()
	<-done
	var v *errViolation
	if errors.As(broken, &v) {
		return broken
	}
	return nil
}

func (a *attacker) dial(s *server) (net.Conn, error) {
	if transport, ok := strings.CutPrefix(a.transport, "raw:"); ok {
		return net.DialTimeout("tcp", s.addr[transport], patience)
	}
	return s.dial(a.transport)
}

func (a *attacker) write(b []byte) error {
	a.writing.Lock()
	defer a.writing.Unlock()
	_ = a.conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, err := a.conn.Write(b)
	return err
}

// end leaves the connection in the way of the script. done is closed when the
// reader has ended.
func (a *attacker) end(done <-chan struct{}) {
	wait := 200 * time.Millisecond
	switch a.ending {
	case "close":
		return
	case "reset":
		if tcp := tcpOf(a.conn); tcp != nil {
			_ = tcp.SetLinger(0)
		}
		return
	case "half":
		if c, ok := a.conn.(interface{ CloseWrite() error }); ok {
			_ = c.CloseWrite()
			wait = time.Second
		}
	}
	if a.reader == "none" {
		wait = min(wait, time.Duration(1+a.number%50)*time.Millisecond)
		done = nil // it ended at once
	}
	select {
	case <-done:
	case <-time.After(wait):
	}
}

// tcpOf is the TCP connection below, nil for WebSocket, which hides it.
func tcpOf(conn net.Conn) *net.TCPConn {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	tcp, _ := conn.(*net.TCPConn)
	return tcp
}

// read takes what the server sends. What it sends to somebody whose CONNECT it
// could read is checked, and answered if the script says so.
func (a *attacker) read() error {
	if !a.whole {
		_, err := io.Copy(io.Discard, a.conn)
		return err
	}
	first, body, n, _, err := mqtt.Split(a.steps[0].data, mqtt.MaxPacketSize)
	if err == nil && n > 0 && a.connect.Decode(first, body) != nil {
		a.connect = mqtt.Connect{} // what it says does not count
	}
	if err != nil || n == 0 {
		_, err := io.Copy(io.Discard, a.conn) // it comes in pieces
		return err
	}
	a.aliases, a.underWay = make(map[uint16]bool), make(map[uint16]bool)
	count := &counter{Reader: a.conn}
	r := bufio.NewReaderSize(count, 16<<10)
	for {
		before := count.n - r.Buffered()
		x, err := readAny(r, a.version)
		var bad *mqtt.Error
		switch {
		case errors.As(err, &bad), err != nil && strings.HasPrefix(err.Error(), "the server sent"):
			return violation("%v", err)
		case err != nil:
			return err
		}
		if err := a.check(x, count.n-r.Buffered()-before); err != nil {
			return err
		}
		if a.reader == "answer" {
			a.answer(x)
		}
	}
}

// counter counts the bytes that were read.
type counter struct {
	io.Reader
	n int
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n += n
	return n, err
}

// check finds what no server may send to this client, whatever it does. size
// is the packet's, bytes.
func (a *attacker) check(x any, size int) error {
	p := &a.connect.Properties
	if a.over != "" {
		return violation("%s after %s", show([]any{x}), a.over)
	}
	if a.version == mqtt.V5 && p.Has(mqtt.PropMaximumPacketSize) && size > int(p.MaximumPacketSize) {
		return violation("%s has %d bytes, the maximum packet size is %d", show([]any{x}), size, p.MaximumPacketSize)
	}
	ack, isConnack := x.(*mqtt.Connack)
	_, isAuth := x.(*mqtt.Auth)
	switch {
	case isConnack && a.answered:
		return violation("a second CONNACK")
	case isConnack:
		a.answered = true
		if ack.Code != 0 {
			a.over = "a CONNACK that refuses"
		}
	case !a.answered && !isAuth:
		return violation("%s before CONNACK", show([]any{x}))
	}
	switch x := x.(type) {
	case *mqtt.Auth:
		if a.version != mqtt.V5 || !p.Has(mqtt.PropAuthMethod) {
			return violation("AUTH to a client that did not ask for it")
		}
	case *mqtt.Disconnect:
		if a.version != mqtt.V5 {
			return violation("DISCONNECT to a client of MQTT 3")
		}
		a.over = "DISCONNECT"
	case *mqtt.Publish:
		return a.checkPublish(x)
	}
	return nil
}

// checkPublish checks topic aliases [MQTT-3.1.2-26] and the window
// [MQTT-3.3.4-9].
func (a *attacker) checkPublish(m *mqtt.Publish) error {
	p := &a.connect.Properties
	if m.TopicAlias > 0 {
		switch {
		case m.TopicAlias > p.TopicAliasMaximum:
			return violation("topic alias %d, the maximum is %d", m.TopicAlias, p.TopicAliasMaximum)
		case len(m.Topic) == 0 && !a.aliases[m.TopicAlias]:
			return violation("topic alias %d was not set", m.TopicAlias)
		}
		a.aliases[m.TopicAlias] = true
	}
	if m.QoS == 0 || !a.bare {
		return nil
	}
	window := a.limits.inflight
	if a.version == mqtt.V5 {
		window = 65535
		if p.Has(mqtt.PropReceiveMaximum) {
			window = int(p.ReceiveMaximum)
		}
	}
	if a.underWay[m.PacketID] {
		return violation("packet identifier %d comes again while it is in use", m.PacketID)
	}
	a.underWay[m.PacketID] = true
	if len(a.underWay) > window {
		return violation("%d messages under way, the receive maximum is %d", len(a.underWay), window)
	}
	return nil
}

// answer does what a client has to.
func (a *attacker) answer(x any) {
	switch x := x.(type) {
	case *mqtt.Publish:
		if x.QoS == 1 {
			delete(a.underWay, x.PacketID)
		}
		if x.QoS > 0 {
			a.reply(&mqtt.Ack{Type: mqtt.PUBACK + mqtt.PacketType(x.QoS-1), PacketID: x.PacketID})
		}
	case *mqtt.Ack:
		switch x.Type {
		case mqtt.PUBREC:
			if !x.Code.Failed() {
				a.reply(&mqtt.Ack{Type: mqtt.PUBREL, PacketID: x.PacketID})
			}
		case mqtt.PUBREL:
			delete(a.underWay, x.PacketID)
			a.reply(&mqtt.Ack{Type: mqtt.PUBCOMP, PacketID: x.PacketID})
		}
	case *mqtt.Auth:
		a.authenticate(x)
	}
}

func (a *attacker) reply(p packet) { _ = a.write(p.Append(nil, a.version)) }

// authenticate goes on with SCRAM.
func (a *attacker) authenticate(x *mqtt.Auth) {
	if x.Code != mqtt.CodeContinueAuthentication {
		return
	}
	conv := a.scram.NewConversation()
	_, _ = conv.Step("")
	data, err := conv.Step(string(x.Properties.AuthData))
	if err != nil {
		return
	}
	p := &mqtt.Auth{Code: mqtt.CodeContinueAuthentication}
	p.Properties.AuthMethod, p.Properties.AuthData = []byte(scramMethod), []byte(data)
	p.Properties.Set(mqtt.PropAuthMethod, mqtt.PropAuthData)
	a.reply(p)
}
