package test

import (
	"bufio"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

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
	present bool // session present
}

var errRefused = errors.New("the server refuses the connection")

// linkUp connects, once. The reader starts after CONNACK.
func (c *crash) linkUp(v mqtt.Version, how *mqtt.Connect) (*link, error) {
	conn, err := net.DialTimeout("tcp", c.addr, time.Second)
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

// connect connects as soon as the server is there; nil: the run is over.
func (c *crash) connect(v mqtt.Version, how *mqtt.Connect) (l *link) {
	c.whenUp(func() (err error) {
		l, err = c.linkUp(v, how)
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
