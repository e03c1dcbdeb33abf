package test

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/homing-mq/homing/internal/mqtt"
)

// What the generated packets are about: few names, so that clients meet. The
// ones in the second half of a list are wrong or special. Witnesses have names
// of their own.
var (
	fuzzIDs    = append(numbered("fuzz-", 12), "", "GID_fuzz@@@1", "with space", "a/b", "+", strings.Repeat("x", 200))
	fuzzTopics = []string{
		"fuzz", "fuzz/a", "fuzz/a/b", "fuzz/b", "other/a", "fuzz/p2p/fuzz-0", "fuzz/p2p/fuzz-1", "fuzz/p2p/fuzz-2/sub/address",
		"other/p2p/fuzz-3", "fuzz/p2p/fuzz-4", "response/p2p/fuzz-5", "fuzz/p2p/nobody", "secret/a", "/fuzz/p2p/fuzz-1", "fuzz//a",
		"fuzz/ä/\u20ac/\U0001F600", "fuzz/p2p", "fuzz/p2p/", "fuzz/p2p/+", "fuzz/#", "$SYS/broker/uptime", "$fuzz/a", "", "fuzz/\x00",
		"fuzz/\xff", "fuzz/" + strings.Repeat("l/", 90), "fuzz/" + strings.Repeat("l", 300),
	}
	fuzzFilters = []string{
		"#", "fuzz/#", "fuzz/+", "+/a", "fuzz/+/b", "+/+", "fuzz/a", "fuzz/a/b", "other/#", "fuzz/p2p/fuzz-1", "+/p2p/fuzz-2",
		"$share/g/fuzz/#", "$share/g/fuzz/a", "$share/h/#", "$share/h/+/a", "$share/g/fuzz/p2p/fuzz-1", "$SYS/#", "/#", "fuzz/p2p/#",
		"secret/#", "$share/g", "$share//fuzz", "$share/a+/fuzz", "$share/g/", "fuzz/#/a", "fuzz+", "", "fuzz/\x00", "$fuzz/#",
		strings.Repeat("+/", 120) + "#",
	}
	fuzzPayloads = []string{"", "x", "\x00\xff\xfe", "text \u20ac", strings.Repeat("payload ", 40), strings.Repeat("z", 3000), strings.Repeat("Z", 20000)}
	fuzzNumbers  = []uint32{0, 1, 2, 3, 5, 60, 127, 128, 255, 16383, 65535, 268435455, never}
)

const (
	fuzzUser     = "fuzz"
	fuzzPassword = "fuzz password"
	scramMethod  = "SCRAM-SHA-256"
)

func numbered(prefix string, n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprint(prefix, i))
	}
	return list
}

// packets makes the packets of one connection: plausible ones, in any order.
type packets struct {
	*rand.Rand
	version mqtt.Version
	alias   uint16 // the highest that was set
}

// chance is true n times out of 100.
func (g *packets) chance(n int) bool { return g.IntN(100) < n }

// name picks from a list, four times out of five from its plausible part.
func (g *packets) name(list []string) []byte {
	n := len(list)
	if g.chance(80) {
		n = n * 3 / 5
	}
	return []byte(list[g.IntN(n)])
}

func (g *packets) number() uint32 { return fuzzNumbers[g.IntN(len(fuzzNumbers))] }

// id is a packet identifier: small, so that it often is one that is in use.
func (g *packets) id() uint16 {
	if g.chance(3) {
		return uint16(g.number())
	}
	return uint16(1 + g.IntN(12))
}

func (g *packets) qos() byte { return byte(g.IntN(3)) }

// next is any packet but a first one.
func (g *packets) next() packet {
	switch n := g.IntN(100); {
	case n < 38:
		return g.publish()
	case n < 55:
		return g.subscribe()
	case n < 61:
		return g.unsubscribe()
	case n < 82:
		return g.ack()
	case n < 88:
		return &mqtt.Pingreq{}
	case n < 92:
		return g.auth()
	case n < 95:
		return g.disconnect()
	case n < 97:
		return g.connect()
	}
	return g.answer()
}

// connect is a CONNECT. Passwords are rare: they cost the server time on
// purpose.
func (g *packets) connect() *mqtt.Connect {
	c := &mqtt.Connect{ClientID: g.name(fuzzIDs), CleanStart: g.chance(50), KeepAlive: []uint16{0, 0, 1, 2, 60, 65535}[g.IntN(6)]}
	if g.chance(5) {
		c.HasUsername, c.Username = true, []byte(fuzzUser)
		c.HasPassword, c.Password = true, []byte([]string{fuzzPassword, "wrong"}[g.IntN(2)])
	}
	p := &c.Properties
	if g.chance(60) {
		p.SessionExpiry = g.number()
		p.Set(mqtt.PropSessionExpiry)
	}
	if g.chance(40) {
		p.ReceiveMaximum = uint16(max(g.number(), 1))
		p.Set(mqtt.PropReceiveMaximum)
	}
	if g.chance(25) {
		p.MaximumPacketSize = []uint32{1, 20, 60, 200, 4000, never}[g.IntN(6)]
		p.Set(mqtt.PropMaximumPacketSize)
	}
	if g.chance(50) {
		p.TopicAliasMaximum = []uint16{0, 1, 1, 2, 5, 65535}[g.IntN(6)]
		p.Set(mqtt.PropTopicAliasMaximum)
	}
	p.RequestProblemInfo, p.RequestResponseInfo = g.chance(50), g.chance(50)
	if g.chance(50) {
		p.Set(mqtt.PropRequestProblemInfo, mqtt.PropRequestResponseInfo)
	}
	if g.chance(8) {
		g.login(p)
	}
	g.users(p)
	if g.chance(40) {
		c.HasWill, c.Will = true, g.will()
	}
	return c
}

// login adds enhanced authentication; the answers are up to the reader.
func (g *packets) login(p *mqtt.Properties) {
	p.AuthMethod = []byte([]string{scramMethod, scramMethod, scramMethod, "OTHER", ""}[g.IntN(5)])
	p.Set(mqtt.PropAuthMethod)
	if g.chance(90) {
		p.AuthData = []byte([]string{
			"n,,n=" + fuzzUser + ",r=" + scramNonce, "n,,n=nobody,r=x", "y,,n=" + fuzzUser + ",r=", "p=tls-exporter,,n=a,r=b", "c=biws,r=x,p=eA==", "",
		}[min(g.IntN(9), 8)%6])
		p.Set(mqtt.PropAuthData)
	}
}

func (g *packets) will() mqtt.Will {
	w := mqtt.Will{Topic: g.name(fuzzTopics), Payload: g.name(fuzzPayloads), QoS: g.qos(), Retain: g.chance(30)}
	if g.chance(50) {
		w.Properties.WillDelay = []uint32{0, 1, 2, never}[g.IntN(4)]
		w.Properties.Set(mqtt.PropWillDelay)
	}
	if g.chance(30) {
		w.Properties.MessageExpiry = g.number()
		w.Properties.Set(mqtt.PropMessageExpiry)
	}
	g.message(&w.Properties)
	return w
}

// message adds properties that travel with a message.
func (g *packets) message(p *mqtt.Properties) {
	if g.chance(15) {
		p.PayloadFormat = byte(g.IntN(2))
		p.Set(mqtt.PropPayloadFormat)
	}
	if g.chance(10) {
		p.ContentType = g.name(fuzzPayloads[:4])
		p.Set(mqtt.PropContentType)
	}
	if g.chance(10) {
		p.ResponseTopic = g.name(fuzzTopics)
		p.Set(mqtt.PropResponseTopic)
	}
	if g.chance(10) {
		p.CorrelationData = g.name(fuzzPayloads)
		p.Set(mqtt.PropCorrelationData)
	}
	g.users(p)
}

func (g *packets) users(p *mqtt.Properties) {
	for g.chance(15) {
		p.User = mqtt.AppendUserProperty(p.User, g.name(fuzzIDs), g.name(fuzzPayloads[:5]))
	}
}

func (g *packets) publish() *mqtt.Publish {
	m := &mqtt.Publish{Topic: g.name(fuzzTopics), Payload: g.name(fuzzPayloads), QoS: g.qos(), Retain: g.chance(25), Dup: g.chance(10)}
	if m.QoS > 0 {
		m.PacketID = g.id()
	}
	if g.version != mqtt.V5 {
		return m
	}
	if g.chance(20) {
		m.HasExpiry, m.Expiry = true, g.number()
	}
	switch {
	case g.chance(15):
		m.TopicAlias = uint16(1 + g.IntN(40))
		g.alias = max(g.alias, m.TopicAlias)
	case g.alias > 0 && g.chance(30):
		m.TopicAlias, m.Topic = uint16(1+g.IntN(int(g.alias))), nil
	}
	if g.chance(2) {
		m.SubscriptionIDs = []uint32{g.number()}
	}
	var p mqtt.Properties
	g.message(&p)
	m.Props = p.AppendTravelling(nil)
	return m
}

func (g *packets) subscribe() *mqtt.Subscribe {
	s := &mqtt.Subscribe{PacketID: g.id()}
	for range 1 + g.IntN(4) {
		s.Filters = append(s.Filters, mqtt.Filter{
			Topic: g.name(fuzzFilters), QoS: g.qos(), NoLocal: g.chance(15), RetainAsPublished: g.chance(30), RetainHandling: byte(g.IntN(3)),
		})
	}
	if g.chance(40) {
		s.Properties.SubscriptionID = min(max(g.number(), 1), 268435455)
		s.Properties.Set(mqtt.PropSubscriptionID)
	}
	g.users(&s.Properties)
	return s
}

func (g *packets) unsubscribe() *mqtt.Unsubscribe {
	u := &mqtt.Unsubscribe{PacketID: g.id()}
	for range 1 + g.IntN(3) {
		u.Filters = append(u.Filters, g.name(fuzzFilters))
	}
	return u
}

func (g *packets) ack() *mqtt.Ack {
	a := &mqtt.Ack{Type: mqtt.PUBACK + mqtt.PacketType(g.IntN(4)), PacketID: g.id()}
	if g.chance(15) {
		a.Code = []mqtt.ReasonCode{mqtt.CodeNoMatchingSubscribers, mqtt.CodePacketIdentifierNotFound, mqtt.CodeUnspecifiedError, mqtt.CodeQuotaExceeded}[g.IntN(4)]
	}
	if g.chance(5) {
		a.Properties.ReasonString = []byte("why not")
		a.Properties.Set(mqtt.PropReasonString)
	}
	return a
}

func (g *packets) auth() *mqtt.Auth {
	a := &mqtt.Auth{Code: []mqtt.ReasonCode{mqtt.CodeSuccess, mqtt.CodeContinueAuthentication, mqtt.CodeReauthenticate, mqtt.CodeReauthenticate}[g.IntN(4)]}
	g.login(&a.Properties)
	return a
}

func (g *packets) disconnect() *mqtt.Disconnect {
	d := &mqtt.Disconnect{Code: []mqtt.ReasonCode{mqtt.CodeNormalDisconnection, mqtt.CodeDisconnectWithWillMessage, mqtt.CodeUnspecifiedError, mqtt.CodeServerMoved}[g.IntN(4)]}
	if g.chance(40) {
		d.Properties.SessionExpiry = g.number()
		d.Properties.Set(mqtt.PropSessionExpiry)
	}
	return d
}

// answer is a packet that only servers send.
func (g *packets) answer() packet {
	switch g.IntN(4) {
	case 0:
		return &mqtt.Connack{SessionPresent: g.chance(50)}
	case 1:
		return &mqtt.Suback{PacketID: g.id(), Codes: []mqtt.ReasonCode{0}}
	case 2:
		return &mqtt.Unsuback{PacketID: g.id(), Codes: []mqtt.ReasonCode{0}}
	}
	return &mqtt.Pingresp{}
}
