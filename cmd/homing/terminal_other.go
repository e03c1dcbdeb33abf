//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package main

import (
	"errors"
	"os"
)

// Without a way to hide what is typed, input is read as from a pipe.
func isTerminalFile(*os.File) bool { return false }

func hideInput(*os.File) (func(), error) { return nil, errors.ErrUnsupported }
