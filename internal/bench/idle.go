package bench

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/homing-mq/homing/internal/mqttclient"
)

// Idle is a benchmark of connections on which nothing happens.
type Idle struct {
	Connect     Connect
	Connections int
	// Hold is how long to wait before the server's memory is read.
	Hold time.Duration
	// Server, if set, is the server's process.
	Server *Process
}

// portsPerAddress is how many connections are made from one loopback address.
// There are 28 232 ephemeral ports by default on Linux, some in use or in
// TIME_WAIT.
const portsPerAddress = 20000

// IdleReport is the outcome of an Idle.
type IdleReport struct {
	Connections   int     `json:"connections"`
	Seconds       float64 `json:"seconds"` // to connect them all
	Rate          float64 `json:"connectionsPerSecond"`
	Closed        int     `json:"closed"` // by the server, while they were held
	MemoryBefore  int64   `json:"serverRssBeforeBytes,omitempty"`
	MemoryAfter   int64   `json:"serverRssAfterBytes,omitempty"`
	PerConnection float64 `json:"serverRssBytesPerConnection,omitempty"`
	ConnectCPU    float64 `json:"serverCpuMicrosPerConnect,omitempty"`
	IdleCores     float64 `json:"serverCoresWhileIdle,omitempty"`
}

// Run connects, holds the connections, and disconnects.
func (o *Idle) Run(ctx context.Context) (*IdleReport, error) {
	if o.Connections < 1 {
		return nil, fmt.Errorf("%d connections: make at least one", o.Connections)
	}
	if err := raiseOpenFiles(o.Connections + 100); err != nil {
		return nil, err
	}
	before, err := o.usage()
	if err != nil {
		return nil, err
	}
	clients := make([]*mqttclient.Client, o.Connections)
	defer closeAll(clients)
	start := time.Now()
	if err := o.connect(ctx, clients); err != nil {
		return nil, err
	}
	took := time.Since(start)
	connected, err := o.usage()
	if err != nil {
		return nil, err
	}
	select {
	case <-time.After(o.Hold):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	after, err := o.usage()
	if err != nil {
		return nil, err
	}
	n := float64(o.Connections)
	r := &IdleReport{
		Connections: o.Connections, Seconds: took.Seconds(), Rate: n / took.Seconds(),
		MemoryBefore: before.Memory, MemoryAfter: after.Memory,
		PerConnection: float64(after.Memory-before.Memory) / n,
		ConnectCPU:    (connected.CPU - before.CPU).Seconds() * 1e6 / n,
	}
	if o.Hold > 0 {
		r.IdleCores = (after.CPU - connected.CPU).Seconds() / o.Hold.Seconds()
	}
	for _, c := range clients {
		if c.Err() != nil {
			r.Closed++
		}
	}
	return r, nil
}

func (o *Idle) usage() (Usage, error) {
	if o.Server == nil {
		return Usage{}, nil
	}
	return o.Server.Usage()
}

func (o *Idle) connect(ctx context.Context, clients []*mqttclient.Client) error {
	prefix := fmt.Sprintf("idle-%04x-", uint16(time.Now().UnixNano()))
	spread := len(clients) > portsPerAddress && toLoopback(o.Connect.Options.Server)
	var done atomic.Int64
	err := parallel(ctx, o.Connect.Parallel, len(clients), func(ctx context.Context, i int) error {
		options := o.Connect.client(fmt.Sprintf("%s%d", prefix, i))
		if spread {
			options.LocalAddr = loopback(i / portsPerAddress)
		}
		c, err := mqttclient.Dial(ctx, options)
		if err != nil {
			return err
		}
		clients[i] = c
		done.Add(1)
		return nil
	})
	if err != nil {
		return fmt.Errorf("after %d connections: %w", done.Load(), err)
	}
	return nil
}

// closeAll ends the connections, which have nothing to say.
func closeAll(clients []*mqttclient.Client) {
	_ = parallel(context.Background(), 64, len(clients), func(_ context.Context, i int) error {
		if clients[i] != nil {
			clients[i].Close()
		}
		return nil
	})
}

// loopback is the nth address to connect from: 127.0.0.2 and following.
func loopback(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, 0, byte(n / 200), byte(2 + n%200)})
}

// toLoopback reports whether the server's address is an IPv4 loopback address.
func toLoopback(server string) bool {
	u, err := url.Parse(server)
	if err != nil {
		return false
	}
	a, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || err == nil && a.Is4() && a.IsLoopback()
}

// Print writes the report for people.
func (r *IdleReport) Print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "connected %d in %.1f s, %.0f connections/s\n", r.Connections, r.Seconds, r.Rate)
	if r.Closed > 0 {
		fmt.Fprintf(&b, "          %d of them closed by the server\n", r.Closed)
	}
	if r.MemoryAfter > 0 {
		fmt.Fprintf(&b, "server    RSS %.1f MiB before, %.1f MiB after: %.2f KiB per connection\n",
			mebibytes(r.MemoryBefore), mebibytes(r.MemoryAfter), r.PerConnection/1024)
		fmt.Fprintf(&b, "          %.1f us CPU per connect, %.3f cores while idle\n", r.ConnectCPU, r.IdleCores)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
