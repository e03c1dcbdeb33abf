package test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// server is a homing server with data of its own. It can be started again and
// again on the same data and, after the first time, the same addresses.
type server struct {
	*process
	t        testing.TB        // of the test that uses it now
	owner    testing.TB        // of the test that made it
	dir      string            // working directory; data is in dir/data
	settings []string          // for --set, at each start
	config   string            // content of a configuration file; "": none
	command  func(*exec.Cmd)   // may change how it is started; nil: nothing
	addr     map[string]string // HOST:PORT by transport
	starts   int
}

// newServer prepares a server on ports of its own, without login. A setting is
// KEY=VALUE.
func newServer(t testing.TB, settings ...string) *server {
	t.Helper()
	s := &server{t: t, owner: t, dir: tempDir(t), addr: map[string]string{"mqtt": "127.0.0.1:0", "ws": "127.0.0.1:0", "http": "127.0.0.1:0"}}
	s.settings = append([]string{"data=" + filepath.Join(s.dir, "data"), "log.format=json"}, settings...)
	t.Cleanup(func() {
		if t.Failed() && s.process != nil {
			t.Logf("the server's log ends with:\n%s", s.tail())
		}
	})
	return s
}

// use lets a subtest use the server until it ends.
func (s *server) use(t testing.TB) {
	before := s.t
	s.t = t
	t.Cleanup(func() { s.t = before })
}

// startServer is a new server that runs.
func startServer(t testing.TB, settings ...string) *server {
	t.Helper()
	s := newServer(t, settings...)
	s.start()
	return s
}

// tempDir is a directory that others can enter.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "homing-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// launch starts the program and does not wait until it listens.
func (s *server) launch() {
	s.t.Helper()
	args := []string{"serve"}
	if s.config != "" {
		name := filepath.Join(s.dir, "homing.yml")
		if err := os.WriteFile(name, []byte(s.config), 0o644); err != nil {
			s.t.Fatal(err)
		}
		args = append(args, "--config", name)
	}
	for transport, addr := range s.addr {
		args = append(args, "--"+transport, addr)
	}
	for _, transport := range []string{"rocketmq", "rocketmq-grpc"} { // on by default, where other servers are
		if _, used := s.addr[transport]; !used {
			args = append(args, "--"+transport, "")
		}
	}
	for _, set := range s.settings {
		args = append(args, "--set", set)
	}
	cmd := exec.Command(program, args...)
	cmd.Dir = s.dir
	if s.command != nil {
		s.command(cmd)
	}
	s.process = start(s.owner, cmd)
	s.starts++
}

// start starts it and waits until it listens on every address.
func (s *server) start() {
	s.t.Helper()
	for end := time.Now().Add(patience); ; {
		s.launch()
		if s.listening() {
			return
		}
		if strings.Contains(s.tail(), "address already in use") && time.Now().Before(end) {
			continue
		}
		s.t.Fatalf("the server did not start:\n%s", s.tail())
	}
}

// listening waits for the log lines of all listeners.
func (s *server) listening() bool {
	bound := make(map[string]string)
	return s.find(func(lines []string) bool {
		for _, l := range lines {
			var entry struct{ Msg, Transport, Address string }
			if json.Unmarshal([]byte(l), &entry) == nil && entry.Msg == "listening" {
				bound[entry.Transport] = entry.Address
			}
		}
		if len(bound) < len(s.addr) {
			return false
		}
		for transport, addr := range bound {
			s.addr[transport] = addr
		}
		return true
	})
}

// restart stops it in good order and starts it again.
func (s *server) restart() {
	s.t.Helper()
	if code := s.stop(); code != 0 {
		s.t.Fatalf("the server ended with %d:\n%s", code, s.tail())
	}
	s.start()
}

// fixPorts chooses ports outside the range that outgoing connections get.
// Otherwise one could take a port while the server is down, in the worst case a
// client of the server that so connects to itself.
func (s *server) fixPorts() {
	s.t.Helper()
	for transport := range s.addr {
		s.addr[transport] = freeAddr(s.t)
	}
}

var nextPort = make(chan int, 1)

func init() { nextPort <- 10000 + os.Getpid()%200*100 }

func freeAddr(t testing.TB) string {
	t.Helper()
	port := <-nextPort
	defer func() { nextPort <- port }()
	for range 1000 {
		if port++; port > 31000 {
			port = 10000
		}
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

// get fetches a page of the HTTP listener.
func (s *server) get(path string) (status int, body string) {
	s.t.Helper()
	res, err := http.Get("http://" + s.addr["http"] + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// metric returns a metric, by its name with labels as the page shows it.
func (s *server) metric(name string) float64 {
	s.t.Helper()
	_, page := s.get("/metrics")
	for sc := bufio.NewScanner(strings.NewReader(page)); sc.Scan(); {
		if rest, ok := strings.CutPrefix(sc.Text(), name+" "); ok {
			v, err := strconv.ParseFloat(rest, 64)
			if err != nil {
				s.t.Fatal(err)
			}
			return v
		}
	}
	s.t.Fatalf("no metric %s", name)
	return 0
}

// homingMetrics is the part of a metrics page that is about messages and not 0.
func homingMetrics(page string) string {
	var b strings.Builder
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "homing_") && !strings.Contains(line, "_bucket{") && !strings.HasSuffix(line, " 0\n") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// dropped is how many messages were dropped for a reason.
func (s *server) dropped(reason string) int {
	s.t.Helper()
	return int(s.metric(fmt.Sprintf("homing_messages_dropped_total{reason=%q}", reason)))
}

// rss is the server's resident memory in bytes.
func (s *server) rss() int64 {
	s.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	s.t.Fatal("no VmRSS")
	return 0
}

// asSomebodyElse makes cmd run as a user who is not root, if this is root:
// permissions do not bind root.
func asSomebodyElse(cmd *exec.Cmd) {
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
}
