package mqttserver

import (
	"errors"
	"io"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/gateway"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
)

// worker is what handling input needs and waiting does not. It is borrowed by
// a connection while there is input.
type worker struct {
	buf        []byte // [start:end] is input not handled yet
	start, end int
	longLength bool         // the packet at hand has needless length bytes
	moved      bool         // a packet was handled since part was set
	part       gateway.Part // what buf counts in Server.unfinished while it is large, or waits
	batch      broker.Batch
	turn       gateway.Turn // of a reader that does not block: its stack is to stay small, as a million wait with one

	connect     mqtt.Connect
	connack     mqtt.Connack
	auth        mqtt.Auth
	credentials mq.Credentials
	publish     mqtt.Publish
	props       mqtt.Properties // of publish, where they must be looked into
	ack         mqtt.Ack
	subscribe   mqtt.Subscribe
	unsubscribe mqtt.Unsubscribe
	msg         mq.Message
}

const (
	workerBuf  = 16 << 10 // bytes of a worker's read buffer
	keepBuf    = 256 << 10
	maxPartial = 4 << 10 // a shorter beginning of a packet is kept without the worker
)

var workers = sync.Pool{New: func() any { return &worker{buf: make([]byte, workerBuf)} }}

// borrow gives the connection a worker with what it has read before.
func (c *conn) borrow() *worker {
	if c.w == nil {
		c.w = workers.Get().(*worker)
		c.srv.Stats.Workers.Add(1)
		c.w.start, c.w.end = 0, 0
		if c.detail != nil && c.detail.partial != nil {
			c.w.end = copy(c.w.buf, c.detail.partial.data)
			c.set(&c.detail.partial.part, 0, 0)
			c.detail.partial = nil
		}
	}
	return c.w
}

// release gives the worker back, unless it holds much of a packet.
func (c *conn) release() {
	w := c.w
	if w == nil {
		return
	}
	w.turn.End()
	if rest := w.buf[w.start:w.end]; len(rest) > maxPartial {
		w.fit()
		c.keepPart(w)
		return
	} else if len(rest) > 0 {
		p := &partial{data: append([]byte(nil), rest...)}
		c.more().partial = p
		c.set(&p.part, len(rest), len(rest))
	}
	c.set(&w.part, 0, 0)
	c.w = nil
	c.srv.Stats.Workers.Add(-1)
	w.start, w.end = 0, 0
	if len(w.buf) > keepBuf {
		w.buf = make([]byte, workerBuf)
	}
	workers.Put(w)
}

// room returns where to read to, growing the buffer for a packet of need bytes in
// all. There may be no memory for that now: then it waits, and fails if the
// connection is to end.
func (c *conn) room(w *worker, need int) ([]byte, error) {
	if w.start > 0 && (w.start == w.end || w.end == len(w.buf)) {
		w.end = copy(w.buf, w.buf[w.start:w.end])
		w.start = 0
	}
	size := len(w.buf)
	if need > size {
		// Grow with what has arrived, not with what was announced.
		size = min(need, max(2*size, 4*w.end))
	} else if w.end == size {
		size *= 2
	}
	if size > len(w.buf) || w.part.Size() > 0 { // else it is nothing special
		if err := c.hold(w, max(size, need)); err != nil {
			return nil, err
		}
	}
	if size > len(w.buf) {
		w.resize(size)
	}
	return w.buf[w.end:], nil
}

// resize moves the input to a buffer of another size.
func (w *worker) resize(size int) {
	buf := make([]byte, size)
	w.end = copy(buf, w.buf[w.start:w.end])
	w.start = 0
	w.buf = buf
}

// fit gives up a buffer that is much larger than the input in it.
func (w *worker) fit() {
	if have := w.end - w.start; len(w.buf) > max(workerBuf, 4*have) {
		w.resize(max(workerBuf, 2*have))
	}
}

// receive handles input until the connection ends.
func (c *conn) receive() error {
	c.armKeepAlive()
	if c.w != nil { // sent without waiting for CONNACK: section 3.1.4
		if err := c.process(c.w, (*conn).handle, &c.w.turn); err != nil {
			return err
		}
		c.release()
	}
	for {
		err := c.readAll((*conn).handle)
		if err == nil {
			return errClosing
		}
		if !c.stillAlive(err) {
			return err
		}
		c.armKeepAlive()
	}
}

// handler takes one packet. It is a method expression, not a method value,
// which would cost each connection memory.
type handler func(c *conn, w *worker, first byte, body []byte) error

// readAll reads and gives each packet to handle until that returns an error,
// errClosing for a proper end.
func (c *conn) readAll(handle handler) error {
	if c.raw == nil {
		return c.readBlocking(handle)
	}
	c.handler, c.readErr = handle, nil
	if err := c.raw.Read(c.ready); c.readErr == nil {
		return err
	}
	return c.readErr
}

// ready is called by RawConn.Read until it returns true.
func (c *conn) ready(fd uintptr) bool {
	var wait bool
	wait, c.readErr = c.readReady(int(fd), c.handler)
	return !wait
}

// readReady reads until the socket is empty. It reports wait to be called
// again when there is more.
func (c *conn) readReady(fd int, handle handler) (wait bool, err error) {
	for reads := 1; ; reads++ {
		w := c.borrow()
		dst, err := c.room(w, c.need(w))
		if err != nil {
			return false, err
		}
		c.srv.pass(c.in)
		n, wait, err := c.in.receive(fd, dst)
		switch {
		case wait:
			c.release()
			return true, nil
		case err != nil:
			return false, err
		case n == 0:
			return false, io.EOF
		}
		w.end += n
		c.srv.Stats.BytesIn.Add(uint64(n))
		if err := c.process(w, handle, &w.turn); err != nil {
			return false, err
		}
		if reads > 1 && w.turn.Over(clock()) {
			c.yield(&w.turn)
		}
		// Until EAGAIN, also after a short read: the poller tells of changes, and
		// the end of the stream may have come together with these bytes.
	}
}

// readBlocking is readAll for connections that only have a blocking Read. A
// small buffer waits.
func (c *conn) readBlocking(handle handler) error {
	small := make([]byte, 2048)
	var turn gateway.Turn
	defer turn.End()
	for {
		var n int
		var err error
		c.inlet().waited = false
		if c.w != nil {
			var dst []byte
			if dst, err = c.room(c.w, c.need(c.w)); err != nil {
				return err
			}
			n, err = c.nc.Read(dst)
			c.w.end += n
		} else if n, err = c.nc.Read(small); n > 0 {
			w := c.borrow()
			w.end += copy(w.buf[w.end:], small[:n]) // a partial and these are less than workerBuf
		}
		if c.inlet().waited {
			turn.End()
		}
		if n > 0 {
			c.srv.Stats.BytesIn.Add(uint64(n))
			if err := c.process(c.w, handle, &turn); err != nil {
				return err
			}
			if turn.Over(clock()) {
				c.yield(&turn)
			}
			c.release()
			if c.connected.Load() {
				c.armKeepAlive()
			}
		}
		if err != nil {
			return err
		}
	}
}

// need is the size of the packet that is arriving, 0 if it is not known or
// not allowed.
func (c *conn) need(w *worker) int {
	_, _, _, need, err := mqtt.Split(w.buf[w.start:w.end], c.readLimit())
	if err != nil {
		return 0
	}
	return need
}

// readLimit is the maximum packet size: small until CONNECT is accepted.
func (c *conn) readLimit() int {
	switch {
	case c.connected.Load():
		return c.srv.opt.PacketSize
	case c.detail != nil && c.detail.large:
		return min(connectPacketSize, c.srv.opt.PacketSize)
	}
	return min(usualConnectSize, c.srv.opt.PacketSize)
}

const (
	// connectPacketSize limits a CONNECT, bytes: all its fields may be 65 535
	// bytes long, with room for user properties.
	connectPacketSize = 640 << 10
	// usualConnectSize is what any stranger may send at any time, bytes.
	usualConnectSize = 64 << 10
	// largeConnects is how many strangers may send more at a time.
	largeConnects = 64
)

var errLargeConnects = &mqtt.Error{Code: mqtt.CodeServerBusy, Text: "many clients send a CONNECT of over 64 KiB just now; try again"}

// oversized looks at a packet over the limit. It returns nil if it is a CONNECT
// that may be read on.
func (c *conn) oversized(err error) error {
	if c.connected.Load() || !errors.Is(err, mqtt.ErrTooLarge) || c.readLimit() >= min(connectPacketSize, c.srv.opt.PacketSize) {
		return err
	}
	if c.srv.large.Add(1) > largeConnects {
		c.srv.large.Add(-1)
		return errLargeConnects
	}
	c.more().large = true
	return nil
}

// noteOversized counts a message that is larger than a packet may be. first is the
// first byte of the packet.
func (c *conn) noteOversized(err error, first byte) {
	if errors.Is(err, mqtt.ErrTooLarge) && c.connected.Load() && mqtt.TypeOf(first) == mqtt.PUBLISH {
		c.srv.broker.Stats.Dropped[mq.BreachSize.Drop()].Add(1)
	}
}

// strangerNoMore gives up what oversized has taken.
func (c *conn) strangerNoMore() {
	if c.detail != nil && c.detail.large {
		c.detail.large = false
		c.srv.large.Add(-1)
	}
}

// packetsOfTurn is how many packets are handled before the reader looks whether its
// turn is over.
const packetsOfTurn = 64

// process handles the whole packets in the worker's buffer and flushes. It lets
// others have their turn when that of this reader is over.
func (c *conn) process(w *worker, handle handler, turn *gateway.Turn) error {
	c.srv.broker.Throttle()
	if w.start < w.end && mqtt.TypeOf(w.buf[w.start]) == mqtt.PUBLISH {
		// Of connections that have input at the same time, Go runs the latest
		// first. Let what came shortly before go first, a SUBSCRIBE to this topic
		// for example.
		runtime.Gosched()
	}
	c.handling.Lock()
	defer c.handling.Unlock()
	if closing, _ := c.overloaded(); closing {
		return errClosing
	}
	w.batch.Begin()
	c.lastRead = clock()
	c.srv.opt.Turns.Begin(turn, c.lastRead)
	defer w.batch.Flush()
	for packets := 1; ; packets++ {
		first, body, n, _, err := mqtt.Split(w.buf[w.start:w.end], c.readLimit())
		if err != nil {
			if err = c.oversized(err); err != nil {
				c.noteOversized(err, w.buf[w.start])
				return err
			}
			continue
		}
		if n == 0 {
			return c.expected(w)
		}
		w.start += n
		w.moved = true
		w.longLength = !mqtt.Shortest(n, len(body))
		c.srv.Stats.Packets[mqtt.TypeOf(first)].Add(1)
		if err := handle(c, w, first, body); err != nil {
			return err
		}
		switch closing, over := c.overloaded(); {
		case closing:
			return errClosing
		case over:
			w.batch.Flush()
			c.pause()
			w.batch.Begin()
			c.lastRead = clock() // what it has sent meanwhile is not read yet
		case packets%packetsOfTurn == 0 && turn.Over(clock()):
			w.batch.Flush()
			c.yield(turn)
			w.batch.Begin()
			c.lastRead = clock()
		}
	}
}

// yield lets other connections have their turn, unless somebody waits for this
// one.
func (c *conn) yield(turn *gateway.Turn) {
	c.out.mu.Lock()
	hurried := c.out.hurried
	c.out.mu.Unlock()
	if !hurried {
		turn.Yield(clock)
	}
}

// expected refuses what cannot become a CONNECT before all of it is there.
// [MQTT-3.1.0-1] [MQTT3-3.1.0-1]
func (c *conn) expected(w *worker) error {
	if c.connected.Load() || w.start == w.end || c.detail != nil && c.detail.login != nil || mqtt.TypeOf(w.buf[w.start]) == mqtt.CONNECT {
		return nil
	}
	return errNoConnect
}

// armKeepAlive sets the deadline by which the client must be heard.
func (c *conn) armKeepAlive() {
	if c.transport == overWS || c.transport == overWSS {
		c.armTimer()
		return
	}
	if c.keepAlive == 0 {
		_ = c.nc.SetReadDeadline(time.Time{})
		return
	}
	_ = c.nc.SetReadDeadline(programStart.Add(time.Duration(c.lastRead) + c.keepAlive))
}

// armTimer is armKeepAlive for WebSocket, whose connection is gone when a
// deadline passes: no DISCONNECT could be sent.
func (c *conn) armTimer() {
	d := c.more()
	switch {
	case d.silence == nil:
		_ = c.nc.SetReadDeadline(time.Time{})
		if c.keepAlive > 0 {
			d.silence = time.AfterFunc(c.keepAlive, func() { c.disconnect(mqtt.CodeKeepAliveTimeout, keepAliveTimeout) })
		}
	default:
		d.silence.Reset(c.keepAlive)
	}
}

// stillAlive looks at a read error: the deadline is not moved for every
// packet, so when it fires the client may have been heard since.
func (c *conn) stillAlive(err error) bool {
	return c.raw != nil && c.keepAlive > 0 && errors.Is(err, os.ErrDeadlineExceeded) && clock()-c.lastRead < int64(c.keepAlive)
}
