package compat

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// root is the directory of the module.
const root = "../.."

// TestDocs: docs/compat.md is what the tags and the data say.
func TestDocs(t *testing.T) {
	want, err := Render(root)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(root, "docs", "compat.md"))
	if err != nil {
		t.Fatalf("%v: run make docs", err)
	}
	if bytes.Equal(got, want) {
		return
	}
	a, b := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			t.Fatalf("docs/compat.md is stale: run make docs\nline %d is   %s\nand should be %s", i+1, a[i], b[i])
		}
	}
	t.Fatalf("docs/compat.md is stale: run make docs\nit has %d lines, and should have %d", len(a), len(b))
}

// TestTags: every tag names a statement, those in the data files too.
func TestTags(t *testing.T) {
	found, err := scan(root)
	if err != nil {
		t.Fatal(err)
	}
	for file, data := range map[string]string{
		"optional.txt": optionalData, "departures.txt": departuresData, "exceptions.txt": exceptionsData,
	} {
		found.add(data, place{file: "internal/compat/" + file})
	}
	if len(found) < 200 {
		t.Errorf("found %d tags only", len(found))
	}
	for _, line := range found.unknown() {
		t.Errorf("no such statement: %s", line)
	}
}

// TestStatements: as many as the standards list, in order, each once.
func TestStatements(t *testing.T) {
	want := map[string]int{"MQTT 5.0": 251, "MQTT 3.1.1": 141}
	seen := map[string]bool{}
	for _, std := range standards() {
		if n := len(std.statements); n != want[std.name] {
			t.Errorf("%s: %d statements, want %d", std.name, n, want[std.name])
		}
		for _, s := range std.statements {
			switch {
			case seen[s.Tag]:
				t.Errorf("%s is listed twice", s.Tag)
			case tagged.FindString(s.Tag) != s.Tag || strings.Count(s.Tag, "-") != 2:
				t.Errorf("%s is no tag", s.Tag)
			case !slices.Contains([]Side{Server, Client, Both}, s.Side):
				t.Errorf("%s: side %q", s.Tag, s.Side)
			case s.Words == "" || len(s.Words) > 100:
				t.Errorf("%s: %d bytes of words", s.Tag, len(s.Words))
			}
			seen[s.Tag] = true
		}
	}
}

// TestTables: what stands in a cell does not end it.
func TestTables(t *testing.T) {
	for file, data := range map[string]string{
		"mqtt311.txt": mqtt311Data, "mqtt5.txt": mqtt5Data, "optional.txt": optionalData, "departures.txt": departuresData,
		"suites.txt": suitesData, "exceptions.txt": exceptionsData,
	} {
		for _, row := range rows(file, data, 3, 4) {
			for _, cell := range row {
				if cell == "" || strings.TrimSpace(cell) != cell || strings.Contains(cell, "|") {
					t.Errorf("%s: field %q", file, cell)
				}
			}
		}
	}
}

const source = `// Package x [MQTT-1.5.4-1].
package x

// T is [MQTT-1.5.4-2].
type T struct {
	a int // [MQTT-1.5.4-3]
}

var (
	b = 1 // [MQTT-1.5.5-1]
	// c is [MQTT-1.5.7-1].
	c = "[MQTT-2.1.3-1]"
)

// m is [MQTT-2.2.1-2]
// [MQTT3-1.5.3-1], and MQTT-3.1 is no tag.
func (t *T) m() {
	_ = t // [MQTT-2.2.1-2]
}
`

// TestSource: a tag belongs to the declaration it stands in or above.
func TestSource(t *testing.T) {
	found := tags{}
	if err := found.source("x.go", []byte(source)); err != nil {
		t.Fatal(err)
	}
	for tag, names := range map[string]string{
		"MQTT-1.5.4-1": "", "MQTT-1.5.4-2": "T", "MQTT-1.5.4-3": "T", "MQTT-1.5.5-1": "b", "MQTT-1.5.7-1": "c",
		"MQTT-2.2.1-2": "T.m T.m", "MQTT3-1.5.3-1": "T.m", "MQTT-3.1": "T.m",
	} {
		var got []string
		for _, p := range found[tag] {
			got = append(got, p.name)
		}
		if len(got) == 0 || strings.Join(got, " ") != names {
			t.Errorf("%s in %q, want %q", tag, got, names)
		}
	}
	if len(found["MQTT-2.1.3-1"]) > 0 {
		t.Error("a tag outside of comments counts")
	}
	if list := found.unknown(); len(list) != 1 || list[0] != "MQTT-3.1: x.go T.m" {
		t.Errorf("unknown: %q", list)
	}
}

// TestLacks: what a client does, and its tests, show nothing of the server.
func TestLacks(t *testing.T) {
	code, test := place{file: "internal/broker/a.go"}, place{file: "test/scenarios/a.txt"}
	client, clientTest := place{file: "internal/mqttclient/a.go"}, place{file: "internal/mqttclient/a_test.go"}
	for _, c := range []struct {
		in   []place
		side Side
		want string
	}{
		{nil, Server, "code or test"}, {nil, Client, ""}, {[]place{code}, Both, "test"}, {[]place{test}, Server, "code"},
		{[]place{client, clientTest}, Both, "code or test"}, {[]place{code, test}, Both, ""},
		{[]place{code, {file: "internal/mqtt/testdata/vectors/a.txt"}}, Server, ""},
	} {
		if got := (tags{"x": c.in}).lacks(Statement{Tag: "x", Side: c.side}); got != c.want {
			t.Errorf("%v, %s: lacks %q, want %q", c.in, c.side, got, c.want)
		}
	}
	if got := (tags{}).lacks(Statement{Tag: "x", Side: Server, Moot: "no"}); got != "" {
		t.Errorf("one that does not arise lacks %q", got)
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		pattern, sequence string
		want              bool
	}{
		{"g/n", "g/n", true}, {"g/n", "g/nn", false}, {"g/*", "g/", true}, {"g/*", "h/n", false}, {"*/82 with * U+0001*", "g/82 with a U+0001 b", true},
		{"*/82 with * U+0001*", "g/82 with U+0001", false}, {"g/2*x", "g/2*x", true}, {"g*n", "gn", true}, {"a*a", "a", false}, {"*n", "nm", false},
	} {
		e := Exception{File: "A.json", Sequence: c.pattern}
		if got := e.Matches("A.json", c.sequence); got != c.want {
			t.Errorf("%q %q: %v", c.pattern, c.sequence, got)
		}
		if e.Matches("B.json", c.sequence) {
			t.Errorf("%q matches in another file", c.pattern)
		}
	}
	for _, e := range Exceptions() {
		if !strings.HasSuffix(e.File, ".json") {
			t.Errorf("%+v", e)
		}
	}
}
