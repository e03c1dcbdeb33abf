package test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// patience bounds every wait. A wait that works ends early, so it is long.
const patience = 45 * time.Second

// program is the path of the program under test.
var program string

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if shiftedDir != "" {
		os.RemoveAll(shiftedDir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "test:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	if program = os.Getenv("HOMING_TEST_BINARY"); program != "" {
		return m.Run(), nil
	}
	dir, err := os.MkdirTemp("", "homing-test-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // TestReadOnlyData runs it as somebody else
		return 1, err
	}
	program = filepath.Join(dir, "homing")
	args := []string{"build", "-o", program}
	if os.Getenv("HOMING_TEST_RACE") == "1" {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "../cmd/homing")...)
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build the server: %w\n%s", err, out)
	}
	return m.Run(), nil
}

// environ is the environment of the programs under test: ours without what is
// meant for the tests, and with extra.
func environ(extra ...string) []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "HOMING_") {
			env = append(env, e)
		}
	}
	return append(env, extra...)
}

// eventually waits until ok. For what cannot be waited for otherwise.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain waited for: %s", what)
		}
	}
}

// dawdle does nothing for a random time, so that those who act at random are not
// in step. Nothing is waited for.
func dawdle(least, most time.Duration) {
	time.Sleep(least + time.Duration(rand.Int64N(int64(most-least))))
}

func timeout() <-chan time.Time { return time.After(patience) }

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func containsAny(s string, words ...string) bool {
	for _, w := range words {
		if strings.Contains(s, w) {
			return true
		}
	}
	return false
}
