package mqttserver

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/homing-mq/homing/internal/mqtt"
)

// dialWebSocket starts a gateway and opens a WebSocket to it.
func dialWebSocket(t *testing.T, change func(*Options)) (context.Context, *websocket.Conn) {
	t.Helper()
	s, _ := serve(t, change)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.ServeWebSocket(l, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	ws, _, err := websocket.Dial(ctx, "ws://"+l.Addr().String()+"/mqtt", &websocket.DialOptions{Subprotocols: []string{"mqtt"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	return ctx, ws
}

// TestOnePacketAFrame: clients made with paho.mqtt.c do not look behind the first
// packet of a frame.
func TestOnePacketAFrame(t *testing.T) {
	ctx, ws := dialWebSocket(t, nil)
	out := (&mqtt.Connect{ClientID: []byte("web"), CleanStart: true}).Append(nil, mqtt.V311)
	out = (&mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: []byte("t"), QoS: 1}}}).Append(out, mqtt.V311)
	for id := range uint16(5) {
		out = (&mqtt.Publish{Topic: []byte("t"), QoS: 1, PacketID: id + 1, Payload: []byte("x")}).Append(out, mqtt.V311)
	}
	if err := ws.Write(ctx, websocket.MessageBinary, out); err != nil {
		t.Fatal(err)
	}
	came := map[mqtt.PacketType]int{}
	for frames := 0; came[mqtt.PUBLISH] < 5; frames++ { // and CONNACK, SUBACK; PUBACKs follow
		_, frame, err := ws.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		first, _, n, _, err := mqtt.Split(frame, mqtt.MaxPacketSize)
		if err != nil || n != len(frame) {
			t.Fatalf("frame %d has %d bytes, its first packet %d: % x", frames, len(frame), n, frame)
		}
		came[mqtt.TypeOf(first)]++
	}
	if came[mqtt.CONNACK] != 1 || came[mqtt.SUBACK] != 1 {
		t.Errorf("came: %v", came)
	}
}
