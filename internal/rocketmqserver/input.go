package rocketmqserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/homing-mq/homing/internal/gateway"
	"github.com/homing-mq/homing/internal/rocketmq"
)

// input is what a connection has read and not handled yet.
type input struct {
	buf        []byte
	start, end int
	size       int       // of the request that next has returned
	skip       int       // bytes of a body that is too large, still to come
	begun      time.Time // when the request that is arriving began; zero: none is
	held       int64     // of Server.room
	known      bool      // which one
	counted    int64     // bytes of buf in Broker.Hold: those of a large one
}

const (
	readBuf   = 16 << 10 // bytes of a read buffer that nobody has to share
	maxHeader = 64 << 10 // bytes of a request's header: that of a send has at most 32 KiB of properties
)

// open reads the first bytes and finds out whether the client wants TLS.
func (in *input) open(c *conn) error {
	in.buf = make([]byte, readBuf)
	_ = c.nc.SetDeadline(time.Now().Add(c.srv.opt.FrameTime))
	n, err := c.nc.Read(in.buf)
	if err != nil {
		return err
	}
	switch first := in.buf[0]; {
	case first == firstOfTLS:
		nc := c.srv.overTLS(c.nc, in.buf[:n])
		c.mu.Lock()
		c.nc = nc
		c.mu.Unlock()
		if n, err = c.nc.Read(in.buf); err != nil {
			return fmt.Errorf("TLS: %w", err)
		}
	case first > rocketmq.MaxFrame>>24: // of the length
		return &gateway.WrongProtocol{Spoken: gateway.Spoken(in.buf[:n]), Wanted: "RocketMQ remoting (listen.rocketmq-grpc is for gRPC)"}
	}
	_ = c.nc.SetDeadline(time.Time{})
	c.srv.Stats.BytesIn.Add(uint64(n))
	in.end = n
	return nil
}

// next returns the next request if it is there; its header is nil if not. Of an
// oversized one it returns the header only, as soon as that is there. advance
// goes on behind it.
func (in *input) next(c *conn) (f rocketmq.Frame, oversized bool, err error) {
	if in.skip > 0 {
		n := min(in.skip, in.end-in.start)
		in.start += n
		in.skip -= n
	}
	b := in.buf[in.start:in.end]
	total, header, serialize, ok, err := rocketmq.Lengths(b)
	switch {
	case err != nil || !ok:
		return f, false, err
	case header > maxHeader:
		return f, false, fmt.Errorf("a request's header has %d bytes; %d are allowed", header, maxHeader)
	case total > rocketmq.MaxFrame:
		return f, false, fmt.Errorf("a request has %d bytes; the protocol allows %d", total, rocketmq.MaxFrame)
	}
	if total > frameLimit(c.srv.opt.BodySize) {
		if len(b) < 8+header {
			return f, false, in.grow(c, 8+header)
		}
		in.size = min(total, len(b))
		in.skip = total - in.size
		return rocketmq.Frame{Serialize: serialize, Header: b[8 : 8+header]}, true, nil
	}
	f, size, complete, err := rocketmq.Split(b, total)
	if err != nil || !complete {
		if err == nil {
			err = in.grow(c, size)
		}
		return rocketmq.Frame{}, false, err
	}
	in.size = size
	return f, false, nil
}

// frameLimit is the size of a request that is read whole: a batch of messages
// may have as much around its bodies.
func frameLimit(body int) int { return body + maxHeader }

// advance drops the request that next has returned, and gives the memory of a
// large one back.
func (in *input) advance(s *Server) {
	in.start += in.size
	in.size = 0
	in.begun = time.Time{}
	if rest := in.buf[in.start:in.end]; len(in.buf) > readBuf && len(rest) <= readBuf {
		small := make([]byte, readBuf)
		in.end = copy(small, rest)
		in.start, in.buf = 0, small
		in.count(s)
	}
	if len(in.buf) == readBuf {
		in.release(s)
	}
}

// grow makes room for a request of size bytes. Large ones share memory, all of
// it from the beginning, as half of it would be no use; where there is none the
// connection waits, and others give theirs back within FrameTime.
func (in *input) grow(c *conn, size int) error {
	if size <= len(in.buf) {
		return nil
	}
	if in.held < int64(size) {
		in.release(c.srv) // who waits holds nothing
		in.known = c.isKnown()
		ctx, cancel := context.WithTimeout(c.srv.ctx, c.srv.opt.FrameTime)
		defer cancel()
		if err := c.srv.room(in.known).Acquire(ctx, int64(size)); err != nil {
			return errors.New("no memory for a large request")
		}
		in.held = int64(size)
	}
	// With what has arrived, not with what was announced.
	have := in.end - in.start
	if have < len(in.buf) {
		return nil
	}
	grown := make([]byte, min(size, 2*len(in.buf)))
	in.end = copy(grown, in.buf[in.start:in.end])
	in.start, in.buf = 0, grown
	in.count(c.srv)
	return nil
}

// count counts a large buffer as memory of messages.
func (in *input) count(s *Server) {
	size := int64(0)
	if len(in.buf) > readBuf {
		size = int64(len(in.buf))
	}
	s.broker.Hold(size - in.counted)
	in.counted = size
}

// drop gives up what has arrived.
func (in *input) drop(s *Server) {
	in.release(s)
	in.buf, in.start, in.end = nil, 0, 0
	in.count(s)
}

// isKnown reports whether the client has shown who it is.
func (c *conn) isKnown() bool { return c.who != nil && c.who.AccessKey != "" }

// release gives the shared memory back.
func (in *input) release(s *Server) {
	s.room(in.known).Release(in.held)
	in.held = 0
}

// fill reads more.
func (in *input) fill(c *conn) error {
	if in.start > 0 {
		in.end = copy(in.buf, in.buf[in.start:in.end])
		in.start = 0
	}
	arriving := in.end > 0 || in.skip > 0
	deadline := time.Now().Add(c.srv.opt.IdleTimeout)
	if arriving {
		if in.begun.IsZero() {
			in.begun = time.Now()
		}
		deadline = in.begun.Add(c.srv.opt.FrameTime)
	}
	_ = c.nc.SetReadDeadline(deadline)
	if c.isFinishing() { // after the deadline was set, so that finish cannot come between
		return errFinished
	}
	n, err := c.nc.Read(in.buf[in.end:])
	in.end += n
	c.srv.Stats.BytesIn.Add(uint64(n))
	switch {
	case n > 0:
		return nil
	case c.isFinishing():
		return errFinished
	case errors.Is(err, os.ErrDeadlineExceeded) && arriving:
		return fmt.Errorf("a request did not arrive within %s", c.srv.opt.FrameTime)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("nothing was heard for %s", c.srv.opt.IdleTimeout)
	case err == nil:
		return io.ErrNoProgress
	}
	return err
}
