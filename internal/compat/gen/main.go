// Gen writes docs/compat.md. It is to be run in the root of the module.
//
//	go run ./internal/compat/gen            write docs/compat.md
//	go run ./internal/compat/gen -missing   list what no code or no test names
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/homing-mq/homing/internal/compat"
)

func main() {
	missing := flag.Bool("missing", false, "list the server's statements that no code or no test names, and write nothing")
	flag.Parse()
	run := write
	if *missing {
		run = list
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "compat:", err)
		os.Exit(1)
	}
}

func write() error {
	text, err := compat.Render(".")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join("docs", "compat.md"), text, 0o644)
}

func list() error {
	lines, err := compat.Missing(".")
	for _, line := range lines {
		fmt.Println(line)
	}
	return err
}
