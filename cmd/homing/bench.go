package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/homing-mq/homing/internal/bench"
)

type benchCmd struct {
	P2P  benchP2PCmd  `cmd:"" name:"p2p" help:"Measure pairs of a sender and a receiver."`
	Idle benchIdleCmd `cmd:"" help:"Measure the memory of idle connections."`
}

func (*benchCmd) Help() string {
	return `Measures a server from outside. The load and a server on the same machine compete for its cores, so compare
servers in the same place rather than look at single numbers.

Examples:

    homing bench p2p --spawn
    homing bench p2p --rate 10000 --qos 1 --server tcp://mqtt.example.com
    homing bench idle --spawn -n 10000`
}

// benchFlags are those of every benchmark.
type benchFlags struct {
	connectFlags
	ServerPID int    `name:"server-pid" placeholder:"PID" help:"Process of the server, to read its CPU time and memory (Linux)."`
	Spawn     bool   `help:"Start a server of this program for the benchmark, in a directory that is deleted afterwards."`
	StoreSync string `default:"always" enum:"always,interval,os" placeholder:"MODE" help:"With --spawn: store.sync of the server: ${enum} (default: ${default})."`
	SpawnDir  string `placeholder:"DIR" help:"With --spawn: where to make that directory, to choose the disk."`
	JSON      bool   `name:"json" help:"Print the result as JSON."`
}

// report is what a benchmark returns.
type report interface {
	Print(w io.Writer) error
}

// prepare returns how to connect and the server's process, if it is known. The
// caller calls stop.
func (f *benchFlags) prepare(ctx context.Context, con *console) (c bench.Connect, server *bench.Process, stop func(), err error) {
	stop = func() {}
	if err := f.resolve(ctx, con); err != nil {
		return c, nil, stop, err
	}
	if c.Options, err = f.options(""); err != nil {
		return c, nil, stop, err
	}
	c.Login = f.login
	if f.ServerPID != 0 {
		server = &bench.Process{PID: f.ServerPID}
	}
	if !f.Spawn {
		return c, server, stop, nil
	}
	spawned, stop, err := f.spawn(ctx, con)
	if err != nil {
		return c, nil, stop, err
	}
	c.Options.Server = spawned.URL
	return c, &spawned.Process, stop, nil
}

// spawn starts a server in a directory of its own.
func (f *benchFlags) spawn(ctx context.Context, con *console) (s *bench.Spawned, stop func(), err error) {
	stop = func() {}
	if f.ServerPID != 0 {
		return nil, stop, usagef("--spawn starts a server and --server-pid is one that runs; give one")
	}
	program, err := os.Executable()
	if err != nil {
		return nil, stop, err
	}
	dir, err := os.MkdirTemp(f.SpawnDir, "homing-bench-")
	if err != nil {
		return nil, stop, err
	}
	remove := func() {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintf(con.Err, "homing: %v; delete %s\n", err, dir)
		}
	}
	var env []string // not the settings of another server
	for _, e := range con.Env {
		if !strings.HasPrefix(e, "HOMING_") {
			env = append(env, e)
		}
	}
	args := []string{
		"serve", "--data", dir, "--mqtt", "127.0.0.1:0", "--mqtts", "", "--ws", "", "--wss", "", "--http", "",
		"--set", "log.format=json", "--set", "store.sync=" + f.StoreSync,
	}
	s, err = bench.Spawn(ctx, program, args, env)
	if err != nil {
		remove()
		return nil, stop, err
	}
	return s, func() { s.Stop(); remove() }, nil
}

// print writes a result.
func (f *benchFlags) print(con *console, r report) error {
	if !f.JSON {
		return r.Print(con.Out)
	}
	e := json.NewEncoder(con.Out)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

type benchP2PCmd struct {
	benchFlags
	Pairs      int           `default:"50" help:"Pairs of a sender and a receiver (default: ${default})."`
	QoS        int           `name:"qos" short:"q" default:"1" enum:"0,1,2" help:"QoS: ${enum} (default: ${default})."`
	Payload    int           `default:"64" placeholder:"BYTES" help:"Size of a message (default: ${default})."`
	Window     int           `default:"16" help:"Messages that a pair has under way: not acknowledged, or with QoS 0 not received (default: ${default})."`
	Rate       float64       `placeholder:"N" help:"Send N messages per second, of all pairs together, whatever becomes of the earlier ones. In place of --window."`
	Duration   time.Duration `short:"d" default:"10s" help:"Time to measure (default: ${default})."`
	Warmup     time.Duration `default:"2s" help:"Time before that (default: ${default})."`
	Patience   time.Duration `default:"5s" help:"Time to wait for the last messages while none arrives (default: ${default})."`
	Parent     string        `default:"homing" placeholder:"TOPIC" help:"Parent topic (default: ${default})."`
	Keep       bool          `help:"The senders ask the server to keep the messages."`
	Persistent bool          `help:"The receivers have persistent sessions."`
	Subscribe  bool          `help:"The receivers subscribe to their topic: for servers that do not know P2P topics."`
}

func (*benchP2PCmd) Help() string {
	return `Latency is from the time a message was meant to be sent to its arrival. The exit code is 1 if messages were
lost after an acknowledgement, came twice with QoS 2, or out of order.

Example:

    homing bench p2p --spawn --pairs 50 --qos 1 --rate 20000`
}

// Limits that keep a benchmark from becoming something else.
const (
	maxPairs       = 20000
	maxConnections = 1_000_000
	maxBenchTime   = 24 * time.Hour
)

func (c *benchP2PCmd) Run(ctx context.Context, con *console) error {
	switch {
	case c.Pairs < 1 || c.Pairs > maxPairs:
		return usagef("--pairs %d: give 1 to %d", c.Pairs, maxPairs)
	case c.Payload < bench.MinPayload || c.Payload > 64<<20:
		return usagef("--payload %d: give %d to %d bytes", c.Payload, bench.MinPayload, 64<<20)
	case c.Window < 1 || c.Window > 65535:
		return usagef("--window %d: give 1 to 65535", c.Window)
	case c.Rate < 0:
		return usagef("--rate %v: give more than 0", c.Rate)
	case c.Duration <= 0 || c.Duration > maxBenchTime || c.Warmup < 0 || c.Warmup > maxBenchTime || c.Patience < 0:
		return usagef("--duration, --warmup and --patience are times up to %v", maxBenchTime)
	}
	connect, server, stop, err := c.prepare(ctx, con)
	defer stop()
	if err != nil {
		return err
	}
	b := bench.P2P{
		Connect: connect, Parent: c.Parent, Pairs: c.Pairs, QoS: byte(c.QoS), Payload: c.Payload, Window: c.Window, Rate: c.Rate,
		Warmup: c.Warmup, Duration: c.Duration, Patience: c.Patience,
		Subscribe: c.Subscribe, Keep: c.Keep, Persistent: c.Persistent, Server: server,
	}
	r, err := b.Run(ctx)
	if err != nil {
		return err
	}
	if err := c.print(con, r); err != nil {
		return err
	}
	if faults := r.Faults(); faults != "" {
		return errors.New(faults)
	}
	return nil
}

type benchIdleCmd struct {
	benchFlags
	Connections int           `short:"n" default:"10000" help:"Connections to make (default: ${default})."`
	Hold        time.Duration `default:"5s" help:"Time to keep them before the memory is read (default: ${default})."`
	Parallel    int           `default:"32" help:"Connections to make at the same time (default: ${default})."`
	KeepAlive   time.Duration `default:"5m" help:"Keep alive time (default: ${default}); 0: off."`
}

func (*benchIdleCmd) Help() string {
	return `Shows by how much the server's memory grows per connection, if its process is known. More than 20 000
connections to a loopback address are made from several of them, 127.0.0.2 and following.

Example:

    homing bench idle --spawn -n 50000`
}

func (c *benchIdleCmd) Run(ctx context.Context, con *console) error {
	switch {
	case c.Connections < 1 || c.Connections > maxConnections:
		return usagef("-n %d: give 1 to %d", c.Connections, maxConnections)
	case c.Hold < 0 || c.Hold > maxBenchTime || c.KeepAlive < 0:
		return usagef("--hold and --keep-alive are times up to %v", maxBenchTime)
	case c.Parallel < 1 || c.Parallel > 10000:
		return usagef("--parallel %d: give 1 to 10000", c.Parallel)
	}
	connect, server, stop, err := c.prepare(ctx, con)
	defer stop()
	if err != nil {
		return err
	}
	connect.Parallel, connect.Options.KeepAlive = c.Parallel, c.KeepAlive
	b := bench.Idle{Connect: connect, Connections: c.Connections, Hold: c.Hold, Server: server}
	r, err := b.Run(ctx)
	if err != nil {
		return err
	}
	return c.print(con, r)
}
