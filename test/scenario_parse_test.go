package test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
)

// scenario is a file of test/scenarios: a trace of MQTT packets that a server
// must follow. Its language is line by line; # begins a comment.
//
// The head:
//
//	versions 5.0          the versions it is for; without: 3.1.1 5.0
//	alone                 a server of its own, and topics as they are written
//	set limits.qos=1      a setting; implies alone
//	config <<             a configuration file, up to a line with >>; implies alone
//	passwd alice secret   a user and a password; implies alone
//
// A server that is not alone is shared by all runs of all files. There each run
// has its own first topic level before all topics and filters, which nobody
// sees in the file. Client IDs are different in each run also.
//
// What a client does, or must get next (<), with the words of package mqtt's
// packets; see packetWords and properties for all of them:
//
//	a: CONNECT clean keep-alive=5 5.0|session-expiry=60 will-topic=w will-payload=gone
//	a: < CONNACK
//	a: SUBSCRIBE filter=t/# q1 filter=u q0
//	a: < SUBACK 0x01 0x00
//	a: PUBLISH q1 topic=t/1 payload="two words" user:k=v
//	a: < PUBACK
//	a: raw C1 00          bytes
//	a: drop               closes the connection without DISCONNECT
//	a: < closed           the server closes the connection
//	a: nothing 100ms      gets nothing for that time
//
// A name is a connection. Its client ID is that name unless id= says otherwise.
// A packet without id= has the next packet identifier, that of the packet it
// answers, or in < that of the packet it is the answer to. DISCONNECT waits
// until the server has closed the connection, drop until the server knows.
//
// A packet that comes from the server must be the next one that is expected,
// and have no word that is not expected. What the server may choose counts only
// if it is named: properties of CONNACK, reason strings, user properties of
// what is no PUBLISH, 0x10 for 0x00 in PUBACK and PUBREC. A word with a minus
// before it must not be there. A value may be a range (expiry=8..10), or * for
// any. At the end of a file nothing may have come that was not expected.
//
//	a/b: < PUBLISH ...    one of the two gets it; "it" is that one from now on, "other" the other one
//	any-order             expectations up to end, in any order for each client
//	repeat 5              the lines up to end five times; {n} is 1 to 5 in them
//	wait 1s
//	server: stop          also: kill (-9), start, restart (stop and start)
//
// {x} in an expected value takes what comes, if x has no value yet; otherwise
// it is that value. {id:a} is the client ID of a. For authentication data there
// are {scram-first:USER} and {scram-final:PASSWORD} to send, and {scram-server},
// which the server must answer to prove that it knows the password.
//
// 5.0| or 3.1.1| before a line or a word is for this version only.
type scenario struct {
	file     string // base name
	versions []mqtt.Version
	alone    bool
	settings []string
	config   string
	users    [][2]string // user name and password
	steps    []step
}

// step is a line. A block any-order is one step.
type step struct {
	line  int
	only  mqtt.Version // 0: all versions
	who   []string     // connections, "server", or none
	verb  string       // "<": an expectation of what
	what  string       // packet type or "closed"
	words []word
	block []step // of any-order
}

// word is a flag, or a key with a value.
type word struct {
	only       mqtt.Version // 0: all versions
	key, value string
}

func (w word) String() string {
	switch {
	case w.key == "code":
		return w.value
	case !keyed(w.key):
		return w.key
	case len(w.value) > 80:
		return fmt.Sprintf("%s=%.40q...(%d bytes)", w.key, w.value, len(w.value))
	case bareValue.MatchString(w.value):
		return w.key + "=" + w.value
	}
	return fmt.Sprintf("%s=%q", w.key, w.value)
}

func sentence(words []word) string {
	var list []string
	for _, w := range words {
		list = append(list, w.String())
	}
	return strings.Join(list, " ")
}

var (
	bareValue    = regexp.MustCompile(`^[!-~]*$`)
	reasonCode   = regexp.MustCompile(`^0x[0-9A-F]{2}(/0x[0-9A-F]{2})*$`)
	clientName   = regexp.MustCompile(`^[a-z][a-z0-9]*$`)
	versionNames = map[string]mqtt.Version{"3.1": mqtt.V31, "3.1.1": mqtt.V311, "5.0": mqtt.V5}
)

// versionOnly cuts a prefix like 5.0| off.
func versionOnly(s string) (mqtt.Version, string) {
	if name, rest, ok := strings.Cut(s, "|"); ok {
		if v, ok := versionNames[name]; ok {
			return v, strings.TrimSpace(rest)
		}
	}
	return 0, s
}

// line is one line of a file, without comment.
type line struct {
	n    int
	text string
}

// loadScenario reads a file. Its errors begin with file:line.
func loadScenario(name string) (*scenario, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return parseScenario(filepath.Base(name), string(data))
}

func parseScenario(file, text string) (*scenario, error) {
	sc := &scenario{file: file, versions: versions}
	var lines []line
	for i, t := range strings.Split(text, "\n") {
		lines = append(lines, line{i + 1, t})
	}
	n, err := sc.head(lines)
	if err == nil {
		if sc.steps, err = parseSteps(lines[n:], nil); err == nil {
			n, err = sc.check()
		}
	} else {
		n = lines[n].n
	}
	var at *lineError
	switch {
	case err == nil:
		return sc, nil
	case asLineError(err, &at):
		return nil, fmt.Errorf("%s:%d: %w", file, at.n, at.err)
	}
	return nil, fmt.Errorf("%s:%d: %w", file, n, err)
}

type lineError struct {
	n   int
	err error
}

func (e *lineError) Error() string { return e.err.Error() }

func asLineError(err error, to **lineError) bool {
	e, ok := err.(*lineError)
	*to = e
	return ok
}

// head reads the lines before the first step, and returns how many they are,
// or with an error the index of the line that is wrong.
func (sc *scenario) head(lines []line) (int, error) {
	for i := 0; i < len(lines); i++ {
		verb, rest, _ := strings.Cut(strip(lines[i].text), " ")
		rest = strings.TrimSpace(rest)
		switch verb {
		case "":
			continue
		case "versions":
			sc.versions = nil
			for _, name := range strings.Fields(rest) {
				if versionNames[name] == 0 {
					return i, fmt.Errorf("no version %q", name)
				}
				sc.versions = append(sc.versions, versionNames[name])
			}
		case "alone":
			if rest != "" {
				return i, fmt.Errorf("unknown word %q", rest)
			}
		case "set":
			if key, _, ok := strings.Cut(rest, "="); !ok || key == "" {
				return i, fmt.Errorf("set wants KEY=VALUE, not %q", rest)
			}
			sc.settings = append(sc.settings, rest)
		case "passwd":
			user, password, ok := strings.Cut(rest, " ")
			if !ok {
				return i, fmt.Errorf("passwd wants a user name and a password")
			}
			sc.users = append(sc.users, [2]string{user, password})
		case "config":
			if rest != "<<" {
				return i, fmt.Errorf("unknown word %q", rest)
			}
			for i++; i < len(lines) && lines[i].text != ">>"; i++ {
				sc.config += lines[i].text + "\n"
			}
			if i == len(lines) {
				return i - 1, fmt.Errorf("config without >>")
			}
		default:
			return i, nil
		}
		sc.alone = sc.alone || verb != "versions"
	}
	return len(lines), nil
}

// strip removes the comment and the blanks around. A # of a filter has no blank
// before it.
func strip(s string) string {
	if strings.HasPrefix(strings.TrimSpace(s), "#") {
		return ""
	}
	s, _, _ = strings.Cut(s, " #")
	return strings.TrimSpace(s)
}

// parseSteps reads steps. repeat is expanded here.
func parseSteps(lines []line, vars map[string]string) ([]step, error) {
	var steps []step
	for i := 0; i < len(lines); i++ {
		text := expand(strip(lines[i].text), vars)
		only, text := versionOnly(text)
		verb, rest, _ := strings.Cut(text, " ")
		fail := func(format string, args ...any) ([]step, error) {
			return nil, &lineError{lines[i].n, fmt.Errorf(format, args...)}
		}
		switch verb {
		case "":
		case "repeat", "any-order":
			end := i + 1
			for depth := 1; end < len(lines); end++ {
				_, t := versionOnly(strip(lines[end].text))
				if strings.HasPrefix(t, "repeat ") || t == "any-order" {
					depth++
				} else if t == "end" {
					depth--
				}
				if depth == 0 {
					break
				}
			}
			if end == len(lines) {
				return fail("%s without end", verb)
			}
			times := 1
			var err error
			if verb == "repeat" {
				if times, err = strconv.Atoi(rest); err != nil || times < 1 {
					return fail("repeat wants a number, not %q", rest)
				}
			} else if rest != "" {
				return fail("unknown word %q", rest)
			}
			var block []step
			for n := range times {
				inner := vars
				if verb == "repeat" {
					inner = map[string]string{"n": strconv.Itoa(n + 1)}
				}
				more, err := parseSteps(lines[i+1:end], inner)
				if err != nil {
					return nil, err
				}
				block = append(block, more...)
			}
			if verb == "any-order" {
				block = []step{{line: lines[i].n, verb: verb, block: block}}
			}
			for _, s := range block {
				if only != 0 {
					s.only = only
				}
				steps = append(steps, s)
			}
			i = end
		default:
			s, err := parseStep(text)
			if err != nil {
				return fail("%w", err)
			}
			s.line, s.only = lines[i].n, only
			steps = append(steps, s)
		}
	}
	return steps, nil
}

// parseStep reads what is no block.
func parseStep(text string) (step, error) {
	var s step
	who, rest, ok := strings.Cut(text, ": ")
	if !ok {
		who, rest = "", text
	}
	if who != "" {
		s.who = strings.Split(who, "/")
	}
	for _, name := range s.who {
		if !clientName.MatchString(name) {
			return s, fmt.Errorf("%q is no name of a client", name)
		}
	}
	fields, err := split(rest)
	if err != nil {
		return s, err
	}
	s.verb, fields = fields[0], fields[1:]
	if s.verb == "<" {
		if len(fields) == 0 {
			return s, fmt.Errorf("< wants a packet or closed")
		}
		s.what, fields = fields[0], fields[1:]
	}
	for _, f := range fields {
		w, err := parseWord(f)
		if err != nil {
			return s, err
		}
		s.words = append(s.words, w)
	}
	return s, nil
}

// split cuts at blanks that are not in quotes.
func split(text string) ([]string, error) {
	var fields []string
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimSpace(text) {
		end, quoted := 0, false
		for ; end < len(text) && (quoted || text[end] != ' '); end++ {
			switch {
			case text[end] == '\\' && quoted:
				end++
			case text[end] == '"':
				quoted = !quoted
			}
		}
		if quoted || end > len(text) {
			return nil, fmt.Errorf("a quote without its end: %s", text)
		}
		fields = append(fields, text[:end])
		text = text[end:]
	}
	return fields, nil
}

func parseWord(f string) (word, error) {
	var w word
	w.only, f = versionOnly(f)
	if reasonCode.MatchString(f) {
		w.key, w.value = "code", f
		return w, nil
	}
	key, value, ok := strings.Cut(f, "=")
	if ok && strings.HasPrefix(value, `"`) {
		s, err := strconv.Unquote(value)
		if err != nil {
			return w, fmt.Errorf("%s: %w", value, err)
		}
		value = s
	}
	if ok != keyed(strings.TrimPrefix(key, "-")) && !strings.HasPrefix(key, "-") {
		return w, fmt.Errorf("unknown word %q", f)
	}
	w.key, w.value = key, value
	return w, nil
}

var variable = regexp.MustCompile(`\{([a-z0-9:-]+)\}`)

// expand replaces the variables that have a value.
func expand(s string, vars map[string]string) string {
	if !strings.Contains(s, "{") {
		return s
	}
	return variable.ReplaceAllStringFunc(s, func(v string) string {
		if value, ok := vars[v[1:len(v)-1]]; ok {
			return value
		}
		return v
	})
}

// check finds what no run could do. It returns the line of the error.
func (sc *scenario) check() (int, error) {
	if len(sc.versions) == 0 {
		return 1, fmt.Errorf("no version")
	}
	if len(sc.steps) == 0 {
		return 1, fmt.Errorf("no steps")
	}
	return sc.checkSteps(sc.steps, "")
}

func (sc *scenario) checkSteps(steps []step, within string) (int, error) {
	for _, s := range steps {
		if within != "" && (s.verb != "<" || len(s.who) != 1) {
			return s.line, fmt.Errorf("only expectations of one client can be in %s", within)
		}
		if s.verb == "any-order" {
			if n, err := sc.checkSteps(s.block, s.verb); err != nil {
				return n, err
			}
			continue
		}
		for _, v := range sc.versions {
			if s.only != 0 && s.only != v {
				continue
			}
			if err := sc.checkStep(s, v); err != nil {
				return s.line, err
			}
		}
	}
	return 0, nil
}

func (sc *scenario) checkStep(s step, v mqtt.Version) error {
	words := only(s.words, v)
	switch {
	case len(s.who) == 0:
		if s.verb != "wait" {
			return fmt.Errorf("unknown line %q", s.verb)
		}
		return oneDuration(words)
	case s.who[0] == "server":
		switch s.verb {
		case "stop", "kill", "start", "restart":
			if !sc.alone {
				return fmt.Errorf("server: %s needs alone", s.verb)
			}
			return noWords(words)
		}
		return fmt.Errorf("unknown verb %q", s.verb)
	case len(s.who) > 1 && s.verb != "<":
		return fmt.Errorf("only < can be of several clients")
	case s.verb == "nothing":
		return oneDuration(words)
	case s.verb == "drop", s.verb == "<" && s.what == "closed":
		return noWords(words)
	case s.verb == "raw":
		_, err := rawBytes(words)
		return err
	case s.verb == "<":
		return checkWords(s.what, words, v, true)
	}
	if err := checkWords(s.verb, words, v, false); err != nil {
		return err
	}
	for _, w := range words {
		if f := w.value; w.key == "filter" && !sc.alone && strings.HasPrefix(f, "$") && !strings.HasPrefix(f, "$share/") {
			return fmt.Errorf("the filter %s needs alone", f)
		}
	}
	return nil
}

func noWords(words []word) error {
	if len(words) > 0 {
		return fmt.Errorf("unknown word %q", words[0])
	}
	return nil
}

func oneDuration(words []word) error {
	if len(words) != 1 {
		return fmt.Errorf("it wants one duration")
	}
	_, err := time.ParseDuration(words[0].key)
	return err
}

// only returns the words for a version.
func only(words []word, v mqtt.Version) []word {
	var list []word
	for _, w := range words {
		if w.only == 0 || w.only == v {
			w.only = 0
			list = append(list, w)
		}
	}
	return list
}
