package test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/homing-mq/homing/internal/mqtt"
)

// TestGracefulShutdown: what senders wait for is made safe and acknowledged,
// MQTT 5 clients are told, the exit code is 0.
func TestGracefulShutdown(t *testing.T) {
	t.Parallel()
	s := startServer(t, "p2p.store-after=10s")
	target := s.connect(mqtt.V5, "dev1", persistent)
	idle := s.connectOver("ws", mqtt.V5, "idle")
	five, three := s.connect(mqtt.V5, "five"), s.connect(mqtt.V311, "three", persistent)
	for i, sender := range []*peer{five, three} {
		sender.post(&mqtt.Publish{Topic: []byte(topicOf("dev1")), Payload: []byte(sender.id), QoS: 1})
		if m := target.arrival(); string(m.Payload) != sender.id {
			t.Fatalf("message %d: %s", i, m.Payload)
		}
	}
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, sender := range []*peer{five, three} {
		if code := sender.acknowledged(1); code != 0 {
			t.Errorf("%s: %v", sender.id, code)
		}
	}
	for _, p := range []*peer{five, three, target, idle} {
		p.disconnected(mqtt.CodeServerShuttingDown)
	}
	s.start()
	target = s.connect(mqtt.V5, "dev1", persistent)
	target.wants(topicOf("dev1"), "five", 1)
	target.wants(topicOf("dev1"), "three", 1)
	target.wantsNothing(s.connect(mqtt.V5, "sender"))
}

// TestExposure: without a login the server does not listen where other
// machines can reach it.
func TestExposure(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, addr string
		settings   []string
		flags      []string
		ok         bool
	}{
		{"all interfaces", "0.0.0.0:0", nil, nil, false},
		{"no host", ":0", nil, nil, false},
		{"anonymous", "0.0.0.0:0", []string{"auth.anonymous=true"}, nil, false},
		{"insecure", "0.0.0.0:0", nil, []string{"--insecure"}, true},
		{"access key", "0.0.0.0:0", []string{"auth.access-keys=[{key: AK, secret: S}]"}, nil, true},
		{"loopback", "localhost:0", nil, nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newServer(t, c.settings...)
			s.addr = map[string]string{"mqtt": c.addr}
			s.command = func(cmd *exec.Cmd) { cmd.Args = append(cmd.Args, c.flags...) }
			s.launch()
			if up := s.listening(); up != c.ok {
				t.Fatalf("listens: %v\n%s", up, s.tail())
			}
			if c.ok {
				return
			}
			if code := s.wait(); code != 2 {
				t.Errorf("exit code %d, want 2", code)
			}
			if !containsAny(s.tail(), "--insecure") || len(s.output()) != 1 {
				t.Errorf("it says\n%s", s.tail())
			}
			if _, err := os.Stat(filepath.Join(s.dir, "data")); err == nil {
				t.Error("the data directory was made")
			}
		})
	}
}

// TestConfigurationMistakes: exit code 2, and what to change.
func TestConfigurationMistakes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		file  string
		args  []string
		env   string
		wants []string
	}{
		{name: "misspelt key", file: "store:\n  snyc: os\n", wants: []string{"homing.yml:2:3", "snyc", "store.sync", "^"}},
		{name: "bad value", file: "p2p:\n  keep: sometimes\n", wants: []string{"homing.yml:2", "either", "never", "^"}},
		{name: "bad YAML", file: "p2p: [\n", wants: []string{"homing.yml:"}},
		{name: "no file", args: []string{"--config", "missing.yml"}, wants: []string{"missing.yml"}},
		{name: "set, misspelt", args: []string{"--set", "p2p.kepe=always"}, wants: []string{"p2p.kepe", "p2p.keep"}},
		{name: "set, bad value", args: []string{"--set", "store.sync=never"}, wants: []string{"store.sync", "always", "interval", "os"}},
		{name: "set, no value", args: []string{"--set", "store.sync"}, wants: []string{"KEY=VALUE"}},
		{name: "environment, misspelt", env: "HOMING_STORE_SNYC=os", wants: []string{"HOMING_STORE_SNYC", "HOMING_STORE_SYNC"}},
		{name: "environment, bad value", env: "HOMING_STORE_SYNC=no", wants: []string{"HOMING_STORE_SYNC", "always"}},
		{name: "unknown flag", args: []string{"--mqt", ":1883"}, wants: []string{"--mqt"}},
		{name: "TLS without certificate", args: []string{"--mqtts", "127.0.0.1:0"}, wants: []string{"tls.cert", "tls.key"}},
		{name: "not an address", args: []string{"--mqtt", "1883"}, wants: []string{"HOST:PORT"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			args := append([]string{"serve", "--http", "127.0.0.1:0", "--ws", "127.0.0.1:0", "--rocketmq", "", "--rocketmq-grpc", ""}, c.args...)
			if c.file != "" {
				if err := os.WriteFile(filepath.Join(dir, "homing.yml"), []byte(c.file), 0o600); err != nil {
					t.Fatal(err)
				}
				args = append(args, "--config", "homing.yml")
			}
			cmd := exec.Command(program, args...)
			cmd.Dir = dir
			if c.env != "" {
				cmd.Env = environ(c.env)
			}
			p := start(t, cmd)
			if code := p.wait(); code != 2 {
				t.Errorf("exit code %d, want 2", code)
			}
			for _, w := range c.wants {
				if !strings.Contains(p.tail(), w) {
					t.Errorf("it does not say %q", w)
				}
			}
			if t.Failed() {
				t.Logf("it says\n%s", p.tail())
			}
		})
	}
}

// TestEnvironment: HOMING_* variables are settings, --set comes before them.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	s := newServer(t, "p2p.inbox-limit=2")
	s.command = func(cmd *exec.Cmd) { cmd.Env = environ("HOMING_P2P_KEEP=always", "HOMING_P2P_INBOX_LIMIT=1") }
	s.start()
	sender := s.connect(mqtt.V5, "sender")
	for _, payload := range []string{"1", "2", "3"} {
		sender.publish(topicOf("dev1"), payload, 1)
	}
	target := s.connect(mqtt.V5, "dev1")
	target.wants(topicOf("dev1"), "2", 1)
	target.wants(topicOf("dev1"), "3", 1)
	target.wantsNothing(sender)
}

// TestAddressInUse: the error names the address and what to do.
func TestAddressInUse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := newServer(t)
	s.addr["mqtt"] = l.Addr().String()
	s.launch()
	if code := s.wait(); code != 1 || !containsAny(s.tail(), l.Addr().String()) || !containsAny(s.tail(), "--mqtt") {
		t.Errorf("exit code %d\n%s", code, s.tail())
	}
}

// TestSecondServerOnSameData: two servers on one directory would destroy it.
func TestSecondServerOnSameData(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	second := newServer(t, "data="+filepath.Join(s.dir, "data"))
	second.launch()
	if code := second.wait(); code != 1 || !containsAny(second.tail(), filepath.Join(s.dir, "data")) {
		t.Errorf("exit code %d\n%s", code, second.tail())
	}
	s.connect(mqtt.V5, "dev1").ping()
}
