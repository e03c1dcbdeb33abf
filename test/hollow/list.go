package main

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
)

// test names a top-level test.
type test struct {
	pack string // the package: its folder's name
	name string
}

func (t test) String() string { return t.pack + " " + t.name }

func byName(a, b test) int {
	return cmp.Or(strings.Compare(a.pack, b.pack), strings.Compare(a.name, b.name))
}

// readList reads the list of the tests that may pass. A line is a package, a
// test and a reason; an empty one, or one that begins with #, is nothing.
func readList(path string) (map[test]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	list := map[test]string{}
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		f := strings.Fields(line)
		if len(f) < 3 {
			return nil, fmt.Errorf("%s:%d: want a package, a test and the reason why it may pass", path, i+1)
		}
		t := test{f[0], f[1]}
		if list[t] != "" {
			return nil, fmt.Errorf("%s:%d: %v is listed twice", path, i+1, t)
		}
		list[t] = strings.Join(f[2:], " ")
	}
	return list, nil
}

// verdict compares what passed with what may. faults fail the job; hints do not.
func verdict(outcomes map[test]outcome, list map[test]string) (faults, hints []string) {
	for _, t := range slices.SortedFunc(keys(outcomes), byName) {
		o := outcomes[t]
		switch {
		case o == passed && list[t] == "":
			faults = append(faults, fmt.Sprintf("%v passes though nothing is delivered: let it say how many messages arrived, or list it with the reason", t))
		case o != passed && list[t] != "":
			hints = append(hints, fmt.Sprintf("%v is listed, and %v: if it is no accident, take it off the list", t, o))
		}
	}
	for _, t := range slices.SortedFunc(keys(list), byName) {
		if _, ok := outcomes[t]; !ok {
			faults = append(faults, fmt.Sprintf("%v is listed, and there is no such test", t))
		}
	}
	return faults, hints
}

func keys[V any](m map[test]V) func(yield func(test) bool) {
	return func(yield func(test) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}
