package test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/homing-mq/homing/internal/mqtt"
)

// writeCertificate writes cert.pem and key.pem, self-signed.
func writeCertificate(t *testing.T, dir string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "homing test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"key.pem": {Type: "PRIVATE KEY", Bytes: keyDER}, "cert.pem": {Type: "CERTIFICATE", Bytes: der},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// tlsServer is a server with all transports.
func tlsServer(t *testing.T, settings ...string) *server {
	t.Helper()
	s := newServer(t, append(settings, "tls.cert=cert.pem", "tls.key=key.pem")...)
	writeCertificate(t, s.dir, 1)
	s.addr["mqtts"], s.addr["wss"] = "127.0.0.1:0", "127.0.0.1:0"
	s.start()
	return s
}

// TestTransports: P2P from each transport to each.
// [MQTT-4.2.0-1] [MQTT3-7.1.1-1]
func TestTransports(t *testing.T) {
	t.Parallel()
	s := tlsServer(t)
	all := []string{"mqtt", "mqtts", "ws", "wss"}
	payload := strings.Repeat("0123456789", 20000) // several TLS records and WebSocket frames
	for _, to := range all {
		target := s.connectOver(to, mqtt.V5, "dev1", persistent)
		for i, from := range all {
			sender := s.connectOver(from, versions[i%2], "sender")
			for qos := range byte(3) {
				id := sender.post(&mqtt.Publish{Topic: []byte(topicOf("dev1")), Payload: []byte(payload), QoS: qos})
				target.wants(topicOf("dev1"), payload, qos)
				if qos > 0 {
					sender.acknowledged(id)
				}
			}
			sender.leave()
		}
		target.leave()
	}
}

// TestCertificateReplaced: new connections get the new certificate, those that
// are open stay.
func TestCertificateReplaced(t *testing.T) {
	t.Parallel()
	s := tlsServer(t)
	serial := func(transport string) int64 {
		conn, err := tls.Dial("tcp", s.addr[transport], &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // made by the test
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	old := s.connectOver("mqtts", mqtt.V5, "old")
	if n := serial("mqtts"); n != 1 {
		t.Fatalf("serial number %d", n)
	}
	writeCertificate(t, s.dir, 2)
	for _, transport := range []string{"mqtts", "wss"} {
		eventually(t, "the new certificate over "+transport, func() bool { return serial(transport) == 2 })
	}
	old.ping()
	if err := os.WriteFile(filepath.Join(s.dir, "cert.pem"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server tells that it cannot read the certificate", func() bool {
		return serial("mqtts") == 2 && strings.Contains(strings.Join(s.output(), "\n"), "the old one stays in use")
	})
}

// TestWebSocketProtocols: mqtt and mqttv3.1, others are refused.
// [MQTT-6.0.0-3] [MQTT-6.0.0-4] [MQTT3-6.0.0-3]
// [MQTT3-6.0.0-4]
func TestWebSocketProtocols(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	for _, c := range []struct {
		offered []string
		chosen  string // "": refused
	}{
		{[]string{"mqtt"}, "mqtt"}, {[]string{"mqttv3.1"}, "mqttv3.1"}, {[]string{"chat", "mqtt"}, "mqtt"},
		{nil, ""}, {[]string{"chat"}, ""},
	} {
		ws, res, err := websocket.Dial(context.Background(), "ws://"+s.addr["ws"]+"/mqtt", &websocket.DialOptions{Subprotocols: c.offered})
		switch {
		case err == nil && ws.Subprotocol() != c.chosen:
			t.Errorf("%v: %q, want %q", c.offered, ws.Subprotocol(), c.chosen)
		case err != nil && (c.chosen != "" || res == nil || res.StatusCode != 400):
			t.Errorf("%v: %v", c.offered, err)
		}
		if err == nil {
			ws.CloseNow()
		}
	}
	_, res, err := websocket.Dial(context.Background(), "ws://"+s.addr["ws"]+"/other", &websocket.DialOptions{Subprotocols: []string{"mqtt"}})
	if err == nil || res == nil || res.StatusCode != 404 {
		t.Errorf("another path: %v", err)
	}
}

// TestWebSocketFraming: packets need not match WebSocket messages
// [MQTT-6.0.0-2]; text messages are an error [MQTT-6.0.0-1].
// [MQTT3-6.0.0-1] [MQTT3-6.0.0-2]
func TestWebSocketFraming(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	dial := func() *websocket.Conn {
		ws, _, err := websocket.Dial(ctx, "ws://"+s.addr["ws"]+"/mqtt", &websocket.DialOptions{Subprotocols: []string{"mqtt"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ws.CloseNow() })
		return ws
	}
	ws := dial()
	b := (&mqtt.Connect{ClientID: []byte("dev1"), CleanStart: true}).Append(nil, mqtt.V5)
	b = (&mqtt.Publish{Topic: []byte(topicOf("dev1")), Payload: []byte("to myself")}).Append(b, mqtt.V5)
	for i := range b {
		if err := ws.Write(ctx, websocket.MessageBinary, b[i:i+1]); err != nil {
			t.Fatal(err)
		}
	}
	p := newPeer(t, websocket.NetConn(ctx, ws, websocket.MessageBinary), mqtt.V5)
	receive[*mqtt.Connack](p)
	p.wants(topicOf("dev1"), "to myself", 0)

	ws = dial()
	if err := ws.Write(ctx, websocket.MessageText, b); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ws.Read(ctx); err == nil {
		t.Error("a text message is answered")
	}
}
