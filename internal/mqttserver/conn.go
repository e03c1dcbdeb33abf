package mqttserver

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/gateway"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
)

// transport is how a client is connected.
type transport uint8

const (
	overTCP transport = iota
	overTLS
	overWS
	overWSS
)

func (t transport) String() string { return [...]string{"tcp", "tls", "ws", "wss"}[t] }

// clock is the time since the program started, in nanoseconds: a third of the
// size of a time.Time, of which a million connections would hold two.
func clock() int64 { return int64(time.Since(programStart)) }

var programStart = time.Now()

// conn is one client connection. Fields without a comment on locking belong to
// the reader goroutine. There may be a million: what only some need is in
// detail.
type conn struct {
	srv *Server
	nc  net.Conn
	raw syscall.RawConn // nil: TLS or WebSocket, which cannot be read without waiting
	in  *input

	out     outbox
	writeFn func(fd uintptr) bool // of the goroutine that made the outbox busy
	writeOp *writeOp              // and this

	// Set before CONNECT is answered, then constant.
	transport   transport
	version     mqtt.Version
	maxPacket   uint32        // bytes, of the client
	problemInfo bool          // may send reason strings [MQTT-3.1.2-29]
	aliasing    bool          // detail.aliasesTo is set
	reuses      bool          // logReuse has said so; of the reader
	keepAlive   time.Duration // until it is dead: 1.5 times the interval; 0: off
	sess        *broker.Session
	principal   *mq.Principal

	connected atomic.Bool            // CONNACK 0x00 was sent
	unacked   atomic.Int32           // QoS 1 publishes of the client without PUBACK; Session.Claims has the others
	reason    atomic.Pointer[string] // why it ends; the first one counts

	handling   sync.Mutex // held while packets are handled; see Quiesce
	handler    handler    // of readAll
	readErr    error      // of readAll
	w          *worker    // borrowed; nil while waiting
	lastRead   int64      // clock
	started    int64      // clock
	detail     *detail    // nil until needed
	next, prev *conn      // list of the server; guarded by its lock
}

// detail is what only some connections need.
type detail struct {
	partial   *partial    // the beginning of a packet, kept while waiting
	aliases   [][]byte    // topic aliases of the client, by number [MQTT-3.3.2-7]
	session   uint32      // session expiry interval of CONNECT
	silence   *time.Timer // WebSocket: ends the connection when the keep alive time is over
	departure broker.Departure
	lingers   bool            // the client is to read a last packet
	large     bool            // counts in Server.large
	remote    *netip.AddrPort // behind a load balancer, since the start: the client's address
	bridge    bool            // 3.x: gets no message of its own back, and RETAIN as published
	login     *login          // nil: without enhanced authentication
	aliasesTo *aliasesTo      // nil: the client takes none
}

func (c *conn) more() *detail {
	if c.detail == nil {
		c.detail = &detail{}
	}
	return c.detail
}

const keepAliveTimeout = "keep alive time-out"

var errClosing = errors.New("closing")

// setReason notes why the connection ends; the first one counts.
func (c *conn) setReason(text string) { c.reason.CompareAndSwap(nil, &text) }

// serve runs the connection from accept to close. It is split into two
// goroutines so that the one that waits has a small stack: CONNECT needs a
// deep one (hashing, store).
func (c *conn) serve() {
	deepen()
	c.started = clock()
	_ = c.nc.SetReadDeadline(c.accepted().Add(c.srv.opt.ConnectTimeout))
	if c.guard((*conn).handshake) && c.sess != nil {
		go c.serveAccepted()
		return
	}
	c.end()
}

// deepen makes the goroutine's stack large enough for what follows, in one step
// and while there is next to nothing on it to copy: growing it bit by bit was
// 9 % of what a connection costs.
//
//go:noinline
func deepen() {
	var room [9 << 10]byte
	touch(&room[0])
}

//go:noinline
func touch(*byte) {}

func (c *conn) serveAccepted() {
	c.guard((*conn).receive)
	c.end()
}

// guard runs f and turns a panic into the end of this connection only.
func (c *conn) guard(f func(*conn) error) (ok bool) {
	defer func() {
		if r := recover(); r != nil {
			c.srv.log.Error("panic in a connection; it is closed", "client", c.clientID(), "panic", r, "stack", string(debug.Stack()))
			c.srv.Stats.Panics.Add(1)
			c.setReason("internal error")
			ok = false
		}
	}()
	if err := f(c); err != nil {
		c.ended(err)
		return false
	}
	return true
}

// ended notes an error that ends the connection and answers it.
// [MQTT-4.13.1-1] [MQTT3-4.8.0-1] [MQTT3-2.2.2-2]
func (c *conn) ended(err error) {
	c.noteStranger()
	var p *mqtt.Error
	var wrong *gateway.WrongProtocol
	switch {
	case errors.Is(err, errClosing):
	case errors.Is(err, errRejected):
		c.more().lingers = true
	case errors.As(err, &p) && !c.connected.Load() && (p.Code == mqtt.CodePacketTooLarge || p == errLargeConnects) && c.announcesV5():
		var b broker.Batch
		c.version = mqtt.V5
		_ = c.reject(p.Code, p.Error(), &b)
		c.more().lingers = true
	case errors.As(err, &p):
		c.disconnect(p.Code, p.Error())
		c.more().lingers = true
	case errors.Is(err, os.ErrDeadlineExceeded) && !c.connected.Load():
		c.setReason("the client did not connect in time")
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.disconnect(mqtt.CodeKeepAliveTimeout, keepAliveTimeout) // [MQTT-3.1.2-22]
		c.more().lingers = true                                   // over TLS another goroutine writes it
	case errors.Is(err, io.EOF):
		c.setReason("closed by the client without DISCONNECT")
	case errors.As(err, &wrong):
		c.setReason(wrong.Error())
	default:
		c.setReason("connection lost: " + err.Error())
	}
}

// noteStranger notes as the reason of the end that the client speaks another
// protocol, if the beginning of the connection, still in the buffer, says so.
func (c *conn) noteStranger() {
	if c.connected.Load() || c.w == nil || c.detail != nil && c.detail.login != nil {
		return
	}
	if first := c.w.buf[:c.w.end]; len(first) > 0 && first[0] != mqttBegins {
		if spoken := gateway.Spoken(first); spoken != "" {
			c.setReason((&gateway.WrongProtocol{Spoken: spoken, Wanted: "MQTT"}).Error())
		}
	}
}

// mqttBegins is the first byte of CONNECT, which has no flags.
const mqttBegins = byte(mqtt.CONNECT) << 4

// linger lets the client read the last packet: data that it has sent and
// nobody reads would make the kernel throw the packet away. It must not be
// called inside readAll, which owns the socket's reading side.
// [MQTT-3.14.4-2] [MQTT-4.13.2-1]
func (c *conn) linger() {
	_ = c.nc.SetReadDeadline(time.Now().Add(c.srv.opt.CloseGrace))
	var waste [512]byte
	for {
		if _, err := c.nc.Read(waste[:]); err != nil {
			return
		}
	}
}

// hangUp closes after the last byte was written: first our direction, so that
// the client sees it, then, by the reader or abort, the rest.
func (c *conn) hangUp() {
	if cw, ok := c.nc.(interface{ CloseWrite() error }); ok && cw.CloseWrite() == nil {
		return
	}
	c.abort()
}

// abort ends the connection at once; the reader notices, and closes. On TCP it
// does not call Close itself: that waits for the reader to leave RawConn.Read,
// and the caller may be the reader.
func (c *conn) abort() {
	if tcp, ok := c.nc.(*net.TCPConn); ok {
		_ = tcp.CloseRead()
		_ = tcp.CloseWrite()
		return
	}
	_ = c.nc.Close()
}

// end is the last thing of a connection: the session learns of it, the will
// is published, the log line written.
func (c *conn) end() {
	deepen()
	defer c.srv.wg.Done()
	if c.sess != nil {
		c.guard((*conn).leave)
	}
	c.in.end()
	c.strangerNoMore()
	c.forgetInput()
	if c.detail != nil && c.detail.lingers {
		c.linger()
	}
	c.out.mu.Lock()
	c.out.closed = true
	c.out.buf = nil
	c.out.mu.Unlock()
	c.wake()
	if d := c.detail; d != nil {
		if d.silence != nil {
			d.silence.Stop()
		}
		d.login.end()
	}
	_ = c.nc.Close() // after the session: who sees the end may rely on it
	c.srv.remove(c)
	reason := "closed"
	if r := c.reason.Load(); r != nil {
		reason = *r
	}
	log := c.srv.log
	if c.sess == nil {
		log = c.srv.strangers
	}
	log.Info("connection closed", "client", c.clientID(), "remote", c.remote().String(), "transport", c.transport.String(),
		"reason", reason, "duration", time.Duration(clock()-c.started).Round(time.Millisecond).String())
}

// leave tells the core that the connection is closed.
func (c *conn) leave() error {
	var b broker.Batch
	b.Begin()
	var how broker.Departure
	if c.detail != nil {
		how = c.detail.departure
	}
	c.srv.broker.Disconnect(c.sess, c, how, &b)
	b.Flush()
	return nil
}

// endInput lets the reader find the end behind what has arrived.
func (c *conn) endInput() {
	if tcp, ok := c.nc.(*net.TCPConn); ok {
		_ = tcp.CloseRead()
		return
	}
	c.inlet().closeRead()
}

// socket is what the connection is read from in the end.
func (c *conn) socket() syscall.RawConn {
	if c.raw != nil {
		return c.raw
	}
	return c.inlet().raw
}

// inlet is the socket below TLS or WebSocket.
func (c *conn) inlet() *inlet {
	nc := c.nc
	if ws, ok := nc.(*webSocketConn); ok {
		return ws.inlet
	}
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	return nc.(*inlet) // nothing else is started
}

// remote is the client's address.
func (c *conn) remote() netip.AddrPort {
	if c.detail != nil && c.detail.remote != nil {
		return *c.detail.remote
	}
	return remoteOf(c.nc)
}

// accepted is when the connection was accepted: before the request for a WebSocket
// was read.
func (c *conn) accepted() time.Time {
	if ws, ok := c.nc.(*webSocketConn); ok {
		return ws.inlet.accepted
	}
	return time.Now()
}

func (c *conn) clientID() string {
	if c.principal == nil {
		return ""
	}
	return c.principal.ClientID
}
