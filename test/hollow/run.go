package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

// outcome is what became of one test.
type outcome int

const (
	failed outcome = iota
	passed
	skipped
	late // stopped at the limit
)

func (o outcome) String() string {
	return [...]string{"failed", "passed", "was skipped", "took too long"}[o]
}

// job is one run of everything.
type job struct {
	match    string
	limit    time.Duration
	parallel int
	verbose  bool
	root     string              // of the module
	dir      string              // for what is built
	quiet    map[string][]string // by package: flags for tests that leave nothing behind
}

// noFailFile keeps pgregory.net/rapid from writing what failed to testdata.
const noFailFile = "-rapid.nofailfile"

func moduleRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("ask go for the module: %w", err)
	}
	file := strings.TrimSpace(string(out))
	if filepath.Base(file) != "go.mod" {
		return "", errors.New("run it inside the module")
	}
	return filepath.Dir(file), nil
}

// build makes the test programs with the hollow core.
func (j *job) build() error {
	changed, err := hollow(filepath.Join(j.root, "internal", "broker"))
	if err != nil {
		return err
	}
	var overlay struct{ Replace map[string]string }
	overlay.Replace = map[string]string{}
	for path, text := range changed {
		copied := filepath.Join(j.dir, filepath.Base(path))
		if err := os.WriteFile(copied, text, 0o600); err != nil {
			return err
		}
		overlay.Replace[path] = copied
	}
	text, err := json.Marshal(overlay)
	if err != nil {
		return err
	}
	file := filepath.Join(j.dir, "overlay.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	for _, p := range packages {
		c := exec.Command("go", "test", "-c", "-overlay", file, "-o", j.program(p), "./internal/"+p)
		c.Dir = j.root
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("build the tests of %s with the hollow core: %w\n%s", p, err, out)
		}
		if exec.Command(j.program(p), noFailFile, "-test.list", "^$").Run() == nil { // else it has no such flag
			j.quiet[p] = []string{noFailFile}
		}
	}
	return nil
}

func (j *job) program(pack string) string { return filepath.Join(j.dir, pack+".test") }

func (j *job) source(pack string) string { return filepath.Join(j.root, "internal", pack) }

// tests lists the tests of all packages.
func (j *job) tests() (all []test, err error) {
	for _, p := range packages {
		c := exec.Command(j.program(p), "-test.list", j.match)
		c.Dir = j.source(p)
		out, err := c.Output()
		if err != nil {
			return nil, fmt.Errorf("list the tests of %s: %w", p, err)
		}
		for _, name := range strings.Fields(string(out)) {
			if strings.HasPrefix(name, "Test") {
				all = append(all, test{p, name})
			}
		}
	}
	if len(all) == 0 {
		return nil, errors.New("there are no tests")
	}
	return all, nil
}

// runAll runs every test by itself, some at the same time.
func (j *job) runAll() (map[test]outcome, error) {
	all, err := j.tests()
	if err != nil {
		return nil, err
	}
	outcomes := make(map[test]outcome, len(all))
	var mu sync.Mutex // guards outcomes and the output
	var wait sync.WaitGroup
	free := make(chan struct{}, j.parallel)
	for _, t := range all {
		free <- struct{}{}
		wait.Go(func() {
			began := time.Now()
			o, err2 := j.runOne(t)
			mu.Lock()
			defer mu.Unlock()
			if err2 != nil {
				err = err2
			}
			if outcomes[t] = o; j.verbose {
				fmt.Printf("%-60v %5.1fs %v\n", t, time.Since(began).Seconds(), o)
			}
			<-free
		})
	}
	wait.Wait()
	return outcomes, err
}

// runOne runs a test. An error is one of the job, not of the test.
func (j *job) runOne(t test) (outcome, error) {
	ctx, cancel := context.WithTimeout(context.Background(), j.limit)
	defer cancel()
	flags := append([]string{"-test.v", "-test.run", "^" + regexp.QuoteMeta(t.name) + "$"}, j.quiet[t.pack]...)
	c := exec.CommandContext(ctx, j.program(t.pack), flags...)
	c.Dir = j.source(t.pack)
	c.WaitDelay = time.Second
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return late, nil
	case errors.As(err, &exit):
		return failed, nil
	case err != nil:
		return failed, fmt.Errorf("run %v: %w", t, err)
	case bytes.Contains(out, []byte("--- SKIP: "+t.name+" ")):
		return skipped, nil
	case !bytes.Contains(out, []byte("--- PASS: "+t.name+" ")):
		return failed, fmt.Errorf("%v neither passed nor failed:\n%s", t, out)
	}
	return passed, nil
}
