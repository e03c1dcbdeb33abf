package mqttclient

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
)

// lingerTime is how long Disconnect waits for the server to close.
const lingerTime = 2 * time.Second

// Client is one connection to a server.
type Client struct {
	// Set before the reader starts and not changed later.
	conn      net.Conn
	options   Options
	version   mqtt.Version
	clientID  string
	connack   mqtt.Connack
	keepAlive time.Duration // 0: off
	window    int           // the server's Receive Maximum
	maxPacket int           // the server's Maximum Packet Size in bytes; 0: no limit
	try       *tryWriter    // nil if the connection has no writes that do not wait

	// The reader's own.
	in      []byte // read buffer
	inLen   int    // bytes read and not handled yet
	aliases []string
	message Message
	ack     mqtt.Ack
	lost    []completion // of a session that the server has lost

	mu      sync.Mutex
	session *Session // mu guards its fields
	out     []byte   // to be written
	spare   []byte   // the other buffer, of the last write
	writing bool     // somebody writes, and looks at out again afterwards
	leaving bool     // DISCONNECT is in out: nothing may follow
	broken  error    // a write has failed; the reader may still find out why
	err     error    // why it ended; nil while it has not
	// wait is closed, and replaced, when there is more room in the window or in
	// out. nil while nobody waits.
	wait    chan struct{}
	reading bool // the reader is at a batch, which may produce output
	ticker  *time.Timer
	pinged  bool // PINGREQ sent, nothing heard since
	written bool // since the last tick

	heard   atomic.Bool // something was read since the last tick
	deaf    atomic.Bool // packets are not handled any more
	writers sync.WaitGroup
	done    chan struct{}
}

func newClient(conn net.Conn, o Options) *Client {
	c := &Client{
		conn:    conn,
		options: o,
		version: o.Version,
		window:  65535,
		try:     newTryWriter(conn),
		in:      make([]byte, 1024),
		session: o.Session,
		done:    make(chan struct{}),
	}
	if c.session == nil {
		c.session = new(Session)
	}
	if n := int(o.TopicAliasMaximum); n > 0 {
		c.aliases = make([]string, n+1)
	}
	c.message.client = c
	return c
}

// start begins reading, and sends again what the session has left unfinished.
func (c *Client) start() {
	_ = c.conn.SetDeadline(time.Time{}) // if it fails the reader finds out why
	c.mu.Lock()
	c.out = c.session.appendUnfinished(c.out, c.version)
	if c.keepAlive > 0 {
		c.ticker = time.AfterFunc(c.keepAlive/2, c.tick)
	}
	c.mu.Unlock()
	c.Flush()
	go c.read()
}

// Version returns the protocol version.
func (c *Client) Version() mqtt.Version { return c.version }

// ClientID returns the client ID in use, which the server may have picked.
func (c *Client) ClientID() string { return c.clientID }

// Connack returns the server's answer to CONNECT. It must not be changed.
func (c *Client) Connack() *mqtt.Connack { return &c.connack }

// ReceiveMaximum returns how many unacknowledged QoS 1 and 2 messages may be
// under way to the server.
func (c *Client) ReceiveMaximum() int { return c.window }

// LocalAddr returns the connection's own address.
func (c *Client) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// Done is closed when the connection has ended and its goroutines are gone. No
// callback runs after that.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns why the connection ended, and nil while it has not: ErrClosed,
// io.EOF if the server just closed, a *DisconnectedError, or another error.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Abort closes the network connection without a DISCONNECT and does not wait.
func (c *Client) Abort() { c.fail(ErrClosed) }

// Close closes the network connection without a DISCONNECT, as a crash would,
// and waits until no callback runs any more.
func (c *Client) Close() {
	c.Abort()
	<-c.done
}

// Reset is Close with a TCP reset in place of an orderly end.
func (c *Client) Reset() {
	if t, ok := c.conn.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // if that fails it is an ordinary Close
	}
	c.Close()
}

// Disconnect sends a DISCONNECT behind everything enqueued and ends the
// connection. What arrives from now on is neither handled nor acknowledged. The
// error says that the DISCONNECT did not get out.
func (c *Client) Disconnect(ctx context.Context) error {
	return c.DisconnectWith(ctx, &mqtt.Disconnect{})
}

// DisconnectWith is Disconnect with a reason code and properties; MQTT 5.
func (c *Client) DisconnectWith(ctx context.Context, d *mqtt.Disconnect) error {
	ctx, cancel := context.WithTimeout(ctx, lingerTime)
	defer cancel()
	// A message that is being handled is still acknowledged.
	c.deaf.Store(true)
	c.await(ctx, func() bool { return !c.reading })
	c.mu.Lock()
	if err := c.sendable(); err != nil {
		c.mu.Unlock()
		c.Close()
		return err
	}
	c.leaving = true
	c.out = d.Append(c.out, c.version)
	c.mu.Unlock()
	c.Flush()
	err := c.flushed(ctx)
	// Close after the server has: closing with unread input resets the
	// connection, and the reset may overtake the DISCONNECT.
	if half, ok := c.conn.(interface{ CloseWrite() error }); ok && err == nil {
		_ = half.CloseWrite() // the server closes on DISCONNECT in any case
	}
	select {
	case <-c.done:
	case <-ctx.Done():
	}
	c.Close()
	return err
}

// fail ends the connection. The first error counts.
func (c *Client) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	if c.leaving && !errors.Is(err, ErrClosed) {
		err = ErrClosed // what the server does after our DISCONNECT is no error
	}
	c.err = err
	c.deaf.Store(true)
	c.wake()
	if c.ticker != nil {
		c.ticker.Stop()
	}
	c.mu.Unlock()
	c.conn.Close()
}

// writeFailed ends the sending. The reader gets time to find a DISCONNECT that
// says why. mu is held.
func (c *Client) writeFailed(err error) {
	if c.broken == nil {
		c.broken = err
		_ = c.conn.SetReadDeadline(time.Now().Add(time.Second)) // fails if closed: then the reader knows
	}
	c.out = c.out[:0]
}

// finish is the reader's end: it waits for the rest and completes what will
// never be answered.
func (c *Client) finish(err error) {
	c.mu.Lock()
	if c.broken != nil {
		err = c.broken
	}
	c.mu.Unlock()
	c.fail(err)
	c.writers.Wait()
	c.mu.Lock()
	pending := c.session.disconnected(c.options.Session != nil)
	err = c.err
	c.mu.Unlock()
	for _, p := range pending {
		p.done(Result{Err: err})
	}
	close(c.done)
}

// wake tells those who wait for room to look again. mu is held.
func (c *Client) wake() {
	if c.wait != nil {
		close(c.wait)
		c.wait = nil
	}
}

// waiter returns a channel that is closed when there may be more room. mu is
// held.
func (c *Client) waiter() <-chan struct{} {
	if c.wait == nil {
		c.wait = make(chan struct{})
	}
	return c.wait
}

// await waits until ok, which is called with mu held, and reports whether that
// came before the end of ctx. Whatever may change ok calls wake.
func (c *Client) await(ctx context.Context, ok func() bool) bool {
	c.mu.Lock()
	for !ok() {
		w := c.waiter()
		c.mu.Unlock()
		select {
		case <-w:
		case <-ctx.Done():
			return false
		}
		c.mu.Lock()
	}
	c.mu.Unlock()
	return true
}

// tick runs twice in a keep alive time. [MQTT-3.1.2-20]
func (c *Client) tick() {
	c.mu.Lock()
	heard := c.heard.Swap(false)
	idle := !c.written
	c.written = false
	switch {
	case c.err != nil || c.leaving:
		c.mu.Unlock()
		return
	case heard:
		c.pinged = false
	case c.pinged && idle:
		c.mu.Unlock()
		c.fail(ErrKeepAlive)
		return
	}
	if idle {
		c.out = (*mqtt.Pingreq)(nil).Append(c.out, c.version)
		c.pinged = true
	}
	c.ticker.Reset(c.keepAlive / 2)
	c.mu.Unlock()
	c.Flush()
}
