package mqttserver

import (
	"github.com/homing-mq/homing/internal/gateway"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
)

// partial is a short beginning of a packet, kept without a worker.
type partial struct {
	data []byte
	part gateway.Part
}

// errNoMemory ends a connection whose packet grows too slowly while others wait
// for memory.
var errNoMemory = &mqtt.Error{Code: mqtt.CodeQuotaExceeded, Text: "no memory for the packet that is arriving: others wait and grow faster (limits.pending-bytes-total)"}

// set notes how many bytes of memory the connection holds of a packet that has
// arrived in part, got of them; 0: none.
func (c *conn) set(p *gateway.Part, size, got int) {
	c.srv.unfinished.Set(p, c, mq.AccountOf(c.principal), int64(size), int64(got))
}

// keepPart counts the worker's buffer, or the room that the packet in it has.
func (c *conn) keepPart(w *worker) {
	if w.moved { // what was counted was of another packet
		c.set(&w.part, 0, 0)
		w.moved = false
	}
	c.set(&w.part, max(len(w.buf), int(w.part.Size())), w.end-w.start)
}

// hold makes sure that there is room for a packet, and a buffer, of size bytes.
func (c *conn) hold(w *worker, size int) error {
	if c.keepPart(w); int64(size) <= w.part.Size() {
		return nil
	}
	if c.detail != nil && c.detail.silence != nil {
		c.detail.silence.Stop()
	}
	if err := c.srv.unfinished.Grow(&w.part, int64(size), c.alive); err != nil {
		return errNoMemory
	}
	c.lastRead = clock() // what it has sent meanwhile is not read yet
	if c.raw == nil && c.connected.Load() {
		c.armKeepAlive()
	}
	return nil
}

// Evict implements gateway.Owner. The reader is to end at once: others wait for
// its memory.
func (c *conn) Evict() {
	c.disconnect(errNoMemory.Code, errNoMemory.Text)
	c.endInput()
}

// forgetInput gives up what has arrived and will not be handled.
func (c *conn) forgetInput() {
	if d := c.detail; d != nil && d.partial != nil {
		c.set(&d.partial.part, 0, 0)
		d.partial = nil
	}
	if c.w != nil {
		c.w.start, c.w.end = 0, 0
		c.release()
	}
}

// alive reports whether the connection still takes input.
func (c *conn) alive() bool {
	closing, _ := c.overloaded()
	return !closing
}
