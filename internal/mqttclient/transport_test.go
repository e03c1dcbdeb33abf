package mqttclient_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/mqttclient"
)

// webSocketServer plays each connection with serve. It returns the URL without
// its scheme and a TLS configuration that trusts it.
func webSocketServer(t *testing.T, secure bool, serve func(*peer)) (string, *tls.Config) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"mqtt", "mqttv3.1"}})
		if err != nil {
			t.Error(err)
			return
		}
		if r.URL.Path != "/mqtt" || ws.Subprotocol() == "" {
			t.Errorf("path %s, subprotocol %q", r.URL.Path, ws.Subprotocol())
		}
		serve(newPeer(t, websocket.NetConn(r.Context(), ws, websocket.MessageBinary)))
		ws.CloseNow()
	})
	s := httptest.NewUnstartedServer(h)
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	_, rest, _ := strings.Cut(s.URL, "://")
	return rest, clientTLS(s)
}

func clientTLS(s *httptest.Server) *tls.Config {
	pool := x509.NewCertPool()
	if s.Certificate() != nil {
		pool.AddCert(s.Certificate())
	}
	return &tls.Config{RootCAs: pool}
}

func tlsServer(t *testing.T, serve func(*peer)) (string, *tls.Config) {
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS() // for its certificate only
	t.Cleanup(s.Close)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: s.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	acceptOne(t, l, serve)
	return l.Addr().String(), clientTLS(s)
}

func tcpServer(t *testing.T, serve func(*peer)) (string, *tls.Config) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	acceptOne(t, l, serve)
	return l.Addr().String(), nil
}

func acceptOne(t *testing.T, l net.Listener, serve func(*peer)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, err := l.Accept(); err == nil {
			serve(newPeer(t, conn))
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

// One conversation over every transport: a large message each way, QoS 2, and
// an orderly end.
func TestTransports(t *testing.T) {
	payload := strings.Repeat("0123456789", 20000)
	serve := func(p *peer) {
		p.accept(new(mqtt.Connack))
		m := p.publish()
		p.send(acknowledge(mqtt.PUBREC, m.PacketID, 0))
		p.ack(mqtt.PUBREL)
		p.send(acknowledge(mqtt.PUBCOMP, m.PacketID, 0), withID(message("back", string(m.Payload), 1), 3))
		p.ack(mqtt.PUBACK)
		p.expect(mqtt.DISCONNECT, new(mqtt.Disconnect))
	}
	for scheme, server := range map[string]func(*testing.T, func(*peer)) (string, *tls.Config){
		"tcp": tcpServer, "mqtt": tcpServer, "tls": tlsServer, "mqtts": tlsServer,
		"ws": func(t *testing.T, serve func(*peer)) (string, *tls.Config) {
			return webSocketServer(t, false, serve)
		},
		"wss": func(t *testing.T, serve func(*peer)) (string, *tls.Config) {
			return webSocketServer(t, true, serve)
		},
	} {
		for _, v := range versions {
			t.Run(scheme+" "+v.String(), func(t *testing.T) {
				address, conf := server(t, serve)
				handler, got := collect()
				o := mqttclient.Options{Server: scheme + "://" + address, TLS: conf, Version: v, Handler: handler}
				if runtime.GOOS == "linux" { // elsewhere there is only 127.0.0.1
					o.LocalAddr = netip.MustParseAddr("127.0.0.2")
				}
				c, err := mqttclient.Dial(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := c.Publish(t.Context(), message("t", payload, 2)); err != nil {
					t.Fatal(err)
				}
				if m := wait(t, got); string(m.Payload) != payload {
					t.Errorf("%d bytes came back", len(m.Payload))
				}
				if err := c.Disconnect(context.Background()); err != nil {
					t.Errorf("disconnect: %v", err)
				}
			})
		}
	}
}

func TestNotAWebSocket(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	_, err := mqttclient.Dial(t.Context(), mqttclient.Options{Server: strings.Replace(s.URL, "http", "ws", 1)})
	if err == nil || !strings.Contains(err.Error(), "404 Not Found") {
		t.Errorf("dial: %v", err)
	}
}
