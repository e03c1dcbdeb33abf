package bench

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// P2PReport is the outcome of a P2P. Rate, latencies and CPU times are of the
// measured time, the counts of the whole run.
type P2PReport struct {
	Version    string  `json:"version"` // of the receivers' MQTT
	Via        Via     `json:"via"`     // what the senders speak
	Pairs      int     `json:"pairs"`
	QoS        int     `json:"qos"`
	Payload    int     `json:"payloadBytes"`
	Window     int     `json:"window,omitempty"`
	TargetRate float64 `json:"targetRate,omitempty"`
	Seconds    float64 `json:"seconds"` // measured

	Rate    float64 `json:"rate"`         // messages received per second
	Latency Latency `json:"latency"`      // from the intended sending to the arrival
	Ack     Latency `json:"ack,omitzero"` // from the intended sending to the acknowledgement; QoS 1 and 2

	Counts
	Cost
}

// Counts are what became of all messages of a run.
type Counts struct {
	Sent           int64            `json:"sent"`
	Received       int64            `json:"received"`       // duplicates not counted
	Lost           int64            `json:"lost"`           // sent, for QoS 1 and 2 acknowledged with success, not received
	Duplicated     int64            `json:"duplicated"`     // arrivals of what had arrived before
	OutOfOrder     int64            `json:"outOfOrder"`     // arrivals after a later message of the same sender
	Unacknowledged int64            `json:"unacknowledged"` // QoS 1 and 2
	Refused        map[string]int64 `json:"refused,omitempty"`
	Foreign        int64            `json:"foreign,omitempty"` // arrivals that are not of this run, or damaged
	NotSent        int64            `json:"notSent,omitempty"` // due by TargetRate, but the window was full
}

// Cost is the CPU time of the measured time per message received, in µs, and
// the server's memory at its end. The server's is 0 if its process is not known.
type Cost struct {
	ServerCPU    float64 `json:"serverCpuMicrosPerMessage,omitempty"`
	ServerSystem float64 `json:"serverKernelMicrosPerMessage,omitempty"` // the part of it in the kernel
	ServerCores  float64 `json:"serverCores,omitempty"`                  // CPU time over time
	ServerMemory int64   `json:"serverRssBytes,omitempty"`
	ClientCPU    float64 `json:"clientCpuMicrosPerMessage"`
}

// between returns how many there were, in how many seconds, and what they cost.
func between(before, after sample) (n, seconds float64, c Cost) {
	n, seconds = float64(after.n-before.n), after.time.Sub(before.time).Seconds()
	c.ServerMemory = after.server.Memory
	cpu := (after.server.CPU - before.server.CPU).Seconds()
	c.ServerCores = cpu / seconds
	if n > 0 {
		c.ServerCPU = cpu * 1e6 / n
		c.ServerSystem = (after.server.System - before.server.System).Seconds() * 1e6 / n
		c.ClientCPU = (after.client - before.client).Seconds() * 1e6 / n
	}
	return n, seconds, c
}

// report fills in what two samples say.
func (r *run) report(before, after sample) *P2PReport {
	o := r.options
	n, seconds, cost := between(before, after)
	rep := &P2PReport{
		Version: r.pairs[0].receiver.Version().String(), Via: cmp.Or(o.Senders.Via, ViaMQTT), Pairs: o.Pairs, QoS: int(o.QoS), Payload: o.Payload,
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

// count fills in what the pairs have counted. Their readers are gone.
func (r *run) count(rep *P2PReport) {
	for _, p := range r.pairs {
		rep.Sent += int64(p.sent.Load())
		rep.arrivals(&p.source, &p.tracker)
		rep.Foreign += p.foreign
		rep.acknowledgements(&p.source)
		if r.options.Rate > 0 {
			rep.NotSent += r.behind(p)
		}
	}
	rep.refusals(&r.load)
}

// arrivals adds what a receiver got of what s has sent.
func (c *Counts) arrivals(s *source, t *tracker) {
	c.Received += t.unique
	c.Duplicated += t.duplicated
	c.OutOfOrder += t.misordered
	if s.message.QoS == 0 {
		c.Lost += int64(s.sent.Load()) - t.unique
	} else {
		c.Lost += s.accepted.without(t.seen)
	}
}

func (c *Counts) acknowledgements(s *source) {
	if s.message.QoS > 0 {
		c.Unacknowledged += int64(s.sent.Load() - s.acked.Load())
	}
}

func (c *Counts) refusals(l *load) {
	if len(l.refused) > 0 {
		c.Refused = l.refused
	}
}

// behind is how many messages a pair should have sent and has not.
func (r *run) behind(p *pair) (n int64) {
	for seq := p.sent.Load(); r.due(p.index, seq) < r.stopAt.Load(); seq++ {
		n++
	}
	return n
}

// Faults returns what a server must not do, as text; "" if it did not. Calls of
// gRPC that are under way at the same time may overtake each other.
func (p *P2PReport) Faults() string {
	c := p.Counts
	if p.Via == ViaGRPC && p.Window != 1 {
		c.OutOfOrder = 0
	}
	return c.faults(p.QoS)
}

func (c *Counts) faults(qos int) string {
	var f []string
	if qos > 0 && c.Lost > 0 {
		f = append(f, fmt.Sprintf("%d acknowledged messages lost", c.Lost))
	}
	if qos == 2 && c.Duplicated > 0 {
		f = append(f, fmt.Sprintf("%d messages of QoS 2 duplicated", c.Duplicated))
	}
	if c.OutOfOrder > 0 {
		f = append(f, fmt.Sprintf("%d messages out of order", c.OutOfOrder))
	}
	return strings.Join(f, ", ")
}

// Print writes the report for people.
func (p *P2PReport) Print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%sMQTT %s, %d pairs, QoS %d, %d bytes, %s, %.1f s\n", p.Via.text(), p.Version, p.Pairs, p.QoS, p.Payload, loadText(p.Window, p.TargetRate), p.Seconds)
	fmt.Fprintf(&b, "rate      %.0f messages/s\n", p.Rate)
	fmt.Fprintf(&b, "latency   %v\n", p.Latency)
	if p.QoS > 0 {
		fmt.Fprintf(&b, "ack       %v\n", p.Ack)
	}
	p.Counts.print(&b)
	p.Cost.print(&b, "message")
	_, err := io.WriteString(w, b.String())
	return err
}

func loadText(window int, rate float64) string {
	if rate > 0 {
		return fmt.Sprintf("%.0f messages/s wanted", rate)
	}
	return fmt.Sprintf("window %d", window)
}

func (c *Counts) print(b *strings.Builder) {
	fmt.Fprintf(b, "messages  %d sent, %d received, %d lost, %d duplicated, %d out of order\n",
		c.Sent, c.Received, c.Lost, c.Duplicated, c.OutOfOrder)
	if c.Unacknowledged > 0 {
		fmt.Fprintf(b, "          %d not acknowledged\n", c.Unacknowledged)
	}
	for _, code := range slices.Sorted(maps.Keys(c.Refused)) {
		fmt.Fprintf(b, "          %d acknowledged with %s\n", c.Refused[code], code)
	}
	if c.NotSent > 0 {
		fmt.Fprintf(b, "          %d not sent: the server is slower than the wanted rate\n", c.NotSent)
	}
	if c.Foreign > 0 {
		fmt.Fprintf(b, "          %d received that are not of this run, or damaged\n", c.Foreign)
	}
}

func (c *Cost) print(b *strings.Builder, of string) {
	if c.ServerMemory > 0 {
		fmt.Fprintf(b, "server    %.2f us CPU/%s (%.2f in the kernel), %.2f cores, RSS %.1f MiB\n",
			c.ServerCPU, of, c.ServerSystem, c.ServerCores, mebibytes(c.ServerMemory))
	}
	fmt.Fprintf(b, "client    %.2f us CPU/%s\n", c.ClientCPU, of)
}

func (l Latency) String() string {
	return fmt.Sprintf("p50 %v, p99 %v, p99.9 %v, max %v", round(l.P50), round(l.P99), round(l.P999), round(l.Max))
}

// round leaves three digits or so.
func round(d time.Duration) time.Duration {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond)
	case d < time.Second:
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(10 * time.Millisecond)
}

func mebibytes(n int64) float64 { return float64(n) / (1 << 20) }
