package mqttclient

import "github.com/homing-mq/homing/internal/mqtt"

// maxReadAhead is how far the read buffer grows, in bytes, when packets do not
// need more.
const maxReadAhead = 32 << 10

// read is the reader goroutine.
func (c *Client) read() {
	for _, l := range c.lost {
		l.done(Result{Err: ErrSessionLost})
	}
	c.lost = nil
	err := c.batch() // what came with the CONNACK
	for err == nil {
		var n int
		n, err = c.conn.Read(c.in[c.inLen:])
		c.inLen += n
		if n == 0 {
			continue
		}
		if !c.heard.Load() {
			c.heard.Store(true)
		}
		full := c.inLen == len(c.in)
		if err2 := c.batch(); err2 != nil {
			err = err2
		}
		if full {
			c.room(min(2*len(c.in), maxReadAhead))
		}
	}
	c.finish(err)
}

// batch handles the packets in the read buffer, and flushes.
func (c *Client) batch() error {
	c.setReading(true)
	err := c.packets()
	if err != nil {
		c.complain(err)
	} else if c.options.OnBatch != nil {
		c.options.OnBatch()
	}
	c.setReading(false)
	c.Flush()
	return err
}

func (c *Client) setReading(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading = on
	if !on {
		c.wake()
	}
}

// packets handles the packets in the read buffer and leaves what remains at its
// start.
func (c *Client) packets() error {
	limit := mqtt.MaxPacketSize
	if n := c.options.MaximumPacketSize; n > 0 {
		limit = int(min(n, mqtt.MaxPacketSize))
	}
	at := 0
	for at < c.inLen {
		first, body, n, need, err := mqtt.Split(c.in[at:c.inLen], limit)
		if err == nil && n > 0 {
			err = c.packet(first, body)
		}
		if err != nil {
			return err
		}
		at += n
		if n == 0 {
			c.inLen = copy(c.in, c.in[at:c.inLen])
			c.room(need)
			return nil
		}
	}
	c.inLen = 0
	return nil
}

// room makes the read buffer at least size bytes long, and never full.
func (c *Client) room(size int) {
	if size <= len(c.in) && c.inLen < len(c.in) {
		return
	}
	bigger := make([]byte, max(size, 2*c.inLen))
	copy(bigger, c.in[:c.inLen])
	c.in = bigger
}

// complain tells an MQTT 5 server why the connection ends (section 4.13.1).
func (c *Client) complain(err error) {
	if c.version != mqtt.V5 {
		return
	}
	d := mqtt.Disconnect{Code: mqtt.CodeProtocolError}
	if code := mqtt.CodeOf(err); code.ValidIn(mqtt.DISCONNECT) && code != mqtt.CodeUnspecifiedError {
		d.Code = code
	}
	c.mu.Lock()
	if c.sendable() == nil {
		c.out = d.Append(c.out, c.version)
	}
	c.mu.Unlock()
}

// packet handles one packet. The body is valid until it returns.
func (c *Client) packet(first byte, body []byte) error {
	if c.deaf.Load() {
		return nil
	}
	switch t := mqtt.TypeOf(first); t {
	case mqtt.PUBLISH:
		return c.onPublish(first, body)
	case mqtt.PUBACK, mqtt.PUBREC, mqtt.PUBREL, mqtt.PUBCOMP:
		return c.onAck(first, body)
	case mqtt.SUBACK:
		return c.onSuback(first, body)
	case mqtt.UNSUBACK:
		return c.onUnsuback(first, body)
	case mqtt.PINGRESP:
		return (*mqtt.Pingresp)(nil).Decode(first, body, c.version)
	case mqtt.DISCONNECT:
		return c.onDisconnect(first, body)
	default:
		return protocolError("unexpected %v", t)
	}
}

func (c *Client) onAck(first byte, body []byte) error {
	a := &c.ack
	if err := a.Decode(first, body, c.version); err != nil {
		return err
	}
	switch a.Type {
	case mqtt.PUBACK:
		return c.onPuback(a)
	case mqtt.PUBREC:
		return c.onPubrec(a)
	case mqtt.PUBCOMP:
		return c.onPubcomp(a)
	}
	c.onPubrel(a)
	return nil
}

func (c *Client) onDisconnect(first byte, body []byte) error {
	if c.version != mqtt.V5 {
		return protocolError("DISCONNECT in MQTT %v", c.version)
	}
	var d mqtt.Disconnect
	if err := d.Decode(first, body, c.version); err != nil {
		return err
	}
	c.fail(&DisconnectedError{d.Code, string(d.Properties.ReasonString), string(d.Properties.ServerReference)})
	return nil
}
