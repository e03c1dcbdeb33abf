package mqttserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/homing-mq/homing/internal/gateway"
	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/textfile"
)

// Serve accepts MQTT over TCP (conf nil) or TLS from l until Shutdown closes
// it.
// [MQTT-4.2.0-1] [MQTT3-7.1.1-1]
func (s *Server) Serve(l net.Listener, conf *tls.Config) {
	over := overTCP
	if conf != nil {
		over = overTLS
	}
	s.mu.Lock()
	s.listeners = append(s.listeners, l)
	s.mu.Unlock()
	s.wg.Go(func() {
		s.admission(over).Serve(s.ctx, l, func(nc net.Conn, remote netip.AddrPort) {
			if conf != nil {
				nc = tls.Server(s.newInlet(nc, gateway.CheckTLS), conf)
			}
			if err := s.start(nc, over, remote); err != nil {
				s.strangers.Info("connection refused", "remote", remote.String(), "transport", over.String(), "reason", err.Error())
				_ = nc.Close()
				s.limiter.Leave(remote.Addr())
			}
		})
	})
}

// webSocketPath is where WebSocket clients connect.
const webSocketPath = "/mqtt"

// subprotocols are accepted in this order [MQTT-6.0.0-3] [MQTT3-6.0.0-3].
var subprotocols = []string{"mqtt", "mqttv3.1"}

// ServeWebSocket accepts MQTT over WebSocket (conf nil) or secure WebSocket
// from l until Shutdown closes it.
func (s *Server) ServeWebSocket(l net.Listener, conf *tls.Config) {
	over := overWS
	if conf != nil {
		over = overWSS
	}
	l = s.admission(over).Listen(s.ctx, l, func(nc net.Conn, remote netip.AddrPort, leave func()) net.Conn {
		i := s.newInlet(nc, s.noteWrong(over, remote))
		i.Conn = gateway.NewAdmitted(nc, remote, leave)
		return i
	})
	if conf != nil {
		conf = conf.Clone()
		conf.NextProtos = []string{"http/1.1"}
		l = tls.NewListener(l, conf)
	}
	mux := http.NewServeMux()
	mux.HandleFunc(webSocketPath, func(w http.ResponseWriter, r *http.Request) { s.upgrade(w, r, over) })
	admitted := func(w http.ResponseWriter, r *http.Request) {
		if s.opt.Web.AdmitWebSocket(w, r, over.String()) {
			mux.ServeHTTP(w, r)
		}
	}
	h := &http.Server{
		Handler: http.HandlerFunc(admitted), MaxHeaderBytes: 16 << 10,
		// Until the request is a WebSocket: then the connection has its own.
		ReadTimeout: s.opt.ConnectTimeout, WriteTimeout: s.opt.ConnectTimeout, IdleTimeout: s.opt.ConnectTimeout,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, nc net.Conn) context.Context {
			if t, ok := nc.(*tls.Conn); ok {
				nc = t.NetConn()
			}
			return context.WithValue(ctx, inletKey{}, nc)
		},
	}
	h.SetKeepAlivesEnabled(false) // there is nothing to ask for twice
	s.mu.Lock()
	s.https = append(s.https, h)
	s.mu.Unlock()
	s.wg.Go(func() {
		if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("WebSocket listener stopped", "error", err)
		}
	})
}

// noteWrong returns a check of the first bytes of a connection over WebSocket,
// which logs that they are of another protocol: the HTTP server would not.
func (s *Server) noteWrong(over transport, remote netip.AddrPort) func([]byte) error {
	check := gateway.CheckHTTP
	if over == overWSS {
		check = gateway.CheckTLS
	}
	return func(first []byte) error {
		err := check(first)
		if err != nil {
			s.strangers.Info("connection closed", "remote", remote.String(), "transport", over.String(), "reason", err.Error())
		}
		return err
	}
}

// upgrade turns a request into a connection.
// Messages are binary and their bounds mean nothing; the subprotocol is mqtt [MQTT-6.0.0-1] [MQTT-6.0.0-2] [MQTT-6.0.0-4] [MQTT3-6.0.0-1] [MQTT3-6.0.0-2] [MQTT3-6.0.0-4]
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request, over transport) {
	offered := websocketProtocols(r)
	if !slices.ContainsFunc(offered, func(p string) bool { return slices.Contains(subprotocols, p) }) {
		http.Error(w, "MQTT over WebSocket needs the subprotocol mqtt", http.StatusBadRequest)
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:       subprotocols,
		InsecureSkipVerify: true, // the origin: Options.Web has looked at it
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		return // it has answered
	}
	nc := &webSocketConn{
		Conn: websocket.NetConn(s.ctx, ws, websocket.MessageBinary), remote: requestAddr{r.RemoteAddr}, ws: ws, wg: &s.wg,
		inlet: r.Context().Value(inletKey{}).(*inlet),
	}
	if err := s.start(nc, over, remoteOf(nc)); err != nil {
		_ = ws.Close(websocket.StatusTryAgainLater, err.Error())
	}
}

// inletKey is the key of the inlet in the context of a request.
type inletKey struct{}

func websocketProtocols(r *http.Request) (list []string) {
	for _, h := range r.Header.Values("Sec-WebSocket-Protocol") {
		for p := range strings.SplitSeq(h, ",") {
			list = append(list, strings.TrimSpace(p))
		}
	}
	return list
}

// webSocketConn gives the client's address back, which NetConn hides, and
// closes without waiting for the peer.
type webSocketConn struct {
	net.Conn
	ws     *websocket.Conn
	inlet  *inlet // what ws is made on
	wg     *sync.WaitGroup
	remote requestAddr
}

func (c *webSocketConn) RemoteAddr() net.Addr { return c.remote }

// Write sends each packet in a frame of its own. A frame may hold many, but
// paho.mqtt.c looks at the second one only when another frame comes. b begins
// and ends at a packet.
//
// A frame costs so much more than the packets that it answers that many of them
// have turns, like input. While the socket is full they cost nothing.
func (c *webSocketConn) Write(b []byte) (written int, err error) {
	i := c.inlet
	turns := i.srv.opt.Turns
	for frames := 1; written < len(b); frames++ {
		_, _, n, _, err := mqtt.Split(b[written:], mqtt.MaxPacketSize)
		if n == 0 || err != nil {
			n = len(b) - written
		}
		if _, err := c.Conn.Write(b[written : written+n]); err != nil {
			turns.Wrote(&i.turn)
			return written, err
		}
		written += n
		if frames%framesOfTurn == 0 {
			turns.Pace(&i.turn, clock)
		}
	}
	turns.Wrote(&i.turn)
	return written, nil
}

// framesOfTurn is how many frames are written before the writer looks whether its
// turn is over: a look costs a small part of them.
const framesOfTurn = 16

// CloseWrite starts the closing handshake without waiting for its end.
func (c *webSocketConn) CloseWrite() error {
	c.wg.Go(func() { _ = c.ws.Close(websocket.StatusNormalClosure, "") })
	return nil
}

func (c *webSocketConn) Close() error { return c.ws.CloseNow() }

// requestAddr is the address of an HTTP client.
type requestAddr struct{ text string }

func (requestAddr) Network() string  { return "tcp" }
func (a requestAddr) String() string { return a.text }

// Certificate is a TLS certificate that is read again when its files change,
// so that a renewal needs no restart.
type Certificate struct {
	certFile, keyFile string

	mu      sync.Mutex
	cert    *tls.Certificate
	stamp   [2]time.Time
	checked time.Time
	failed  func(error)
}

// LoadCertificate reads a PEM certificate chain and key. failed is told when a
// later change cannot be read; the old certificate then stays in use.
func LoadCertificate(certFile, keyFile string, failed func(error)) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, failed: failed}
	if err := c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Certificate) load() error {
	stamp, err := c.stamps()
	if err != nil {
		return err
	}
	chain, err := textfile.Read(c.certFile)
	if err != nil {
		return err
	}
	key, err := textfile.Read(c.keyFile)
	if err != nil {
		return err
	}
	cert, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return fmt.Errorf("%s and %s: %w", c.certFile, c.keyFile, err)
	}
	c.cert, c.stamp = &cert, stamp
	return nil
}

func (c *Certificate) stamps() (s [2]time.Time, err error) {
	for i, name := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(name)
		if err != nil {
			return s, err
		}
		s[i] = info.ModTime()
	}
	return s, nil
}

// Use reads the certificate from these files now, and looks at them from then on. On
// an error the one before stays in use.
func (c *Certificate) Use(certFile, keyFile string) error {
	next := Certificate{certFile: certFile, keyFile: keyFile}
	if err := next.load(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.certFile, c.keyFile, c.cert, c.stamp = certFile, keyFile, next.cert, next.stamp
	return nil
}

// rsaKeyExchange are the suites of TLS 1.2 without forward secrecy that are still
// offered on request: those that old modems know, and that are not broken.
var rsaKeyExchange = []uint16{
	tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_RSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_AES_256_CBC_SHA,
}

// WithRSAKeyExchange returns a TLS configuration that also takes RSA key exchange.
// The certificate's key must be RSA.
func WithRSAKeyExchange(conf *tls.Config) *tls.Config {
	conf = conf.Clone()
	for _, suite := range tls.CipherSuites() {
		conf.CipherSuites = append(conf.CipherSuites, suite.ID)
	}
	conf.CipherSuites = append(conf.CipherSuites, rsaKeyExchange...)
	return conf
}

// Config is a TLS configuration that uses the certificate.
func (c *Certificate) Config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}
}

// get returns the certificate; it looks for a change at most once a second.
func (c *Certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.checked) >= time.Second {
		c.checked = now
		stamp, err := c.stamps()
		if err == nil && stamp != c.stamp {
			err = c.load()
		}
		if err != nil && c.failed != nil {
			c.failed(err)
		}
	}
	return c.cert, nil
}
