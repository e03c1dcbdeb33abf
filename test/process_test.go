package test

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a program that runs beside the test. Its output, both streams, is
// kept as lines.
type process struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	done chan struct{} // closed when it has ended and its output is read

	mu      sync.Mutex
	lines   []string
	changed chan struct{} // closed and replaced with each line, and at the end
	code    int           // after done; -1: ended by a signal
}

// start runs a program. It is killed at the end of the test.
func start(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, name: cmd.Path, cmd: cmd, done: make(chan struct{}), changed: make(chan struct{})}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if cmd.Stdin == nil {
		if p.in, err = cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
	}
	if cmd.Env == nil {
		cmd.Env = environ()
	}
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		t.Fatal(err)
	}
	go p.collect(r)
	t.Cleanup(p.kill)
	return p
}

func (p *process) collect(r *os.File) {
	defer r.Close()
	s := bufio.NewScanner(r)
	s.Buffer(nil, 16<<20)
	for s.Scan() {
		p.mu.Lock()
		p.lines = append(p.lines, s.Text())
		close(p.changed)
		p.changed = make(chan struct{})
		p.mu.Unlock()
	}
	err := p.cmd.Wait()
	p.mu.Lock()
	p.code = p.cmd.ProcessState.ExitCode()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.lines = append(p.lines, "test: "+err.Error())
	}
	close(p.done)
	close(p.changed)
	p.changed = make(chan struct{})
	p.mu.Unlock()
}

// say writes a line to its standard input.
func (p *process) say(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		p.t.Fatalf("%s: %v\n%s", p.name, err, p.tail())
	}
}

// find waits until the output satisfies ok, or the program ends. It reports
// whether ok did.
func (p *process) find(ok func(lines []string) bool) bool {
	limit := time.After(patience)
	for {
		p.mu.Lock()
		found, changed := ok(p.lines), p.changed
		p.mu.Unlock()
		if found {
			return true
		}
		select {
		case <-changed:
			continue
		case <-limit:
			return false
		case <-p.done:
			p.mu.Lock()
			defer p.mu.Unlock()
			return ok(p.lines)
		}
	}
}

// line waits for a line that contains text, and returns it.
func (p *process) line(text string) string {
	p.t.Helper()
	var hit string
	ok := p.find(func(lines []string) bool {
		for _, l := range lines {
			if strings.Contains(l, text) {
				hit = l
				return true
			}
		}
		return false
	})
	if !ok {
		p.t.Fatalf("%s did not print %q; it printed\n%s", p.name, text, p.tail())
	}
	return hit
}

// wait waits for the end and returns the exit code.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.code
	case <-time.After(patience):
		p.signal(syscall.SIGQUIT) // a Go program then shows its goroutines
		<-p.done
		p.t.Fatalf("%s does not end; it printed\n%s", p.name, strings.Join(p.output(), "\n"))
		return 0
	}
}

// stop ends it with SIGTERM and returns the exit code.
func (p *process) stop() int {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	return p.wait()
}

// kill ends it with SIGKILL.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// signal goes to the process, or to its group if it was started with one. It
// may have ended already.
func (p *process) signal(sig syscall.Signal) {
	if isClosed(p.done) {
		return
	}
	if a := p.cmd.SysProcAttr; a != nil && a.Setpgid {
		_ = syscall.Kill(-p.cmd.Process.Pid, sig)
		return
	}
	_ = p.cmd.Process.Signal(sig)
}

func (p *process) output() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.lines...)
}

// tail is the last output, for messages.
func (p *process) tail() string {
	lines := p.output()
	if n := len(lines) - 40; n > 0 {
		lines = lines[n:]
	}
	return strings.Join(lines, "\n")
}

// homing runs a command of the program under test to its end.
func homing(t testing.TB, args ...string) (code int, output string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Dir = t.TempDir()
	p := start(t, cmd)
	p.in.Close()
	code = p.wait()
	return code, strings.Join(p.output(), "\n")
}
