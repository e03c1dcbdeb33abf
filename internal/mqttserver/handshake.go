package mqttserver

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"math"
	"strings"
	"time"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
)

var errNoConnect = &mqtt.Error{Code: mqtt.CodeProtocolError, Text: "the first packet is not CONNECT"} // [MQTT-3.1.0-1]

// handshake reads the CONNECT and answers it. On success c.sess is set.
func (c *conn) handshake() error {
	err := c.readAll((*conn).firstPacket)
	if errors.Is(err, errAccepted) {
		return nil
	}
	return err
}

// firstPacket takes the CONNECT.
func (c *conn) firstPacket(w *worker, first byte, body []byte) error {
	if mqtt.TypeOf(first) != mqtt.CONNECT {
		return errNoConnect
	}
	p := &w.connect
	if err := p.Decode(first, body); err != nil {
		return c.refuseConnect(p, err, &w.batch)
	}
	return c.connect(p, w)
}

// errRejected is errClosing for a connection that must still read its CONNACK.
var errRejected = errors.New("rejected")

// errAccepted makes readAll return after CONNECT: the next goroutine goes on.
var errAccepted = errors.New("accepted")

// refuseConnect answers a CONNECT that cannot be decoded. A wrong protocol
// name is closed without an answer, the rest gets its CONNACK [MQTT-3.1.2-1]
// [MQTT-3.1.4-1].
func (c *conn) refuseConnect(p *mqtt.Connect, err error, b *broker.Batch) error {
	code := mqtt.CodeOf(err)
	switch {
	case code == mqtt.CodeUnsupportedProtocolVersion && p.Version > mqtt.V5:
		c.version = mqtt.V5
		return c.reject(mqtt.CodeUnsupportedProtocolVersion, err.Error(), b)
	case code == mqtt.CodeUnsupportedProtocolVersion: // [MQTT-3.1.2-2]
		c.version = mqtt.V311
		return c.reject(mqtt.ReturnUnacceptableVersion, err.Error(), b)
	case p.Version == mqtt.V5:
		c.version = mqtt.V5
		return c.reject(code, err.Error(), b)
	}
	c.setReason(err.Error())
	return errClosing
}

// announcesV5 reports whether what was read begins with a CONNECT of MQTT 5,
// one that is too large to be read whole.
func (c *conn) announcesV5() bool {
	if c.w == nil {
		return false
	}
	in := c.w.buf[c.w.start:c.w.end]
	if len(in) == 0 || mqtt.TypeOf(in[0]) != mqtt.CONNECT {
		return false
	}
	at := 1
	for at < len(in) && at < 5 && in[at] >= 0x80 {
		at++
	}
	return bytes.HasPrefix(in[min(at+1, len(in)):], []byte{0, 4, 'M', 'Q', 'T', 'T', 5})
}

// reject sends a CONNACK that refuses, and closes.
func (c *conn) reject(code mqtt.ReasonCode, reason string, b *broker.Batch) error {
	c.setReason("CONNECT refused: " + reason)
	c.srv.Stats.Refused.Add(1)
	ack := mqtt.Connack{Code: code}
	if c.version == mqtt.V5 && c.problemInfo {
		ack.Properties.ReasonString = []byte(reason)
		ack.Properties.Set(mqtt.PropReasonString)
	}
	c.send(mqtt.CONNACK, &ack, b)
	b.Flush()
	c.closeSoon(reason, b)
	b.Flush()
	return errRejected
}

// connect handles a decoded CONNECT.
func (c *conn) connect(p *mqtt.Connect, w *worker) error {
	c.version = p.Version
	c.problemInfo = !p.Properties.Has(mqtt.PropRequestProblemInfo) || p.Properties.RequestProblemInfo
	c.maxPacket = math.MaxUint32 >> 1
	if p.Properties.Has(mqtt.PropMaximumPacketSize) {
		c.maxPacket = min(p.Properties.MaximumPacketSize, c.maxPacket)
	}
	id, assigned := string(p.ClientID), false
	if id == "" {
		if c.version == mqtt.V31 || c.version == mqtt.V311 && !p.CleanStart { // [MQTT-3.1.3-8]
			return c.reject(mqtt.ReturnIdentifierRejected, "an empty client ID needs a clean session", &w.batch)
		}
		id, assigned = "auto-"+strings.ToLower(rand.Text()), true // [MQTT-3.1.3-6]
	}
	if p.Properties.Has(mqtt.PropAuthMethod) { // [MQTT-4.12.0-1]
		return c.reject(mqtt.CodeBadAuthenticationMethod, "enhanced authentication is not supported", &w.batch)
	}
	if err := c.authenticate(p, id); err != nil {
		code := mq.StoreFailed
		var e *mq.Error
		if errors.As(err, &e) {
			code = e.Code
		}
		c.srv.Stats.AuthFailed.Add(1)
		c.principal = &mq.Principal{ClientID: id}
		return c.reject(connackCode(code, c.version), err.Error(), &w.batch)
	}
	if err := c.takeWill(p, &w.batch); err != nil {
		return err
	}
	return c.attach(p, id, assigned, w)
}

// authenticate sets the principal.
func (c *conn) authenticate(p *mqtt.Connect, id string) error {
	cred := &c.w.credentials
	*cred = mq.Credentials{
		ClientID: id, HasUsername: p.HasUsername, Username: string(p.Username),
		HasPassword: p.HasPassword, Password: p.Password, Remote: c.remote().Addr(),
	}
	if t, ok := c.nc.(*tls.Conn); ok {
		if certs := t.ConnectionState().PeerCertificates; len(certs) > 0 {
			cred.PeerCertificate = certs[0].Raw
		}
	}
	ctx := c.srv.ctx
	if p.HasPassword { // hashing may queue
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.srv.opt.ConnectTimeout)
		defer cancel()
	}
	who, err := c.srv.opt.Auth.Authenticate(ctx, cred)
	if err != nil {
		return err
	}
	c.principal = who
	return nil
}

// attach connects the session. The CONNACK is sent by the core, through
// SendConnack, when the session is ready.
func (c *conn) attach(p *mqtt.Connect, id string, assigned bool, w *worker) error {
	hello := &w.hello
	*hello = connackInfo{assigned: assigned, id: id}
	expiry := uint32(0)
	switch {
	case c.version != mqtt.V5 && !p.CleanStart:
		expiry = broker.NeverExpires
	case c.version == mqtt.V5 && p.Properties.Has(mqtt.PropSessionExpiry):
		expiry = p.Properties.SessionExpiry
	}
	if expiry > c.srv.opt.SessionExpiry {
		expiry = c.srv.opt.SessionExpiry
		hello.expiry = &expiry
	}
	receiveMax := c.srv.opt.Inflight
	if c.version == mqtt.V5 {
		receiveMax = 65535
		if p.Properties.Has(mqtt.PropReceiveMaximum) {
			receiveMax = int(p.Properties.ReceiveMaximum)
		}
	}
	c.setKeepAlive(p.KeepAlive)
	if expiry > 0 {
		c.more().session = expiry
	}
	w.batch.Flush()
	_, err := c.srv.broker.Connect(broker.ConnectRequest{
		ClientID: id, Conn: c, CleanStart: p.CleanStart, Expiry: expiry, ReceiveMax: receiveMax,
	}, &w.batch)
	if err != nil {
		c.srv.log.Error("cannot accept a session", "client", id, "error", err)
		return c.reject(connackCode(mq.StoreFailed, c.version), "the server could not store the session", &w.batch)
	}
	return errAccepted
}

// setKeepAlive sets the time after which a silent client is dead
// [MQTT-3.1.2-22].
func (c *conn) setKeepAlive(seconds uint16) {
	c.keepAlive = time.Duration(seconds) * time.Second * 3 / 2
}

// connackInfo is what only the CONNACK needs.
type connackInfo struct {
	assigned bool
	id       string
	expiry   *uint32 // session expiry interval in seconds, if not what was asked for
}

// SendConnack implements broker.Conn.
func (c *conn) SendConnack(s *broker.Session, sessionPresent bool, claims int, b *broker.Batch) {
	c.sess = s
	ack := &c.w.connack // we are in the reader's call of Broker.Connect
	*ack = mqtt.Connack{SessionPresent: sessionPresent}
	if c.version == mqtt.V5 {
		c.unacked.Store(int32(claims)) // in 3.x PUBREC is what counts
		p, hello := &ack.Properties, &c.w.hello
		p.ReceiveMaximum = uint16(c.srv.opt.ReceiveMax)
		p.MaximumPacketSize = uint32(c.srv.opt.PacketSize)
		p.TopicAliasMaximum = topicAliasMax
		p.Set(mqtt.PropReceiveMaximum, mqtt.PropMaximumPacketSize, mqtt.PropTopicAliasMaximum,
			mqtt.PropRetainAvailable, mqtt.PropSharedAvailable, mqtt.PropSubscriptionIDAvailable) // the last three: not available
		if hello.assigned { // [MQTT-3.2.2-16]
			p.AssignedClientID = []byte(hello.id)
			p.Set(mqtt.PropAssignedClientID)
		}
		if hello.expiry != nil { // [MQTT-3.2.2.3.2]
			p.SessionExpiry = *hello.expiry
			p.Set(mqtt.PropSessionExpiry)
		}
	}
	c.send(mqtt.CONNACK, ack, b)
	c.connected.Store(true)
}

// topicAliasMax is how many topic aliases a client may set on a connection.
const topicAliasMax = 32
