package bench

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/mqttclient"
)

// Fanout is a benchmark of one publisher and many subscribers of its topic.
type Fanout struct {
	Connect     Connect
	Topic       string // a random level is added
	Subscribers int
	QoS         byte
	Payload     int // bytes, at least MinPayload
	// Window is how many messages are under way: sent, and not received by all
	// subscribers. With 1 the next one is sent when all have the last.
	Window int
	// Rate, if not 0, is the number of messages that are sent per second,
	// whatever becomes of the earlier ones, in place of Window.
	Rate float64
	// Warmup is not measured, but what is lost in it counts.
	Warmup, Duration time.Duration
	// Patience is how long to wait without any progress for the rest.
	Patience time.Duration
	// Server, if set, is the server's process.
	Server *Process
}

// fanoutRun is one execution of a Fanout.
type fanoutRun struct {
	load
	source
	options     *Fanout
	subscribers []*subscriber
	// left is how many subscribers have yet to get a message, by its sequence
	// number modulo Window. 0: the place is free for the next one.
	left  []atomic.Int32
	still still // of watch
}

// subscriber receives all messages.
type subscriber struct {
	run     *fanoutRun
	index   uint32
	client  *mqttclient.Client
	arrived atomic.Uint64 // duplicates not counted
	passed  atomic.Uint64 // all before this are here, lost, or given up
	dirty   bool          // its reader's: the publisher has something to flush

	tracker tracker // the reader's, and when that is gone anybody's
	foreign int64   // as tracker
}

// Run connects, measures, and disconnects. It ends early if ctx does or a
// connection is lost.
func (o *Fanout) Run(ctx context.Context) (*FanoutReport, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if err := raiseOpenFiles(o.Subscribers + 100); err != nil {
		return nil, err
	}
	r := &fanoutRun{options: o, left: make([]atomic.Int32, o.Window)}
	r.load.init()
	r.source = source{load: &r.load, more: r.fill, message: mqtt.Publish{
		Topic: fmt.Appendf(nil, "%s/%04x", o.Topic, uint16(r.id)), QoS: o.QoS, Payload: newPayload(o.Payload),
	}}
	defer r.disconnect()
	if err := r.connect(ctx); err != nil {
		return nil, err
	}
	report, err := r.measure(ctx)
	if err != nil {
		return nil, err
	}
	r.disconnect() // nothing changes any more
	r.count(report)
	return report, nil
}

func (o *Fanout) check() error {
	if o.Subscribers < 1 {
		return fmt.Errorf("%d subscribers: make at least one", o.Subscribers)
	}
	return checkLoad(o.Payload, o.Window, o.Rate, o.Duration)
}

func (r *fanoutRun) connect(ctx context.Context) (err error) {
	o := r.options
	name := fmt.Sprintf("bench-%04x-", uint16(r.id))
	r.subscribers = make([]*subscriber, o.Subscribers)
	for i := range r.subscribers {
		r.subscribers[i] = &subscriber{run: r, index: uint32(i)}
	}
	err = parallel(ctx, o.Connect.Parallel, o.Subscribers, func(ctx context.Context, i int) (err error) {
		s := r.subscribers[i]
		options := o.Connect.client(fmt.Sprintf("%sr%d", name, i))
		options.Handler, options.OnBatch = s.receive, s.batchEnd
		if s.client, err = mqttclient.Dial(ctx, options); err == nil {
			err = subscribe(ctx, s.client, o.QoS, string(r.message.Topic))
		}
		if err != nil {
			return fmt.Errorf("connect subscriber %d: %w", i, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if r.client, err = o.Connect.sender(ctx, o.Connect.client(name+"s")); err != nil {
		return fmt.Errorf("connect the publisher: %w", err)
	}
	return nil
}

func (r *fanoutRun) disconnect() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if r.client != nil {
		r.client.leave(ctx)
		r.client = nil
	}
	_ = parallel(ctx, 64, len(r.subscribers), func(ctx context.Context, i int) error {
		r.options.Connect.leave(ctx, r.subscribers[i].client, false)
		r.subscribers[i].client = nil
		return nil
	})
}

// due is when message n is meant to be sent.
func (r *fanoutRun) due(n int) int64 {
	return int64(float64(n) / r.options.Rate * float64(time.Second))
}

// fill sends what is due at now or, without a rate, what the window allows. It
// does not flush.
func (r *fanoutRun) fill(now int64) {
	r.source.mu.Lock()
	defer r.source.mu.Unlock()
	if r.options.Rate > 0 {
		for {
			due := r.due(int(r.sent.Load()))
			if due > now || due >= r.stopAt.Load() || !r.send(due) {
				return
			}
		}
	}
	for now < r.stopAt.Load() {
		left := &r.left[r.sent.Load()%uint64(len(r.left))]
		if !left.CompareAndSwap(0, int32(len(r.subscribers))) {
			return
		}
		if !r.send(now) {
			left.Store(0)
			return
		}
	}
}

// receive is the handler of a subscriber.
func (s *subscriber) receive(m *mqttclient.Message) {
	r := s.run
	h, ok := r.recognize(m.Payload)
	if !ok {
		s.foreign++
		return
	}
	now := r.now()
	if r.measures(h.time) {
		r.latency.record(s.index, time.Duration(now-h.time))
	}
	if s.tracker.receive(h.seq) {
		s.arrived.Add(1)
	}
	if r.options.Rate == 0 && s.pass(s.tracker.next) {
		r.fill(now)
		s.dirty = true
	}
}

// pass notes that this subscriber waits for no message before next. It reports
// whether it was the last one to wait for one of them.
func (s *subscriber) pass(next uint64) (last bool) {
	seq := s.passed.Load()
	for {
		if seq >= next {
			return false
		}
		if s.passed.CompareAndSwap(seq, next) {
			break
		}
		seq = s.passed.Load()
	}
	for ; seq < next; seq++ {
		if s.run.left[seq%uint64(len(s.run.left))].Add(-1) == 0 {
			last = true
		}
	}
	return last
}

// batchEnd is called when the subscriber has handled what it had read.
func (s *subscriber) batchEnd() {
	if s.dirty {
		s.dirty = false
		s.run.client.Flush()
	}
}

// forgive gives up what is under way, so that losses do not stop the run.
func (r *fanoutRun) forgive() {
	sent := r.sent.Load()
	for _, s := range r.subscribers {
		s.pass(sent)
	}
	r.fill(r.now())
	r.client.Flush()
}

// measure sends, and fills in what is known before the connections end.
func (r *fanoutRun) measure(ctx context.Context) (*FanoutReport, error) {
	o := r.options
	r.begun()
	stop := func() {}
	if o.Rate > 0 {
		stop = r.pace(r.due, func(int) { r.fill(r.now()); r.client.Flush() })
	} else {
		r.fill(r.now())
		r.client.Flush()
	}
	defer stop()
	before, after, err := r.window(ctx, o.Warmup, o.Duration, r.sample, r.check)
	if err != nil {
		return nil, err
	}
	stop()
	if err := drain(ctx, o.Patience, r.settled); err != nil {
		return nil, err
	}
	if err := r.broken(); err != nil {
		return nil, err
	}
	return r.report(before, after), nil
}

// check looks for lost connections, and for a window that losses have closed.
func (r *fanoutRun) check() error {
	if err := r.broken(); err != nil {
		return err
	}
	if r.options.Rate == 0 && r.still.time(r.arrived()) > stuckTime {
		r.forgive()
		r.still.since = time.Now()
	}
	return nil
}

func (r *fanoutRun) broken() error {
	if err := r.client.Err(); err != nil {
		return fmt.Errorf("publisher: connection ended: %w", err)
	}
	for i, s := range r.subscribers {
		if err := s.client.Err(); err != nil {
			return fmt.Errorf("subscriber %d: connection ended: %w", i, err)
		}
	}
	return nil
}

func (r *fanoutRun) arrived() (n uint64) {
	for _, s := range r.subscribers {
		n += s.arrived.Load()
	}
	return n
}

func (r *fanoutRun) sample() (sample, error) { return newSample(r.options.Server, r.arrived()) }

// settled reports whether nothing more is to come, and a number that grows
// while something does.
func (r *fanoutRun) settled() (settled bool, moved uint64) {
	sent, arrived, acked := r.sent.Load(), r.arrived(), r.acked.Load()
	all := arrived >= (sent-r.source.refused.Load())*uint64(len(r.subscribers))
	return all && (r.options.QoS == 0 || acked >= sent), arrived + acked
}

// FanoutReport is the outcome of a Fanout. Rates, latencies and CPU times are of
// the measured time, the counts of the whole run.
type FanoutReport struct {
	Version     string  `json:"version"` // of MQTT
	Subscribers int     `json:"subscribers"`
	QoS         int     `json:"qos"`
	Payload     int     `json:"payloadBytes"`
	Window      int     `json:"window,omitempty"`
	TargetRate  float64 `json:"targetRate,omitempty"` // messages sent per second
	Seconds     float64 `json:"seconds"`              // measured

	Rate    float64 `json:"rate"`         // messages received per second, by all subscribers together
	Latency Latency `json:"latency"`      // from the intended sending to the arrival at a subscriber
	Ack     Latency `json:"ack,omitzero"` // from the intended sending to the acknowledgement; QoS 1 and 2

	Counts // a message is sent once, and received by, or lost to, each subscriber
	Cost   // per message received by a subscriber
}

func (r *fanoutRun) report(before, after sample) *FanoutReport {
	o := r.options
	n, seconds, cost := between(before, after)
	rep := &FanoutReport{
		Version: r.subscribers[0].client.Version().String(), Subscribers: o.Subscribers, QoS: int(o.QoS), Payload: o.Payload,
		Seconds: seconds, Rate: n / seconds,
		Latency: r.latency.summary(), Ack: r.acks.summary(), Cost: cost,
	}
	if o.Rate > 0 {
		rep.TargetRate = o.Rate
	} else {
		rep.Window = o.Window
	}
	return rep
}

// count fills in what was counted. The readers are gone.
func (r *fanoutRun) count(rep *FanoutReport) {
	rep.Sent = int64(r.sent.Load())
	for _, s := range r.subscribers {
		rep.arrivals(&r.source, &s.tracker)
		rep.Foreign += s.foreign
	}
	rep.acknowledgements(&r.source)
	rep.refusals(&r.load)
	if r.options.Rate > 0 {
		for n := r.sent.Load(); r.due(int(n)) < r.stopAt.Load(); n++ {
			rep.NotSent++
		}
	}
}

// Faults returns what a server must not do, as text; "" if it did not.
func (p *FanoutReport) Faults() string { return p.faults(p.QoS) }

// Print writes the report for people.
func (p *FanoutReport) Print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "MQTT %s, %d subscribers, QoS %d, %d bytes, %s, %.1f s\n",
		p.Version, p.Subscribers, p.QoS, p.Payload, loadText(p.Window, p.TargetRate), p.Seconds)
	fmt.Fprintf(&b, "rate      %.0f messages/s received, %.1f/s by each\n", p.Rate, p.Rate/float64(p.Subscribers))
	fmt.Fprintf(&b, "latency   %v\n", p.Latency)
	if p.QoS > 0 {
		fmt.Fprintf(&b, "ack       %v\n", p.Ack)
	}
	p.Counts.print(&b)
	p.Cost.print(&b, "message received")
	_, err := io.WriteString(w, b.String())
	return err
}
