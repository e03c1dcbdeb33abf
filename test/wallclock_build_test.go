package test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// shiftEnv names the file that says how many seconds the wall clock of the program
// that shiftedProgram builds is off. It is none of HOMING_: those are settings.
const shiftEnv = "TEST_CLOCK_FILE"

// shiftedClock is added to package time: what the file says, looked at every 10 ms.
// Now cannot look itself, the runtime calls it where no system call may be. Package
// time has open, read and closefd of its own.
const shiftedClock = `package time

import (
	"sync/atomic"
	"syscall"
)

var shift atomic.Int64

func init() {
	if name, ok := syscall.Getenv("` + shiftEnv + `"); ok {
		readShift(name)
		go func() {
			for ; ; Sleep(10 * Millisecond) {
				readShift(name)
			}
		}()
	}
}

func shiftedNow() (sec int64, nsec int32, mono int64) {
	sec, nsec, mono = runtimeNow()
	return sec + shift.Load(), nsec, mono
}

func readShift(name string) {
	fd, err := open(name)
	if err != nil {
		return
	}
	defer closefd(fd)
	buf := make([]byte, 32)
	n, err := read(fd, buf)
	if err != nil || n == 0 {
		return
	}
	var v int64
	for _, c := range buf[:n] {
		if c >= '0' && c <= '9' {
			v = v*10 + int64(c-'0')
		}
	}
	if buf[0] == '-' {
		v = -v
	}
	shift.Store(v)
}
`

// shiftedProgram builds the server with a time.Now whose wall clock is off by what
// a file says; the monotonic clock is not. It is made of the toolchain's own
// time.go with one line changed. It returns why that is not possible, or the path
// of the program in a directory that is there as long as the test.
var shiftedProgram = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOROOT: %w", err)
	}
	dir, err := os.MkdirTemp("", "homing-test-clock-")
	if err != nil {
		return "", err
	}
	shiftedDir = dir
	if err := os.Chmod(dir, 0o755); err != nil { // as main_test.go does
		return "", err
	}
	original := filepath.Join(strings.TrimSpace(string(out)), "src", "time", "time.go")
	src, err := os.ReadFile(original)
	if err != nil {
		return "", err
	}
	const call = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if strings.Count(string(src), call) != 1 {
		return "", fmt.Errorf("%s is not as expected: time.Now does not begin with runtimeNow()", original)
	}
	changed := strings.Replace(string(src), call, strings.Replace(call, "runtimeNow", "shiftedNow", 1), 1)
	replace := map[string]string{}
	for name, text := range map[string]string{"time.go": changed, "shifted.go": shiftedClock} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(filepath.Dir(original), name)] = path
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		return "", err
	}
	shifted := filepath.Join(dir, "homing")
	build := exec.Command("go", "build", "-overlay", file, "-o", shifted, "../cmd/homing")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build with a changed package time: %w\n%s", err, out)
	}
	return shifted, nil
})

// shiftedDir is where shiftedProgram has built; "": nowhere. TestMain removes it.
var shiftedDir string

// wallClock is the wall clock of a server under test.
type wallClock struct {
	t    testing.TB
	file string
}

// shiftedServer is a server with a wall clock of its own, that is off by so many
// seconds at first. It is not launched. The test is skipped if there can be none.
func shiftedServer(t testing.TB, seconds int64, settings ...string) (*server, *wallClock) {
	t.Helper()
	path, err := shiftedProgram()
	if err != nil {
		t.Skipf("no server with a wall clock of its own: %v", err)
	}
	s := newServer(t, settings...)
	c := &wallClock{t, filepath.Join(tempDir(t), "clock")}
	c.set(seconds)
	s.command = func(cmd *exec.Cmd) { cmd.Path, cmd.Env = path, environ(shiftEnv+"="+c.file) }
	return s, c
}

// set makes the clock so many seconds wrong. The file is replaced, so that nobody
// reads half of it.
func (c *wallClock) set(seconds int64) {
	c.t.Helper()
	temp := c.file + ".tmp"
	if err := os.WriteFile(temp, fmt.Append(nil, seconds), 0o600); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Rename(temp, c.file); err != nil {
		c.t.Fatal(err)
	}
}
