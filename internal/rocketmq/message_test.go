package rocketmq

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func pairs(b []byte) (out []string) {
	for k, v := range Properties(b) {
		out = append(out, string(k)+"="+string(v))
	}
	return out
}

func TestProperties(t *testing.T) {
	for _, c := range []struct {
		in    string
		want  string
		valid bool
	}{
		{"", "", true},
		{"k\x01v", "k=v", true},
		{"k\x01v\x02", "k=v", true},
		{"a\x011\x02b\x012\x02c\x01", "a=1 b=2 c=", true},
		{"a\x01=\x02", "a==", true},
		{"a\x011\x02\x02b\x012", "a=1 b=2", false},
		{"a", "", false},
		{"a\x02b\x011", "b=1", false},
		{"\x01v\x02b\x011", "b=1", false},
		{"a\x011\x012\x02", "a=1\x012", false},
		{"\x02", "", false},
		{"a\x01\xff", "a=\xff", false},
	} {
		if got := strings.Join(pairs([]byte(c.in)), " "); got != c.want {
			t.Errorf("%q: %q", c.in, got)
		}
		if err := CheckProperties([]byte(c.in)); (err == nil) != c.valid || err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", c.in, err)
		}
	}
	long := AppendProperty(nil, "k", strings.Repeat("v", MaxProperties-3))
	if err := CheckProperties(long); err != nil {
		t.Error(err)
	}
	if err := CheckProperties(append(long, "x\x01y"...)); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	b := []byte("a\x011\x02ab\x012\x02a\x013\x02e\x01")
	for key, want := range map[string]string{"a": "3", "ab": "2", "e": "", "b": "-", "": "-"} {
		v, ok := Property(b, key)
		if !ok {
			v = []byte("-")
		}
		if string(v) != want {
			t.Errorf("%q is %q, want %q", key, v, want)
		}
	}
	for range Properties(b) {
		break // must not go on
	}
}

func TestPropertiesRoundTrip(t *testing.T) {
	text := rapid.StringMatching(`[^\x01\x02]{1,20}`)
	rapid.Check(t, func(t *rapid.T) {
		var b []byte
		var want []string
		for range rapid.IntRange(0, 10).Draw(t, "pairs") {
			k, v := text.Draw(t, "key"), text.Draw(t, "value")
			b = AppendProperty(b, k, v)
			want = append(want, k+"="+v)
		}
		if err := CheckProperties(b); err != nil || !slices.Equal(pairs(b), want) {
			t.Fatalf("%v %q", err, b)
		}
	})
}

func collect(body []byte) (out []BatchMessage, err error) {
	for m, e := range Batch(body) {
		if err != nil {
			return nil, errors.New("something came behind an error")
		}
		if err = e; e == nil {
			out = append(out, m)
		}
	}
	return out, err
}

func TestBatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bytesOf := rapid.SliceOfN(rapid.Byte(), 0, 50)
		var body []byte
		var want []BatchMessage
		ends := map[int]bool{0: true}
		for range rapid.IntRange(1, 5).Draw(t, "messages") {
			m := BatchMessage{rapid.Int32().Draw(t, "flag"), bytesOf.Draw(t, "body"), bytesOf.Draw(t, "properties")}
			body = AppendBatchMessage(body, m)
			want = append(want, m)
			ends[len(body)] = true
		}
		got, err := collect(body)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
		for n := range body {
			if _, err := collect(body[:n]); (err == nil) != ends[n] {
				t.Fatalf("%d of %d bytes: %v", n, len(body), err)
			}
		}
	})
}

func TestBatchRefuses(t *testing.T) {
	good := AppendBatchMessage(nil, BatchMessage{Body: []byte("b"), Properties: []byte("k\x01v")})
	for name, change := range map[string]func(b []byte){
		"total too large":     func(b []byte) { b[3]++ },
		"total too small":     func(b []byte) { b[3]-- },
		"total negative":      func(b []byte) { b[0] = 0x80 },
		"body too long":       func(b []byte) { b[16] = 0x7F },
		"body negative":       func(b []byte) { b[16] = 0xFF },
		"properties too long": func(b []byte) { b[22]++ },
		"properties negative": func(b []byte) { b[21] = 0xFF },
	} {
		bad := bytes.Clone(good)
		change(bad)
		got, err := collect(append(bytes.Clone(good), bad...))
		if len(got) != 1 || !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %d messages, %v", name, len(got), err)
		}
	}
	for range Batch(append(bytes.Clone(good), good...)) {
		break
	}
}
