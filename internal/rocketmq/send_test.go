package rocketmq

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func fieldsOf(pairs ...string) (f Fields) {
	for i := 0; i < len(pairs); i += 2 {
		f = append(f, Field{[]byte(pairs[i]), []byte(pairs[i+1])})
	}
	return f
}

var (
	longSend = fieldsOf("producerGroup", "g", "topic", "t", "defaultTopic", "d", "defaultTopicQueueNums", "4", "queueId", "-1", "sysFlag", "769",
		"bornTimestamp", "1795372278366", "flag", "7", "properties", "k\x01v", "reconsumeTimes", "2", "unitMode", "TRUE", "batch", "true",
		"maxReconsumeTimes", "16", "bname", "b", "ns", "n", "a", "not for this request")
	shortSend = fieldsOf("a", "g", "b", "t", "c", "d", "d", "4", "e", "-1", "f", "769", "g", "1795372278366", "h", "7", "i", "k\x01v", "j", "2",
		"k", "true", "l", "16", "m", "true", "n", "b", "ns", "n", "topic", "not for this request", "o", "x", "`", "x")
)

func TestSendHeader(t *testing.T) {
	want := SendHeader{[]byte("g"), []byte("t"), []byte("d"), 4, -1, SysCompressed | SysZlib, 1795372278366, 7, []byte("k\x01v"), 2, true, true, 16, []byte("b"), []byte("n")}
	for code, ext := range map[RequestCode]Fields{SendMessage: longSend, SendReplyMessage: longSend, SendMessageV2: shortSend, SendReplyMessageV2: shortSend, SendBatchMessage: shortSend} {
		h := SendHeader{ReconsumeTimes: 5, Properties: []byte("old")}
		if err := h.Decode(code, ext); err != nil {
			t.Fatal(code, err)
		}
		if diff := cmp.Diff(want, h); diff != "" {
			t.Errorf("%s: %s", code, diff)
		}
	}
	h := want
	if err := h.Decode(SendMessageV2, shortSend[:8]); err != nil {
		t.Fatal(err)
	}
	if h.Properties != nil || h.Batch || h.UnitMode || h.MaxReconsumeTimes != 0 || h.BrokerName != nil {
		t.Errorf("left from before: %+v", h)
	}
	if err := h.Decode(SendBatchMessage, append(fieldsOf("m", "false"), shortSend[:8]...)); err != nil || !h.Batch {
		t.Error("SEND_BATCH_MESSAGE is no batch", err)
	}
}

func TestSendHeaderRefuses(t *testing.T) {
	var h SendHeader
	for i, name := range sendNames[:sendProperties] {
		ext := append(append(Fields{}, longSend[:i]...), longSend[i+1:]...)
		if err := h.Decode(SendMessage, ext); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
	for _, pair := range [][2]string{{"e", ""}, {"e", "x"}, {"f", "2147483648"}, {"g", "9223372036854775808"}, {"h", "1.5"}, {"d", " 4"}, {"j", "-"}, {"l", "0x1"}} {
		ext := append(append(Fields{}, shortSend...), fieldsOf(pair[0], pair[1])...)
		if err := h.Decode(SendMessageV2, ext); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s = %q: %v", pair[0], pair[1], err)
		}
	}
}

func TestCodeNames(t *testing.T) {
	for want, got := range map[string]string{
		"SEND_MESSAGE_V2": SendMessageV2.String(), "GET_ROUTEINFO_BY_TOPIC": RequestCode(105).String(), "request 9999": RequestCode(9999).String(),
		"FLOW_CONTROL": ResponseCode(215).String(), "response -7": ResponseCode(-7).String(),
		"NODE_JS": Language(13).String(), "OTHER": Language(200).String(),
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
