package mqttserver

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/homing-mq/homing/internal/mqtt"
)

// largePublish is a PUBLISH with a payload of size bytes.
func largePublish(size int, v mqtt.Version) []byte {
	return (&mqtt.Publish{Topic: []byte("t"), Payload: bytes.Repeat([]byte("x"), size), QoS: 1, PacketID: 7}).Append(nil, v)
}

// begin sends the beginning of a packet, as far as the server reads it.
func (p *peer) begin(b []byte) {
	_ = p.SetWriteDeadline(time.Now().Add(20 * time.Second))
	_, _ = p.Write(b)
}

// Clients that begin a large packet and stop hold no more memory together than the
// limit, and keep others from theirs only until they are closed. Those that go on
// all get through.
func TestUnfinishedPackets(t *testing.T) {
	const size, memory = 512 << 10, 8 << 20
	s, addr := serve(t, func(o *Options) { o.Memory, o.ConnectTimeout = memory, time.Second })
	var most atomic.Int64
	watch := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-watch:
				return
			case <-time.After(time.Millisecond):
				most.Store(max(most.Load(), s.Unfinished().Held.Load()))
			}
		}
	})
	var stopped []*peer
	for i := range 30 {
		v := []mqtt.Version{mqtt.V311, mqtt.V5}[i%2]
		p := connect(t, addr, "stopped-"+string(rune('A'+i)), v)
		stopped = append(stopped, p)
		wg.Go(func() { p.begin(largePublish(size, v)[:size-100]) })
	}
	until(t, "there is no room", func() bool { return s.Unfinished().Waits.Load() > 0 })
	arrived := 0
	for range 10 {
		p := connect(t, addr, "honest", mqtt.V5)
		p.raw(largePublish(size, mqtt.V5))
		p.expectAck(mqtt.PUBACK, 7, mqtt.CodeNoMatchingSubscribers)
		arrived++
	}
	closed, told := 0, 0
	for _, p := range stopped {
		_ = p.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		first, _, err := p.nextNow()
		switch {
		case err == nil && mqtt.TypeOf(first) == mqtt.DISCONNECT:
			told++
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		}
		closed++
	}
	t.Logf("%d of 10 arrived; %d of 30 were closed, %d of those with MQTT 5 were told; at most %d bytes of %d", arrived, closed, told, most.Load(), memory/2)
	if n := s.Unfinished().Closed.Load(); closed == 0 || told == 0 || n == 0 || closed == 30 {
		t.Errorf("%d are closed, %d counted, %d told why", closed, n, told)
	}
	if n := most.Load(); n > memory/2 {
		t.Errorf("%d bytes were held, the limit is %d", n, memory/2)
	}
	for _, p := range stopped {
		_ = p.Close()
	}
	until(t, "all is given back", func() bool { return s.Unfinished().Held.Load() == 0 && s.broker.PendingBytes() == 0 })
	close(watch)
	wg.Wait()
}

// nextNow is next with the read deadline that is set.
func (p *peer) nextNow() (first byte, body []byte, err error) {
	for {
		first, body, n, _, err := mqtt.Split(p.buf, 1<<28)
		if err != nil || n > 0 {
			return first, body, err
		}
		chunk := make([]byte, 4096)
		n, err = p.Read(chunk)
		if err != nil {
			return 0, nil, err
		}
		p.buf = append(p.buf, chunk[:n]...)
	}
}

// Many short beginnings are bounded, too, and whoever completes his is not closed
// for those of others.
func TestUnfinishedBeginnings(t *testing.T) {
	const memory = 400 << 10
	s, addr := serve(t, func(o *Options) { o.Memory, o.PacketSize, o.ConnectTimeout = memory, 16<<10, time.Minute })
	publish := largePublish(4000, mqtt.V5)
	var all []*peer
	for range 100 {
		p := connect(t, addr, "", mqtt.V5)
		p.raw(publish[:3000])
		all = append(all, p)
		if n := s.Unfinished().Held.Load(); n > memory/2+4096 {
			t.Fatalf("%d bytes are held, the limit is %d", n, memory/2)
		}
	}
	until(t, "the first are closed", func() bool { return s.Unfinished().Closed.Load() >= 30 })
	arrived := 0
	for _, p := range all[70:] {
		p.raw(publish[3000:])
		p.expectAck(mqtt.PUBACK, 7, mqtt.CodeNoMatchingSubscribers)
		arrived++
	}
	all[0].expectClose(mqtt.CodeQuotaExceeded)
	if n := s.Unfinished().Closed.Load(); arrived != 30 || n > 40 {
		t.Errorf("%d of 30 arrived, %d are closed", arrived, n)
	}
	for _, p := range all {
		_ = p.Close()
	}
	until(t, "all is given back", func() bool { return s.Unfinished().Held.Load() == 0 && s.broker.PendingBytes() == 0 })
}

// Packets in pieces of any size arrive whole, and leave nothing counted.
func TestUnfinishedPieces(t *testing.T) {
	s, addr := serve(t, func(o *Options) { o.Memory = 16 << 20 })
	for _, piece := range []int{1000, 4095, 5000, 16 << 10, 50_000, 300_000} {
		p := connect(t, addr, "pieces", mqtt.V5)
		var stream []byte
		for _, size := range []int{10, 3000, 5000, 20_000, 100, 700_000, 16_384, 10} {
			stream = append(stream, largePublish(size, mqtt.V5)...)
		}
		read := s.Stats.BytesIn.Load()
		for at := 0; at < len(stream); at += piece {
			p.raw(stream[at:min(at+piece, len(stream))])
			until(t, "it is read", func() bool { return s.Stats.BytesIn.Load() >= read+uint64(min(at+piece, len(stream))) })
		}
		arrived := 0
		for range 8 {
			p.expectAck(mqtt.PUBACK, 7, mqtt.CodeNoMatchingSubscribers)
			arrived++
		}
		until(t, "all is given back", func() bool { return s.Unfinished().Held.Load() == 0 && s.broker.PendingBytes() == 0 })
		t.Logf("%d of 8 arrived in pieces of %d bytes", arrived, piece)
		_ = p.Close()
	}
	if n := s.Stats.Workers.Load(); n != 0 {
		until(t, "no worker is borrowed", func() bool { return s.Stats.Workers.Load() == 0 })
	}
}

// The same over WebSocket, where the library reads: clients that stop are closed
// once others wait, and the others get through.
func TestUnfinishedOverWebSocket(t *testing.T) {
	const size, memory = 512 << 10, 8 << 20
	s, _ := serve(t, func(o *Options) { o.Memory, o.ConnectTimeout = memory, time.Second })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.ServeWebSocket(l, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	dialled := func(id string) *websocket.Conn {
		ws, _, err := websocket.Dial(ctx, "ws://"+l.Addr().String()+"/mqtt", &websocket.DialOptions{Subprotocols: []string{"mqtt"}})
		if err != nil {
			t.Fatal(err)
		}
		_ = ws.Write(ctx, websocket.MessageBinary, (&mqtt.Connect{ClientID: []byte(id), CleanStart: true}).Append(nil, mqtt.V311))
		if _, ack, err := ws.Read(ctx); err != nil || mqtt.TypeOf(ack[0]) != mqtt.CONNACK {
			t.Fatalf("% x, %v", ack, err)
		}
		return ws
	}
	var wg sync.WaitGroup
	var stopped []*websocket.Conn
	for i := range 20 {
		ws := dialled("stopped-" + string(rune('A'+i)))
		stopped = append(stopped, ws)
		wg.Go(func() { _ = ws.Write(ctx, websocket.MessageBinary, largePublish(size, mqtt.V311)[:size-100]) })
	}
	until(t, "there is no room", func() bool { return s.Unfinished().Waits.Load() > 0 })
	arrived := 0
	for range 5 {
		ws := dialled("honest")
		whole := largePublish(size, mqtt.V311)
		for at := 0; at < len(whole); at += 50_000 {
			if err := ws.Write(ctx, websocket.MessageBinary, whole[at:min(at+50_000, len(whole))]); err != nil {
				t.Fatal(err)
			}
		}
		if _, ack, err := ws.Read(ctx); err == nil && mqtt.TypeOf(ack[0]) == mqtt.PUBACK {
			arrived++
		}
		_ = ws.CloseNow()
	}
	if n := s.Unfinished().Closed.Load(); arrived != 5 || n == 0 {
		t.Errorf("%d of 5 arrived, %d were closed", arrived, n)
	}
	for _, ws := range stopped {
		_ = ws.CloseNow()
	}
	wg.Wait()
	until(t, "all is given back", func() bool { return s.Unfinished().Held.Load() == 0 && s.broker.PendingBytes() == 0 })
}
