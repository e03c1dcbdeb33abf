package test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/homing-mq/homing/internal/mqtt"
)

// gate is open while the server is up.
type gate struct {
	mu     sync.Mutex
	isOpen bool
	ch     chan struct{} // closed when and while it is open; nil: nobody has asked
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.isOpen && g.ch != nil {
		close(g.ch)
	}
	g.isOpen = true
}

// life is the same as long as the gate is open, nil while it is shut.
func (g *gate) life() <-chan struct{} {
	if ch := g.passable(); isClosed(ch) {
		return ch
	}
	return nil
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isOpen {
		g.isOpen, g.ch = false, nil
	}
}

// passable is closed when the gate is or gets open.
func (g *gate) passable() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ch == nil {
		g.ch = make(chan struct{})
		if g.isOpen {
			close(g.ch)
		}
	}
	return g.ch
}

// link is a connection of TestKill.
type link struct {
	conn    net.Conn
	version mqtt.Version
	in      chan any      // closed at the end
	ended   chan struct{} // closed at the end, though in has something left
	stop    chan struct{}
	present bool            // session present
	life    <-chan struct{} // the life of the server that it is connected to; nil: that ends just now
}

var errRefused = errors.New("the server refuses the connection")

// linkUp connects, once. The reader starts after CONNACK.
func (c *crash) linkUp(transport string, v mqtt.Version, how *mqtt.Connect) (*link, error) {
	life := c.up.life()
	conn, err := c.dialForKill(transport)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write(how.Append(nil, v)); err != nil {
		conn.Close()
		return nil, err
	}
	r := bufio.NewReader(conn)
	x, err := readPacket(r, v)
	if err != nil {
		conn.Close()
		return nil, err
	}
	ack, ok := x.(*mqtt.Connack)
	if !ok || ack.Code != 0 {
		conn.Close()
		c.ledger.problem("%s: %v in answer to CONNECT: %+v", how.ClientID, errRefused, x)
		return nil, errRefused
	}
	_ = conn.SetDeadline(time.Time{})
	l := &link{conn: conn, version: v, in: make(chan any, 4096), ended: make(chan struct{}), stop: make(chan struct{}), present: ack.SessionPresent}
	if life == c.up.life() {
		l.life = life
	}
	go l.read(c, string(how.ClientID), r)
	return l, nil
}

func (l *link) read(c *crash, id string, r *bufio.Reader) {
	defer close(l.in)
	defer close(l.ended)
	for {
		x, err := readPacket(r, l.version)
		if err != nil {
			if strings.Contains(err.Error(), "the server sent") {
				c.ledger.problem("%s: %v", id, err)
			}
			return
		}
		select {
		case l.in <- x:
		case <-l.stop:
			return
		}
	}
}

// send reports whether the connection took it.
func (l *link) send(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	_ = l.conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	_, err := l.conn.Write(b)
	return err == nil
}

// drop closes without DISCONNECT and forgets what has not been looked at.
func (l *link) drop() {
	l.conn.Close()
	close(l.stop)
	<-l.ended
}

// dialForKill opens a connection that Close ends at once, in the middle of
// everything. No transport is TCP.
func (c *crash) dialForKill(transport string) (net.Conn, error) {
	switch transport {
	case "":
		return net.DialTimeout("tcp", c.addrs["mqtt"], time.Second)
	case "ws":
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		ws, _, err := websocket.Dial(ctx, "ws://"+c.addrs["ws"]+"/mqtt", &websocket.DialOptions{Subprotocols: []string{"mqtt"}})
		if err != nil {
			return nil, err
		}
		ws.SetReadLimit(-1)
		return abruptConn{websocket.NetConn(context.Background(), ws, websocket.MessageBinary), ws.CloseNow}, nil
	}
	conn, err := dialAddr(transport, c.addrs[transport])
	if secure, ok := conn.(*tls.Conn); ok && err == nil {
		return abruptConn{conn, secure.NetConn().Close}, nil
	}
	return conn, err
}

// abruptConn is closed without a word of its protocol.
type abruptConn struct {
	net.Conn
	cut func() error
}

func (a abruptConn) Close() error { return a.cut() }

// connect connects as soon as the server is there; nil: the run is over.
func (c *crash) connect(v mqtt.Version, how *mqtt.Connect) *link { return c.connectOver("", v, how) }

func (c *crash) connectOver(transport string, v mqtt.Version, how *mqtt.Connect) (l *link) {
	c.whenUp(func() (err error) {
		l, err = c.linkUp(transport, v, how)
		return err
	})
	return l
}

// whenUp tries to connect when the server should be there, until it works or the
// run is over.
func (c *crash) whenUp(try func() error) {
	for {
		select {
		case <-c.up.passable():
		case <-c.over:
			return
		}
		if isClosed(c.over) || try() == nil {
			return
		}
		select { // it has just been killed
		case <-time.After(5 * time.Millisecond):
		case <-c.over:
			return
		}
	}
}
