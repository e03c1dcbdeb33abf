package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/homing-mq/homing/internal/config"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"homing": main})
}

// The scripts are specifications: each can be read without this file. Besides
// the usual commands they have "code N program args...", which wants exit code
// N, and "mode FILE PERM".
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": wantExitCode,
			"mode": wantMode,
		},
	})
}

func wantExitCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N program args...")
	}
	code := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if want, err := strconv.Atoi(args[0]); err != nil || code != want {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

func wantMode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode FILE PERM")
	}
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := strconv.FormatUint(uint64(info.Mode().Perm()), 8); got != args[1] {
		ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
	}
}

// Every command has a help text with an example, and fits on a screen.
func TestHelp(t *testing.T) {
	var top bytes.Buffer
	if code := run(t.Context(), nil, &console{Out: &top, Err: &top}); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	_, list, _ := strings.Cut(top.String(), "Commands:\n")
	list, _, _ = strings.Cut(list, "\n\n")
	lines := strings.Split(list, "\n")
	if len(lines) < 4 {
		t.Fatalf("no commands in:\n%s", top.String())
	}
	for _, line := range lines {
		// A command of two words has two spaces before its help.
		name, _, _ := strings.Cut(strings.TrimSpace(line), "  ")
		var args []string
		for word := range strings.FieldsSeq(name) {
			if word[0] != '<' && word[0] != '[' {
				args = append(args, word)
			}
		}
		if !strings.HasPrefix(line, "  ") || strings.HasPrefix(line, "     ") || len(args) == 0 {
			continue // a help text of two lines
		}
		var out bytes.Buffer
		if code := run(t.Context(), append(args, "--help"), &console{Out: &out, Err: &out}); code != 0 {
			t.Errorf("%s: exit code %d", name, code)
		}
		if !strings.Contains(out.String(), "Example") || !strings.Contains(out.String(), "    homing "+strings.Join(args, " ")) {
			t.Errorf("%s has no example:\n%s", name, out.String())
		}
		for line := range strings.SplitSeq(out.String(), "\n") {
			if len(line) > 100 {
				t.Errorf("%s: long line %q", name, line)
			}
		}
	}
}

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	con := &console{Err: &out}
	newLogger(con, config.Log{Level: "warn", Format: "auto"}).Info("quiet")
	if out.Len() > 0 {
		t.Errorf("logged below the level: %s", out.String())
	}
	newLogger(con, config.Log{Level: "info", Format: "auto"}).Info("hello")
	var line struct{ Msg string }
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line.Msg != "hello" {
		t.Errorf("no JSON: %v, %s", err, out.String())
	}
	out.Reset()
	newLogger(con, config.Log{Level: "debug", Format: "text"}).Debug("hello")
	if !strings.Contains(out.String(), "level=DEBUG msg=hello") {
		t.Errorf("no text: %s", out.String())
	}
}

func TestExitCodes(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		ctx  context.Context
		err  error
		want int
	}{
		{t.Context(), nil, 0},
		{t.Context(), errors.New("x"), exitFailed},
		{t.Context(), usagef("x"), exitUsage},
		{t.Context(), &config.Error{Text: "x"}, exitUsage},
		{t.Context(), context.Canceled, exitFailed},
		{canceled, context.Canceled, exitInterrupted},
		{canceled, errors.New("x"), exitFailed},
		{t.Context(), ownCode{}, 7},
	} {
		if got := fail(tt.ctx, &console{Err: new(bytes.Buffer)}, tt.err); got != tt.want {
			t.Errorf("%v: got %d, want %d", tt.err, got, tt.want)
		}
	}
}

type ownCode struct{}

func (ownCode) Error() string { return "own" }
func (ownCode) ExitCode() int { return 7 }

func TestReadLine(t *testing.T) {
	r := strings.NewReader("one\r\ntwo\n\nlast")
	for _, want := range []string{"one", "two", "", "last", ""} {
		if got, err := readLine(r); err != nil || string(got) != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	if _, err := readLine(strings.NewReader(strings.Repeat("x", maxLine+1))); err == nil {
		t.Error("a line without end was read")
	}
}
