package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/mqttclient"
)

type sendCmd struct {
	connectFlags
	Client   string        `arg:"" help:"Client ID of the target."`
	Payload  *string       `arg:"" optional:"" help:"The message. Or give --file."`
	File     string        `short:"f" placeholder:"FILE" help:"Take the message from a file; \"-\" is standard input."`
	QoS      int           `name:"qos" short:"q" default:"1" enum:"0,1,2" help:"QoS: ${enum} (default: ${default})."`
	Keep     bool          `short:"k" help:"Ask the server to keep the message while the target is offline."`
	Count    int           `short:"n" default:"1" help:"Send the message so many times (default: ${default})."`
	Expiry   time.Duration `placeholder:"TIME" help:"The message is worthless after this time, like 90s or 12h (MQTT 5)."`
	Property []string      `short:"p" sep:"none" placeholder:"KEY=VALUE" help:"User property (MQTT 5). May be repeated."`
	Parent   string        `default:"homing" placeholder:"TOPIC" help:"Parent topic, the first level (default: ${default})."`
	SubTopic string        `placeholder:"LEVELS" help:"More levels behind the target, which sees them."`
	ClientID string        `placeholder:"ID" help:"Own client ID; not one that is in use, its session would end. Without: a new one."`
}

func (*sendCmd) Help() string {
	return `Prints what the server's acknowledgement says. The exit code is 1 if the message did not get through: the
target is offline and nobody asked to keep the message, or the server refused it.

Examples:

    homing send dev1 hello
    homing send dev1 --keep --file picture.jpg --server tls://mqtt.example.com`
}

func (c *sendCmd) Run(ctx context.Context, con *console) error {
	if err := c.resolve(ctx, con); err != nil {
		return err
	}
	m, err := c.message(con)
	if err != nil {
		return err
	}
	if c.ClientID == "" {
		c.ClientID = newClientID("send-")
	}
	o, err := c.options(c.ClientID)
	if err != nil {
		return err
	}
	// What waits for this client ID is for somebody else: it is not taken.
	o.ManualAck, o.ReceiveMaximum = true, 1
	o.CleanStart = true
	if c.Keep { // contract section 4: asked for by a session that outlives the connection
		o.SessionExpiry = 1
		o.CleanStart = o.Version == mqtt.V5
	}
	client, err := dial(ctx, o)
	if err != nil {
		return err
	}
	results, err := c.publish(ctx, client, m)
	c.leave(ctx, con, client, o)
	if err != nil {
		return explainSend(err, o.Version)
	}
	return c.report(con, results)
}

// message builds the PUBLISH.
func (c *sendCmd) message(con *console) (*mqtt.Publish, error) {
	topic := c.Parent + "/p2p/" + c.Client
	if c.SubTopic != "" {
		topic += "/" + strings.TrimPrefix(c.SubTopic, "/")
	}
	kind, target := mq.ParseTopic([]byte(topic))
	if kind != mq.TopicP2P || string(target) != c.Client {
		return nil, usagef("%q cannot be a topic: a parent topic, client ID or sub-topic is empty or has one of / + #", topic)
	}
	if c.Count < 1 {
		return nil, usagef("-n %d: send at least one message", c.Count)
	}
	if c.Keep && c.QoS == 0 {
		return nil, usagef("a message with QoS 0 is never kept; use --qos 1 with --keep")
	}
	m := &mqtt.Publish{Topic: []byte(topic), QoS: byte(c.QoS)}
	if err := c.setProperties(m); err != nil {
		return nil, err
	}
	var err error
	m.Payload, err = c.payload(con)
	return m, err
}

func (c *sendCmd) setProperties(m *mqtt.Publish) error {
	if c.version() != mqtt.V5 && (c.Expiry != 0 || len(c.Property) > 0) {
		return usagef("--expiry and --property need MQTT 5; leave --version %s out", c.Version)
	}
	if c.Expiry != 0 {
		s := (c.Expiry + time.Second - 1) / time.Second
		if s < 1 || s > math.MaxUint32 {
			return usagef("--expiry %v: give one second or more", c.Expiry)
		}
		m.HasExpiry, m.Expiry = true, uint32(s)
	}
	for _, p := range c.Property {
		key, value, ok := strings.Cut(p, "=")
		if !ok {
			return usagef("--property %s: give KEY=VALUE", p)
		}
		m.Props = mqtt.AppendUserProperty(m.Props, key, value)
	}
	return nil
}

func (c *sendCmd) payload(con *console) ([]byte, error) {
	switch {
	case c.File == "" && c.Payload == nil:
		return nil, usagef("there is no message; give one, which may be \"\", or --file")
	case c.File == "":
		return []byte(*c.Payload), nil
	case c.Payload != nil:
		return nil, usagef("there are two messages, an argument and --file; give one")
	case c.File == "-":
		b, err := io.ReadAll(con.In)
		if err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		return b, nil
	}
	b, err := os.ReadFile(c.File)
	if err != nil {
		return nil, fmt.Errorf("--file: %w", err)
	}
	return b, nil
}

// publish sends the message as often as wanted, and waits for the
// acknowledgements, of which it returns the last of each code.
func (c *sendCmd) publish(ctx context.Context, client *mqttclient.Client, m *mqtt.Publish) (*sent, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(connectTime, func() {
		cancel(fmt.Errorf("no acknowledgement from the server within %v", connectTime))
	})
	defer stalled.Stop()
	results := make(chan mqttclient.Result, c.Count)
	for range c.Count {
		err := client.PublishAsync(ctx, m, func(r mqttclient.Result) {
			stalled.Reset(connectTime)
			results <- r
		})
		if err != nil {
			return nil, err
		}
	}
	s := new(sent)
	if m.QoS == 0 {
		s.codes[0].count = c.Count
		return s, nil
	}
	for range c.Count {
		select {
		case r := <-results:
			if r.Err != nil {
				return nil, r.Err
			}
			s.add(r)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return s, nil
}

// leave disconnects so that no session stays behind.
func (c *sendCmd) leave(ctx context.Context, con *console, client *mqttclient.Client, o mqttclient.Options) {
	ctx = context.WithoutCancel(ctx)
	d := new(mqtt.Disconnect)
	if o.SessionExpiry > 0 {
		d.Properties.Set(mqtt.PropSessionExpiry) // 0
	}
	_ = client.DisconnectWith(ctx, d) // the messages are acknowledged, or it is known that they are not
	if o.CleanStart {
		return
	}
	// Before MQTT 5 only a clean session ends the one that was not.
	o.CleanStart = true
	again, err := dial(ctx, o)
	if err != nil {
		fmt.Fprintf(con.Err, "homing: the session of %s stays on the server: %v\n", o.ClientID, err)
		return
	}
	_ = again.Disconnect(ctx) // the session has ended on CONNECT
}

// sent is how the server has answered.
type sent struct {
	codes [256]struct {
		count  int
		reason string
	}
}

func (s *sent) add(r mqttclient.Result) {
	x := &s.codes[r.Code]
	x.count++
	x.reason = r.Reason
}

// report prints what got through and returns an error for what did not.
func (c *sendCmd) report(con *console, s *sent) error {
	done := "delivered or kept"
	switch {
	case c.QoS == 0:
		done = "sent; QoS 0 is not acknowledged"
	case c.version() != mqtt.V5:
		done = "acknowledged; MQTT " + c.Version + " does not say whether it was delivered or kept"
	}
	if n := s.codes[0].count; n > 0 {
		if _, err := fmt.Fprintln(con.Out, c.some(n)+done); err != nil {
			return err
		}
	}
	var failed []error
	for code := range s.codes {
		if x := &s.codes[code]; code != 0 && x.count > 0 {
			failed = append(failed, errors.New(c.some(x.count)+c.failure(mqtt.ReasonCode(code), x.reason)))
		}
	}
	return errors.Join(failed...)
}

// some says how many of the messages are meant.
func (c *sendCmd) some(n int) string {
	switch {
	case c.Count == 1:
		return ""
	case n == c.Count:
		return fmt.Sprintf("%d messages: ", n)
	}
	return fmt.Sprintf("%d of %d messages: ", n, c.Count)
}

func (c *sendCmd) failure(code mqtt.ReasonCode, reason string) string {
	if code == mqtt.CodeNoMatchingSubscribers {
		text := "not delivered: " + c.Client + " is offline, and the message was not kept"
		if c.Keep {
			return text + "; the server is set not to keep it (p2p.keep)"
		}
		return text + "; --keep would keep it"
	}
	text := fmt.Sprintf("refused: %v (0x%02X)", code, byte(code))
	if reason != "" && reason != code.String() {
		text += ": " + reason
	}
	return text
}

// explainSend adds what the end of a connection means before MQTT 5.
func explainSend(err error, v mqtt.Version) error {
	if v != mqtt.V5 && errors.Is(err, io.EOF) {
		return fmt.Errorf("the server closed the connection; in MQTT %v that is how it refuses a message; --version 5 tells why", v)
	}
	if errors.Is(err, io.EOF) {
		return errors.New("the server closed the connection before it acknowledged the message")
	}
	return err
}
