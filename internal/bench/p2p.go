package bench

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/mqttclient"
)

// P2P is a benchmark of pairs of a sender and a receiver.
type P2P struct {
	Connect Connect
	Parent  string // parent topic
	Pairs   int
	QoS     byte
	Payload int // bytes, at least MinPayload
	// Window is how many messages a pair has under way: sent and not
	// acknowledged, or with QoS 0 not received.
	Window int
	// Rate, if not 0, is the number of messages per second of all pairs
	// together, sent whatever becomes of the earlier ones, in place of Window.
	Rate float64
	// Warmup is not measured, but what is lost in it counts.
	Warmup, Duration time.Duration
	// Patience is how long to wait without any progress for the rest.
	Patience time.Duration
	// Subscribe makes receivers subscribe to their topic: for servers without
	// P2P.
	Subscribe bool
	// Keep makes the senders ask for the keeping of messages.
	Keep bool
	// Persistent gives the receivers persistent sessions.
	Persistent bool
	// Flood is how many more clients send PINGREQ without end, over TCP.
	Flood int
	// Senders says how the senders connect, if not as Connect does.
	Senders Senders
	// Server, if set, is the server's process.
	Server *Process
}

// Connect says how to connect.
type Connect struct {
	// Options are those of each client, but for client ID, login and session.
	Options mqttclient.Options
	// Login, if set, returns a client's user name and password.
	Login func(clientID string) (user, password string)
	// Parallel is how many connections are made at the same time; 0: 32.
	Parallel int
}

// checkEvery is how often a run looks for trouble.
const checkEvery = 100 * time.Millisecond

// run is one execution of a P2P.
type run struct {
	load
	options *P2P
	pairs   []*pair
}

// due is when message seq of a pair is meant to be sent: the pairs take turns.
func (r *run) due(pair uint32, seq uint64) int64 {
	n := float64(seq)*float64(len(r.pairs)) + float64(pair)
	return int64(n / r.options.Rate * float64(time.Second))
}

// Run connects, measures, and disconnects. It ends early if ctx does or a
// connection is lost.
func (o *P2P) Run(ctx context.Context) (*P2PReport, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	r := &run{options: o}
	r.load.init()
	defer r.disconnect()
	if err := r.connect(ctx); err != nil {
		return nil, err
	}
	flood, err := o.Connect.startFlood(ctx, o.Flood, r.name())
	if err != nil {
		return nil, err
	}
	report, err := r.measure(ctx)
	flood.stop()
	if err != nil {
		return nil, err
	}
	r.disconnect() // nothing changes any more
	r.count(report)
	return report, nil
}

func (o *P2P) check() error {
	if o.Flood < 0 {
		return fmt.Errorf("%d flooding clients: make it 0 or more", o.Flood)
	}
	if o.Pairs < 1 {
		return fmt.Errorf("%d pairs: make at least one", o.Pairs)
	}
	if err := o.Senders.check(); err != nil {
		return err
	}
	return checkLoad(o.Payload, o.Window, o.Rate, o.Duration)
}

func checkLoad(payload, window int, rate float64, d time.Duration) error {
	switch {
	case payload < MinPayload:
		return fmt.Errorf("a payload of %d bytes is too small for the time and number of a message; %d is the least", payload, MinPayload)
	case rate < 0 || rate == 0 && window < 1:
		return fmt.Errorf("a window of %d messages and a rate of %v send nothing", window, rate)
	case d <= 0:
		return fmt.Errorf("a duration of %v measures nothing", d)
	}
	return nil
}

// name begins the client IDs.
func (r *run) name() string { return fmt.Sprintf("bench-%04x-", uint16(r.id)) }

// connect makes all pairs.
func (r *run) connect(ctx context.Context) error {
	o := r.options
	name := r.name()
	for i := range o.Pairs {
		p := &pair{run: r}
		p.source = source{load: &r.load, index: uint32(i), more: p.fill}
		p.message = mqtt.Publish{
			Topic: fmt.Appendf(nil, "%s/p2p/%sr%d", o.Parent, name, i), QoS: o.QoS, Payload: newPayload(o.Payload),
		}
		r.pairs = append(r.pairs, p)
	}
	return parallel(ctx, o.Connect.Parallel, len(r.pairs), func(ctx context.Context, i int) error {
		p := r.pairs[i]
		if err := r.connectReceiver(ctx, p, fmt.Sprintf("%sr%d", name, i)); err != nil {
			return fmt.Errorf("connect receiver %d: %w", i, err)
		}
		var err error
		if p.client, err = r.connectSender(ctx, p, fmt.Sprintf("%ss%d", name, i)); err != nil {
			return fmt.Errorf("connect sender %d: %w", i, err)
		}
		return nil
	})
}

func (r *run) connectSender(ctx context.Context, p *pair, clientID string) (sender, error) {
	o := r.options
	switch o.Senders.Via {
	case ViaRemoting:
		return dialRemoting(ctx, &o.Senders, &p.message, o.Keep)
	case ViaGRPC:
		return dialGRPC(ctx, &o.Senders, clientID, &p.message, o.Keep)
	}
	options := o.Connect.client(clientID)
	if o.Keep {
		options.CleanStart = options.Version == mqtt.V5
		options.SessionExpiry = 60
	}
	return o.Connect.sender(ctx, options)
}

func (r *run) connectReceiver(ctx context.Context, p *pair, clientID string) (err error) {
	options := r.options.Connect.client(clientID)
	options.Handler, options.OnBatch = p.receive, p.batchEnd
	if r.options.Persistent {
		options.CleanStart = options.Version == mqtt.V5 // nobody has had this client ID
		options.SessionExpiry = 60
	}
	if p.receiver, err = mqttclient.Dial(ctx, options); err != nil {
		return err
	}
	if !r.options.Subscribe {
		return nil
	}
	return subscribe(ctx, p.receiver, r.options.QoS, string(p.message.Topic))
}

func subscribe(ctx context.Context, c *mqttclient.Client, qos byte, topic string) error {
	codes, err := c.Subscribe(ctx, qos, topic)
	if err == nil && codes[0].Failed() {
		err = fmt.Errorf("subscription refused: %v", codes[0])
	}
	return err
}

// client returns the options of one client.
func (c *Connect) client(clientID string) mqttclient.Options {
	o := c.Options
	if o.Version == 0 {
		o.Version = mqtt.V5
	}
	o.ClientID, o.CleanStart = clientID, true
	if c.Login != nil {
		o.Username, o.Password = c.Login(clientID)
	}
	return o
}

// disconnect ends all connections; a session that outlives them ends here or,
// before MQTT 5, by a clean start.
func (r *run) disconnect() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = parallel(ctx, 64, len(r.pairs), func(ctx context.Context, i int) error {
		p := r.pairs[i]
		if p.client != nil {
			p.client.leave(ctx)
		}
		r.options.Connect.leave(ctx, p.receiver, r.options.Persistent)
		p.client, p.receiver = nil, nil
		return nil
	})
}

// leave disconnects a client, if there is one, and ends its session.
func (c *Connect) leave(ctx context.Context, client *mqttclient.Client, session bool) {
	if client == nil {
		return
	}
	d := new(mqtt.Disconnect)
	if session {
		d.Properties.Set(mqtt.PropSessionExpiry) // 0
	}
	_ = client.DisconnectWith(ctx, d) // it may be gone already
	if !session || client.Version() == mqtt.V5 {
		return
	}
	if again, err := mqttclient.Dial(ctx, c.client(client.ClientID())); err == nil {
		_ = again.Disconnect(ctx)
	}
}

// parallel calls f for 0 to n-1, some at a time, until one fails.
func parallel(ctx context.Context, width, n int, f func(ctx context.Context, i int) error) error {
	if width <= 0 {
		width = 32
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(width, n) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1) - 1)
				if i >= n {
					return
				}
				if err := f(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
