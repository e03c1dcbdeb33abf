package bench

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/homing-mq/homing/internal/mqttclient"
)

// Cycles is a benchmark of clients that connect and disconnect, again and again.
type Cycles struct {
	Connect Connect // with Options.Will, if any
	Clients int     // that do so at the same time
	// Persistent lets each client come back to the session that it has left.
	Persistent       bool
	Warmup, Duration time.Duration
	// Server, if set, is the server's process.
	Server *Process
}

// cyclesRun is one execution of a Cycles.
type cyclesRun struct {
	clock
	options *Cycles
	name    string
	connect *latencies // from dialling to CONNACK
	cycle   *latencies // from dialling to the server's close
	cycles  atomic.Uint64
}

// CyclesReport is the outcome of a Cycles.
type CyclesReport struct {
	Version    string  `json:"version"` // of MQTT
	Clients    int     `json:"clients"`
	Persistent bool    `json:"persistent"`
	Will       bool    `json:"will"`
	Login      bool    `json:"login"`
	Seconds    float64 `json:"seconds"` // measured
	Connects   int64   `json:"connects"`
	Rate       float64 `json:"rate"`    // connects per second
	Connect    Latency `json:"connect"` // from dialling to CONNACK
	Cycle      Latency `json:"cycle"`   // from dialling to the end of the connection after DISCONNECT

	// Per connection, from its beginning to its end.
	ServerCPU    float64 `json:"serverCpuMicrosPerConnect,omitempty"`
	ServerSystem float64 `json:"serverKernelMicrosPerConnect,omitempty"` // the part of it in the kernel
	ServerCores  float64 `json:"serverCores,omitempty"`
	ServerMemory int64   `json:"serverRssBytes,omitempty"`
	ClientCPU    float64 `json:"clientCpuMicrosPerConnect"`
}

// Run connects and disconnects until the time is over. It ends early if ctx
// does, or a client is refused.
func (o *Cycles) Run(ctx context.Context) (*CyclesReport, error) {
	switch {
	case o.Clients < 1:
		return nil, fmt.Errorf("%d clients: give at least one", o.Clients)
	case o.Duration <= 0:
		return nil, fmt.Errorf("a duration of %v measures nothing", o.Duration)
	}
	if err := raiseOpenFiles(2*o.Clients + 100); err != nil {
		return nil, err
	}
	r := &cyclesRun{
		options: o, name: fmt.Sprintf("bench-%04x-c", uint16(time.Now().UnixNano())),
		connect: newLatencies(), cycle: newLatencies(),
	}
	r.begun()
	if o.Persistent {
		defer r.forget()
	}
	before, after, err := r.measure(ctx)
	if err != nil {
		return nil, err
	}
	return r.report(before, after), nil
}

// measure runs all clients between two samples.
func (r *cyclesRun) measure(ctx context.Context) (before, after sample, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan error, 1)
	go func() {
		err := parallel(ctx, r.options.Clients, r.options.Clients, r.repeat)
		cancel(err)
		done <- err
	}()
	before, after, err = r.window(ctx, r.options.Warmup, r.options.Duration, r.sample, func() error { return nil })
	if err != nil {
		cancel(err)
	}
	if ended := <-done; err == nil {
		err = ended
	}
	return before, after, err
}

// repeat is client i: it connects and disconnects until the time is over.
func (r *cyclesRun) repeat(ctx context.Context, i int) error {
	options := r.client(i, !r.options.Persistent)
	for r.now() < r.stopAt.Load() && ctx.Err() == nil {
		start := r.now()
		c, err := mqttclient.Dial(ctx, options)
		if err != nil {
			return fmt.Errorf("connect client %d: %w", i, err)
		}
		connected := r.now()
		if err := c.Disconnect(ctx); err != nil {
			return fmt.Errorf("disconnect client %d: %w", i, err)
		}
		r.cycles.Add(1)
		if r.measures(start) {
			r.connect.record(uint32(i), time.Duration(connected-start))
			r.cycle.record(uint32(i), time.Duration(r.now()-start))
		}
	}
	return nil
}

// client returns the options of client i.
func (r *cyclesRun) client(i int, clean bool) mqttclient.Options {
	o := r.options.Connect.client(fmt.Sprintf("%s%d", r.name, i))
	o.CleanStart = clean
	if !clean {
		o.SessionExpiry = 3600
	}
	return o
}

// forget ends the sessions.
func (r *cyclesRun) forget() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = parallel(ctx, 64, r.options.Clients, func(ctx context.Context, i int) error {
		if c, err := mqttclient.Dial(ctx, r.client(i, true)); err == nil {
			_ = c.Disconnect(ctx)
		}
		return nil
	})
}

func (r *cyclesRun) sample() (sample, error) { return newSample(r.options.Server, r.cycles.Load()) }

func (r *cyclesRun) report(before, after sample) *CyclesReport {
	n, seconds, cost := between(before, after)
	o := r.client(0, true)
	return &CyclesReport{
		Version: o.Version.String(), Clients: r.options.Clients, Persistent: r.options.Persistent,
		Will: o.Will != nil, Login: o.Username != "",
		Seconds: seconds, Connects: int64(n), Rate: n / seconds, Connect: r.connect.summary(), Cycle: r.cycle.summary(),
		ServerCPU: cost.ServerCPU, ServerSystem: cost.ServerSystem, ServerCores: cost.ServerCores, ServerMemory: cost.ServerMemory,
		ClientCPU: cost.ClientCPU,
	}
}

// Print writes the report for people.
func (r *CyclesReport) Print(w io.Writer) error {
	var b strings.Builder
	kind := "clean"
	if r.Persistent {
		kind = "persistent"
	}
	for _, with := range []struct {
		is   bool
		text string
	}{{r.Will, ", will"}, {r.Login, ", login"}} {
		if with.is {
			kind += with.text
		}
	}
	fmt.Fprintf(&b, "MQTT %s, %d clients, %s, %.1f s\n", r.Version, r.Clients, kind, r.Seconds)
	fmt.Fprintf(&b, "rate      %.0f connects/s\n", r.Rate)
	fmt.Fprintf(&b, "connect   %v\n", r.Connect)
	fmt.Fprintf(&b, "cycle     %v\n", r.Cycle)
	cost := Cost{r.ServerCPU, r.ServerSystem, r.ServerCores, r.ServerMemory, r.ClientCPU}
	cost.print(&b, "connect")
	_, err := io.WriteString(w, b.String())
	return err
}
