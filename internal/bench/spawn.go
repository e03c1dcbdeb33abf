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
	"syscall"
	"time"
)

// Spawned is a server that was started for a benchmark.
type Spawned struct {
	URL     string // of its MQTT listener
	Process Process
	cmd     *exec.Cmd
	exited  chan struct{} // closed when it has
}

// stopTime is how long a server may take to stop.
const stopTime = 20 * time.Second

// Spawn starts a homing server: program is the binary, args what follows, which
// must make it write its log as JSON to standard error. It returns when the
// server listens. The caller calls Stop.
func Spawn(ctx context.Context, program string, args, env []string) (*Spawned, error) {
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
	found := make(chan string, 1)
	var last string
	go func() {
		defer close(s.exited)
		last = followLog(log, found)
		_ = cmd.Wait() // last says more
	}()
	select {
	case address := <-found:
		s.URL = "tcp://" + address
		return s, nil
	case <-s.exited:
		return nil, fmt.Errorf("the server did not start: %s", last)
	case <-ctx.Done():
		s.Stop()
		return nil, context.Cause(ctx)
	}
}

// followLog reads a log to its end. It tells the address of the first MQTT
// listener; if there is none, it returns the last line. After the address the
// log is thrown away unread, as it may have a line for each connection.
func followLog(log io.Reader, found chan<- string) (last string) {
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		last = lines.Text()
		var line struct{ Msg, Transport, Address string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "listening" && line.Transport == "mqtt" {
			found <- line.Address
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
