package rocketmqserver

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/homing-mq/homing/internal/gateway"
)

// Rapid reset: a client that resets each call as soon as it has begun is never over
// the limit of calls at a time, but each one costs the server what a call costs.
// The library bounds how many of them run, not how many come. It shows nobody the
// resets, so the frames are looked at here: those of the client, and those that it
// makes the server send by breaking the protocol on a stream.
//
// A client that gives up calls that it has waited for in vain resets many at once,
// too, up to Options.Unanswered, and the others must not lose their connection for
// that: only a reset within a second or two of the call counts.

// maxResets is how many calls of a connection may be reset within a second soon
// after they have begun.
const maxResets = 200

// The types of HTTP/2 frames that matter here (RFC 9113, section 6).
const (
	frameOfCall = 1 // HEADERS
	frameReset  = 3 // RST_STREAM
)

// The reasons of a reset by the server that its client need not be to blame for
// (RFC 9113, section 7).
const (
	resetNoError = 0 // it was answered before all of it had arrived
	resetRefused = 7 // too many at a time, which a client does not know at first
)

// frame is what a frame begins with.
type frame struct {
	kind   byte
	stream uint32
	code   uint32 // of a frameReset
}

// frames finds the frames in one direction of a connection. Only the beginning of
// a frame is kept.
type frames struct {
	head [13]byte // header, and the code of a reset
	have int      // of head
	skip int      // bytes that do not matter
}

const (
	frameHeader = 9 // bytes
	codeSize    = 4
)

// scan calls yield for each frame whose beginning ends in b, which goes on where
// the last one ended.
func (s *frames) scan(b []byte, yield func(frame)) {
	for len(b) > 0 {
		if s.skip > 0 {
			n := min(s.skip, len(b))
			s.skip -= n
			b = b[n:]
			continue
		}
		n := copy(s.head[s.have:s.need()], b)
		s.have += n
		b = b[n:]
		if s.have < s.need() {
			continue
		}
		f := frame{kind: s.head[3], stream: binary.BigEndian.Uint32(s.head[5:]) &^ (1 << 31)}
		if s.have > frameHeader {
			f.code = binary.BigEndian.Uint32(s.head[frameHeader:])
		}
		s.skip = s.length() - (s.have - frameHeader)
		s.have = 0
		yield(f)
	}
}

// length is that of the payload; the header must be there.
func (s *frames) length() int {
	return int(s.head[0])<<16 | int(s.head[1])<<8 | int(s.head[2])
}

// need is how much of head matters.
func (s *frames) need() int {
	if s.have >= frameHeader && s.head[3] == frameReset && s.length() >= codeSize {
		return frameHeader + codeSize
	}
	return frameHeader
}

// resetCount counts the resets of a connection. Times are in ns, of now.
type resetCount struct {
	newest uint32 // stream
	begun  int64  // the window of a second
	before uint32 // newest stream when the window before this one began: those up to it are not young
	last   uint32 // the same of this window
	resets int    // in this window, of young streams
}

// roll begins another window when this one is over.
func (r *resetCount) roll(now int64) {
	passed := now - r.begun
	if passed < int64(time.Second) {
		return
	}
	r.before, r.last = r.last, r.newest
	if passed >= 2*int64(time.Second) { // nothing was heard for a window
		r.before = r.newest
	}
	r.begun, r.resets = now, 0
}

// received takes a frame from the client. It reports whether there are too many
// resets.
func (r *resetCount) received(f frame, now int64) (over bool) {
	switch f.kind {
	case frameOfCall:
		r.roll(now)
		r.newest = max(r.newest, f.stream)
	case frameReset:
		return r.reset(f, now)
	}
	return false
}

// sent takes a frame of the server.
func (r *resetCount) sent(f frame, now int64) (over bool) {
	return f.kind == frameReset && f.code != resetNoError && f.code != resetRefused && r.reset(f, now)
}

func (r *resetCount) reset(f frame, now int64) (over bool) {
	r.roll(now)
	if f.stream > r.before {
		r.resets++
	}
	return r.resets > maxResets
}

// watched is a connection that speaks HTTP/2, inside of TLS if there is TLS. It is
// closed when too many calls are reset.
type watched struct {
	net.Conn
	under *grpcConn // what it runs over

	read, written frames // of the library's reader, and of its writer

	mu     sync.Mutex // guards the fields below; a leaf
	resets resetCount
	over   bool
}

// newWatched watches a connection from its first byte on: nc gives back the
// greeting.
func newWatched(nc net.Conn, under *grpcConn) *watched {
	return &watched{Conn: nc, under: under, read: frames{skip: len(http2Greeting)}}
}

var errResets = fmt.Errorf("calls are reset as soon as they have begun, over %d a second", maxResets)

// Read implements net.Conn.
func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	over := false
	w.read.scan(b[:n], func(f frame) {
		if f.kind == frameOfCall || f.kind == frameReset {
			w.mu.Lock()
			over = w.resets.received(f, now()) || over
			w.mu.Unlock()
		}
	})
	if over {
		w.end()
		return 0, errResets
	}
	return n, err
}

// Write implements net.Conn.
func (w *watched) Write(b []byte) (int, error) {
	over := false
	w.written.scan(b, func(f frame) {
		if f.kind == frameReset {
			w.mu.Lock()
			over = w.resets.sent(f, now()) || over
			w.mu.Unlock()
		}
	})
	if over {
		w.end()
		return 0, errResets
	}
	return w.Conn.Write(b)
}

// end closes the connection; it is counted and logged once.
func (w *watched) end() {
	w.mu.Lock()
	first := !w.over
	w.over = true
	w.mu.Unlock()
	if first {
		srv := w.under.srv
		srv.Stats.Resetting.Add(1)
		srv.strangers.Info("RocketMQ connection closed", "remote", gateway.AddrOf(w.under.RemoteAddr()).String(), "transport", "rocketmq-grpc", "reason", errResets)
	}
	_ = w.under.Close()
}
