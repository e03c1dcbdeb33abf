package compat

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Render returns what docs/compat.md is to contain. root is the directory of
// the module. The same tree gives the same bytes.
func Render(root string) ([]byte, error) {
	found, err := scan(root)
	if err != nil {
		return nil, err
	}
	p := page{tags: found, links: map[string]string{}}
	p.head()
	p.missing()
	p.choices("What is optional, and how we chose", "optional.txt", optionalData)
	p.choices("Where the server departs from a statement", "departures.txt", departuresData)
	p.suites()
	p.exceptions()
	for _, std := range standards() {
		p.table(std)
	}
	p.references()
	return p.b.Bytes(), nil
}

// Missing returns a line for each statement that the server has to meet and
// that no code, or no test, names.
func Missing(root string) ([]string, error) {
	found, err := scan(root)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, std := range standards() {
		for _, s := range std.statements {
			if what := found.lacks(s); what != "" {
				list = append(list, fmt.Sprintf("%-16s no %-12s %s", s.Tag, what, s.Words))
			}
		}
	}
	return list, nil
}

// lacks says what does not name a statement that the server has to meet.
func (t tags) lacks(s Statement) string {
	code, test := t.shown(s)
	switch {
	case !s.ours() || code && test:
		return ""
	case code:
		return "test"
	case test:
		return "code"
	}
	return "code or test"
}

// page is the document as it grows.
type page struct {
	b     bytes.Buffer
	tags  tags
	links map[string]string // label -> target
}

func (p *page) printf(format string, args ...any) { fmt.Fprintf(&p.b, format, args...) }

const headText = `<!-- Made by "make docs" from internal/compat and the tags in comments. Do not edit. -->

# MQTT, statement by statement

Every normative statement of MQTT 5.0 and 3.1.1 with the code that meets it and the test that checks it. MQTT 3.1 has no numbered
statements: where it differs from 3.1.1 it is named under "What is optional".

- The words are ours, and short. The standards count: [MQTT 5.0](https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html),
  [MQTT 3.1.1](https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/os/mqtt-v3.1.1-os.html).
- **Side** is who has to meet the statement. What is the client's is not ours to meet. Where code or a test stands there all the same,
  the server checks what clients send, or our own client (internal/mqttclient) meets it.
- **Code** and **test** are the files, and in them the functions and types, whose comments name the statement: ` + "`[MQTT-3.1.2-24]`" + ` is 5.0,
  ` + "`[MQTT3-3.1.2-24]`" + ` is 3.1.1. Where both standards say the same, one code serves both.

| | statements | the client's | do not arise | ours | with code | with test | with both |
|---|---:|---:|---:|---:|---:|---:|---:|
`

func (p *page) head() {
	p.b.WriteString(headText)
	for _, std := range standards() {
		var clients, moot, ours, code, test, both int
		for _, s := range std.statements {
			c, t := p.tags.shown(s)
			switch {
			case s.Side == Client:
				clients++
				continue
			case s.Moot != "":
				moot++
				continue
			}
			ours++
			code += one(c)
			test += one(t)
			both += one(c && t)
		}
		p.printf("| %s | %d | %d | %d | %d | %d | %d | %d |\n", std.name, len(std.statements), clients, moot, ours, code, test, both)
	}
}

func one(is bool) int {
	if is {
		return 1
	}
	return 0
}

// missing lists the server's statements that lack code or a test.
func (p *page) missing() {
	lists := map[string][]string{}
	for _, std := range standards() {
		for _, s := range std.statements {
			if what := p.tags.lacks(s); what != "" {
				lists[what] = append(lists[what], s.Tag)
			}
		}
	}
	if len(lists) == 0 {
		return
	}
	p.printf("\n## What is not shown\n\nThat no code or test names a statement does not mean that it is not met. It means that nothing here shows it.\n")
	for _, what := range []string{"code or test", "code", "test"} {
		if list := lists[what]; len(list) > 0 {
			p.printf("\nNo %s (%d):\n", what, len(list))
			for line := range slices.Chunk(list, 8) {
				p.printf("%s\n", strings.Join(line, " "))
			}
		}
	}
}

// choices is a table of what, where in the standards, and what the server does.
func (p *page) choices(title, file, data string) {
	p.printf("\n## %s\n\n| what | where | here |\n|---|---|---|\n", title)
	for _, row := range rows(file, data, 3, 3) {
		p.printf("| %s | %s | %s |\n", row[0], row[1], row[2])
	}
}

func (p *page) suites() {
	list := rows("suites.txt", suitesData, 3, 3)
	if len(list) == 0 {
		return
	}
	p.printf("\n## Other people's suites\n\nRun in development against the real server.\n\n| suite | version | result |\n|---|---|---|\n")
	for _, row := range list {
		p.printf("| %s | %s | %s |\n", row[0], row[1], row[2])
	}
}

func (p *page) exceptions() {
	list := Exceptions()
	if len(list) == 0 {
		return
	}
	p.printf("\n## Packet sequences: exceptions\n\nRecorded sequences whose outcome here differs, where the standard leaves a choice.\n\n" +
		"| file | sequence | statement | here |\n|---|---|---|---|\n")
	for _, e := range list {
		p.printf("| %s | `%s` | %s | %s |\n", e.File, e.Sequence, e.Statement, e.Reason)
	}
}

func (p *page) table(std standard) {
	p.printf("\n## %s\n\n| statement | words | side | code | test |\n|---|---|---|---|---|\n", std.name)
	for _, s := range std.statements {
		code, tests := p.tags.split(s)
		words := s.Words
		if s.Moot != "" {
			words += ". *" + s.Moot + "*"
		}
		p.printf("| %s | %s | %s | %s | %s |\n", s.Tag, words, s.Side, p.cell(code), p.cell(tests))
	}
}

// cell names places by file, each file a link.
func (p *page) cell(places []place) string {
	var b strings.Builder
	for i, at := range places {
		again := i > 0 && at.file == places[i-1].file
		if i > 0 {
			b.WriteString(map[bool]string{true: ", ", false: "; "}[again])
		}
		if !again {
			b.WriteString("[" + p.link(at.file) + "]")
		}
		if at.name != "" {
			if !again {
				b.WriteByte(' ')
			}
			b.WriteString(at.name)
		}
	}
	return b.String()
}

// short makes labels of file names.
var short = strings.NewReplacer("internal/", "", "testdata/", "", "test/scenarios/", "scenarios/")

// link returns the label of the link to a file.
func (p *page) link(file string) string {
	label := short.Replace(file)
	p.links[label] = "../" + file
	return label
}

func (p *page) references() {
	p.printf("\n")
	for _, label := range slices.Sorted(maps.Keys(p.links)) {
		p.printf("[%s]: %s\n", label, p.links[label])
	}
}
