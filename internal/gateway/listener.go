package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// AddrOf is the address of one end of a TCP connection; the zero value for
// others.
func AddrOf(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// Admission lets connections in within the limits.
type Admission struct {
	Limiter *Limiter
	Log     *slog.Logger
	// Refused is told of each connection that got no place. It is closed then.
	Refused func(remote netip.AddrPort)

	// Proxies are the load balancers whose connections begin with a header of the
	// PROXY protocol, which must arrive within HeaderTime.
	Proxies    Proxies
	HeaderTime time.Duration
	// Misled is told of each connection of a load balancer without such a header. It
	// is closed then.
	Misled func(balancer netip.AddrPort, err error)
}

// Serve gives each connection of l that gets a place to start, which must not
// block and gives the place back by Limiter.Leave. remote is the client's address,
// and nc the connection that was accepted, also if a load balancer has opened it. It
// returns when l is closed, or ctx ends, and nobody waits for a place or a header
// any more: one that waits does not hold up others.
func (a *Admission) Serve(ctx context.Context, l net.Listener, start func(nc net.Conn, remote netip.AddrPort)) {
	ctx, cancel := context.WithCancel(ctx)
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel()
	for {
		nc, err := Accept(ctx, l, a.Log)
		if err != nil {
			return
		}
		remote := AddrOf(nc.RemoteAddr())
		if a.Proxies.has(remote.Addr()) {
			waiting.Go(func() { a.introduce(ctx, nc, remote, start) })
			continue
		}
		if a.Limiter.Enter(remote.Addr()) {
			start(nc, remote)
			continue
		}
		waiting.Go(func() {
			if a.Limiter.Await(ctx, remote.Addr()) {
				start(nc, remote)
				return
			}
			a.Refused(remote)
			_ = nc.Close()
		})
	}
}

// introduce starts a connection from a load balancer when its header says whose it
// is. It has a place from the beginning, which counts for the client's address from
// then on.
func (a *Admission) introduce(ctx context.Context, nc net.Conn, balancer netip.AddrPort, start func(net.Conn, netip.AddrPort)) {
	var unknown netip.Addr
	if !a.Limiter.Await(ctx, unknown) {
		a.Refused(balancer)
		_ = nc.Close()
		return
	}
	remote, err := a.readHeader(ctx, nc)
	switch {
	case err != nil:
		if a.Misled != nil && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) && ctx.Err() == nil { // who looks whether the port is open, sends nothing
			a.Misled(balancer, err)
		}
	case !a.Limiter.Identify(ctx, remote.Addr()):
		a.Refused(remote)
	default:
		start(nc, remote)
		return
	}
	_ = nc.Close()
	a.Limiter.Leave(unknown)
}

var errNotTCP = errors.New("not a TCP connection")

// readHeader reads the header of a connection; it ends when ctx ends.
func (a *Admission) readHeader(ctx context.Context, nc net.Conn) (netip.AddrPort, error) {
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return netip.AddrPort{}, errNotTCP
	}
	stop := context.AfterFunc(ctx, func() { _ = tcp.CloseRead() })
	defer stop()
	return readHeader(tcp, time.Now().Add(a.HeaderTime))
}

// Listen returns a listener for libraries that accept for themselves: it has the
// connections of l that got a place, as wrap makes them. leave gives the place
// back; it is called once, when the connection is closed. The listener ends when
// it or l is closed, or ctx ends.
func (a *Admission) Listen(ctx context.Context, l net.Listener, wrap func(nc net.Conn, remote netip.AddrPort, leave func()) net.Conn) net.Listener {
	ctx, cancel := context.WithCancel(ctx)
	al := &admittedListener{Listener: l, conns: make(chan net.Conn), ended: ctx.Done(), end: cancel, served: make(chan struct{})}
	go func() {
		defer close(al.served)
		defer cancel()
		a.Serve(ctx, l, func(nc net.Conn, remote netip.AddrPort) {
			c := wrap(nc, remote, func() { a.Limiter.Leave(remote.Addr()) })
			select {
			case al.conns <- c:
			case <-ctx.Done():
				_ = c.Close()
			}
		})
	}()
	return al
}

type admittedListener struct {
	net.Listener
	conns  chan net.Conn
	ended  <-chan struct{}
	end    func()
	served chan struct{} // closed when no goroutine is left
}

// Accept implements net.Listener.
func (l *admittedListener) Accept() (net.Conn, error) {
	select {
	case nc := <-l.conns:
		return nc, nil
	case <-l.ended:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *admittedListener) Close() error {
	err := l.Listener.Close()
	l.end()
	<-l.served
	return err
}

// admitted is a connection that gives its place back when it is closed.
type admitted struct {
	net.Conn
	remote net.Addr
	leave  func()
	once   sync.Once
}

// NewAdmitted makes one of what Admission.Listen gives to its wrap.
func NewAdmitted(nc net.Conn, remote netip.AddrPort, leave func()) net.Conn {
	a := nc.RemoteAddr()
	if AddrOf(a) != remote {
		a = net.TCPAddrFromAddrPort(remote)
	}
	return &admitted{Conn: nc, remote: a, leave: leave}
}

// RemoteAddr implements net.Conn. It is the client's address, also behind a load
// balancer.
func (c *admitted) RemoteAddr() net.Addr { return c.remote }

// Close implements net.Conn.
func (c *admitted) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = c.Conn.Close()
		c.leave()
	})
	return err
}
