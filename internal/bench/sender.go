package bench

import (
	"context"
	"fmt"

	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/mqttclient"
)

// sender is a connection that messages are sent on.
type sender interface {
	// enqueue takes a message, which leaves with the next Flush or before. m is
	// borrowed. t, which is nil with QoS 0, is told the answer, not during the
	// call. mqttclient.ErrWindow says that nothing can be taken before some
	// answer has come.
	enqueue(m *mqtt.Publish, t *token) error
	// Flush does not wait for the server.
	Flush()
	// Err is why the connection has ended; nil: it has not.
	Err() error
	// leave ends the connection, and what the server keeps of it.
	leave(ctx context.Context)
}

// mqttSender is a sender that is an MQTT client.
type mqttSender struct {
	*mqttclient.Client
	connect *Connect
	session bool // it has one that outlives connections
}

// sender connects an MQTT client to send with.
func (c *Connect) sender(ctx context.Context, o mqttclient.Options) (sender, error) {
	client, err := mqttclient.Dial(ctx, o)
	if err != nil {
		return nil, err
	}
	return &mqttSender{client, c, o.SessionExpiry > 0}, nil
}

func (s *mqttSender) enqueue(m *mqtt.Publish, t *token) error {
	if t == nil {
		return s.Enqueue(m, nil)
	}
	return s.Enqueue(m, t.done)
}

func (s *mqttSender) leave(ctx context.Context) { s.connect.leave(ctx, s.Client, s.session) }

// puback is called by the reader of an MQTT client, which flushes later.
func (t *token) puback(r mqttclient.Result) {
	switch {
	case r.Err != nil: // the connection has ended
	case r.Code == mqtt.CodeSuccess:
		t.acknowledged("")
	default:
		t.acknowledged(fmt.Sprintf("0x%02X %v", byte(r.Code), r.Code))
	}
}
