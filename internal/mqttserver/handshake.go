package mqttserver

import (
	"bytes"
	"crypto/rand"
	"errors"
	"math"
	"net"
	"strings"
	"time"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
)

var errNoConnect = &mqtt.Error{Code: mqtt.CodeProtocolError, Text: "the first packet is not CONNECT"} // [MQTT-3.1.0-1] [MQTT3-3.1.0-1]

// firstOfTLS is the first byte of TLS, a handshake record. It looks like a CONNECT
// with flags, which it must not have; but that is answered if it is one.
const firstOfTLS = 0x16

// handshake reads the CONNECT and answers it. On success c.sess is set.
func (c *conn) handshake() error {
	err := c.readAll((*conn).firstPacket)
	if errors.Is(err, errAccepted) {
		return nil
	}
	return err
}

// firstPacket takes the CONNECT, and the AUTH packets that may follow it.
func (c *conn) firstPacket(w *worker, first byte, body []byte) error {
	if c.detail != nil && c.detail.login != nil {
		return c.nextLogin(w, first, body)
	}
	if mqtt.TypeOf(first) != mqtt.CONNECT || first == firstOfTLS && !bytes.HasPrefix(body, []byte{0, 4, 'M', 'Q'}) {
		return errNoConnect
	}
	p := &w.connect
	err := p.Decode(first, body)
	if err == nil && w.longLength && p.Version == mqtt.V5 {
		err = errLongLength
	}
	if err != nil {
		c.problemInfo = true // nobody knows what the client wants
		return c.refuseConnect(p, err, &w.batch)
	}
	return c.connect(p, w, body)
}

// errRejected is errClosing for a connection that must still read its CONNACK.
var errRejected = errors.New("rejected")

// errAccepted makes readAll return after CONNECT: the next goroutine goes on.
var errAccepted = errors.New("accepted")

// refuseConnect answers a CONNECT that cannot be decoded, or is more than the
// server takes. A wrong protocol name is closed without an answer, the rest gets its CONNACK
// [MQTT-3.1.2-1] [MQTT-3.1.4-1] [MQTT3-3.1.2-1] [MQTT3-3.1.4-1] [MQTT3-3.2.2-6].
func (c *conn) refuseConnect(p *mqtt.Connect, err error, b *broker.Batch) error {
	code := mqtt.CodeOf(err)
	switch {
	case code == mqtt.CodeUnsupportedProtocolVersion && p.Version > mqtt.V5:
		c.version = mqtt.V5
		return c.reject(mqtt.CodeUnsupportedProtocolVersion, err.Error(), b)
	case code == mqtt.CodeUnsupportedProtocolVersion: // [MQTT-3.1.2-2] [MQTT3-3.1.2-2]
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

// reject sends a CONNACK that refuses, and closes. told is for the client.
// [MQTT-3.2.2-6] [MQTT-3.2.2-7] [MQTT-3.1.4-6] [MQTT3-3.2.2-4] [MQTT3-3.2.2-5] [MQTT3-3.1.4-5]
func (c *conn) reject(code mqtt.ReasonCode, told string, b *broker.Batch) error {
	c.setReason("CONNECT refused: " + told)
	c.srv.Stats.Refused.Add(1)
	ack := mqtt.Connack{Code: code}
	if buf := c.open(); buf != nil {
		c.done(c.appendReason(buf, mqtt.CONNACK, &ack, &ack.Properties, told), b)
	}
	b.Flush()
	c.closeSoon(told, b)
	b.Flush()
	return errRejected
}

// entrant is what is known of a client whose CONNECT is being answered, besides
// the CONNECT.
type entrant struct {
	id       string
	assigned bool   // the client ID is the server's choice
	method   string // of enhanced authentication; "": none
	reply    []byte // its last data from the server, for CONNACK
}

// connect handles a decoded CONNECT, whose body is given too.
// Client IDs have no limit here [MQTT-3.1.3-5] [MQTT3-3.1.3-5]: the 23 characters
// of MQTT 3.1 are not kept by its clients, and servers do not ask for it.
func (c *conn) connect(p *mqtt.Connect, w *worker, body []byte) error {
	c.version = p.Version
	c.problemInfo = !p.Properties.Has(mqtt.PropRequestProblemInfo) || p.Properties.RequestProblemInfo
	c.maxPacket = math.MaxUint32 >> 1
	if p.Properties.Has(mqtt.PropMaximumPacketSize) {
		c.maxPacket = min(p.Properties.MaximumPacketSize, c.maxPacket)
	}
	if p.Bridge {
		c.more().bridge = true
	}
	if err := c.checkConnect(p); err != nil {
		return c.refuseConnect(p, err, &w.batch)
	}
	who := entrant{id: string(p.ClientID)}
	if who.id == "" {
		if c.version == mqtt.V31 || c.version == mqtt.V311 && !p.CleanStart { // [MQTT3-3.1.3-8]
			return c.reject(mqtt.ReturnIdentifierRejected, "an empty client ID needs a clean session", &w.batch)
		}
		who.id, who.assigned = "auto-"+strings.ToLower(rand.Text()), true // [MQTT-3.1.3-6] [MQTT3-3.1.3-6] [MQTT-3.1.3-7]
	}
	if p.Properties.Has(mqtt.PropAuthMethod) {
		return c.beginLogin(p, who, w, body)
	}
	if err := c.authenticate(p, &who); err != nil {
		return c.rejectLogin(err, who.id, &w.batch)
	}
	return c.attach(p, &who, w)
}

// checkConnect finds what this server does not take though it is well-formed.
func (c *conn) checkConnect(p *mqtt.Connect) error {
	if c.refusesText(p.ClientID) || c.refusesText(p.Username) {
		return errStrictText
	}
	if p.HasWill {
		return c.checkWill(&p.Will)
	}
	return nil
}

// attach connects the session of an authenticated client. The CONNACK is sent
// by the core, through SendConnack, when the session is ready.
func (c *conn) attach(p *mqtt.Connect, who *entrant, w *worker) error {
	expiry := uint32(0)
	switch {
	case c.version != mqtt.V5 && !p.CleanStart:
		expiry = broker.NeverExpires
	case c.version == mqtt.V5 && p.Properties.Has(mqtt.PropSessionExpiry):
		expiry = p.Properties.SessionExpiry
	}
	granted := min(expiry, c.srv.opt.SessionExpiry)
	receiveMax := c.srv.opt.Inflight
	if p.Bridge {
		receiveMax = min(receiveMax, bridgeInflight)
	}
	if c.version == mqtt.V5 {
		receiveMax = 65535
		if p.Properties.Has(mqtt.PropReceiveMaximum) {
			receiveMax = int(p.Properties.ReceiveMaximum)
		}
		if p.Properties.Has(mqtt.PropTopicAliasMaximum) && p.Properties.TopicAliasMaximum > 0 { // [MQTT-3.1.2-27]
			c.more().aliasesTo = newAliasesTo(p.Properties.TopicAliasMaximum)
			c.aliasing = true
		}
	}
	retain := broker.RetainBySubscription
	switch {
	case p.Bridge:
		retain = broker.RetainAlways
	case c.version != mqtt.V5:
		retain = broker.RetainCleared
	}
	keepAlive := c.setKeepAlive(p.KeepAlive)
	if granted > 0 {
		c.more().session = granted
	}
	w.connack = mqtt.Connack{}
	if c.version == mqtt.V5 {
		props := &w.connack.Properties
		c.welcome(props, p, who)
		if granted != expiry { // section 3.2.2.3.2
			props.SessionExpiry = granted
			props.Set(mqtt.PropSessionExpiry)
		}
		if keepAlive != p.KeepAlive { // [MQTT-3.2.2-21]
			props.ServerKeepAlive = keepAlive
			props.Set(mqtt.PropServerKeepAlive)
		}
		if !c.fitConnack(&w.connack) {
			c.setReason("the client's maximum packet size is too small for CONNACK")
			return errClosing
		}
	}
	w.batch.Flush()
	_, err := c.srv.broker.Connect(broker.ConnectRequest{
		ClientID: who.id, Principal: c.principal, Conn: c, CleanStart: p.CleanStart, Expiry: granted, ReceiveMax: receiveMax,
		Retain: retain, Will: c.will(p),
	}, &w.batch)
	if err != nil {
		return c.rejectSession(err, who.id, &w.batch)
	}
	return errAccepted
}

// rejectSession answers a CONNECT whose sender was let in, but does not get the
// session.
func (c *conn) rejectSession(err error, id string, b *broker.Batch) error {
	if e, ok := errors.AsType[*broker.OwnerError](err); ok {
		c.srv.strangers.Warn("CONNECT refused: the client ID belongs to another login; auth.session-owner says what happens then",
			"client", id, "owner", e.Owner.String(), "login", e.Login.String(), "remote", c.remote().String())
		code, told := refusal(err)
		return c.reject(connackCode(code, c.version), told, b)
	}
	code := mq.StoreFailed
	if e := new(mq.Error); errors.As(err, &e) {
		code = e.Code
	}
	if code == mq.WillsFull { // no fault: the end of the connection is logged
		return c.reject(connackCode(code, c.version), ackText(code)+" (limits.wills, limits.will-bytes, limits.share)", b)
	}
	c.srv.log.Error("cannot accept a session", "client", id, "error", err)
	return c.reject(connackCode(code, c.version), "the server could not store the session", b)
}

// welcome sets the properties of a CONNACK that accepts. What is available is
// not said: that is what absence means (section 3.2.2.3).
func (c *conn) welcome(to *mqtt.Properties, p *mqtt.Connect, who *entrant) {
	opt := &c.srv.opt
	to.ReceiveMaximum = uint16(opt.ReceiveMax)
	to.MaximumPacketSize = uint32(opt.PacketSize)
	to.TopicAliasMaximum = topicAliasMax
	to.Set(mqtt.PropReceiveMaximum, mqtt.PropMaximumPacketSize, mqtt.PropTopicAliasMaximum)
	if opt.MaxQoS < 2 { // [MQTT-3.2.2-9]
		to.MaximumQoS = byte(opt.MaxQoS)
		to.Set(mqtt.PropMaximumQoS)
	}
	if who.assigned { // [MQTT-3.2.2-16]
		to.AssignedClientID = []byte(who.id)
		to.Set(mqtt.PropAssignedClientID)
	}
	if topic := c.responseTopic(p, who.id); topic != "" { // [MQTT-3.1.2-28]
		to.ResponseInfo = []byte(topic)
		to.Set(mqtt.PropResponseInfo)
	}
	if who.method != "" { // [MQTT-4.12.0-5]
		to.AuthMethod = []byte(who.method)
		to.Set(mqtt.PropAuthMethod)
		if who.reply != nil {
			to.AuthData = who.reply
			to.Set(mqtt.PropAuthData)
		}
	}
}

// responseTopic returns the client's own address for answers, a topic that it
// need not subscribe to, or "": it did not ask, or cannot have one.
func (c *conn) responseTopic(p *mqtt.Connect, id string) string {
	form := *c.srv.responseTopic.Load()
	if !p.Properties.RequestResponseInfo || form == "" || !mq.ValidTarget([]byte(id)) {
		return ""
	}
	topic := strings.ReplaceAll(form, "%c", id)
	if len(topic) > c.srv.opt.TopicLength || !mq.ValidTopic([]byte(topic)) {
		return ""
	}
	return topic
}

// fitConnack makes a CONNACK fit into the client's maximum packet size, and
// reports whether it does [MQTT-3.1.2-24]. All but the response information says
// what the client must know.
func (c *conn) fitConnack(ack *mqtt.Connack) bool {
	if int(c.maxPacket) >= 4*65536 { // its three long strings are at most 64 KiB each
		return true
	}
	size := func() int {
		buf := ack.Append(getBuf(), c.version)
		defer putBuf(buf)
		return len(buf)
	}
	if size() <= int(c.maxPacket) {
		return true
	}
	ack.Properties.Unset(mqtt.PropResponseInfo)
	return size() <= int(c.maxPacket)
}

// bridgeInflight is how many QoS 1 and 2 messages are under way to a bridge, which
// 3.x gives no way to say how many it takes. mosquitto acknowledges QoS 2 messages
// over its max_inflight_messages, 20 unless set, and then loses them.
const bridgeInflight = 20

// setKeepAlive sets the time after which a silent client is dead
// [MQTT-3.1.2-22] [MQTT3-3.1.2-24], and returns the keep alive in seconds that
// it was made from: the client's own [MQTT-3.2.2-22], or for an MQTT 5 client
// with a longer one, or none, the server's. Clients of MQTT 3 cannot be told of
// it, so that theirs always holds: they would be cut off while they keep the
// rules.
func (c *conn) setKeepAlive(seconds uint16) uint16 {
	if longest := c.srv.opt.KeepAlive; c.version == mqtt.V5 && longest > 0 && (seconds == 0 || seconds > longest) {
		seconds = longest
	}
	c.keepAlive = time.Duration(seconds) * time.Second * 3 / 2
	if seconds == 0 {
		c.probe()
	}
	return seconds
}

// probe turns TCP keep-alive on, for a client without a keep alive of MQTT: else
// one that has vanished stays for ever. The others are spared the probes, each
// of which wakes a sleeping device.
func (c *conn) probe() {
	nc := c.nc
	if c.transport == overTLS {
		nc = c.inlet().Conn
	}
	if tcp, ok := nc.(*net.TCPConn); ok { // WebSocket listeners have it on
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: tcpIdle, Interval: tcpIdle, Count: 3})
	}
}

// tcpIdle is the silence after which TCP asks whether the client is there.
const tcpIdle = 2 * time.Minute

// SendConnack implements broker.Conn.
// [MQTT-3.1.4-5] [MQTT-3.2.0-1] [MQTT-3.2.0-2] [MQTT3-3.1.4-4] [MQTT3-3.2.0-1]
func (c *conn) SendConnack(s *broker.Session, sessionPresent bool, b *broker.Batch) {
	c.sess = s
	c.w.connack.SessionPresent = sessionPresent // we are in the reader's call of Broker.Connect
	c.send(mqtt.CONNACK, &c.w.connack, b)
	c.connected.Store(true)
	c.strangerNoMore()
}
