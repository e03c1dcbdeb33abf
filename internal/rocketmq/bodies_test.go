package rocketmq

import (
	"encoding/json"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRoute(t *testing.T) {
	r := Route{BrokerName: "hom\"ing", Cluster: "c", Addr: "[::1]:9876", Queues: 4, Perm: PermRead | PermWrite}
	body := AppendRoute([]byte{}, &r)
	want := `{"brokerDatas":[{"brokerAddrs":{"0":"[::1]:9876"},"brokerName":"hom\"ing","cluster":"c","enableActingMaster":false}],"filterServerTable":{},` +
		`"queueDatas":[{"brokerName":"hom\"ing","perm":6,"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":4}]}`
	if string(body) != want || !json.Valid(body) {
		t.Errorf("%s", body)
	}
	if addr, err := RouteAddr(body); addr != r.Addr || err != nil {
		t.Error(addr, err)
	}
}

func TestRouteAddr(t *testing.T) {
	for body, want := range map[string]string{
		`{"brokerDatas":[{"brokerAddrs":{0:"a:1",1:"b:2"},"brokerName":"{1:,2:\"{3:"}],"queueDatas":[]}`: "a:1",
		`{"brokerDatas":[{"brokerAddrs":{1:"b:2",0:"a:1"}}]}`:                                            "a:1",
		`{"brokerDatas":[{"brokerAddrs":{"1":"b:2"}},{"brokerAddrs":{"0":"c:3"}}]}`:                      "c:3",
		`{"brokerDatas":[{"brokerAddrs":{"1":"b:2"}}]}`:                                                  "",
		`{"brokerDatas":[],"x":[1,2,34]}`:                                                                "",
		`{"brokerDatas":[{"brokerAddrs":{0`:                                                              "",
		``:                                                                                               "",
	} {
		addr, err := RouteAddr([]byte(body))
		if addr != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %q, %v", body, addr, err)
		}
	}
}

func TestHeartbeat(t *testing.T) {
	h := Heartbeat{Consumers: []string{"old"}}
	err := h.Decode([]byte(`{"clientID":"c","producerDataSet":[{"groupName":"p1"},{"groupName":"p2"}],"heartbeatFingerprint":0}`))
	if diff := cmp.Diff(Heartbeat{"c", []string{"p1", "p2"}, nil}, h); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for _, body := range []string{``, `{`, `[]`, `{}`, `{"clientID":5}`, `{"clientID":""}`, `{"clientID":"c","producerDataSet":{}}`} {
		if err := h.Decode([]byte(body)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func TestSmallBodies(t *testing.T) {
	if got := AppendConsumerList(nil, []string{"a@1", "b\n"}); string(got) != `{"consumerIdList":["a@1","b\u000a"]}` {
		t.Errorf("%s", got)
	}
	if got := AppendConsumerList(nil, nil); string(got) != `{"consumerIdList":[]}` {
		t.Errorf("%s", got)
	}
	for ip, want := range map[string]string{
		"127.0.0.1":        "7F00000100002A9F00000000000000FF",
		"::ffff:127.0.0.1": "7F00000100002A9F00000000000000FF",
		"2001:db8::1":      "20010DB800000000000000000000000100002A9F00000000000000FF",
	} {
		if got := OffsetMessageID(netip.MustParseAddr(ip), 10911, 255); got != want {
			t.Errorf("%s: %s", ip, got)
		}
	}
}
