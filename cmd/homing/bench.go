package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/homing-mq/homing/internal/auth"
	"github.com/homing-mq/homing/internal/bench"
	"github.com/homing-mq/homing/internal/mqtt"
)

type benchCmd struct {
	P2P     benchP2PCmd     `cmd:"" name:"p2p" help:"Measure pairs of a sender and a receiver."`
	Fanout  benchFanoutCmd  `cmd:"" help:"Measure one sender to many subscribers."`
	Connect benchConnectCmd `cmd:"" help:"Measure connecting and disconnecting."`
	Idle    benchIdleCmd    `cmd:"" help:"Measure the memory of idle connections."`
}

func (*benchCmd) Help() string {
	return `Measures a server from outside. The load and a server on the same machine compete for its cores, so compare
servers in the same place rather than look at single numbers.

Examples:

    homing bench p2p --spawn
    homing bench p2p --rate 10000 --qos 1 --server tcp://mqtt.example.com
    homing bench fanout --spawn --subscribers 1000
    homing bench connect --spawn --version 3.1.1
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

// benchTarget is the server to measure.
type benchTarget struct {
	bench.Connect
	process   *bench.Process    // nil: not known
	addresses map[string]string // of a spawned one: bench.Spawned.Addresses
}

// prepare returns the server, which if it is spawned listens for MQTT and for
// transports. The caller calls stop.
func (f *benchFlags) prepare(ctx context.Context, con *console, transports ...string) (t benchTarget, stop func(), err error) {
	stop = func() {}
	if err := f.resolve(ctx, con); err != nil {
		return t, stop, err
	}
	if t.Options, err = f.options(""); err != nil {
		return t, stop, err
	}
	t.Login = f.login
	if f.ServerPID != 0 {
		t.process = &bench.Process{PID: f.ServerPID}
	}
	if !f.Spawn {
		return t, stop, nil
	}
	spawned, stop, err := f.spawn(ctx, con, transports)
	if err != nil {
		return t, stop, err
	}
	t.Options.Server, t.process, t.addresses = spawned.URL, &spawned.Process, spawned.Addresses
	return t, stop, nil
}

// spawn starts a server in a directory of its own.
func (f *benchFlags) spawn(ctx context.Context, con *console, transports []string) (s *bench.Spawned, stop func(), err error) {
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
	for _, t := range []string{"rocketmq", "rocketmq-grpc"} {
		address := ""
		if slices.Contains(transports, t) {
			address = "127.0.0.1:0"
		}
		args = append(args, "--"+t, address)
	}
	login, err := f.admit(dir)
	if err != nil {
		remove()
		return nil, stop, err
	}
	args = append(args, login...)
	s, err = bench.Spawn(ctx, program, args, env, transports...)
	if err != nil {
		remove()
		return nil, stop, err
	}
	return s, func() { s.Stop(); remove() }, nil
}

// admit returns the arguments for a server that knows the login of the flags,
// and no other; what it reads is in dir. Without a login it lets anybody in.
func (f *benchFlags) admit(dir string) (args []string, err error) {
	switch {
	case f.AccessKey != "":
		key, err := json.Marshal([]map[string]string{{"key": f.AccessKey, "secret": f.Secret}}) // is YAML, too
		if err != nil {
			return nil, err
		}
		path := filepath.Join(dir, "keys.yml") // a secret is no argument: everybody sees those
		return []string{"--config", path}, os.WriteFile(path, fmt.Appendf(nil, "auth: {access-keys: %s}\n", key), 0o600)
	case f.User != "":
		user := auth.FileUser{Name: f.User}
		if user.Hash, err = auth.HashPassword([]byte(f.Password)); err != nil {
			return nil, &usageError{err}
		}
		path := filepath.Join(dir, "users.yml")
		return []string{"--set", "auth.users-file=" + path}, (&auth.UsersFile{Users: []auth.FileUser{user}}).Write(path)
	}
	return nil, nil
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
	Via        string        `default:"mqtt" enum:"mqtt,rocketmq,rocketmq-grpc" placeholder:"PROTOCOL" help:"What the senders speak: ${enum} (default: ${default})."`
	RocketMQ   string        `name:"rocketmq" placeholder:"ADDR" help:"With --via rocketmq and rocketmq-grpc: host and port for the senders (default: the host of --server, and port 9876 or 8081)."`
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
	Flood      int           `placeholder:"N" help:"Besides, N clients send PINGREQ without end, over tcp://: what do the pairs feel of them? Use it with --rate."`
	Subscribe  bool          `help:"The receivers subscribe to their topic: for servers that do not know P2P topics."`
}

func (*benchP2PCmd) Help() string {
	return `Latency is from the time a message was meant to be sent to its arrival. The exit code is 1 if messages were
lost after an acknowledgement, came twice with QoS 2, or out of order.

With --via rocketmq the senders are RocketMQ producers of the remoting protocol (the SDKs of RocketMQ 4), with
rocketmq-grpc of gRPC (those of RocketMQ 5), each with a connection of its own, without TLS. --access-key and --secret
sign their requests. The receivers speak MQTT in any case. Of the calls of gRPC that a sender has under way any may come
first: out of order is no fault then.

Examples:

    homing bench p2p --spawn --pairs 50 --qos 1 --rate 20000
    homing bench p2p --spawn --via rocketmq`
}

// rocketPorts are the default ports of the listeners, by --via.
var rocketPorts = map[string]string{"rocketmq": "9876", "rocketmq-grpc": "8081"}

// senders returns how the senders connect to t.
func (c *benchP2PCmd) senders(t benchTarget) (s bench.Senders, err error) {
	port, rocketmq := rocketPorts[c.Via]
	if !rocketmq {
		return s, nil
	}
	s = bench.Senders{Via: bench.Via(c.Via), Address: t.addresses[c.Via], AccessKey: c.AccessKey, Secret: c.Secret}
	if s.Address == "" {
		s.Address = c.RocketMQ
	}
	if s.Address == "" {
		u, err := url.Parse(t.Options.Server)
		if err != nil {
			return s, &usageError{err}
		}
		s.Address = net.JoinHostPort(u.Hostname(), port)
	}
	return s, nil
}

// transports are those that a spawned server needs besides MQTT.
func (c *benchP2PCmd) transports() []string {
	if _, rocketmq := rocketPorts[c.Via]; rocketmq {
		return []string{c.Via}
	}
	return nil
}

// checkSenders checks what belongs together.
func (c *benchP2PCmd) checkSenders() error {
	_, rocketmq := rocketPorts[c.Via]
	switch {
	case rocketmq && c.User != "":
		return usagef("--user is no login for RocketMQ, whose requests are signed; give --access-key and --secret")
	case rocketmq && c.RocketMQ != "" && c.Spawn:
		return usagef("--spawn starts a server and --rocketmq is the address of one that runs; give one")
	case !rocketmq && c.RocketMQ != "":
		return usagef("--rocketmq is for --via rocketmq and rocketmq-grpc")
	}
	return nil
}

// benchTimes say for how long.
type benchTimes struct {
	Duration time.Duration `short:"d" default:"10s" help:"Time to measure (default: ${default})."`
	Warmup   time.Duration `default:"2s" help:"Time before that (default: ${default})."`
}

func (t *benchTimes) check() error {
	if t.Duration <= 0 || t.Duration > maxBenchTime || t.Warmup < 0 || t.Warmup > maxBenchTime {
		return usagef("--duration and --warmup are times up to %v", maxBenchTime)
	}
	return nil
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
	if err := c.checkSenders(); err != nil {
		return err
	}
	target, stop, err := c.prepare(ctx, con, c.transports()...)
	defer stop()
	if err != nil {
		return err
	}
	senders, err := c.senders(target)
	if err != nil {
		return err
	}
	b := bench.P2P{
		Connect: target.Connect, Senders: senders, Parent: c.Parent, Pairs: c.Pairs, QoS: byte(c.QoS), Payload: c.Payload, Window: c.Window, Rate: c.Rate,
		Warmup: c.Warmup, Duration: c.Duration, Patience: c.Patience,
		Subscribe: c.Subscribe, Keep: c.Keep, Persistent: c.Persistent, Flood: c.Flood, Server: target.process,
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

type benchFanoutCmd struct {
	benchFlags
	benchTimes
	Subscribers int           `short:"n" default:"1000" help:"Subscribers of the topic (default: ${default})."`
	QoS         int           `name:"qos" short:"q" default:"0" enum:"0,1,2" help:"QoS: ${enum} (default: ${default})."`
	Payload     int           `default:"64" placeholder:"BYTES" help:"Size of a message (default: ${default})."`
	Window      []int         `default:"1,64" help:"Messages under way: sent, and not received by all subscribers. With several numbers one run for each (default: ${default})."`
	Rate        float64       `placeholder:"N" help:"Send N messages per second, whatever becomes of the earlier ones. In place of --window."`
	Patience    time.Duration `default:"5s" help:"Time to wait for the last messages while none arrives (default: ${default})."`
	Topic       string        `default:"bench/fanout" help:"Topic, to which a random level is added (default: ${default})."`
}

func (*benchFanoutCmd) Help() string {
	return `A message is sent once and received by each subscriber. Latency is from the time it was meant to be sent to its
arrival at a subscriber. By default there are two runs: one message at a time, the next one sent when all have it, where
each copy is a packet of the network of its own; and 64 under way, where the server writes several at once.
The JSON is a list with one result per run. The exit code is 1 if messages were lost after an acknowledgement, came
twice with QoS 2, or out of order. With QoS 0 a server may drop what a subscriber is too slow for.

Example:

    homing bench fanout --spawn --subscribers 1000 --qos 0`
}

func (c *benchFanoutCmd) Run(ctx context.Context, con *console) error {
	if err := c.check(); err != nil {
		return err
	}
	target, stop, err := c.prepare(ctx, con)
	defer stop()
	if err != nil {
		return err
	}
	windows := c.Window
	if c.Rate > 0 {
		windows = []int{0}
	}
	var all fanoutReports
	for _, window := range windows {
		b := bench.Fanout{
			Connect: target.Connect, Topic: c.Topic, Subscribers: c.Subscribers, QoS: byte(c.QoS), Payload: c.Payload, Window: window, Rate: c.Rate,
			Warmup: c.Warmup, Duration: c.Duration, Patience: c.Patience, Server: target.process,
		}
		r, err := b.Run(ctx)
		if err != nil {
			return err
		}
		all = append(all, r)
	}
	if err := c.print(con, all); err != nil {
		return err
	}
	return all.faults()
}

func (c *benchFanoutCmd) check() error {
	switch {
	case c.Subscribers < 1 || c.Subscribers > maxPairs:
		return usagef("--subscribers %d: give 1 to %d", c.Subscribers, maxPairs)
	case c.Payload < bench.MinPayload || c.Payload > 64<<20:
		return usagef("--payload %d: give %d to %d bytes", c.Payload, bench.MinPayload, 64<<20)
	case c.Rate < 0:
		return usagef("--rate %v: give more than 0", c.Rate)
	case c.Patience < 0:
		return usagef("--patience %v: give 0 or more", c.Patience)
	case c.Topic == "" || strings.ContainsAny(c.Topic, "+#"):
		return usagef("--topic %q: give a topic without wildcards", c.Topic)
	}
	for _, w := range c.Window {
		if w < 1 || w > 65535 {
			return usagef("--window %d: give 1 to 65535", w)
		}
	}
	return c.benchTimes.check()
}

// fanoutReports are the results of several runs.
type fanoutReports []*bench.FanoutReport

// Print writes them for people.
func (all fanoutReports) Print(w io.Writer) error {
	for i, r := range all {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := r.Print(w); err != nil {
			return err
		}
	}
	return nil
}

func (all fanoutReports) faults() error {
	for _, r := range all {
		if faults := r.Faults(); faults != "" {
			return errors.New(faults)
		}
	}
	return nil
}

type benchConnectCmd struct {
	benchFlags
	benchTimes
	Clients    int  `short:"n" default:"16" help:"Clients that connect and disconnect at the same time (default: ${default})."`
	Persistent bool `help:"Each client comes back to its session. Without: clean sessions that end with the connection."`
	Will       bool `help:"Each client has a will, which DISCONNECT takes back."`
}

func (*benchConnectCmd) Help() string {
	return `Each client connects, waits for CONNACK, sends DISCONNECT, waits until the server has closed the connection, and
begins again. The server's CPU time is that of such a round, the connection of the network included. With --user and
--password, or --access-key and --secret, the clients log in; a server of --spawn then takes that login and no other.

Example:

    homing bench connect --spawn --version 3.1.1`
}

func (c *benchConnectCmd) Run(ctx context.Context, con *console) error {
	if c.Clients < 1 || c.Clients > maxPairs {
		return usagef("--clients %d: give 1 to %d", c.Clients, maxPairs)
	}
	if err := c.benchTimes.check(); err != nil {
		return err
	}
	target, stop, err := c.prepare(ctx, con)
	defer stop()
	if err != nil {
		return err
	}
	if c.Will {
		target.Options.Will = &mqtt.Will{QoS: 1, Topic: []byte("bench/will"), Payload: []byte("gone")}
	}
	b := bench.Cycles{
		Connect: target.Connect, Clients: c.Clients, Persistent: c.Persistent, Warmup: c.Warmup, Duration: c.Duration, Server: target.process,
	}
	r, err := b.Run(ctx)
	if err != nil {
		return err
	}
	return c.print(con, r)
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
	target, stop, err := c.prepare(ctx, con)
	defer stop()
	if err != nil {
		return err
	}
	target.Parallel, target.Options.KeepAlive = c.Parallel, c.KeepAlive
	b := bench.Idle{Connect: target.Connect, Connections: c.Connections, Hold: c.Hold, Server: target.process}
	r, err := b.Run(ctx)
	if err != nil {
		return err
	}
	return c.print(con, r)
}
