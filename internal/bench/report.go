package bench

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
)

// P2PReport is the outcome of a P2P. Rate, latencies and CPU times are of the
// measured time, the counts of the whole run.
type P2PReport struct {
	Version    string  `json:"version"` // of MQTT
	Pairs      int     `json:"pairs"`
	QoS        int     `json:"qos"`
	Payload    int     `json:"payloadBytes"`
	Window     int     `json:"window,omitempty"`
	TargetRate float64 `json:"targetRate,omitempty"`
	Seconds    float64 `json:"seconds"` // measured

	Rate    float64 `json:"rate"`         // messages received per second
	Latency Latency `json:"latency"`      // from the intended sending to the arrival
	Ack     Latency `json:"ack,omitzero"` // from the intended sending to the acknowledgement; QoS 1 and 2

	Sent           int64            `json:"sent"`
	Received       int64            `json:"received"`       // duplicates not counted
	Lost           int64            `json:"lost"`           // sent, for QoS 1 and 2 acknowledged with success, not received
	Duplicated     int64            `json:"duplicated"`     // arrivals of what had arrived before
	OutOfOrder     int64            `json:"outOfOrder"`     // arrivals after a later message of the same pair
	Unacknowledged int64            `json:"unacknowledged"` // QoS 1 and 2
	Refused        map[string]int64 `json:"refused,omitempty"`
	Foreign        int64            `json:"foreign,omitempty"` // arrivals that are not of this run, or damaged
	NotSent        int64            `json:"notSent,omitempty"` // due by TargetRate, but the window was full

	ServerCPU    float64 `json:"serverCpuMicrosPerMessage,omitempty"`
	ServerCores  float64 `json:"serverCores,omitempty"` // CPU time over time
	ServerMemory int64   `json:"serverRssBytes,omitempty"`
	ClientCPU    float64 `json:"clientCpuMicrosPerMessage"`
}

// report fills in what two samples say.
func (r *run) report(before, after sample) *P2PReport {
	o := r.options
	d := after.time.Sub(before.time)
	n := float64(after.arrived - before.arrived)
	rep := &P2PReport{
		Version: r.pairs[0].sender.Version().String(), Pairs: o.Pairs, QoS: int(o.QoS), Payload: o.Payload,
		Seconds: d.Seconds(), Rate: n / d.Seconds(),
		Latency: r.latency.summary(), Ack: r.acks.summary(),
		ServerMemory: after.server.Memory,
	}
	if o.Rate > 0 {
		rep.TargetRate = o.Rate
	} else {
		rep.Window = o.Window
	}
	server, client := after.server.CPU-before.server.CPU, after.client-before.client
	rep.ServerCores = server.Seconds() / d.Seconds()
	if n > 0 {
		rep.ServerCPU = server.Seconds() * 1e6 / n
		rep.ClientCPU = client.Seconds() * 1e6 / n
	}
	return rep
}

// count fills in what the pairs have counted. Their readers are gone.
func (r *run) count(rep *P2PReport) {
	for _, p := range r.pairs {
		sent := p.sent.Load()
		rep.Sent += int64(sent)
		rep.Received += p.tracker.unique
		rep.Duplicated += p.tracker.duplicated
		rep.OutOfOrder += p.tracker.misordered
		rep.Foreign += p.foreign
		if r.options.QoS == 0 {
			rep.Lost += int64(sent) - p.tracker.unique
		} else {
			rep.Lost += p.accepted.without(p.tracker.seen)
			rep.Unacknowledged += int64(sent - p.acked.Load())
		}
		if r.options.Rate > 0 {
			rep.NotSent += r.behind(p)
		}
	}
	for _, c := range slices.Sorted(maps.Keys(r.refused)) {
		if rep.Refused == nil {
			rep.Refused = make(map[string]int64)
		}
		rep.Refused[reasonText(c)] = r.refused[c]
	}
}

// behind is how many messages a pair should have sent and has not.
func (r *run) behind(p *pair) (n int64) {
	for seq := p.sent.Load(); r.due(p.index, seq) < r.stopAt.Load(); seq++ {
		n++
	}
	return n
}

func reasonText(c mqtt.ReasonCode) string { return fmt.Sprintf("0x%02X %v", byte(c), c) }

// Faults returns what a server must not do, as text; "" if it did not.
func (p *P2PReport) Faults() string {
	var f []string
	if p.QoS > 0 && p.Lost > 0 {
		f = append(f, fmt.Sprintf("%d acknowledged messages lost", p.Lost))
	}
	if p.QoS == 2 && p.Duplicated > 0 {
		f = append(f, fmt.Sprintf("%d messages of QoS 2 duplicated", p.Duplicated))
	}
	if p.OutOfOrder > 0 {
		f = append(f, fmt.Sprintf("%d messages out of order", p.OutOfOrder))
	}
	return strings.Join(f, ", ")
}

// Print writes the report for people.
func (p *P2PReport) Print(w io.Writer) error {
	var b strings.Builder
	load := fmt.Sprintf("window %d", p.Window)
	if p.TargetRate > 0 {
		load = fmt.Sprintf("%.0f messages/s wanted", p.TargetRate)
	}
	fmt.Fprintf(&b, "MQTT %s, %d pairs, QoS %d, %d bytes, %s, %.1f s\n", p.Version, p.Pairs, p.QoS, p.Payload, load, p.Seconds)
	fmt.Fprintf(&b, "rate      %.0f messages/s\n", p.Rate)
	fmt.Fprintf(&b, "latency   %v\n", p.Latency)
	if p.QoS > 0 {
		fmt.Fprintf(&b, "ack       %v\n", p.Ack)
	}
	fmt.Fprintf(&b, "messages  %d sent, %d received, %d lost, %d duplicated, %d out of order\n",
		p.Sent, p.Received, p.Lost, p.Duplicated, p.OutOfOrder)
	if p.Unacknowledged > 0 {
		fmt.Fprintf(&b, "          %d not acknowledged\n", p.Unacknowledged)
	}
	for _, code := range slices.Sorted(maps.Keys(p.Refused)) {
		fmt.Fprintf(&b, "          %d acknowledged with %s\n", p.Refused[code], code)
	}
	if p.NotSent > 0 {
		fmt.Fprintf(&b, "          %d not sent: the server is slower than the wanted rate\n", p.NotSent)
	}
	if p.Foreign > 0 {
		fmt.Fprintf(&b, "          %d received that are not of this run, or damaged\n", p.Foreign)
	}
	if p.ServerMemory > 0 {
		fmt.Fprintf(&b, "server    %.2f us CPU/message, %.2f cores, RSS %.1f MiB\n", p.ServerCPU, p.ServerCores, mebibytes(p.ServerMemory))
	}
	fmt.Fprintf(&b, "client    %.2f us CPU/message\n", p.ClientCPU)
	_, err := io.WriteString(w, b.String())
	return err
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
