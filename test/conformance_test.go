package test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/homing-mq/homing/internal/compat"
	"github.com/homing-mq/homing/internal/mqtt"
)

// sequence is one test of the collection: packets to a server, and what must
// come back.
type sequence struct {
	Name             string
	Ver              mqtt.Version
	Connect          *bool // CONNECT and CONNACK come first; nil: yes
	ExpectDisconnect *bool `json:"expect_disconnect"` // the server closes at the end; nil: yes
	Msgs             []turn
}

// connects reports whether a successful CONNECT comes first.
func (q *sequence) connects() bool { return q.Connect == nil || *q.Connect }

// version is that of the connection. A sequence with a CONNECT of its own
// says it there.
func (q *sequence) version() mqtt.Version {
	if !q.connects() && len(q.Msgs) > 0 && strings.Contains(strings.ReplaceAll(string(q.Msgs[0].Payload), " ", ""), "4D51545405") {
		return mqtt.V5
	}
	return q.Ver
}

// turn is one packet of a sequence.
type turn struct {
	Type    string // send, recv, or publish by a second client
	Payload packetHex
	Topic   string // of publish
	QoS     byte
}

// packetHex is hex with spaces, or the payload of a publish as it is.
type packetHex string

func (h packetHex) bytes() ([]byte, error) {
	return hex.DecodeString(strings.ReplaceAll(string(h), " ", ""))
}

// TestConformance plays the packet sequences of a collection that is not part
// of this repository against the server, and compares by meaning. What differs
// on purpose is in internal/compat/exceptions.txt; an exception that is not
// needed is an error.
func TestConformance(t *testing.T) {
	files := sequenceFiles(t)
	exceptions := compat.Exceptions()
	used := make([]bool, len(exceptions))
	total := 0
	t.Run("files", func(t *testing.T) {
		for _, file := range files {
			groups := readSequences(t, file)
			name := filepath.Base(file)
			for _, g := range groups {
				total += len(g.Tests)
				for i := range g.Tests {
					if e := exceptionFor(name, g.Group+"/"+g.Tests[i].Name); e >= 0 {
						used[e] = true
					}
				}
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				playFile(t, name, groups)
			})
		}
	})
	for i, e := range exceptions {
		if !used[i] {
			t.Errorf("the exception %s %s fits no sequence", e.File, e.Sequence)
		}
	}
	t.Logf("%d sequences in %d files", total, len(files))
}

type sequenceGroup struct {
	Group string
	Tests []sequence
}

// playFile plays the sequences of a file in their order, on a server of their
// own: they share topics.
func playFile(t *testing.T, file string, groups []sequenceGroup) {
	p := newPlayer(startServer(t, "mqtt.strict-utf8=true")) // as the collection wants it where section 1.5.4 leaves the choice
	for _, g := range groups {
		for i := range g.Tests {
			q := &g.Tests[i]
			name := g.Group + "/" + q.Name
			t.Run(name, func(t *testing.T) {
				err := p.play(t, q)
				switch e := exceptionFor(file, name); {
				case e < 0 && err != nil:
					t.Error(err)
				case e >= 0 && err == nil:
					t.Errorf("passes, but internal/compat/exceptions.txt has the exception %q", compat.Exceptions()[e].Sequence)
				}
			})
		}
	}
	if n := p.server.metric("homing_panics_total"); n != 0 {
		t.Errorf("%v panics", n)
	}
}

func readSequences(t *testing.T, file string) (groups []sequenceGroup) {
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &groups)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	for _, g := range groups {
		for i := range g.Tests {
			if g.Tests[i].Ver == 0 {
				g.Tests[i].Ver = mqtt.V311
			}
		}
	}
	return groups
}

// sequenceFiles finds the collection: where HOMING_CONFORMANCE says, beside the
// module, or beside the local repository that the module is a clone of.
func sequenceFiles(t *testing.T) []string {
	dirs := []string{filepath.Join("..", "..", "shared", "conformance")}
	if url, err := exec.Command("git", "config", "--get", "remote.origin.url").Output(); err == nil {
		origin := strings.TrimPrefix(strings.TrimSpace(string(url)), "file://")
		if filepath.IsAbs(origin) {
			dirs = append(dirs, filepath.Join(origin, "..", "shared", "conformance"))
		}
	}
	dir := os.Getenv("HOMING_CONFORMANCE")
	if dir != "" {
		dirs = []string{dir}
	}
	for _, d := range dirs {
		if files, _ := filepath.Glob(filepath.Join(d, "sequences", "*.json")); len(files) > 0 {
			return files
		}
	}
	if dir != "" {
		t.Fatalf("no sequences in HOMING_CONFORMANCE=%s", dir)
	}
	t.Skip("not run: the 1,483 packet sequences, which are not part of this repository; " +
		"put test/broker/data of Eclipse Mosquitto into a directory sequences and set HOMING_CONFORMANCE to the directory it is in")
	return nil
}

// exceptionFor returns the index of the exception that a sequence is, or -1.
func exceptionFor(file, name string) int {
	return slices.IndexFunc(compat.Exceptions(), func(e compat.Exception) bool { return e.Matches(file, name) })
}
