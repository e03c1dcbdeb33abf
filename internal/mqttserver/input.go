package mqttserver

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/homing-mq/homing/internal/gateway"
)

// input knows what of a connection's input has been handled. A client that comes
// back at once has often sent something before, which still lies in the socket
// of its old connection: the takeover waits until that is handled.
//
// The reader goroutine reads by receive only. It comes back to receive, or ends,
// when all it has read before is handled.
type input struct {
	mu      sync.Mutex  // a leaf; guards the rest
	read    uint64      // bytes
	drained bool        // the socket was empty, and all that came before is handled
	ended   bool        // nothing more is handled, and the core knows
	settled *settlement // somebody waits; nil: nobody
}

// settlement is what others wait for: input up to a place is handled.
type settlement struct {
	upTo uint64
	done chan struct{}
}

// receive is one read(2) of fd into p. It does not wait, but reports wait if the
// socket is empty.
func (in *input) receive(fd int, p []byte) (n int, wait bool, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.drained = false
	if in.settled != nil && in.read >= in.settled.upTo {
		in.settle()
	}
	for {
		n, err = syscall.Read(fd, p)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			in.drained = true
			in.settle()
			return 0, true, nil
		case n > 0:
			in.read += uint64(n)
		}
		return n, false, err
	}
}

// end says that no more input will be handled, and that the core knows how the
// connection has ended.
func (in *input) end() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.ended = true
	in.settle()
}

// settle lets those go on who wait. Locked: mu.
func (in *input) settle() {
	if in.settled != nil {
		close(in.settled.done)
		in.settled = nil
	}
}

// arrived returns a channel that is closed when what is in the socket now is
// handled; nil if nothing is left to handle. What comes later does not count, but
// silent tells that the client has not closed: something may be about to come.
func (in *input) arrived(raw syscall.RawConn) (done <-chan struct{}, silent bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.ended {
		return nil, false
	}
	unread := 0
	_ = raw.Control(func(fd uintptr) { // not called if it is closed
		unread = unreadBytes(int(fd))
		silent = unread == 0 && peerOpen(int(fd))
	})
	if unread == 0 && in.drained {
		return nil, silent
	}
	if in.settled == nil {
		in.settled = &settlement{upTo: in.read + uint64(unread), done: make(chan struct{})}
	}
	return in.settled.done, false
}

const (
	// settleTime bounds the wait for the input of an old connection. It is reached
	// only when the server cannot keep up: what is waited for is in memory.
	settleTime = 5 * time.Second
	// silentTime is how long one that is silent is listened to. The packets of two
	// connections of one client may overtake each other, in its system and in ours
	// too: a busy kernel hands them over by processor.
	silentTime  = 5 * time.Millisecond
	silentLooks = 5
)

// Settle implements broker.Conn.
func (c *conn) Settle() {
	raw := c.socket()
	arrived, silent := c.in.arrived(raw)
	for look := 0; silent && look < silentLooks; look++ {
		time.Sleep(silentTime / silentLooks)
		arrived, silent = c.in.arrived(raw)
	}
	if arrived == nil {
		return
	}
	c.hurry()
	late := time.NewTimer(settleTime)
	defer late.Stop()
	select {
	case <-arrived:
	case <-late.C:
		c.srv.log.Warn("a client came back before all it had sent was handled; the rest is lost: the server is overloaded",
			"client", c.clientID(), "waited", settleTime.String())
		c.srv.Stats.Unsettled.Add(1)
	}
}

// hurry makes the reader go on though the connection is overloaded: another one
// is about to take its place, and what is left to handle is bounded.
func (c *conn) hurry() {
	c.out.mu.Lock()
	c.out.hurried = true
	c.out.mu.Unlock()
	c.wake()
}

// inlet is the socket of a connection over TLS or WebSocket, whose libraries
// read from it. They ask for more only when all that they had is handled.
type inlet struct {
	net.Conn // the socket, or what closes it
	raw      syscall.RawConn
	srv      *Server
	in       input
	accepted time.Time
	check    func(first []byte) error // of the first bytes; nil: they were right

	waited bool               // Read has met an empty socket; of the reader
	turn   gateway.WriterTurn // of who writes to a WebSocket

	// Of the Read under way; the library makes one at a time.
	ready func(fd uintptr) bool
	dst   []byte
	n     int
	err   error
}

// newInlet returns nc, which is counted if it is TCP. check looks at its first
// bytes.
func (s *Server) newInlet(nc net.Conn, check func(first []byte) error) *inlet {
	i := &inlet{Conn: nc, srv: s, accepted: time.Now(), check: check}
	i.ready = i.tryRead
	if tcp, ok := nc.(*net.TCPConn); ok {
		i.raw, i.err = tcp.SyscallConn()
	} else {
		i.err = errNotTCP
	}
	return i
}

var errNotTCP = errors.New("a listener of the MQTT gateway gives TCP connections")

// closeRead lets Read find the end behind what has arrived.
func (i *inlet) closeRead() {
	if i.raw != nil {
		_ = i.raw.Control(func(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_RD) })
	}
}

// Read implements net.Conn.
func (i *inlet) Read(p []byte) (int, error) {
	if i.raw == nil {
		return 0, i.err
	}
	i.dst, i.n, i.err = p, 0, nil
	if err := i.raw.Read(i.ready); err != nil {
		return 0, err
	}
	n, err := i.n, i.err
	i.dst, i.err = nil, nil
	switch {
	case err != nil:
		return 0, &net.OpError{Op: "read", Net: "tcp", Source: i.LocalAddr(), Addr: i.RemoteAddr(), Err: err}
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	case i.check != nil && n > 0:
		if err := i.check(p[:n]); err != nil {
			return 0, err
		}
		i.check = nil
	}
	return n, nil
}

// tryRead is called by RawConn.Read until it returns true.
func (i *inlet) tryRead(fd uintptr) bool {
	i.srv.pass(&i.in)
	var wait bool
	i.n, wait, i.err = i.in.receive(int(fd), i.dst)
	i.waited = i.waited || wait
	return !wait
}

// Write implements net.Conn. While it waits, nobody's turn is under way.
func (i *inlet) Write(p []byte) (int, error) {
	if i.raw == nil {
		return 0, errNotTCP
	}
	op := inletWrites.Get().(*inletWrite)
	op.to, op.writeOp = i, writeOp{data: p}
	err := i.raw.Write(op.try)
	if err == nil {
		err = op.err
	}
	n := op.n
	op.to, op.writeOp = nil, writeOp{}
	inletWrites.Put(op)
	if _, told := errors.AsType[*net.OpError](err); err != nil && !told {
		err = &net.OpError{Op: "write", Net: "tcp", Source: i.LocalAddr(), Addr: i.RemoteAddr(), Err: err}
	}
	return n, err
}

// inletWrite is a Write of an inlet.
type inletWrite struct {
	writeOp

	to  *inlet
	try func(fd uintptr) bool // its write
}

var inletWrites = sync.Pool{New: func() any {
	op := &inletWrite{}
	op.try = op.write
	return op
}}

// write is called by RawConn.Write until it returns true.
func (op *inletWrite) write(fd uintptr) bool {
	done := op.flush(int(fd))
	if !done {
		op.to.srv.opt.Turns.Waits(&op.to.turn)
	}
	return done
}

// pass is where the reader of a connection goes by before it reads. Tests hold
// readers up there, to decide in which order connections get their turn.
func (s *Server) pass(in *input) {
	if s.opt.gate != nil {
		s.opt.gate(in)
	}
}
