package mqttserver

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/homing-mq/homing/internal/gateway"
	"github.com/homing-mq/homing/internal/mqtt"
)

// TestWebSocketWriterTakesTurns: a frame for each packet costs more than the
// handling of the packet that it answers. So who writes very many of them has his
// turn like a reader, and rests; who waits for a client that does not read holds up
// nobody, and does not count.
func TestWebSocketWriterTakesTurns(t *testing.T) {
	s := &Server{opt: Options{Turns: &gateway.Turns{}}}
	turns := s.opt.Turns
	const answers = 150_000
	wrote := make(chan error, 1)
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
		if err != nil {
			wrote <- err
			return
		}
		nc := &webSocketConn{Conn: websocket.NetConn(r.Context(), ws, websocket.MessageBinary), ws: ws, inlet: r.Context().Value(inletKey{}).(*inlet)}
		_, err = nc.Write(bytes.Repeat([]byte{byte(mqtt.PINGRESP) << 4, 0}, answers))
		wrote <- err
	}))
	h.Listener = inletListener{h.Listener, s}
	h.Config.ConnContext = func(ctx context.Context, nc net.Conn) context.Context { return context.WithValue(ctx, inletKey{}, nc) }
	h.Start()
	defer h.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(h.URL, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.CloseNow() }()
	until(t, "the writer has had a turn", func() bool { return turns.Hungry() == 1 })
	until(t, "a full socket ends its turn", func() bool { return turns.Hungry() == 0 })
	for n := range answers {
		if _, frame, err := ws.Read(ctx); err != nil || len(frame) != 2 {
			t.Fatalf("after %d answers: % x, %v", n, frame, err)
		}
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	if n := turns.Hungry(); n != 0 {
		t.Errorf("%d are hungry when all is written, want 0", n)
	}
}

// inletListener gives connections as ServeWebSocket's does.
type inletListener struct {
	net.Listener
	s *Server
}

func (l inletListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	_ = nc.(*net.TCPConn).SetWriteBuffer(16 << 10) // so that it is full soon
	return l.s.newInlet(nc, nil), nil
}

// TestInletWrite: what does not fit into the socket is written when it does, and a
// deadline ends the wait.
func TestInletWrite(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	far, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = far.Close() }()
	near, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	i := (&Server{opt: Options{Turns: &gateway.Turns{}}}).newInlet(near, nil)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // more than sockets hold
	wrote := make(chan error, 1)
	go func() {
		n, err := i.Write(sent)
		if n != len(sent) && err == nil {
			t.Errorf("%d of %d bytes", n, len(sent))
		}
		wrote <- err
	}()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(far, got); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("what came is not what was sent: %v", err)
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	_ = near.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	n, err := i.Write(sent)
	if ne, ok := err.(net.Error); !ok || !ne.Timeout() || n == 0 || n >= len(sent) {
		t.Errorf("%d bytes, %v, want a time-out after some", n, err)
	}
	_ = near.Close()
	if _, err := i.Write(sent); err == nil {
		t.Error("a closed connection was written to")
	}
}
