package mqtt

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A vector is one block of a file in testdata/vectors; testdata/README.md has
// the form.
type vector struct {
	name     string // with file and line
	inputs   []input
	packet   string // what describe says
	code     string // "0x81"
	text     string // of the error
	again    []byte // what Append gives, if not the input
	max      int
	need     int
	hasNeed  bool
	wantFail bool
}

type input struct {
	version Version
	bytes   []byte
}

// vectors reads all files.
func vectors(t testing.TB) (all []vector) {
	t.Helper()
	files, err := filepath.Glob("testdata/vectors/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no vectors", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var vec *vector
		for i, line := range strings.Split(string(data), "\n") {
			line = strings.TrimSpace(line)
			if line == "" {
				vec = nil
				continue
			}
			if line[0] == '#' {
				continue
			}
			if vec == nil {
				all = append(all, vector{name: fmt.Sprintf("%s:%d", filepath.Base(file), i+1), max: MaxPacketSize})
				vec = &all[len(all)-1]
			}
			if err := vec.set(line); err != nil {
				t.Fatalf("%s:%d: %v", file, i+1, err)
			}
		}
	}
	return all
}

// set takes over one line "key: value".
func (vec *vector) set(line string) (err error) {
	key, value, ok := strings.Cut(line, ":")
	if !ok {
		return errors.New("no colon")
	}
	value = strings.TrimSpace(value)
	switch key {
	case "name":
		vec.name += " " + value
	case "packet":
		vec.packet = value
	case "error":
		vec.wantFail = true
		vec.code, vec.text, _ = strings.Cut(value, " ")
	case "again":
		vec.again, err = parseBytes(value)
	case "max":
		vec.max, err = strconv.Atoi(value)
	case "need":
		vec.hasNeed = true
		vec.need, err = strconv.Atoi(value)
	default:
		var b []byte
		b, err = parseBytes(value)
		for _, name := range strings.Fields(key) {
			v, ok := map[string]Version{"3.1": V31, "3.1.1": V311, "5.0": V5}[name]
			if !ok {
				return fmt.Errorf("unknown key %q", key)
			}
			vec.inputs = append(vec.inputs, input{v, b})
		}
	}
	return err
}

// parseBytes reads hexadecimal digits and "quoted text", each optionally times a
// number: 00*3 "ab"*100.
func parseBytes(s string) (out []byte, err error) {
	for s = strings.TrimLeft(s, " "); s != ""; s = strings.TrimLeft(s, " ") {
		var part []byte
		if s[0] == '"' {
			quoted, err := strconv.QuotedPrefix(s)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s, err)
			}
			text, _ := strconv.Unquote(quoted)
			part, s = []byte(text), s[len(quoted):]
		} else {
			end := strings.IndexAny(s+" ", " *")
			if len(s[:end])%2 != 0 {
				return nil, fmt.Errorf("odd number of digits: %s", s[:end])
			}
			for i := 0; i < end; i += 2 {
				x, err := strconv.ParseUint(s[i:i+2], 16, 8)
				if err != nil {
					return nil, err
				}
				part = append(part, byte(x))
			}
			s = s[end:]
		}
		if strings.HasPrefix(s, "*") {
			end := strings.IndexByte(s+" ", ' ')
			n, err := strconv.Atoi(s[1:end])
			if err != nil {
				return nil, err
			}
			part, s = bytes.Repeat(part, n), s[end:]
		}
		out = append(out, part...)
	}
	return out, nil
}

func TestVectors(t *testing.T) {
	for _, vec := range vectors(t) {
		for _, in := range vec.inputs {
			t.Run(vec.name+"/"+in.version.String(), func(t *testing.T) { vec.run(t, in) })
		}
		if len(vec.inputs) == 0 || vec.packet == "" && !vec.wantFail && !vec.hasNeed {
			t.Errorf("%s: nothing to read, or nothing to expect", vec.name)
		}
	}
}

func (vec *vector) run(t *testing.T, in input) {
	first, body, n, need, err := Split(in.bytes, vec.max)
	if vec.hasNeed && (n != 0 || need != vec.need) {
		t.Errorf("Split: size %d, need %d; want need %d", n, need, vec.need)
	}
	if vec.hasNeed && !vec.wantFail {
		if err != nil {
			t.Errorf("Split: %v", err)
		}
		return
	}
	var p packet
	if err == nil {
		if n != len(in.bytes) {
			t.Fatalf("Split: %d of %d bytes, need %d", n, len(in.bytes), need)
		}
		p = newPacket(TypeOf(first))
		err = decode(p, first, body, in.version)
	}
	vec.checkError(t, err)
	if vec.packet != "" {
		if got := describe(p); got != vec.packet {
			t.Errorf("got  %s\nwant %s", got, vec.packet)
		}
	}
	if err != nil {
		return
	}
	want := in.bytes
	if vec.again != nil {
		want = vec.again
	}
	if got := p.Append(nil, in.version); !bytes.Equal(got, want) {
		t.Errorf("Append\ngot  %x\nwant %x", got, want)
	}
}

func (vec *vector) checkError(t *testing.T, err error) {
	t.Helper()
	switch {
	case !vec.wantFail:
		if err != nil {
			t.Errorf("error %v", err)
		}
	case err == nil:
		t.Errorf("no error, want %s %s", vec.code, vec.text)
	default:
		var e *Error
		if !errors.As(err, &e) {
			t.Fatalf("%T: %v", err, err)
		}
		if got := fmt.Sprintf("0x%02X", byte(e.Code)); got != vec.code || e.Text != vec.text {
			t.Errorf("error %s %s, want %s %s", got, e.Text, vec.code, vec.text)
		}
	}
}

// No part of a CONNECT or CONNACK is a whole one, and no part of anything makes
// a decoder panic.
func TestVectorsCut(t *testing.T) {
	for _, vec := range vectors(t) {
		for _, in := range vec.inputs {
			first, body, n, _, err := Split(in.bytes, MaxPacketSize)
			if err != nil || n == 0 || len(body) > 1000 || vec.wantFail {
				continue
			}
			for cut := range body {
				p := newPacket(TypeOf(first))
				err := decode(p, first, body[:cut], in.version)
				_, isConnect := p.(*Connect)
				_, isConnack := p.(*Connack)
				if err == nil && (isConnect && in.version != V31 || isConnack) {
					t.Errorf("%s %v: the first %d bytes of the body pass for a packet", vec.name, in.version, cut)
				}
				if err == nil {
					checkAgain(t, p, in.version)
				}
			}
		}
	}
}

// failer is a *testing.T or *rapid.T.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// checkAgain encodes what was decoded, decodes that, and expects the same.
func checkAgain(t failer, p packet, v Version) {
	t.Helper()
	b := p.Append(nil, v)
	q, err := read(b, v)
	if err != nil {
		t.Fatalf("%s\nencodes as %x: %v", describe(p), b, err)
	}
	if diff := diffPackets(p, q); diff != "" {
		t.Fatalf("%x\n%s", b, diff)
	}
	if c := q.Append(nil, v); !bytes.Equal(b, c) {
		t.Fatalf("encodes as %x,\nthen as    %x", b, c)
	}
	if pub, ok := p.(*Publish); ok && pub.Size(v) != len(b) {
		t.Fatalf("Size %d, but %d bytes", pub.Size(v), len(b))
	}
}
