package rocketmq

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const (
	recordedSecret = "homing-secret"
	recordedNote   = "ü<&>\"\\ 消息 😀"
)

// frames returns what real SDKs sent, by the name of the file.
func frames(tb testing.TB) map[string][][]byte {
	tb.Helper()
	files, err := filepath.Glob("testdata/frames/*.txt")
	if err != nil || len(files) == 0 {
		tb.Fatal("no recorded frames", err)
	}
	all := map[string][][]byte{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		for line := range strings.Lines(string(text)) {
			if line[0] == '#' {
				continue
			}
			frame, err := hex.DecodeString(strings.TrimSpace(line))
			if err != nil {
				tb.Fatal(file, err)
			}
			all[name] = append(all[name], frame)
		}
	}
	return all
}

// recorded calls check with each recorded frame.
func recorded(t *testing.T, check func(t *testing.T, f Frame, c *Command)) {
	t.Helper()
	for name, list := range frames(t) {
		for _, b := range list {
			f, size, complete, err := Split(b, MaxFrame)
			if err != nil || !complete || size != len(b) {
				t.Fatalf("%s: size %d of %d, complete %v, %v", name, size, len(b), complete, err)
			}
			var c Command
			if err := c.Decode(f.Serialize, f.Header); err != nil {
				t.Fatalf("%s: %v\n%q", name, err, f.Header)
			}
			t.Run(name+"/"+RequestCode(c.Code).String(), func(t *testing.T) { check(t, f, &c) })
		}
	}
}

func isSend(c *Command) bool {
	return slices.Contains([]RequestCode{SendMessage, SendMessageV2, SendBatchMessage}, RequestCode(c.Code))
}

func TestRecordedCommands(t *testing.T) {
	codes := map[RequestCode]int{}
	recorded(t, func(t *testing.T, f Frame, c *Command) {
		codes[RequestCode(c.Code)]++
		if c.IsResponse() || (c.Language != LanguageJava && c.Language != LanguageGo) || c.Version < 300 {
			t.Errorf("%+v", c)
		}
		if oneway := string(f.Body) == "oneway" && c.Language == LanguageJava; c.IsOneway() != oneway {
			t.Errorf("one-way: %v", c.IsOneway())
		}
		for _, s := range []Serialize{JSON, Binary} {
			var again Command
			f2, _, complete, err := Split(c.Append(nil, s, f.Body), MaxFrame)
			if err != nil || !complete || f2.Serialize != s || !bytes.Equal(f2.Body, f.Body) {
				t.Fatal(complete, err)
			}
			if err := again.Decode(s, f2.Header); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c, &again, cmpopts.IgnoreUnexported(Command{}), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("serialization %d: %s", s, diff)
			}
		}
	})
	for code, least := range map[RequestCode]int{SendMessage: 3, SendMessageV2: 12, SendBatchMessage: 5, HeartBeat: 7, GetRouteInfoByTopic: 6, UnregisterClient: 4} {
		if codes[code] < least {
			t.Errorf("%s: %d frames", code, codes[code])
		}
	}
}

func TestRecordedSends(t *testing.T) {
	recorded(t, func(t *testing.T, f Frame, c *Command) {
		if !isSend(c) {
			return
		}
		var h SendHeader
		if err := h.Decode(RequestCode(c.Code), c.Ext); err != nil {
			t.Fatal(err)
		}
		if string(h.Topic) != "parent" || string(h.DefaultTopic) != "TBW102" || h.DefaultQueues != 4 || h.QueueID < 0 || h.QueueID > 1 ||
			!strings.HasPrefix(string(h.ProducerGroup), "GID_") || h.BornTimestamp/1e10 != 179 || h.Flag != 0 || h.UnitMode {
			t.Errorf("%+v", h)
		}
		if h.Batch != (RequestCode(c.Code) == SendBatchMessage) {
			t.Errorf("batch: %v", h.Batch)
		}
		if h.Batch {
			checkRecordedBatch(t, f.Body)
			return
		}
		checkRecordedProperties(t, h.Properties)
		body, err := Inflate(nil, f.Body, h.SysFlag, 6000)
		if err != nil {
			t.Fatal(err)
		}
		if s := string(body); s != "hello" && s != "oneway" && s != strings.Repeat("large ", 1000) {
			t.Errorf("body %q, flag %#x", body, h.SysFlag)
		}
	})
}

func checkRecordedProperties(t *testing.T, properties []byte) {
	t.Helper()
	if err := CheckProperties(properties); err != nil {
		t.Error(err)
	}
	target, ok := Property(properties, "mqttSecondTopic")
	if note, _ := Property(properties, "note"); !ok || string(target) != "/p2p/GID_x@@@1" || string(note) != recordedNote {
		t.Errorf("%q", properties)
	}
}

func checkRecordedBatch(t *testing.T, body []byte) {
	t.Helper()
	var bodies []string
	var again []byte
	for m, err := range Batch(body) {
		if err != nil {
			t.Fatal(err)
		}
		checkRecordedProperties(t, m.Properties)
		bodies = append(bodies, string(m.Body))
		again = AppendBatchMessage(again, m)
	}
	if !slices.Equal(bodies, []string{"one", "two"}) {
		t.Errorf("%q", bodies)
	}
	if !bytes.Equal(again, body) {
		t.Errorf("written again: %q, was %q", again, body)
	}
}

func TestRecordedSignatures(t *testing.T) {
	secret := []byte(recordedSecret)
	recorded(t, func(t *testing.T, f Frame, c *Command) {
		signature := c.Ext.Get(KeySignature)
		if (signature == nil) != (string(c.Ext.Get("consumerGroup")) == "GID_consumer" && c.Language == LanguageGo || c.Ext.Get(KeyAccessKey) == nil) {
			t.Fatalf("signature %q", signature)
		}
		if Verify(secret, c.Ext, f.Body) != (signature != nil) {
			t.Errorf("signature %q refused", signature)
		}
		if Verify([]byte("homing-secrets"), c.Ext, f.Body) || Verify(secret, c.Ext, append([]byte("x"), f.Body...)) {
			t.Error("wrong secret or body taken")
		}
		for i := range c.Ext {
			value := c.Ext[i].Value
			c.Ext[i].Value = append([]byte("x"), value...)
			if optional := string(c.Ext[i].Key) == KeySecurityToken && c.Language == LanguageGo; Verify(secret, c.Ext, f.Body) != optional {
				t.Errorf("field %s changed", c.Ext[i].Key)
			}
			c.Ext[i].Value = value
		}
	})
}

func TestRecordedHeartbeats(t *testing.T) {
	seen := map[string]bool{}
	recorded(t, func(t *testing.T, f Frame, c *Command) {
		if RequestCode(c.Code) != HeartBeat {
			return
		}
		var h Heartbeat
		if err := h.Decode(f.Body); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(h.ClientID, "192.0.2.2@") || len(h.Producers)+len(h.Consumers) == 0 {
			t.Errorf("%+v", h)
		}
		for _, group := range append(h.Producers, h.Consumers...) {
			seen[group] = true
		}
	})
	if !seen["GID_java"] || !seen["GID_consumer"] || !seen["CLIENT_INNER_PRODUCER"] || len(seen) != 3 {
		t.Error(seen)
	}
}
