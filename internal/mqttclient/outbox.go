package mqttclient

import (
	"cmp"
	"context"
)

const (
	// outLimit is how many bytes may wait to be written before Publish waits.
	outLimit = 1 << 20
	// keepBuffer is the largest buffer in bytes that is kept for reuse.
	keepBuffer = 64 << 10
)

// Flush sends what has been enqueued. It does not wait for the server.
func (c *Client) Flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writing {
		return // whoever writes looks at out again
	}
	for len(c.out) > 0 && c.canWrite() {
		c.writing = true
		buf := c.takeOut()
		if c.try == nil {
			c.handOver(buf, 0)
			return
		}
		c.mu.Unlock()
		n, err := c.try.write(buf)
		c.mu.Lock()
		if err != nil {
			c.writeFailed(err)
		}
		if n < len(buf) && c.canWrite() { // the socket is full
			c.handOver(buf, n)
			return
		}
		c.putBack(buf)
	}
}

// takeOut takes what waits to be written. mu is held.
func (c *Client) takeOut() []byte {
	buf := c.out
	c.out, c.spare = c.spare[:0], nil
	c.written = true
	return buf
}

// putBack ends a write of buf. mu is held.
func (c *Client) putBack(buf []byte) {
	c.writing = false
	if cap(buf) <= keepBuffer {
		c.spare = buf[:0]
	}
	c.wake()
}

// handOver leaves the writing of buf[n:], and of what else comes in the
// meantime, to a goroutine that may wait. mu is held.
func (c *Client) handOver(buf []byte, n int) {
	c.writers.Go(func() {
		for {
			_, err := c.conn.Write(buf[n:])
			c.mu.Lock()
			if err != nil {
				c.writeFailed(err)
			}
			c.putBack(buf)
			if len(c.out) == 0 || !c.canWrite() {
				c.mu.Unlock()
				return
			}
			c.writing = true
			buf, n = c.takeOut(), 0
			c.mu.Unlock()
		}
	})
}

// flushed waits until everything has been written.
func (c *Client) flushed(ctx context.Context) (err error) {
	ok := c.await(ctx, func() bool {
		switch {
		case c.broken != nil:
			err = c.broken
		case c.writing:
			return false
		case len(c.out) > 0 && c.err != nil:
			err = c.err
		case len(c.out) > 0:
			return false
		}
		return true
	})
	if !ok {
		return context.Cause(ctx)
	}
	return err
}

// Raw enqueues bytes as they are and flushes. It does not wait. For tests.
func (c *Client) Raw(b []byte) error {
	c.mu.Lock()
	if err := c.sendable(); err != nil {
		c.mu.Unlock()
		return err
	}
	c.out = append(c.out, b...)
	c.mu.Unlock()
	c.Flush()
	return nil
}

// sendable returns why nothing can be sent any more. mu is held.
func (c *Client) sendable() error {
	if c.leaving {
		return ErrClosed
	}
	return cmp.Or(c.err, c.broken)
}

// canWrite reports whether the connection still takes bytes. mu is held.
func (c *Client) canWrite() bool { return c.err == nil && c.broken == nil }
