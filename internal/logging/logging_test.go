package logging

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// buffer is a log that tests read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Split(strings.TrimSuffix(b.b.String(), "\n"), "\n")
}

// TestTextsAreClipped: whatever a stranger names, in whatever form it comes to
// the log, a line stays short, and is one line.
func TestTextsAreClipped(t *testing.T) {
	long := strings.Repeat("\x01", 65000)
	for name, value := range map[string]any{
		"string": long, "error": errors.New(long), "wrapped": fmt.Errorf("x: %w", errors.New(long)), "bytes": []byte(long),
		"stringer": stringer(long), "strings": []string{long, long}, "lines": strings.Repeat("\n", 65000), "not UTF-8": strings.Repeat("\xff", 65000),
		"escapes": strings.Repeat("\x1b[31m", 10000), "group": slog.GroupValue(slog.String("in", long)),
	} {
		for _, form := range []bool{true, false} {
			var out buffer
			log := New(&out, Options{JSON: form})
			log.With("with", value).Info("connection closed", "client", value)
			log.LogAttrs(t.Context(), slog.LevelInfo, long) //nolint:sloglint // the message is what is tested
			lines := out.lines()
			if len(lines) != 2 {
				t.Fatalf("%s, JSON %v: %d lines, want 2", name, form, len(lines))
			}
			for _, l := range lines {
				if len(l) > 2*(6*maxText+40)+200 || len(l) < maxText {
					t.Errorf("%s, JSON %v: a line of %d bytes", name, form, len(l))
				}
				if form && !json.Valid([]byte(l)) {
					t.Errorf("%s: not JSON: %.100q", name, l)
				}
				if strings.ContainsAny(l, "\x01\x1b") {
					t.Errorf("%s, JSON %v: control characters are not quoted", name, form)
				}
			}
		}
	}
}

type stringer string

func (s stringer) String() string { return string(s) }

// TestClip: a clipped text ends at a character, and says how long it was.
func TestClip(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", ""}, {"12345678", "12345678"}, {"123456789", "12345678... (9 bytes)"}, {"1234567é", "1234567... (9 bytes)"},
		{"12345\U0001F600", "12345... (9 bytes)"}, {"\xff\xff\xff\xff\xff\xff\xff\xff\xff", "\xff\xff\xff\xff\xff\xff\xff\xff... (9 bytes)"},
		{"1234\x80\x80\x80\x80\x80", "1234... (9 bytes)"},
	} {
		if got := Clip(c.in, 8); got != c.want {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
	}
	var out buffer
	New(&out, Options{}).Error("bug", "stack", strings.Repeat("frame ", 1000))
	if n := len(out.lines()[0]); n < 6000 {
		t.Errorf("the stack of a bug was clipped to %d bytes", n)
	}
}

// TestLinesAreLimited: lines about strangers, and warnings and errors, are
// limited by message; what is left out is counted, and a line says how many.
// Others are not limited.
func TestLinesAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out buffer
		log := New(&out, Options{JSON: true, Level: slog.LevelDebug})
		strangers := Strangers(log)
		for range 1000 {
			log.Info("known")
			log.Debug("debug")
			strangers.Debug("debug of strangers")
			strangers.With("remote", "x").Info("stranger")
			log.With("file", "x").WithGroup("g").Error("failed", "error", "x")
			log.Warn("warned")
		}
		log.Error("another") // has a limit of its own
		count := func(text string) (n int) {
			for _, l := range out.lines() {
				if strings.Contains(l, text) {
					n++
				}
			}
			return n
		}
		for text, want := range map[string]int{
			`"known"`: 1000, `"debug"`: 1000, `"debug of strangers"`: 1000, `"stranger"`: burst, `"failed"`: burst, `"warned"`: burst, `"another"`: 1, "left out": 0,
		} {
			if got := count(text); got != want {
				t.Errorf("%s: %d lines, want %d", text, got, want)
			}
		}
		if n := LeftOut(strangers); n != 3*(1000-burst) {
			t.Errorf("left out %d, want %d", n, 3*(1000-burst))
		}
		time.Sleep(countAfter + time.Second)
		if got := count(`"count":940`); got != 3 {
			t.Errorf("%d lines say that 940 were left out, want 3", got)
		}
		strangers.Info("stranger")
		if got := count(`"msg":"stranger"`); got != burst+1 {
			t.Errorf("%d lines, want %d: after a while they come again", got, burst+1)
		}
	})
}
