package mqttclient

import (
	"context"
	"crypto/tls"
	"math"
	"net"
	"net/netip"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
)

// Options say how to connect, and what to do with what arrives.
type Options struct {
	// Server is a URL: tcp, mqtt, tls, mqtts, ws or wss, a host, and if they
	// are not the usual ones a port and, for WebSocket, a path.
	Server string
	// DialConn, if set, makes the network connection in place of Server.
	DialConn func(ctx context.Context) (net.Conn, error)
	// LocalAddr, if valid, is the source address of the connection.
	LocalAddr netip.Addr
	// TLS is for the schemes that use it; nil: the system's certificates.
	TLS *tls.Config

	Version       mqtt.Version // 0: V5
	ClientID      string       // empty: the server picks one
	Username      string       // empty: none
	Password      string       // empty: none
	CleanStart    bool         // in 3.x: clean session
	SessionExpiry uint32       // MQTT 5; seconds; NeverExpires: no end
	// KeepAlive is rounded up to seconds; 0: off. The server's choice, if it
	// makes one, comes before it.
	KeepAlive time.Duration
	// ReceiveMaximum is how many unacknowledged messages the server may have
	// under way to this client; MQTT 5; 0: the default, 65 535.
	ReceiveMaximum uint16
	// TopicAliasMaximum is how many topic aliases the server may use; MQTT 5.
	// Handler sees the topic in any case.
	TopicAliasMaximum uint16
	// MaximumPacketSize is the largest packet in bytes that the server may
	// send; MQTT 5; 0: no limit.
	MaximumPacketSize uint32
	Will              *mqtt.Will
	// EditConnect, if set, may change the CONNECT before it is sent.
	EditConnect func(*mqtt.Connect)

	// Session, if set, is the state to continue with: see there.
	Session *Session

	// Handler gets every message. It owns the message until it returns; see
	// Message.Clone. nil: messages are acknowledged and forgotten.
	Handler func(*Message)
	// ManualAck leaves PUBACK and PUBREC to Message.Ack or SendAck. Otherwise
	// a message is acknowledged when Handler returns.
	ManualAck bool
	// OnPubrel, if set, is called for each PUBREL and says whether to answer
	// with PUBCOMP; if not, SendAck does.
	OnPubrel func(packetID uint16) bool
	// OnBatch, if set, is called when everything that was read at once has
	// been handled, before the flush. It is the place to flush other clients.
	OnBatch func()
}

// NeverExpires is the session expiry of a session that does not end by itself.
const NeverExpires = math.MaxUint32

func (o *Options) connect() *mqtt.Connect {
	c := &mqtt.Connect{
		Version:     o.Version,
		CleanStart:  o.CleanStart,
		HasUsername: o.Username != "",
		HasPassword: o.Password != "",
		KeepAlive:   o.keepAliveSeconds(),
		ClientID:    []byte(o.ClientID),
		Username:    []byte(o.Username),
		Password:    []byte(o.Password),
	}
	if o.Will != nil {
		c.HasWill, c.Will = true, *o.Will
	}
	p := &c.Properties
	if o.SessionExpiry > 0 {
		p.SessionExpiry = o.SessionExpiry
		p.Set(mqtt.PropSessionExpiry)
	}
	if o.ReceiveMaximum > 0 {
		p.ReceiveMaximum = o.ReceiveMaximum
		p.Set(mqtt.PropReceiveMaximum)
	}
	if o.TopicAliasMaximum > 0 {
		p.TopicAliasMaximum = o.TopicAliasMaximum
		p.Set(mqtt.PropTopicAliasMaximum)
	}
	if o.MaximumPacketSize > 0 {
		p.MaximumPacketSize = o.MaximumPacketSize
		p.Set(mqtt.PropMaximumPacketSize)
	}
	if o.EditConnect != nil {
		o.EditConnect(c)
	}
	return c
}

func (o *Options) keepAliveSeconds() uint16 {
	s := (o.KeepAlive + time.Second - 1) / time.Second
	return uint16(min(max(s, 0), math.MaxUint16))
}
