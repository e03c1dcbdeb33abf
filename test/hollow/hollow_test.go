package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestCore: the core has the form that hollow relies on, and what comes out is
// what the job is about.
func TestCore(t *testing.T) {
	changed, err := hollow(filepath.Join("..", "..", "internal", "broker"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, text := range changed {
		all.Write(text)
	}
	if n := strings.Count(all.String(), "."+instead+"("); n != len(entrances) {
		t.Errorf("%d calls of the hollow method, want %d", n, len(entrances))
	}
	if !strings.Contains(all.String(), "mq.OK)\n\t}\n\treturn mq.OK\n}\n") {
		t.Error("the hollow method does not answer OK")
	}
}

const small = `package broker

func (b *Broker) Publish(m *mq.Message, batch *Batch) mq.Code { return b.publish(&delivery{m: m}, batch) }

func (b *Broker) PublishQoS2(m *mq.Message, batch *Batch) (ok bool) {
	d := &delivery{m: m}
	b.publish(d, batch)
	return true
}

func (b *Broker) publish(d *delivery, batch *Batch) mq.Code { return b.other(d, batch) }
`

// TestChanged: a core of another form is an error, or the hollow method follows.
func TestChanged(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"as it is", "", "", "return mq.OK"},
		{"more results", ") mq.Code { return b.other", ") (n int, code mq.Code) { return b.other", "return *new(int), mq.OK"},
		{"no entrance", "PublishQoS2", "PublishTwice", "error: the core has no method Broker.PublishQoS2"},
		{"function", "(b *Broker) Publish(m", "Publish(b *Broker, m", "error: the core has no method Broker.Publish:"},
		{"other way", "return b.publish(", "return b.route(", "error: method Broker.Publish does not call Broker.publish"},
		{"no way", ") publish(d", ") route(d", "error: the core has no method Broker.publish"},
		{"other delivery", "publish(d *delivery", "publish(d delivery", "error: method Broker.publish has no parameters of the types"},
		{"no code", "batch *Batch) mq.Code { return b.other", "batch *Batch) bool { return b.other", "error: method Broker.publish answers with no mq.Code"},
		{"no result", "batch *Batch) mq.Code { return b.other(d, batch) }", "batch *Batch) {}", "error: method Broker.publish answers with no code"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(small, c.old, c.new, 1)
			if c.old != "" && text == small {
				t.Fatal("nothing is changed")
			}
			dir := t.TempDir()
			path := filepath.Join(dir, "publish.go")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			changed, err := hollow(dir)
			got := string(changed[path])
			if err != nil {
				got = "error: " + err.Error()
			}
			if !strings.Contains(got, c.want) {
				t.Errorf("no %q in %s", c.want, got)
			}
		})
	}
}

// TestVerdict: what passes must be listed, and what is listed must be there.
func TestVerdict(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list")
	text := "# a comment\n\nbroker TestListed about something else\nbroker TestMended was listed\nbroker TestGone has gone\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := readList(path)
	if err != nil {
		t.Fatal(err)
	}
	faults, hints := verdict(map[test]outcome{
		{"broker", "TestListed"}: passed, {"broker", "TestMended"}: failed, {"broker", "TestLate"}: late, {"broker", "TestSkipped"}: skipped,
		{"broker", "TestNew"}: passed, {"mqttserver", "TestListed"}: passed,
	}, list)
	names := func(lines []string) (out []string) {
		for _, l := range lines {
			out = append(out, strings.Join(strings.Fields(l)[:2], " "))
		}
		return out
	}
	if got := names(faults); !slices.Equal(got, []string{"broker TestNew", "mqttserver TestListed", "broker TestGone"}) {
		t.Errorf("faults: %q", faults)
	}
	if got := names(hints); !slices.Equal(got, []string{"broker TestMended"}) {
		t.Errorf("hints: %q", hints)
	}
	for _, bad := range []string{"broker TestA\n", "broker TestA x\nbroker TestA y\n"} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readList(path); err == nil {
			t.Errorf("%q is taken for a list", bad)
		}
	}
}
