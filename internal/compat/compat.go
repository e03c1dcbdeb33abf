// Package compat knows every normative statement of MQTT 3.1.1 and 5.0, and
// finds where the code meets it and which test checks it: docs/compat.md is
// made of that.
//
// Code and tests name statements by tags in comments: MQTT-3.1.2-24 in square
// brackets is a statement of 5.0, MQTT3-3.1.2-24 one of 3.1.1. The data are the
// text files beside this one.
package compat

import (
	_ "embed" // the data
	"fmt"
	"strings"
)

var (
	//go:embed mqtt311.txt
	mqtt311Data string
	//go:embed mqtt5.txt
	mqtt5Data string
	//go:embed optional.txt
	optionalData string
	//go:embed departures.txt
	departuresData string
	//go:embed suites.txt
	suitesData string
	//go:embed exceptions.txt
	exceptionsData string
)

// Side says who has to meet a statement.
type Side string

// The sides.
const (
	Server Side = "server"
	Client Side = "client"
	Both   Side = "both"
)

// Statement is a normative statement of a standard.
type Statement struct {
	Tag   string // without brackets
	Side  Side
	Words string
	Moot  string // why it does not arise here; empty: it does
}

// ours reports whether the server has to meet the statement.
func (s Statement) ours() bool { return s.Side != Client && s.Moot == "" }

// standard is one of the two lists.
type standard struct {
	name       string
	statements []Statement
}

// standards returns the lists, in the order of the standards' numbers.
func standards() []standard {
	return []standard{
		{"MQTT 5.0", statements("mqtt5.txt", mqtt5Data, "MQTT-")},
		{"MQTT 3.1.1", statements("mqtt311.txt", mqtt311Data, "MQTT3-")},
	}
}

func statements(file, data, prefix string) (list []Statement) {
	for _, row := range rows(file, data, 3, 4) {
		s := Statement{Tag: prefix + row[0], Side: Side(row[1]), Words: row[2]}
		if len(row) == 4 {
			s.Moot = row[3]
		}
		list = append(list, s)
	}
	return list
}

// Exception is a recorded packet sequence, or several, whose outcome here is
// another one because the standard leaves the choice.
type Exception struct {
	File      string // of the sequence
	Sequence  string // group/name; * stands for any characters
	Statement string // which leaves the choice
	Reason    string // what the server does
}

// Exceptions returns what exceptions.txt lists, in its order.
func Exceptions() (list []Exception) {
	for _, row := range rows("exceptions.txt", exceptionsData, 4, 4) {
		list = append(list, Exception{row[0], row[1], row[2], row[3]})
	}
	return list
}

// Matches reports whether the exception is for the sequence, which is named
// group/name.
func (e Exception) Matches(file, sequence string) bool {
	if file != e.File {
		return false
	}
	parts := strings.Split(e.Sequence, "*")
	last := len(parts) - 1
	if last == 0 {
		return sequence == e.Sequence
	}
	rest, ok := strings.CutPrefix(sequence, parts[0])
	for _, part := range parts[1:last] {
		if !ok {
			return false
		}
		_, rest, ok = strings.Cut(rest, part)
	}
	return ok && strings.HasSuffix(rest, parts[last])
}

// rows splits data into lines, and those at tabs. Empty lines and lines that
// begin with # are left out. A line with too few or too many fields is a
// mistake in a file that is part of the program: it panics.
func rows(file, data string, least, most int) (list [][]string) {
	for i, line := range strings.Split(data, "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		row := strings.Split(line, "\t")
		if len(row) < least || len(row) > most {
			panic(fmt.Sprintf("internal/compat/%s:%d: %d fields", file, i+1, len(row)))
		}
		list = append(list, row)
	}
	return list
}
