package mqttclient

import (
	"context"

	"github.com/homing-mq/homing/internal/mqtt"
)

// reply is the answer to a SUBSCRIBE or UNSUBSCRIBE. It is complete when the
// slot's done is called.
type reply struct {
	want  mqtt.PacketType
	codes []mqtt.ReasonCode
}

// Subscribe subscribes to filters, and returns the server's codes in the same
// order. A failure code is no error.
func (c *Client) Subscribe(ctx context.Context, qos byte, filters ...string) ([]mqtt.ReasonCode, error) {
	var s mqtt.Subscribe
	for _, f := range filters {
		s.Filters = append(s.Filters, mqtt.Filter{Topic: []byte(f), QoS: qos})
	}
	return c.SubscribeWith(ctx, &s)
}

// SubscribeWith is Subscribe with options and properties. s.PacketID is set.
func (c *Client) SubscribeWith(ctx context.Context, s *mqtt.Subscribe) ([]mqtt.ReasonCode, error) {
	return c.request(ctx, mqtt.SUBACK, func(out []byte, id uint16) []byte {
		s.PacketID = id
		return s.Append(out, c.version)
	})
}

// Unsubscribe ends subscriptions. The codes are MQTT 5's; before, there are
// none.
func (c *Client) Unsubscribe(ctx context.Context, filters ...string) ([]mqtt.ReasonCode, error) {
	var u mqtt.Unsubscribe
	for _, f := range filters {
		u.Filters = append(u.Filters, []byte(f))
	}
	return c.request(ctx, mqtt.UNSUBACK, func(out []byte, id uint16) []byte {
		u.PacketID = id
		return u.Append(out, c.version)
	})
}

func (c *Client) request(ctx context.Context, want mqtt.PacketType, encode func([]byte, uint16) []byte) ([]mqtt.ReasonCode, error) {
	r := &reply{want: want}
	ch := make(chan Result, 1)
	c.mu.Lock()
	if err := c.sendable(); err != nil {
		c.mu.Unlock()
		return nil, err
	}
	id, sl := c.session.take()
	if sl == nil {
		c.mu.Unlock()
		return nil, ErrWindow
	}
	sl.state, sl.reply, sl.done = requesting, r, func(r Result) { ch <- r }
	c.out = encode(c.out, id)
	c.mu.Unlock()
	c.Flush()
	select {
	case res := <-ch: // comes also when the connection ends
		return r.codes, res.Err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (c *Client) onSuback(first byte, body []byte) error {
	var s mqtt.Suback
	if err := s.Decode(first, body, c.version); err != nil {
		return err
	}
	return c.onReply(mqtt.SUBACK, s.PacketID, s.Codes)
}

func (c *Client) onUnsuback(first byte, body []byte) error {
	var u mqtt.Unsuback
	if err := u.Decode(first, body, c.version); err != nil {
		return err
	}
	return c.onReply(mqtt.UNSUBACK, u.PacketID, u.Codes)
}

func (c *Client) onReply(t mqtt.PacketType, id uint16, codes []mqtt.ReasonCode) error {
	c.mu.Lock()
	sl := c.session.get(id)
	if sl == nil || sl.state != requesting || sl.reply.want != t {
		c.mu.Unlock()
		return protocolError("%v for packet identifier %d, which does not wait for it", t, id)
	}
	sl.reply.codes = codes
	done := c.session.release(id).done
	c.mu.Unlock()
	done(Result{})
	return nil
}
