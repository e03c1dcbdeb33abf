package mqttclient

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/coder/websocket"

	"github.com/homing-mq/homing/internal/mqtt"
)

// address is a parsed Options.Server.
type address struct {
	host      string // with port
	tls       bool
	websocket bool
	url       string // of the WebSocket
}

func parseServer(server string) (address, error) {
	u, err := url.Parse(server)
	if err != nil || u.Hostname() == "" {
		return address{}, fmt.Errorf("%w: %q is not like tcp://host:1883", errServer, server)
	}
	var a address
	port := ""
	switch u.Scheme {
	case "tcp", "mqtt":
		port = "1883"
	case "tls", "mqtts", "ssl":
		port, a.tls = "8883", true
	case "ws":
		port, a.websocket = "8083", true
	case "wss":
		port, a.websocket, a.tls = "8084", true, true
	default:
		return address{}, fmt.Errorf("%w: %q has an unknown scheme, use tcp, tls, ws or wss", errServer, server)
	}
	if u.Port() != "" {
		port = u.Port()
	}
	a.host = net.JoinHostPort(u.Hostname(), port)
	if a.websocket {
		u.Host = a.host
		if u.Path == "" {
			u.Path = "/mqtt"
		}
		a.url = u.String()
	}
	return a, nil
}

// dialNetwork makes the network connection.
func (o *Options) dialNetwork(ctx context.Context) (net.Conn, error) {
	if o.DialConn != nil {
		return o.DialConn(ctx)
	}
	a, err := parseServer(o.Server)
	if err != nil {
		return nil, err
	}
	if a.websocket {
		return o.dialWebSocket(ctx, a)
	}
	var d net.Dialer
	if o.LocalAddr.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: o.LocalAddr.AsSlice()}
	}
	if a.tls {
		return (&tls.Dialer{NetDialer: &d, Config: o.TLS}).DialContext(ctx, "tcp", a.host)
	}
	return d.DialContext(ctx, "tcp", a.host)
}

// webSocketConn makes Close abrupt, as it is with TCP: the closing handshake of
// WebSocket says nothing that DISCONNECT has not said.
type webSocketConn struct {
	net.Conn
	ws     *websocket.Conn
	cancel context.CancelFunc
}

func (c *webSocketConn) Close() error {
	err := c.ws.CloseNow()
	c.cancel()
	return err
}

func (o *Options) dialWebSocket(ctx context.Context, a address) (net.Conn, error) {
	var d net.Dialer
	if o.LocalAddr.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: o.LocalAddr.AsSlice()}
	}
	protocol := "mqtt"
	if o.Version == mqtt.V31 {
		protocol = "mqttv3.1"
	}
	ws, res, err := websocket.Dial(ctx, a.url, &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: &http.Transport{
			DialContext:       d.DialContext,
			TLSClientConfig:   o.TLS,
			DisableKeepAlives: true,
		}},
		Subprotocols: []string{protocol},
	})
	if err != nil {
		if res != nil && res.StatusCode != http.StatusSwitchingProtocols {
			return nil, fmt.Errorf("no WebSocket at %s: %s", a.url, res.Status)
		}
		return nil, err
	}
	life, cancel := context.WithCancel(context.Background())
	return &webSocketConn{websocket.NetConn(life, ws, websocket.MessageBinary), ws, cancel}, nil
}

// Dial connects, and returns when the server has accepted the CONNECT. ctx
// bounds that and nothing later. A refusal is a *RefusedError.
//
// Messages may arrive, and Handler be called, before Dial returns.
func Dial(ctx context.Context, o Options) (*Client, error) {
	if o.Version == 0 {
		o.Version = mqtt.V5
	}
	conn, err := o.dialNetwork(ctx)
	if err != nil {
		return nil, err
	}
	c := newClient(conn, o)
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	err = c.handshake(o.connect())
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	c.start()
	return c, nil
}

// handshake sends the CONNECT and reads until the CONNACK. What follows the
// CONNACK stays in the read buffer.
func (c *Client) handshake(connect *mqtt.Connect) error {
	if _, err := c.conn.Write(connect.Append(nil, c.version)); err != nil {
		return fmt.Errorf("send CONNECT: %w", err)
	}
	for {
		first, body, n, need, err := mqtt.Split(c.in[:c.inLen], mqtt.MaxPacketSize)
		if err != nil {
			return protocolError("%w", err)
		}
		if n > 0 {
			body = append([]byte(nil), body...)
			c.inLen = copy(c.in, c.in[n:c.inLen])
			return c.connected(connect, first, body)
		}
		c.room(need)
		m, err := c.conn.Read(c.in[c.inLen:])
		c.inLen += m
		if err != nil && m == 0 {
			return fmt.Errorf("wait for CONNACK: %w", err)
		}
	}
}

// connected takes the answer to connect. body belongs to the client from here.
func (c *Client) connected(connect *mqtt.Connect, first byte, body []byte) error {
	if t := mqtt.TypeOf(first); t != mqtt.CONNACK {
		return protocolError("%v in place of CONNACK", t)
	}
	if err := c.connack.Decode(first, body, c.version); err != nil {
		return protocolError("%w", err)
	}
	p := &c.connack.Properties
	if c.connack.Code != 0 {
		return &RefusedError{c.version, c.connack.Code, string(p.ReasonString), string(p.ServerReference)}
	}
	c.clientID = string(connect.ClientID)
	if p.Has(mqtt.PropAssignedClientID) {
		c.clientID = string(p.AssignedClientID)
	}
	if p.Has(mqtt.PropReceiveMaximum) {
		c.window = int(p.ReceiveMaximum)
	}
	if p.Has(mqtt.PropMaximumPacketSize) {
		c.maxPacket = int(p.MaximumPacketSize)
	}
	c.keepAlive = time.Duration(connect.KeepAlive) * time.Second
	if p.Has(mqtt.PropServerKeepAlive) {
		c.keepAlive = time.Duration(p.ServerKeepAlive) * time.Second
	}
	present := c.connack.SessionPresent
	if c.version == mqtt.V31 { // it cannot tell
		present = !connect.CleanStart
	}
	if !present {
		c.lost = c.session.drop()
	}
	return nil
}
