package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// isTerminal reports whether stream is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && isTerminalFile(f)
}

// readSecret asks for a line on a terminal, without showing what is typed, or
// takes the next line of an input that is none.
func readSecret(ctx context.Context, con *console, prompt string) ([]byte, error) {
	if !isTerminal(con.In) {
		return readLine(con.In)
	}
	fmt.Fprint(con.Err, prompt)
	defer fmt.Fprintln(con.Err)
	restore, err := hideInput(con.In.(*os.File))
	if err != nil {
		return nil, fmt.Errorf("hide what is typed: %w", err)
	}
	defer restore()

	// The read cannot be interrupted: on a signal the process ends with it.
	type result struct {
		line []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		line, err := readLine(con.In)
		done <- result{line, err}
	}()
	select {
	case r := <-done:
		return r.line, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// maxLine bounds what readLine takes.
const maxLine = 64 << 10

// readLine reads up to the end of the line and not one byte more.
func readLine(r io.Reader) ([]byte, error) {
	var line []byte
	var b [1]byte
	for len(line) < maxLine {
		n, err := r.Read(b[:])
		if n == 1 && b[0] == '\n' || errors.Is(err, io.EOF) {
			if len(line) > 0 && line[len(line)-1] == '\r' {
				line = line[:len(line)-1]
			}
			return line, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		line = append(line, b[:n]...)
	}
	return nil, usagef("the line on standard input is longer than %d bytes; give a shorter one", maxLine)
}
