// Hollow runs tests about messages against a core that delivers none, and fails
// if one passes: such a test tests nothing. It is to be run in the root of the
// module (make hollow).
//
// Broker.Publish and Broker.PublishQoS2 are changed in a copy: they tell the
// sender OK and deliver nothing. With it the test programs of the packages about
// messages are built, and each test is run by itself: whoever waits for a message
// fails. Tests about something else pass rightly; may-pass.txt lists them, each
// with its reason.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// packages are those whose tests are about messages, in internal.
var packages = []string{"broker", "mqttserver", "rocketmqserver"}

func main() {
	match := flag.String("run", "^Test", "the tests to run: a regular expression")
	limit := flag.Duration("limit", 15*time.Second, "how long one test may take; after that it counts as failed")
	side := flag.Int("parallel", 12, "how many tests run at the same time; nearly all wait for what never comes")
	verbose := flag.Bool("v", false, "tell the outcome of every test, and how long it took")
	flag.Parse()
	if err := run(&job{match: *match, limit: *limit, parallel: *side, verbose: *verbose, quiet: map[string][]string{}}); err != nil {
		fmt.Fprintln(os.Stderr, "hollow:", err)
		os.Exit(1)
	}
}

func run(j *job) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	list, err := readList(filepath.Join(root, "test", "hollow", "may-pass.txt"))
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "hollow")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	j.root, j.dir = root, dir
	began := time.Now()
	if err := j.build(); err != nil {
		return err
	}
	outcomes, err := j.runAll()
	if err != nil {
		return err
	}
	if j.match != "^Test" { // those that did not run are not missing
		for t := range list {
			if _, ok := outcomes[t]; !ok {
				delete(list, t)
			}
		}
	}
	counts := map[outcome]int{}
	for _, o := range outcomes {
		counts[o]++
	}
	faults, hints := verdict(outcomes, list)
	for _, line := range slices.Concat(hints, faults) {
		fmt.Println(line)
	}
	fmt.Printf("hollow core: %d tests in %.0fs: %d failed, %d took too long, %d skipped, %d passed; %d listed\n",
		len(outcomes), time.Since(began).Seconds(), counts[failed], counts[late], counts[skipped], counts[passed], len(list))
	if len(faults) > 0 {
		return fmt.Errorf("%d faults", len(faults))
	}
	return nil
}
