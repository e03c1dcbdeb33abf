package mqttclient

import (
	"context"
	"fmt"

	"github.com/homing-mq/homing/internal/mqtt"
)

// Result is how a publish ended.
type Result struct {
	// Code is that of PUBACK or PUBREC; 0 in 3.x and for QoS 0.
	Code   mqtt.ReasonCode
	Reason string // reason string; MQTT 5
	Err    error  // it was not acknowledged at all
}

// Publish sends a message and waits for its acknowledgement (for QoS 2: to the
// end of the handshake). For QoS 0 it returns when the message is on its way;
// it waits only if too much is. The error says that there is no
// acknowledgement; a failure code is none.
//
// p.PacketID is set; p and what it points to are not kept.
func (c *Client) Publish(ctx context.Context, p *mqtt.Publish) (Result, error) {
	if p.QoS == 0 {
		return Result{}, c.PublishAsync(ctx, p, nil)
	}
	ch := make(chan Result, 1)
	if err := c.PublishAsync(ctx, p, func(r Result) { ch <- r }); err != nil {
		return Result{}, err
	}
	select {
	case r := <-ch:
		return r, r.Err
	case <-ctx.Done():
		return Result{}, context.Cause(ctx)
	case <-c.done:
	}
	select {
	case r := <-ch:
		return r, r.Err
	default: // goes on in the Session
		return Result{}, c.Err()
	}
}

// PublishAsync sends a message. It waits for room in the server's Receive
// Maximum and in the output buffer, not for the acknowledgement: done, which
// may be nil, is called with that. If PublishAsync returns an error done is
// never called, otherwise once for QoS 1 and 2 and never for QoS 0.
//
// p.PacketID is set; p and what it points to are not kept.
func (c *Client) PublishAsync(ctx context.Context, p *mqtt.Publish, done func(Result)) error {
	c.mu.Lock()
	for {
		err := c.enqueue(p, done)
		if err == nil {
			break
		}
		if err != ErrWindow { //nolint:errorlint // enqueue returns it bare
			c.mu.Unlock()
			return err
		}
		w := c.waiter()
		c.mu.Unlock()
		c.Flush()
		select {
		case <-w:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		c.mu.Lock()
	}
	c.mu.Unlock()
	c.Flush()
	// Not too much may wait to be written. The message is enqueued in any case.
	c.await(ctx, func() bool { return len(c.out) <= outLimit || !c.canWrite() })
	return nil
}

// Enqueue is PublishAsync without a wait and without a flush: ErrWindow says
// that the server's Receive Maximum is reached. What it enqueues leaves with the
// next flush; in a callback of this client that is the end of the batch.
func (c *Client) Enqueue(p *mqtt.Publish, done func(Result)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.enqueue(p, done)
}

// enqueue appends p to out. mu is held.
func (c *Client) enqueue(p *mqtt.Publish, done func(Result)) error {
	if err := c.sendable(); err != nil {
		return err
	}
	if c.maxPacket > 0 && p.Size(c.version) > c.maxPacket {
		return ErrTooLarge
	}
	if p.QoS == 0 {
		c.out = p.Append(c.out, c.version)
		return nil
	}
	if c.session.inflight >= c.window {
		return ErrWindow
	}
	id, sl := c.session.take()
	if sl == nil {
		return ErrWindow
	}
	c.session.inflight++
	p.PacketID = id
	at := len(c.out)
	c.out = p.Append(c.out, c.version)
	sl.state, sl.qos, sl.done = publishing, p.QoS, done
	if c.options.Session != nil {
		sl.packet = append(sl.packet[:0], c.out[at:]...)
	}
	return nil
}

// onPuback ends a QoS 1 publish.
func (c *Client) onPuback(a *mqtt.Ack) error {
	c.mu.Lock()
	sl := c.session.get(a.PacketID)
	if sl == nil || sl.state != publishing || sl.qos != 1 {
		c.mu.Unlock()
		return protocolError("%v for packet identifier %d, which does not wait for it", a.Type, a.PacketID)
	}
	done := c.session.release(a.PacketID).done
	c.wake()
	c.mu.Unlock()
	if done != nil {
		done(resultOf(a))
	}
	return nil
}

// onPubrec continues a QoS 2 publish, or ends it with a failure.
// [MQTT-4.3.3-4]
func (c *Client) onPubrec(a *mqtt.Ack) error {
	c.mu.Lock()
	sl := c.session.get(a.PacketID)
	switch {
	case sl == nil:
		c.out = mqtt.AppendAck(c.out, c.version, mqtt.PUBREL, a.PacketID, mqtt.CodePacketIdentifierNotFound)
	case sl.qos != 2:
		c.mu.Unlock()
		return protocolError("PUBREC for packet identifier %d, which does not wait for it", a.PacketID)
	case a.Code.Failed():
		done := c.session.release(a.PacketID).done
		c.wake()
		c.mu.Unlock()
		if done != nil {
			done(resultOf(a))
		}
		return nil
	default:
		sl.state, sl.result, sl.packet = releasing, resultOf(a), nil
		c.out = mqtt.AppendAck(c.out, c.version, mqtt.PUBREL, a.PacketID, 0)
	}
	c.mu.Unlock()
	return nil
}

// onPubcomp ends a QoS 2 publish.
func (c *Client) onPubcomp(a *mqtt.Ack) error {
	c.mu.Lock()
	sl := c.session.get(a.PacketID)
	if sl == nil || sl.state != releasing {
		c.mu.Unlock()
		if a.Code == mqtt.CodePacketIdentifierNotFound {
			return nil // answers a PUBREL of onPubrec's first case
		}
		return protocolError("PUBCOMP for packet identifier %d, which does not wait for it", a.PacketID)
	}
	old := c.session.release(a.PacketID)
	c.wake()
	c.mu.Unlock()
	if old.done != nil {
		old.done(old.result)
	}
	return nil
}

func resultOf(a *mqtt.Ack) Result {
	return Result{Code: a.Code, Reason: string(a.Properties.ReasonString)}
}

func (r Result) String() string {
	switch {
	case r.Err != nil:
		return r.Err.Error()
	case r.Reason != "":
		return fmt.Sprintf("%v (0x%02X): %s", r.Code, byte(r.Code), r.Reason)
	}
	return fmt.Sprintf("%v (0x%02X)", r.Code, byte(r.Code))
}
