package rocketmq

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func FuzzSplit(f *testing.F) {
	for _, list := range frames(f) {
		for _, frame := range list {
			f.Add(frame, 4096)
		}
	}
	f.Add([]byte("\x00\x00\x00\x08\x00\x00\x00\x05"), 4096)
	f.Fuzz(func(t *testing.T, b []byte, limit int) {
		frame, size, complete, err := Split(b, limit)
		switch {
		case err != nil:
			if size != 0 || complete {
				t.Fatal(size, complete, err)
			}
		case complete && (size > len(b) || size > limit || len(frame.Header)+len(frame.Body)+prefixSize != size):
			t.Fatal(size, frame)
		case !complete && size <= len(b) && size != 0:
			t.Fatal("complete, and not said so", size)
		}
		if total, header, _, ok, err := Lengths(b); ok != (len(b) >= prefixSize && err == nil) || header > total {
			t.Fatal(total, header, ok, err)
		}
		if complete {
			var c Command
			_ = c.Decode(frame.Serialize, frame.Header)
		}
	})
}

func FuzzJSON(f *testing.F) {
	addHeaders(f, JSON)
	f.Fuzz(func(t *testing.T, header []byte) { checkJSON(t, header, true) })
}

func FuzzBinary(f *testing.F) {
	addHeaders(f, Binary)
	f.Fuzz(func(t *testing.T, header []byte) {
		var c, again Command
		if err := c.Decode(Binary, header); err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		frame, _, _, _ := Split(c.Append(nil, Binary, nil), MaxFrame)
		if err := again.Decode(Binary, frame.Header); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(decodedOf(&c), decodedOf(&again)); diff != "" {
			t.Fatal(diff)
		}
	})
}

// addHeaders adds the recorded headers of one serialization, and all others
// written in it.
func addHeaders(f *testing.F, s Serialize) {
	for _, list := range frames(f) {
		for _, b := range list {
			frame, _, _, err := Split(b, MaxFrame)
			if err != nil {
				f.Fatal(err)
			}
			if frame.Serialize != s {
				var c Command
				if err := c.Decode(frame.Serialize, frame.Header); err != nil {
					f.Fatal(err)
				}
				frame, _, _, _ = Split(c.Append(nil, s, nil), MaxFrame)
			}
			f.Add(frame.Header)
		}
	}
}

func FuzzBatch(f *testing.F) {
	one := AppendBatchMessage(nil, BatchMessage{1, []byte("body"), []byte("k\x01v\x02")})
	f.Add(append(bytes.Clone(one), one...))
	f.Fuzz(func(t *testing.T, body []byte) {
		messages, err := collect(body)
		if err != nil {
			return
		}
		var again []byte
		for _, m := range messages {
			again = AppendBatchMessage(again, m)
		}
		if len(again) != len(body) {
			t.Fatalf("%d bytes, were %d", len(again), len(body))
		}
	})
}

func FuzzProperties(f *testing.F) {
	f.Add([]byte("a\x011\x02b\x012\x02"))
	f.Add([]byte("a\x01\x02\x02\x01b"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		for k, v := range Properties(b) {
			again = AppendProperty(again, string(k), string(v))
			if _, ok := Property(b, string(k)); !ok {
				t.Fatalf("%q is not there", k)
			}
		}
		if CheckProperties(b) == nil && !bytes.Equal(bytes.TrimSuffix(again, []byte{valueEnd}), bytes.TrimSuffix(b, []byte{valueEnd})) {
			t.Fatalf("%q, was %q", again, b)
		}
	})
}

func FuzzInflate(f *testing.F) {
	for _, flag := range compressions {
		f.Add(compress(f, flag, bytes.NewReader([]byte("body body body body"))), flag)
	}
	const limit = 1 << 16
	f.Fuzz(func(t *testing.T, body []byte, flag int32) {
		got, err := Inflate(nil, body, flag, limit)
		if err == nil && len(got) > limit || err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) {
			t.Fatal(len(got), err)
		}
	})
}

func FuzzBodies(f *testing.F) {
	for _, list := range frames(f) {
		for _, b := range list {
			if frame, _, _, _ := Split(b, MaxFrame); len(frame.Body) > 0 && frame.Body[0] == '{' {
				f.Add(frame.Body)
			}
		}
	}
	f.Add(AppendRoute(nil, &Route{"b", "c", "a:1", 4, 6}))
	f.Add([]byte(`{"brokerDatas":[{"brokerAddrs":{0:"a:1"}}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var h Heartbeat
		if err := h.Decode(body); err != nil && !errors.Is(err, ErrMalformed) {
			t.Fatal(err)
		}
		if addr, err := RouteAddr(body); (err == nil) != (addr != "") {
			t.Fatal(addr, err)
		}
	})
}
