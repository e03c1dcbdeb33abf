package mqttserver

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
)

// talker is auth with the methods TALK (hello, challenge, answer, welcome) and
// SHORT (everything is in CONNECT). The last data names the user.
type talker struct{ auth }

func (talker) Begin(ctx context.Context, method string, c *mq.Credentials) (mq.Exchange, bool) {
	steps := map[string]int{"TALK": 2, "SHORT": 1}[method]
	return &talk{ctx: ctx, steps: steps, id: c.ClientID}, steps > 0
}

type talk struct {
	ctx   context.Context //nolint:containedctx // it bounds the exchange
	steps int
	id    string
	who   *mq.Principal
}

func (x *talk) Principal() *mq.Principal { return x.who }

func (x *talk) Next(data []byte) (reply []byte, done bool, err error) {
	if err := x.ctx.Err(); err != nil {
		return nil, false, err
	}
	if string(data) == "wrong" {
		return nil, false, &mq.Error{Code: mq.BadCredentials, Text: "wrong answer", Err: errors.New("the cause")}
	}
	if x.steps--; x.steps > 0 {
		if string(data) != "hello" {
			return nil, false, &mq.Error{Code: mq.Malformed, Text: "no hello"}
		}
		return []byte("challenge"), false, nil
	}
	x.who = &mq.Principal{ClientID: x.id, User: string(data)}
	return []byte("welcome"), true, nil
}

func withTalker(o *Options) { o.Auth = talker{} }

func authPacket(code mqtt.ReasonCode, method, data string) *mqtt.Auth {
	a := &mqtt.Auth{Code: code}
	a.Properties.AuthMethod, a.Properties.AuthData = []byte(method), []byte(data)
	a.Properties.Set(mqtt.PropAuthMethod, mqtt.PropAuthData)
	return a
}

// hello is a CONNECT of MQTT 5 with a method.
func hello(id, method, data string) *mqtt.Connect {
	p := &mqtt.Connect{Version: mqtt.V5, CleanStart: true, ClientID: []byte(id)}
	p.Properties.AuthMethod, p.Properties.AuthData = []byte(method), []byte(data)
	p.Properties.Set(mqtt.PropAuthMethod, mqtt.PropAuthData)
	return p
}

func (p *peer) expectAuth(code mqtt.ReasonCode, method, data string) {
	p.t.Helper()
	var a mqtt.Auth
	p.expect(mqtt.AUTH, func(first byte, body []byte) error { return a.Decode(first, body, p.v) })
	if a.Code != code || string(a.Properties.AuthMethod) != method || string(a.Properties.AuthData) != data {
		p.t.Fatalf("AUTH %v %q %q", a.Code, a.Properties.AuthMethod, a.Properties.AuthData)
	}
}

func (p *peer) expectConnack(code mqtt.ReasonCode) (ack mqtt.Connack) {
	p.t.Helper()
	p.expect(mqtt.CONNACK, func(first byte, body []byte) error { return ack.Decode(first, body, p.v) })
	if ack.Code != code {
		p.t.Fatalf("CONNACK %v %q, want %v", ack.Code, ack.Properties.ReasonString, code)
	}
	return ack
}

// talkIn logs a client in by TALK.
func talkIn(t *testing.T, addr, id, user string) *peer {
	t.Helper()
	p := dial(t, addr, mqtt.V5)
	p.send(hello(id, "TALK", "hello"))
	p.expectAuth(mqtt.CodeContinueAuthentication, "TALK", "challenge")
	p.send(authPacket(mqtt.CodeContinueAuthentication, "TALK", user))
	p.expectConnack(0)
	return p
}

func (p *peer) expectAlive() {
	p.t.Helper()
	p.send(&mqtt.Pingreq{})
	p.expect(mqtt.PINGRESP, nil)
}

// TestEnhancedAuthentication: CONNECT, AUTH there and back, CONNACK. What the
// CONNECT asked for still holds after it. [MQTT-4.12.0-2] [MQTT-4.12.0-3] [MQTT-4.12.0-5]
func TestEnhancedAuthentication(t *testing.T) {
	_, addr := serve(t, withTalker)
	p := dial(t, addr, mqtt.V5)
	c := hello("", "TALK", "hello")
	c.Properties.SessionExpiry = 77
	c.Properties.Set(mqtt.PropSessionExpiry)
	p.send(c)
	p.expectAuth(mqtt.CodeContinueAuthentication, "TALK", "challenge")
	p.send(authPacket(mqtt.CodeContinueAuthentication, "TALK", "bob"))
	ack := p.expectConnack(0)
	if got := &ack.Properties; string(got.AuthMethod) != "TALK" || string(got.AuthData) != "welcome" || len(got.AssignedClientID) == 0 {
		t.Errorf("CONNACK has method %q, data %q, client ID %q", got.AuthMethod, got.AuthData, got.AssignedClientID)
	}
	expiry := &mqtt.Disconnect{} // may only be set if CONNECT had one
	expiry.Properties.SessionExpiry = 5
	expiry.Properties.Set(mqtt.PropSessionExpiry)
	p.send(publish("a/p2p/"+string(ack.Properties.AssignedClientID), "x", 0, 0))
	p.expectPublish()
	p.send(expiry)
	p.expectClose(0)

	// All in one write, and a method without AUTH.
	p = dial(t, addr, mqtt.V5)
	p.send(hello("one", "TALK", "hello"), authPacket(mqtt.CodeContinueAuthentication, "TALK", "bob"), &mqtt.Pingreq{})
	p.expectAuth(mqtt.CodeContinueAuthentication, "TALK", "challenge")
	p.expectConnack(0)
	p.expect(mqtt.PINGRESP, nil)
	p = dial(t, addr, mqtt.V5)
	p.send(hello("two", "SHORT", "bob"))
	if ack := p.expectConnack(0); string(ack.Properties.AuthMethod) != "SHORT" {
		t.Error("no method in CONNACK")
	}
	p.expectAlive()
}

// TestEnhancedAuthenticationOverWebSocket, where reading blocks.
func TestEnhancedAuthenticationOverWebSocket(t *testing.T) {
	ctx, ws := dialWebSocket(t, withTalker)
	p := &peer{Conn: websocket.NetConn(ctx, ws, websocket.MessageBinary), t: t, v: mqtt.V5}
	p.send(hello("web", "TALK", "hello"))
	p.expectAuth(mqtt.CodeContinueAuthentication, "TALK", "challenge")
	p.send(authPacket(mqtt.CodeContinueAuthentication, "TALK", "bob"))
	p.expectConnack(0)
	p.send(authPacket(mqtt.CodeReauthenticate, "TALK", "hello"))
	p.expectAuth(mqtt.CodeContinueAuthentication, "TALK", "challenge")
	p.send(authPacket(mqtt.CodeContinueAuthentication, "TALK", "bob"))
	p.expectAuth(mqtt.CodeSuccess, "TALK", "welcome")
	p.expectAlive()
}

// TestEnhancedAuthenticationRefused: each ends the connection, with a CONNACK.
func TestEnhancedAuthenticationRefused(t *testing.T) {
	s, addr := serve(t, withTalker)
	for _, c := range []struct {
		name    string
		connect *mqtt.Connect
		then    packet
		code    mqtt.ReasonCode
	}{
		{"unknown method", hello("c", "NONE", ""), nil, mqtt.CodeBadAuthenticationMethod},                                               // [MQTT-4.12.0-1]
		{"wrong answer", hello("c", "TALK", "hello"), authPacket(0x18, "TALK", "wrong"), mqtt.CodeBadUserNameOrPassword},                // [MQTT-4.12.0-4]
		{"malformed", hello("c", "TALK", "hi"), nil, mqtt.CodeMalformedPacket},                                                          //
		{"other packet", hello("c", "TALK", "hello"), &mqtt.Pingreq{}, mqtt.CodeProtocolError},                                          // [MQTT-3.1.2-30]
		{"second CONNECT", hello("c", "TALK", "hello"), hello("c", "TALK", "hello"), mqtt.CodeProtocolError},                            //
		{"other method", hello("c", "TALK", "hello"), authPacket(0x18, "SHORT", "bob"), mqtt.CodeProtocolError},                         // [MQTT-4.12.0-5]
		{"re-authentication", hello("c", "TALK", "hello"), authPacket(0x19, "TALK", "bob"), mqtt.CodeProtocolError},                     //
		{"AUTH without method", hello("c", "TALK", "hello"), &mqtt.Auth{Code: mqtt.CodeContinueAuthentication}, mqtt.CodeProtocolError}, //
	} {
		t.Run(c.name, func(t *testing.T) {
			p := dial(t, addr, mqtt.V5)
			p.send(c.connect)
			if c.then != nil {
				p.expectAuth(mqtt.CodeContinueAuthentication, "TALK", "challenge")
				p.send(c.then)
			}
			ack := p.expectConnack(c.code)
			if strings.Contains(string(ack.Properties.ReasonString), "the cause") {
				t.Errorf("the client is told %q", ack.Properties.ReasonString)
			}
			p.expectClose(0)
		})
	}
	p := dial(t, addr, mqtt.V5)
	p.send(hello("c", "TALK", "hello"), &mqtt.Disconnect{})
	p.expectAuth(mqtt.CodeContinueAuthentication, "TALK", "challenge")
	p.expectClose(0)
	data := hello("c", "", "x")
	data.Properties.Unset(mqtt.PropAuthMethod)
	p = dial(t, addr, mqtt.V5)
	p.send(data)
	p.expectConnack(mqtt.CodeProtocolError)
	p.expectClose(0)
	waitClosed(t, s)
	if n := s.broker.Stats.Connected.Load(); n != 0 {
		t.Errorf("%d were let in", n)
	}

	_, addr = serve(t, nil) // an authenticator that knows no methods
	p = dial(t, addr, mqtt.V5)
	p.send(hello("c", "TALK", "hello"))
	p.expectConnack(mqtt.CodeBadAuthenticationMethod)
	p.expectClose(0)
}

// TestEnhancedAuthenticationTimeout: the connect time-out is for all of it, and
// the packets of an exchange have to fit.
func TestEnhancedAuthenticationTimeout(t *testing.T) {
	s, addr := serve(t, func(o *Options) { withTalker(o); o.ConnectTimeout = time.Second })
	p := dial(t, addr, mqtt.V5)
	p.send(hello("c", "TALK", "hello"))
	p.expectAuth(mqtt.CodeContinueAuthentication, "TALK", "challenge")
	p.expectClose(0)
	waitClosed(t, s)

	p = dial(t, addr, mqtt.V5)
	c := hello("c", "TALK", "hello")
	c.Properties.MaximumPacketSize = 20 // [MQTT-3.1.2-24]
	c.Properties.Set(mqtt.PropMaximumPacketSize)
	p.send(c)
	p.expectConnack(mqtt.CodePacketTooLarge)
	p.expectClose(0)
}

// TestReauthentication goes on while other packets flow, and ends the
// connection only if it fails. [MQTT-4.12.1-1] [MQTT-4.12.1-2]
func TestReauthentication(t *testing.T) {
	_, addr := serve(t, withTalker)
	p := talkIn(t, addr, "c", "bob")
	for range 2 {
		p.send(authPacket(mqtt.CodeReauthenticate, "TALK", "hello"))
		p.expectAuth(mqtt.CodeContinueAuthentication, "TALK", "challenge")
		p.expectAlive()
		p.send(authPacket(mqtt.CodeContinueAuthentication, "TALK", "bob"))
		p.expectAuth(mqtt.CodeSuccess, "TALK", "welcome")
		p.send(publish("a/p2p/c", "x", 0, 0))
		p.expectPublish()
	}
	for _, c := range []struct {
		name string
		send []packet
		code mqtt.ReasonCode
	}{
		{"wrong answer", []packet{authPacket(0x19, "TALK", "hello"), authPacket(0x18, "TALK", "wrong")}, mqtt.CodeNotAuthorized},
		{"somebody else", []packet{authPacket(0x19, "TALK", "hello"), authPacket(0x18, "TALK", "eve")}, mqtt.CodeNotAuthorized},
		{"malformed", []packet{authPacket(0x19, "TALK", "hi")}, mqtt.CodeMalformedPacket},
		{"other method", []packet{authPacket(0x19, "SHORT", "bob")}, mqtt.CodeProtocolError},
		{"nothing to continue", []packet{authPacket(0x18, "TALK", "bob")}, mqtt.CodeProtocolError},
		{"two at once", []packet{authPacket(0x19, "TALK", "hello"), authPacket(0x19, "TALK", "hello")}, mqtt.CodeProtocolError},
		{"success from a client", []packet{authPacket(0x00, "TALK", "bob")}, mqtt.CodeProtocolError},
		{"no method", []packet{&mqtt.Auth{}}, mqtt.CodeProtocolError},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := talkIn(t, addr, "d", "bob")
			p.send(c.send...)
			if len(c.send) == 2 {
				p.expectAuth(mqtt.CodeContinueAuthentication, "TALK", "challenge")
			}
			p.expectClose(c.code)
		})
	}
}
