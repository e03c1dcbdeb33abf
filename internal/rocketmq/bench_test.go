package rocketmq

import (
	"bytes"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
)

// sendFrame returns a recorded send of one SDK: its first of that code.
func sendFrame(tb testing.TB, name string, code RequestCode) (Frame, *Command) {
	tb.Helper()
	for _, b := range frames(tb)[name] {
		f, _, _, err := Split(b, MaxFrame)
		if err != nil {
			tb.Fatal(err)
		}
		c := new(Command)
		if err := c.Decode(f.Serialize, f.Header); err != nil {
			tb.Fatal(err)
		}
		if RequestCode(c.Code) == code {
			return f, c
		}
	}
	tb.Fatal("no such frame")
	return Frame{}, nil
}

var (
	answerMsgID  = []byte("7F00000100002A9F00000000000000FF")
	answerFields = Fields{{[]byte("msgId"), answerMsgID}, {[]byte("queueId"), []byte("0")}, {[]byte("queueOffset"), []byte("12345")},
		{[]byte("MSG_REGION"), []byte("DefaultRegion")}, {[]byte("TRACE_ON"), []byte("true")}}
)

// steps are what a server does with one send, each on its own.
func steps(tb testing.TB) map[string]func() {
	all := map[string]func(){}
	for name, code := range map[string]RequestCode{"go-2.1.2": SendMessage, "java-5.3.3-json": SendMessageV2, "java-5.3.3-binary": SendMessageV2} {
		f, decoded := sendFrame(tb, name, code)
		secret := []byte(recordedSecret)
		c, h := new(Command), new(SendHeader)
		dst := make([]byte, 0, 1024)
		all["Decode/"+name] = func() {
			if c.Decode(f.Serialize, f.Header) != nil {
				tb.Fatal("refused")
			}
		}
		all["SendHeader/"+name] = func() {
			if h.Decode(code, decoded.Ext) != nil {
				tb.Fatal("refused")
			}
		}
		all["Verify/"+name] = func() {
			if !Verify(secret, decoded.Ext, f.Body) {
				tb.Fatal("refused")
			}
		}
		answer := Command{Language: LanguageJava, Version: 477, Opaque: 12345, Flag: FlagResponse, Ext: answerFields}
		all["Append/"+name] = func() { dst = answer.Append(dst[:0], f.Serialize, nil) }
	}
	_, c := sendFrame(tb, "java-5.3.3-json", SendMessageV2)
	properties := c.Ext.Get("i")
	all["Property"] = func() {
		if _, ok := Property(properties, "mqttSecondTopic"); !ok {
			tb.Fatal("not there")
		}
	}
	all["CheckProperties"] = func() {
		if CheckProperties(properties) != nil {
			tb.Fatal("refused")
		}
	}
	for name, flag := range compressions {
		body := compress(tb, flag, bytes.NewReader(bytes.Repeat([]byte("large "), 1000)))
		dst := make([]byte, 0, 8192)
		all["Inflate/"+name] = func() {
			if _, err := Inflate(dst, body, flag, 1<<20); err != nil {
				tb.Fatal(err)
			}
		}
	}
	return all
}

func BenchmarkSteps(b *testing.B) {
	all := steps(b)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		step := all[name]
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				step()
			}
		})
	}
}

// TestNoAllocations: what a server does for each send is done in memory that is
// there already. (Go's zlib makes a checksum for each.)
func TestNoAllocations(t *testing.T) {
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("under the race detector sync.Pool forgets at random")
	}
	for name, step := range steps(t) {
		step()
		allowed := 0.0
		if strings.HasPrefix(name, "Inflate/zlib") {
			allowed = 1
		}
		if n := testing.AllocsPerRun(200, step); n > allowed {
			t.Errorf("%s: %.1f allocations", name, n)
		}
	}
}
