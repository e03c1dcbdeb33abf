package mq

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRecord(t *testing.T) {
	for _, m := range []Message{
		{Topic: []byte("a"), Payload: []byte{}, Props: []byte{}},
		{Topic: []byte("a/p2p/b"), Payload: []byte("hello"), Props: []byte("\x01\x01"), Expiry: 1 << 40, QoS: 2, Keep: true},
		{Topic: []byte("a/b"), Payload: []byte("x"), Props: []byte{}, QoS: 1, Retain: true, Addressed: true},
		{Topic: []byte("a/b"), Payload: []byte("x"), Props: []byte{}, QoS: 1, Retain: true, Addressed: true, Live: true},
		{Topic: []byte("a/p2p/b"), RealTopic: []byte("a/real"), Payload: []byte("hello"), Props: []byte("\x01\x01"), QoS: 1, Keep: true},
	} {
		rec := AppendRecord([]byte("before"), &m)[len("before"):]
		if len(rec) > RecordSize(&m) {
			t.Errorf("%q: record of %d bytes, RecordSize says %d", m.Topic, len(rec), RecordSize(&m))
		}
		got := Message{Topic: []byte("old"), RealTopic: []byte("old"), Retain: true, Keep: true, Addressed: true, Live: true}
		if err := DecodeRecord(&got, rec); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, got); diff != "" {
			t.Error(diff)
		}
		for n := range len(rec) - len(m.Payload) {
			if err := DecodeRecord(&got, rec[:n]); err == nil {
				t.Errorf("%q: the first %d of %d bytes decode", m.Topic, n, len(rec))
			}
		}
	}
}

func TestSeenTopic(t *testing.T) {
	m := Message{Topic: []byte("a/p2p/b")}
	if got := string(m.SeenTopic()); got != "a/p2p/b" {
		t.Errorf("a message without a real topic is seen as %q", got)
	}
	m.RealTopic = []byte("a/c")
	if got := string(m.SeenTopic()); got != "a/c" {
		t.Errorf("a message with real topic a/c is seen as %q", got)
	}
}
