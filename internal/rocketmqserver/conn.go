package rocketmqserver

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/gateway"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/rocketmq"
)

// conn is one remoting connection. Fields without a comment on locking belong
// to the reader goroutine.
type conn struct {
	srv    *Server
	nc     net.Conn // set again, by the reader with mu locked, when it is TLS
	remote netip.AddrPort
	local  netip.AddrPort // as the client has dialled it, with the port to send to

	in       input
	who      *mq.Principal                // of the last signed request; nil: none was right
	sender   atomic.Pointer[mq.Principal] // the last one that was right, for closeRevoked
	noted    bool                         // that a request was refused is in the log
	warned   bool                         // so is that the client wants to consume
	batch    broker.Batch
	cmd      rocketmq.Command
	send     rocketmq.SendHeader
	parts    []*translation // one for each message of a send
	body     []byte         // memory for one that is decompressed
	inflated func()         // of Server.inflating; nil: nothing is decompressed
	check    signedCommand

	mu        sync.Mutex // guards the fields below; a leaf
	wake      sync.Cond  // for the writer: there is output, or the end
	room      sync.Cond  // for the reader: less is under way
	out       []byte     // replies that are not being written yet
	writing   int        // bytes being written
	touched   bool       // in a batch that will flush
	sends     int        // not answered yet
	sent      sentFields // memory of appendSent
	finishing bool       // no more is read; what is under way is answered
	closed    bool       // nothing is written any more
	client    rocketmq.Heartbeat
}

func newConn(s *Server, nc net.Conn, remote netip.AddrPort) *conn {
	c := &conn{srv: s, nc: nc, remote: remote}
	c.wake.L, c.room.L = &c.mu, &c.mu
	return c
}

// maxOutput is how many bytes of replies a client may leave unread before no
// more of its requests are read.
const maxOutput = 1 << 20

var (
	errFinished = errors.New("the server is shutting down")
	errPanic    = errors.New("a bug in the server")
)

// serve runs the connection until it ends.
func (c *conn) serve() {
	defer c.srv.remove(c)
	defer c.nc.Close()
	defer c.in.drop(c.srv)
	// The first byte tells what the writer writes to.
	err := c.in.open(c)
	if err == nil {
		written := make(chan struct{})
		go func() {
			defer close(written)
			c.write()
		}()
		err = c.read()
		c.end(err)
		<-written
	}
	level := slog.LevelDebug
	if !isFarewell(err) {
		level = slog.LevelInfo
	}
	c.srv.strangers.Log(context.Background(), level, "RocketMQ connection closed", "remote", c.remote.String(), "transport", "rocketmq", "client", string(clip([]byte(c.client.ClientID))), "reason", err)
}

// isFarewell reports whether a connection has ended as connections do.
func isFarewell(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, errFinished) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed)
}

// read handles requests until there is an error, which it returns.
func (c *conn) read() (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.srv.Stats.Panics.Add(1)
			c.srv.log.Error("bug: a RocketMQ connection is closed", "remote", c.remote.String(), "panic", p, "stack", string(debug.Stack()))
			err = errPanic
		}
	}()
	var turn gateway.Turn
	defer turn.End()
	for {
		c.srv.broker.Throttle()
		if err := c.process(&turn); err != nil {
			return err
		}
		if turn.Over(now()) {
			turn.Yield(now)
		}
		before := now()
		if err := c.in.fill(c); err != nil {
			return err
		}
		if now()-before > int64(waitTime) {
			turn.End()
		}
	}
}

// waitTime is how long a read takes at least that has met an empty socket.
const waitTime = 20 * time.Microsecond

// requestsOfTurn is how many requests are handled before the reader looks whether
// its turn is over.
const requestsOfTurn = 16

// now is the time since the program started, in nanoseconds.
func now() int64 { return int64(time.Since(programStart)) }

var programStart = time.Now()

// process handles the whole requests that have arrived. It lets others have their
// turn when that of this reader is over.
func (c *conn) process(turn *gateway.Turn) error {
	c.srv.opt.Turns.Begin(turn, now())
	c.batch.Begin()
	defer c.batch.Flush()
	for requests := 1; ; requests++ {
		f, oversized, err := c.in.next(c)
		if err != nil {
			return err
		}
		if f.Header == nil {
			return nil
		}
		if err := c.handle(f, oversized); err != nil {
			return err
		}
		c.in.advance(c.srv)
		if requests%requestsOfTurn == 0 && turn.Over(now()) {
			c.batch.Flush()
			turn.Yield(now)
			c.batch.Begin()
		}
		if c.overloaded() {
			c.batch.Flush()
			if !c.pause() {
				return errFinished
			}
			c.batch.Begin()
		}
	}
}

// overloaded reports whether the client has so much under way that no more of
// it is read.
func (c *conn) overloaded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over()
}

func (c *conn) over() bool {
	return c.sends >= c.srv.opt.Unanswered || len(c.out)+c.writing > maxOutput
}

// pause waits while the connection is overloaded. It reports false at its end.
func (c *conn) pause() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.over() && !c.closed && !c.finishing {
		c.room.Wait()
	}
	return !c.closed && !c.finishing
}

// finish makes an orderly end: nothing more is read, what is under way is
// answered.
func (c *conn) finish() {
	c.mu.Lock()
	c.finishing = true
	c.room.Signal()
	nc := c.nc
	c.mu.Unlock()
	_ = nc.SetReadDeadline(time.Unix(1, 0))
	_ = nc.SetWriteDeadline(time.Now().Add(lastWriteTime))
}

func (c *conn) isFinishing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.finishing
}

// end tells the writer that nothing more is read. Who has gone gets no answers.
func (c *conn) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.finishing || errors.Is(err, errPanic) {
		c.closed = true
	}
	c.wake.Signal()
}

// abort ends the connection at once.
func (c *conn) abort() {
	c.mu.Lock()
	c.closed = true
	c.wake.Signal()
	c.room.Signal()
	nc := c.nc
	c.mu.Unlock()
	_ = nc.Close()
}

// append starts a reply: it returns the buffer to append to, with the lock
// held, or nil without it if nothing is written any more. done ends it.
func (c *conn) append() []byte {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	if c.out == nil {
		c.out = make([]byte, 0, 4096)
	}
	return c.out
}

func (c *conn) done(out []byte, b *broker.Batch) {
	c.out = out
	note := !c.touched
	c.touched = true
	c.mu.Unlock()
	if note {
		b.Touch(c)
	}
}

// Flush implements broker.Flusher.
func (c *conn) Flush(*broker.Batch) {
	c.mu.Lock()
	c.touched = false
	c.wake.Signal()
	c.mu.Unlock()
}

// writeTime is how long a client may take to read what it was sent, and
// lastWriteTime the same while the server closes.
const (
	writeTime     = 30 * time.Second
	lastWriteTime = time.Second
)

// write is the writer goroutine.
func (c *conn) write() {
	var spare []byte
	for {
		c.mu.Lock()
		for len(c.out) == 0 && !c.closed && (c.sends > 0 || !c.finishing) {
			c.wake.Wait()
		}
		if c.closed || len(c.out) == 0 {
			c.closed = true
			c.mu.Unlock()
			return
		}
		data := c.out
		c.out, c.writing = spare, len(data)
		if !c.finishing { // under the lock: finish sets its own after this one
			_ = c.nc.SetWriteDeadline(time.Now().Add(writeTime))
		}
		c.mu.Unlock()
		n, err := c.nc.Write(data)
		c.srv.Stats.BytesOut.Add(uint64(n))
		if err != nil {
			c.abort()
			return
		}
		c.mu.Lock()
		if spare = data[:0]; cap(spare) > 64<<10 {
			spare = nil
		}
		c.writing = 0
		c.room.Signal()
		c.mu.Unlock()
	}
}

// reply answers the request at hand, unless it wants no answer.
func (c *conn) reply(code rocketmq.ResponseCode, remark string, ext rocketmq.Fields, body []byte, s rocketmq.Serialize) {
	if c.cmd.IsOneway() {
		return
	}
	out := c.append()
	if out == nil {
		return
	}
	c.done(appendReply(out, code, c.cmd.Opaque, remark, ext, body, s), &c.batch)
}

// mqVersion is the version that the server says it has (MQVersion, V5_3_1): the
// protocol of clients that ask for nothing newer.
const mqVersion = 477

func appendReply(out []byte, code rocketmq.ResponseCode, opaque int32, remark string, ext rocketmq.Fields, body []byte, s rocketmq.Serialize) []byte {
	r := rocketmq.Command{
		Code: int32(code), Language: rocketmq.LanguageOther, Version: mqVersion, Opaque: opaque, Flag: rocketmq.FlagResponse, Ext: ext,
	}
	if remark != "" {
		r.Remark = []byte(remark)
	}
	return r.Append(out, s, body)
}

// consumerIn returns the client ID if the client has said that it consumes in a
// group, else "".
func (c *conn) consumerIn(group []byte) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.Contains(c.client.Consumers, string(group)) {
		return c.client.ClientID
	}
	return ""
}

// signedCommand is the request at hand, to be authenticated.
type signedCommand struct {
	ext  rocketmq.Fields
	body []byte
}

// AccessKey implements mq.SignedRequest.
func (s *signedCommand) AccessKey() []byte { return s.ext.Get(rocketmq.KeyAccessKey) }

// SignedWith implements mq.SignedRequest.
func (s *signedCommand) SignedWith(secret []byte) bool {
	return s.isRequest() && rocketmq.Verify(secret, s.ext, s.body)
}

// isRequest reports whether what is signed can be nothing but a request.
func (s *signedCommand) isRequest() bool {
	for i := range s.ext {
		if string(s.ext[i].Key) != rocketmq.KeySignature && mq.IsSignedRequest(s.ext[i].Value) {
			return true
		}
	}
	return mq.IsSignedRequest(s.body)
}
