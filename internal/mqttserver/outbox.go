package mqttserver

import (
	"sync"
	"syscall"
	"time"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
)

// outbox collects the bytes for one connection. Its lock is a leaf: nothing
// else is locked, called or written under it.
type outbox struct {
	mu      sync.Mutex
	buf     []byte        // not being written yet; from bufs
	writing int           // bytes somebody is writing
	busy    bool          // somebody writes; he looks at buf again when done
	noted   bool          // in a batch that will flush
	starved bool          // the core was refused: tell it when there is room
	hurried bool          // the reader is not to pause any more
	closing bool          // takes no more; closed for good once written
	closed  bool          // closed: whatever comes is thrown away
	broken  bool          // a write has failed, so closed; what has arrived is still handled
	paused  chan struct{} // the reader waits for it to be closed; nil: it does not wait
}

var bufs = sync.Pool{New: func() any { b := make([]byte, 0, 4096); return &b }}

func getBuf() []byte { return (*bufs.Get().(*[]byte))[:0] }

// putBuf gives a buffer back, unless it has grown large.
func putBuf(b []byte) {
	if cap(b) > 0 && cap(b) <= 64<<10 {
		bufs.Put(&b)
	}
}

// open starts an append of output: it returns the buffer to append to, with
// the lock held, or nil without it if the connection takes no more. done ends
// it.
func (c *conn) open() []byte {
	o := &c.out
	o.mu.Lock()
	if o.closing || o.closed {
		o.mu.Unlock()
		return nil
	}
	if o.buf == nil {
		o.buf = getBuf()
	}
	return o.buf
}

func (c *conn) done(buf []byte, b *broker.Batch) {
	o := &c.out
	o.buf = buf
	note := !o.noted
	o.noted = true
	o.mu.Unlock()
	if note {
		b.Touch(c)
	}
}

// packet is m for this client; what is left of its expiry is to be set.
func (c *conn) packet(m *mq.Message, h *broker.Header) mqtt.Publish {
	p := mqtt.Publish{
		QoS: byte(h.QoS), Dup: h.Dup, Retain: h.Retain, PacketID: h.PacketID, Topic: m.SeenTopic(), Payload: m.Payload,
	}
	if c.version == mqtt.V5 {
		p.Props, p.SubscriptionIDs = m.Props, h.SubscriptionIDs
		p.HasExpiry = m.Expiry != 0
	}
	return p
}

// Takes implements broker.Conn.
func (c *conn) Takes(m *mq.Message, h broker.Header) bool {
	if c.version != mqtt.V5 {
		return true // there is no maximum packet size
	}
	p := c.packet(m, &h)
	return p.Size(c.version) <= int(c.maxPacket)
}

// SendPublish implements broker.Conn.
func (c *conn) SendPublish(m *mq.Message, h broker.Header, b *broker.Batch) broker.SendResult {
	p := c.packet(m, &h)
	if p.HasExpiry { // [MQTT-3.3.2-6]
		p.Expiry = m.RemainingExpiry(c.srv.broker.Now(b))
	}
	size := p.Size(c.version)
	if size > int(c.maxPacket) {
		return broker.SendTooLarge
	}
	buf := c.open()
	if buf == nil {
		return broker.SendClosed
	}
	if waiting := len(buf) + c.out.writing; waiting > 0 && waiting+size > c.srv.opt.Outbox {
		c.out.starved = true
		c.done(buf, b)
		return broker.SendFull
	}
	if c.aliasing {
		c.detail.aliasesTo.apply(&p, int(c.maxPacket))
	}
	c.done(p.Append(buf, c.version), b)
	c.srv.Stats.Sent[mqtt.PUBLISH].Add(1)
	return broker.Sent
}

// SendAck implements broker.Conn.
// [MQTT-2.2.1-5] [MQTT3-2.3.1-6]
func (c *conn) SendAck(kind broker.AckKind, pid uint16, code mq.Code, b *broker.Batch) {
	if kind == broker.PubcompUnknown {
		c.sendNotFound(mqtt.PUBCOMP, pid, b)
		return
	}
	t := ackType[kind]
	reason, closes := ackCode(code, c.version)
	if closes {
		c.closeSoon(code.String(), b)
		return
	}
	buf := c.open()
	if buf == nil {
		return
	}
	if reason.Failed() {
		text := ackText(code)
		if shown := c.revealed(reason); shown != reason {
			reason, text = shown, ""
		}
		a := mqtt.Ack{Type: t, PacketID: pid, Code: reason}
		buf = c.appendReason(buf, t, &a, &a.Properties, text)
	} else {
		buf = mqtt.AppendAck(buf, c.version, t, pid, reason)
		c.srv.Stats.Sent[t].Add(1)
	}
	c.done(buf, b)
}

// revealed is the code of a refusal that the client may see.
func (c *conn) revealed(code mqtt.ReasonCode) mqtt.ReasonCode {
	if code == mqtt.CodeNotAuthorized && c.srv.hideRefusals.Load() {
		return mqtt.CodeUnspecifiedError
	}
	return code
}

// Complete implements broker.Completer for QoS 1; token is the packet identifier.
// [MQTT-2.2.1-5] [MQTT-4.3.2-4] [MQTT3-2.3.1-6] [MQTT3-4.3.2-2]
func (c *conn) Complete(token uint64, code mq.Code, b *broker.Batch) {
	c.unacked.Add(-1)
	c.SendAck(broker.Puback, uint16(token), code, b)
}

// Sender implements broker.Sender.
func (c *conn) Sender() *broker.Session { return c.sess }

// packet is any of the package mqtt.
type packet interface {
	Append(dst []byte, v mqtt.Version) []byte
}

// send appends a packet that is not limited by the outbox. It reports false for
// one that is not sent because the client does not take its size
// [MQTT-3.1.2-24].
// A full window does not hold it up [MQTT-3.3.4-10] [MQTT-4.9.0-3]
func (c *conn) send(t mqtt.PacketType, p packet, b *broker.Batch) bool {
	buf := c.open()
	if buf == nil {
		return true // whatever is sent now is thrown away
	}
	buf, fits := c.append(buf, t, p)
	c.done(buf, b)
	return fits
}

// append appends a packet to buf, or nothing if it is over the client's maximum
// packet size.
func (c *conn) append(buf []byte, t mqtt.PacketType, p packet) (_ []byte, fits bool) {
	n := len(buf)
	if buf = p.Append(buf, c.version); len(buf)-n > int(c.maxPacket) {
		return buf[:n], false
	}
	c.srv.Stats.Sent[t].Add(1)
	return buf, true
}

// appendReason is append with a reason string in props, the properties of p, if
// the client wants to know [MQTT-3.1.2-29] and takes the size [MQTT-3.2.2-19]
// [MQTT-3.4.2-2] [MQTT-3.5.2-2] [MQTT-3.14.2-3].
func (c *conn) appendReason(buf []byte, t mqtt.PacketType, p packet, props *mqtt.Properties, reason string) []byte {
	fits := false
	if c.version == mqtt.V5 && c.problemInfo && reason != "" {
		props.ReasonString = []byte(reason)
		props.Set(mqtt.PropReasonString)
		buf, fits = c.append(buf, t, p)
		props.Unset(mqtt.PropReasonString)
	}
	if !fits {
		buf, _ = c.append(buf, t, p)
	}
	return buf
}

// Flush implements broker.Conn.
func (c *conn) Flush(b *broker.Batch) {
	o := &c.out
	o.mu.Lock()
	if o.noted = false; o.paused != nil {
		o.mu.Unlock()
		c.wake()
		o.mu.Lock()
	}
	if o.busy || o.closed {
		o.mu.Unlock()
		return
	}
	o.busy = true
	if c.raw == nil {
		o.mu.Unlock()
		c.startDrain(nil)
		return
	}
	for {
		data := o.take()
		if data == nil {
			break
		}
		o.mu.Unlock()
		n, err := c.tryWrite(data)
		if err != nil {
			c.broken(err)
			return
		}
		c.srv.Stats.BytesOut.Add(uint64(n))
		if n < len(data) {
			c.srv.Stats.Blocked.Add(1)
			c.startDrain(data[n:])
			return
		}
		putBuf(data)
		o.mu.Lock()
	}
	c.idle(b)
}

// take takes the collected bytes to write them; nil if there are none. The
// lock is held.
func (o *outbox) take() []byte {
	data := o.buf
	o.buf = nil
	o.writing = len(data)
	if len(data) == 0 {
		putBuf(data)
		return nil
	}
	return data
}

// idle ends a flush: everything is written. The lock is held, and released.
func (c *conn) idle(b *broker.Batch) {
	o := &c.out
	o.busy = false
	starved, closing := o.starved, o.closing
	o.starved = false
	if closing {
		o.closed = true
	}
	o.mu.Unlock()
	c.wake()
	if closing {
		c.hangUp()
	} else if starved && c.sess != nil {
		c.srv.broker.Drained(c.sess, c, b)
	}
}

func (c *conn) startDrain(rest []byte) {
	c.srv.wg.Add(1)
	go c.drain(rest)
}

// drain is the writer goroutine of a connection whose socket is full, or
// cannot be written without blocking. rest is what a write left over.
func (c *conn) drain(rest []byte) {
	defer c.srv.wg.Done()
	o := &c.out
	var b broker.Batch
	for {
		if len(rest) > 0 {
			n, err := c.nc.Write(rest)
			c.srv.Stats.BytesOut.Add(uint64(max(n, 0)))
			if err != nil {
				c.broken(err)
				return
			}
		}
		o.mu.Lock()
		starved := o.starved
		if rest = o.take(); rest == nil {
			b.Begin()
			c.idle(&b)
			b.Flush()
			return
		}
		o.starved = false
		o.mu.Unlock()
		if starved && c.sess != nil { // half is out: fetch more while the rest is written
			b.Begin()
			c.srv.broker.Drained(c.sess, c, &b)
			b.Flush()
		}
	}
}

// tryWrite writes what the socket takes now. Only the goroutine that made the
// outbox busy calls it.
func (c *conn) tryWrite(data []byte) (int, error) {
	op := writeOps.Get().(*writeOp)
	*op = writeOp{data: data}
	c.writeOp = op
	err := c.raw.Write(c.writeFn)
	n, werr := op.n, op.err
	c.writeOp = nil
	*op = writeOp{}
	writeOps.Put(op)
	if err == nil {
		err = werr
	}
	return n, err
}

// writeOp is what writeOnce shall write and has written.
type writeOp struct {
	data []byte
	n    int
	err  error
}

var writeOps = sync.Pool{New: func() any { return new(writeOp) }}

// writeOnce is called by RawConn.Write; it never waits.
func (c *conn) writeOnce(fd uintptr) bool {
	c.writeOp.flush(int(fd))
	return true
}

// flush writes until all is written, or nothing more can be, and reports false if
// that is because the socket is full.
func (op *writeOp) flush(fd int) bool {
	for op.n < len(op.data) {
		n, err := syscall.Write(fd, op.data[op.n:])
		switch {
		case n > 0:
			op.n += n
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			return false
		default:
			op.err = err
			return true
		}
	}
	return true
}

// broken ends the output after a write error. A client that has closed may have
// sent much before: its acknowledgements, its farewell. So the reader goes on to
// the end of what has arrived.
func (c *conn) broken(err error) {
	o := &c.out
	o.mu.Lock()
	o.closed, o.broken, o.busy = true, true, false
	o.buf, o.writing = nil, 0
	o.mu.Unlock()
	c.setReason("write error: " + err.Error())
	c.wake()
	c.endInput()
	time.AfterFunc(settleTime, c.abort)
}

// Close implements broker.Conn: DISCONNECT for MQTT 5, then close.
func (c *conn) Close(reason broker.CloseReason) {
	r := closeReasons[reason]
	c.disconnect(r.code, r.text)
}

// Revoked implements broker.Conn. The principal stays the same once there is a
// session.
func (c *conn) Revoked() bool { return c.principal.Ended() }

// Quiesce implements broker.Conn.
func (c *conn) Quiesce() {
	c.handling.Lock() // whoever holds it, ends; who comes next, finds it closing
	defer c.handling.Unlock()
}

// disconnect sends DISCONNECT with a code to an MQTT 5 client that is
// connected, and closes when it is written, or soon. It does not block.
// [MQTT-3.14.0-1] [MQTT-3.14.4-1] [MQTT-3.14.4-2] [MQTT-4.13.2-1] [MQTT-3.14.2-2]
func (c *conn) disconnect(code mqtt.ReasonCode, reason string) {
	var b broker.Batch
	c.setReason(reason)
	if buf := c.open(); buf != nil {
		if c.connected.Load() && c.version == mqtt.V5 {
			d := mqtt.Disconnect{Code: code}
			buf = c.appendReason(buf, mqtt.DISCONNECT, &d, &d.Properties, reason)
		}
		c.out.closing = true
		c.done(buf, &b)
	}
	time.AfterFunc(c.srv.opt.CloseGrace, c.abort)
	b.Flush()
}

// closeSoon makes the connection close when its batch is flushed.
func (c *conn) closeSoon(reason string, b *broker.Batch) {
	c.setReason(reason)
	if buf := c.open(); buf != nil {
		c.out.closing = true
		c.done(buf, b)
		time.AfterFunc(c.srv.opt.CloseGrace, c.abort)
	}
}

// overloaded reports whether the connection is closing, and whether the client
// has so much under way that no more of its input is read: output it does not
// take, or publishes that are not acknowledged (Options.Pause).
func (c *conn) overloaded() (closing, over bool) {
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	over = len(o.buf)+o.writing > 2*c.srv.opt.Outbox
	if c.version != mqtt.V5 && c.srv.opt.Pause > 0 && c.sess != nil {
		_, unsafe := c.sess.Claims()
		over = over || unsafe+int(c.unacked.Load()) >= c.srv.opt.Pause
	}
	return o.closing || o.closed && !o.broken, over && !o.hurried
}

// pause blocks the reader while the connection is overloaded.
func (c *conn) pause() {
	for {
		wake := make(chan struct{})
		c.out.mu.Lock()
		c.out.paused = wake
		c.out.mu.Unlock()
		if closing, over := c.overloaded(); closing || !over {
			c.wake()
			return
		}
		<-wake
	}
}

// wake lets the reader look again.
func (c *conn) wake() {
	o := &c.out
	o.mu.Lock()
	wake := o.paused
	o.paused = nil
	o.mu.Unlock()
	if wake != nil {
		close(wake)
	}
}
