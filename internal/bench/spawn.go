package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"
)

// Spawned is a server that was started for a benchmark.
type Spawned struct {
	URL       string            // of its MQTT listener
	Addresses map[string]string // of its listeners for the transports that were asked for
	Process   Process
	cmd       *exec.Cmd
	exited    chan struct{} // closed when it has
}

// stopTime is how long a server may take to stop.
const stopTime = 20 * time.Second

// Spawn starts a homing server: program is the binary, args what follows, which
// must make it write its log as JSON to standard error. It returns when the
// server listens, for MQTT and the other transports. The caller calls Stop.
func Spawn(ctx context.Context, program string, args, env []string, transports ...string) (*Spawned, error) {
	cmd := exec.Command(program, args...)
	cmd.Env = env
	log, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the server: %w", err)
	}
	s := &Spawned{Process: Process{PID: cmd.Process.Pid}, cmd: cmd, exited: make(chan struct{})}
	found := make(chan map[string]string, 1)
	var last string
	go func() {
		defer close(s.exited)
		last = followLog(log, append(transports, "mqtt"), found)
		_ = cmd.Wait() // last says more
	}()
	select {
	case s.Addresses = <-found:
		s.URL = "tcp://" + s.Addresses["mqtt"]
		return s, nil
	case <-s.exited:
		return nil, fmt.Errorf("the server did not start: %s", last)
	case <-ctx.Done():
		s.Stop()
		return nil, context.Cause(ctx)
	}
}

// followLog reads a log to its end. It tells the addresses of the first listener
// of each transport; if one has none, it returns the last line. After them the
// log is thrown away unread, as it may have a line for each connection.
func followLog(log io.Reader, transports []string, found chan<- map[string]string) (last string) {
	addresses := make(map[string]string)
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		last = lines.Text()
		var line struct{ Msg, Transport, Address string }
		if json.Unmarshal(lines.Bytes(), &line) != nil || line.Msg != "listening" || !slices.Contains(transports, line.Transport) || addresses[line.Transport] != "" {
			continue
		}
		if addresses[line.Transport] = line.Address; len(addresses) == len(transports) {
			found <- addresses
			break
		}
	}
	_, _ = io.Copy(io.Discard, log) // also after a line that is too long
	return last
}

// Stop ends the server and waits for that.
func (s *Spawned) Stop() {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		_ = s.cmd.Process.Kill() // there is no SIGTERM here
	}
	select {
	case <-s.exited:
	case <-time.After(stopTime):
		_ = s.cmd.Process.Kill() // waited for below
		<-s.exited
	}
}
