package rocketmq

import (
	"bytes"
	"errors"
	"testing"
)

func TestSplit(t *testing.T) {
	const limit = 100
	whole := []byte("\x00\x00\x00\x08\x01\x00\x00\x02hhbb")
	for n := range whole {
		f, size, complete, err := Split(whole[:n], limit)
		want := 0
		if n >= 4 {
			want = len(whole)
		}
		if size != want || complete || err != nil || f.Header != nil {
			t.Errorf("%d bytes: size %d, complete %v, %v", n, size, complete, err)
		}
	}
	f, size, complete, err := Split(append(whole, "\x00\x00\x00"...), limit)
	if size != len(whole) || !complete || err != nil {
		t.Fatal(size, complete, err)
	}
	if f.Serialize != Binary || string(f.Header) != "hh" || string(f.Body) != "bb" || cap(f.Header) != 2 || cap(f.Body) != 2 {
		t.Errorf("%+v", f)
	}
}

func TestSplitRefuses(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     error
	}{
		{"negative length", "\xFF\xFF\xFF\xFF", ErrMalformed},
		{"no room for the second length", "\x00\x00\x00\x03", ErrMalformed},
		{"header longer than the frame", "\x00\x00\x00\x08\x00\x00\x00\x05", ErrMalformed},
		{"unknown serialization", "\x00\x00\x00\x08\x02\x00\x00\x01", ErrMalformed},
		{"over the limit, known from four bytes", "\x00\x00\x00\x61", ErrTooLarge},
		{"HTTP", "GET / HTTP/1.1\r\n", ErrTooLarge},
		{"TLS", "\x16\x03\x01\x02\x00", ErrTooLarge},
	} {
		_, size, complete, err := Split([]byte(c.in), 100)
		if !errors.Is(err, c.want) || size != 0 || complete {
			t.Errorf("%s: size %d, complete %v, %v", c.name, size, complete, err)
		}
	}
	if _, size, _, err := Split([]byte("\x00\x00\x00\x60"), 100); err != nil || size != 100 {
		t.Error("exactly the limit:", size, err)
	}
}

func TestLengths(t *testing.T) {
	b := []byte("\x7F\xFF\xFF\xFF\x01\x00\x00\x05")
	if total, header, s, ok, err := Lengths(b); total != 1<<31+3 || header != 5 || s != Binary || !ok || err != nil {
		t.Error(total, header, s, ok, err)
	}
	if _, _, _, ok, err := Lengths(b[:7]); ok || err != nil {
		t.Error(ok, err)
	}
	if _, _, _, ok, err := Lengths([]byte("\x00\x00\x00\x04\x00\x00\x00\x01")); ok || !errors.Is(err, ErrMalformed) {
		t.Error(ok, err)
	}
}

// Vectors made by hand from the specification.
func TestAppend(t *testing.T) {
	c := Command{Code: 310, Language: LanguageGo, Version: 477, Opaque: -2, Flag: FlagResponse, Remark: []byte("no\n"),
		Ext: Fields{{[]byte("k"), []byte("ü\x01\"")}, {[]byte("none"), nil}, {[]byte("e"), []byte{}}}}
	for s, want := range map[Serialize]string{
		JSON: "\x00\x00\x00\xA0\x00\x00\x00\x9A" + `{"code":310,"language":"GO","version":477,"opaque":-2,"flag":1,"remark":"no\u000a",` +
			`"extFields":{"k":"ü\u0001\"","e":""},"serializeTypeCurrentRPC":"JSON"}` + "bd",
		Binary: "\x00\x00\x00\x30\x01\x00\x00\x2A" + "\x01\x36\x09\x01\xDD\xFF\xFF\xFF\xFE\x00\x00\x00\x01" + "\x00\x00\x00\x03no\n" +
			"\x00\x00\x00\x12" + "\x00\x01k\x00\x00\x00\x04ü\x01\"" + "\x00\x01e\x00\x00\x00\x00" + "bd",
	} {
		if got := c.Append([]byte("before"), s, []byte("bd")); string(got) != "before"+want {
			t.Errorf("serialization %d:\n%q, want\n%q", s, got, "before"+want)
		}
	}
	empty := Command{Ext: Fields{{[]byte("none"), nil}}}
	if got := empty.Append(nil, JSON, nil); !bytes.Contains(got, []byte(`"extFields":{}`)) {
		t.Errorf("%q", got)
	}
}

func TestReset(t *testing.T) {
	var c Command
	big := append(append([]byte(`{"extFields":{"a":"\n`), bytes.Repeat([]byte("x"), 2*keptScratch)...), `"}}`...)
	if err := c.Decode(JSON, big); err != nil {
		t.Fatal(err)
	}
	if c.Reset(); c.scratch != nil || len(c.Ext) != 0 || c.Ext[:1][0].Key != nil {
		t.Errorf("kept: scratch %d, %v", cap(c.scratch), c.Ext[:1])
	}
}
