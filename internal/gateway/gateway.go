// Package gateway is what the gateways that listen for connections share: how
// they accept, and how they wait for the end.
package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"
)

// DrainTime bounds the wait for the store at shutdown.
const DrainTime = 5 * time.Second

// Accept waits for a connection until l is closed, or ctx ends. When there are no
// file descriptors left it waits for some.
func Accept(ctx context.Context, l net.Listener, log *slog.Logger) (net.Conn, error) {
	wait := 5 * time.Millisecond
	for {
		nc, err := l.Accept()
		if err == nil || errors.Is(err, net.ErrClosed) {
			return nc, err
		}
		log.Error("cannot accept a connection; trying again", "error", err, "wait", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, err
		}
		wait = min(2*wait, time.Second)
	}
}

// Wait waits for wg. When ctx ends before, it calls abort, which must make wg come
// to its end, and returns the error of ctx after that.
func Wait(ctx context.Context, wg *sync.WaitGroup, abort func()) error {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		abort()
		<-done
		return ctx.Err()
	}
}
