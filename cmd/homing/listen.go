package main

import (
	"bufio"
	"context"
	"fmt"
	"time"

	"github.com/homing-mq/homing/internal/mqttclient"
)

type listenCmd struct {
	connectFlags
	ClientID   string   `required:"" short:"i" placeholder:"ID" help:"Client ID whose messages to show. A client with the same ID is disconnected."`
	Persistent bool     `help:"Have a persistent session: the server keeps QoS 1 and 2 messages while this client is away."`
	Filter     []string `short:"f" sep:"none" placeholder:"FILTER" help:"Subscribe to ordinary topics also. May be repeated."`
	QoS        int      `name:"qos" short:"q" default:"2" enum:"0,1,2" help:"Highest QoS of the subscriptions: ${enum} (default: ${default})."`
	JSON       bool     `name:"json" help:"Print each message as a JSON object on a line of its own."`
	Count      int      `short:"n" placeholder:"N" help:"Exit after so many messages."`
}

func (*listenCmd) Help() string {
	return `Prints the messages sent to a client ID, without a subscription, and acknowledges each when it is printed.
Connects again when the connection is lost.

Without --persistent the session of the client ID starts clean: what was kept for it because it had a
persistent session is gone. What its senders asked to keep arrives.

Examples:

    homing listen --client-id dev1
    homing listen --client-id dev1 --persistent --json -n 1`
}

func (c *listenCmd) Run(ctx context.Context, con *console) error {
	if c.ClientID == "" {
		return usagef("the client ID is empty; give one")
	}
	if c.Count < 0 {
		return usagef("-n %d: exit after at least one message", c.Count)
	}
	if err := c.resolve(ctx, con); err != nil {
		return err
	}
	o, err := c.options(c.ClientID)
	if err != nil {
		return err
	}
	o.CleanStart = !c.Persistent
	if c.Persistent {
		o.SessionExpiry = mqttclient.NeverExpires
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	l := &listener{out: bufio.NewWriter(con.Out), json: c.JSON, left: c.Count, limited: c.Count > 0, stop: stop}
	o.Session = new(mqttclient.Session) // QoS 2 holds across connections
	o.ManualAck = true
	o.Handler, o.OnPubrel = l.message, l.released
	loop := mqttclient.Loop{
		Options:   o,
		OnConnect: func(ctx context.Context, client *mqttclient.Client) error { return c.connected(ctx, con, client) },
		OnRetry: func(err error, pause time.Duration) {
			if l.printedAll() {
				stop()
				return
			}
			fmt.Fprintf(con.Err, "homing: %s: %v; trying again in %v\n", c.Server, err, pause.Round(100*time.Millisecond))
		},
	}
	if err := loop.Run(ctx); err != nil {
		return err
	}
	return l.err
}

// connected makes the subscriptions.
func (c *listenCmd) connected(ctx context.Context, con *console, client *mqttclient.Client) error {
	fmt.Fprintf(con.Err, "homing: connected to %s as %s\n", c.Server, client.ClientID())
	if len(c.Filter) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, connectTime, fmt.Errorf("no answer to SUBSCRIBE within %v", connectTime))
	defer cancel()
	codes, err := client.Subscribe(ctx, byte(c.QoS), c.Filter...)
	if err != nil {
		return err
	}
	for i, code := range codes {
		if code.Failed() && i < len(c.Filter) {
			return &mqttclient.PermanentError{Err: fmt.Errorf("the server refused the subscription to %s: %v (0x%02X)", c.Filter[i], code, byte(code))}
		}
	}
	return nil
}

// listener prints messages. Its methods are called by one client after another,
// never at the same time; err is for after the last one.
type listener struct {
	out     *bufio.Writer
	json    bool
	limited bool
	left    int // messages to print, if limited
	open    int // QoS 2 handshakes under way
	stop    context.CancelFunc
	err     error
}

// message prints a message and then acknowledges it: one that could not be
// printed stays with the server.
func (l *listener) message(m *mqttclient.Message) {
	if l.err != nil || l.printedAll() {
		return
	}
	if l.err = l.print(m); l.err != nil {
		l.stop()
		return
	}
	if m.QoS == 2 {
		l.open++
	}
	l.left--
	m.Ack()
	l.stopIfDone()
}

func (l *listener) print(m *mqttclient.Message) error {
	line := textLine(m)
	if l.json {
		var err error
		if line, err = jsonLine(m, time.Now()); err != nil {
			return err
		}
	}
	if _, err := l.out.Write(line); err != nil {
		return fmt.Errorf("print a message: %w", err)
	}
	if err := l.out.Flush(); err != nil {
		return fmt.Errorf("print a message: %w", err)
	}
	return nil
}

// released says to answer PUBREL.
func (l *listener) released(uint16) bool {
	l.open = max(l.open-1, 0) // it may be one of an earlier process
	l.stopIfDone()
	return true
}

// stopIfDone ends listening when the last message has been printed and the
// server knows that it need not send it again.
func (l *listener) stopIfDone() {
	if l.printedAll() && l.open == 0 {
		l.stop()
	}
}

func (l *listener) printedAll() bool { return l.limited && l.left == 0 }
