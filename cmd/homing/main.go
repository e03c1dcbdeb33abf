// Command homing is a message server for MQTT whose messages reach exactly one
// client, and the tools around it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/homing-mq/homing/internal/config"
	"github.com/homing-mq/homing/internal/logging"
)

// cli is the command line. A command is a struct with a method
//
//	Run(...) error
//
// that may take a context.Context, cancelled by SIGINT and SIGTERM, and a
// *console; its method Help() gives an example.
type cli struct {
	Bench   benchCmd   `cmd:"" help:"Measure a server."`
	Config  configCmd  `cmd:"" help:"Show all settings, with their values and what they mean."`
	Listen  listenCmd  `cmd:"" help:"Be a device: print the messages that arrive for a client ID."`
	Passwd  passwdCmd  `cmd:"" help:"Add, change or delete a user."`
	Send    sendCmd    `cmd:"" help:"Send a message to one client."`
	Serve   serveCmd   `cmd:"" help:"Run the server."`
	Sign    signCmd    `cmd:"" help:"Show the user name and password of a client in signature mode."`
	Store   storeCmd   `cmd:"" help:"Look after the stored messages; the server must be stopped."`
	Version versionCmd `cmd:"" help:"Show the version."`
}

// console is what a command talks to.
type console struct {
	In  io.Reader
	Out io.Writer // results
	Err io.Writer // messages and the log
	Env []string  // NAME=value
}

// Exit codes besides 0.
const (
	exitFailed      = 1
	exitUsage       = 2 // a mistake on the command line or in the configuration
	exitInterrupted = 130
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	os.Exit(run(ctx, os.Args[1:], &console{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.Environ()}))
}

// run runs a command line and returns its exit code.
func run(ctx context.Context, args []string, con *console) int {
	exited := -1 // kong wants to exit after --help
	parser, err := kong.New(&cli{},
		kong.Name("homing"),
		kong.Description("MQTT messages that reach exactly one client, also while it is away."),
		kong.Writers(con.Out, con.Err),
		kong.Exit(func(code int) { exited = code }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 96}),
		kong.Bind(con),
		kong.BindTo(ctx, (*context.Context)(nil)),
	)
	if err != nil {
		return fail(ctx, con, err)
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	cmd, err := parser.Parse(args)
	if exited >= 0 {
		return exited
	}
	if err == nil {
		err = cmd.Run()
	}
	return fail(ctx, con, err)
}

// usageError is a mistake of the user.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// fail tells what went wrong, if anything, and returns the exit code. An error
// with a method ExitCode() int chooses its own.
func fail(ctx context.Context, con *console, err error) int {
	var (
		parse *kong.ParseError
		wrong *config.Error
		usage *usageError
		coder kong.ExitCoder
	)
	switch {
	case err == nil:
		return 0
	case errors.As(err, &parse):
		command := "homing"
		if node := parse.Context.Selected(); node != nil {
			command = node.FullPath()
		}
		fmt.Fprintf(con.Err, "homing: %v (see %s --help)\n", err, command)
		return exitUsage
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return exitInterrupted
	}
	fmt.Fprintf(con.Err, "homing: %v\n", err)
	switch {
	case errors.As(err, &wrong), errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &coder):
		return coder.ExitCode()
	}
	return exitFailed
}

// newLogger returns the logger that the settings ask for.
func newLogger(con *console, settings config.Log) *slog.Logger {
	return newLeveledLogger(con, settings, levelOf(settings))
}

// levelOf is the least level that is logged.
func levelOf(settings config.Log) slog.Level {
	var level slog.Level
	if err := level.UnmarshalText([]byte(settings.Level)); err != nil {
		level = slog.LevelInfo
	}
	return level
}

// newLeveledLogger is newLogger with a level that may change.
func newLeveledLogger(con *console, settings config.Log, level slog.Leveler) *slog.Logger {
	text := settings.Format == "text" || settings.Format == "auto" && isTerminal(con.Err)
	return logging.New(con.Err, logging.Options{Level: level, JSON: !text})
}
