package mqttserver

import "github.com/homing-mq/homing/internal/mqtt"

// topicAliasMax is how many topic aliases a client may set on a connection. Each
// may hold a topic name of 64 KiB.
const topicAliasMax = 32

// resolveAlias sets or uses a topic alias of the client [MQTT-3.3.2-12].
func (c *conn) resolveAlias(p *mqtt.Publish) error {
	switch {
	case p.TopicAlias == 0:
		return nil
	case p.TopicAlias > topicAliasMax: // [MQTT-3.3.2-9]
		return errAlias
	}
	d := c.more()
	if d.aliases == nil {
		d.aliases = make([][]byte, topicAliasMax)
	}
	slot := &d.aliases[p.TopicAlias-1]
	if len(p.Topic) > 0 {
		*slot = append((*slot)[:0], p.Topic...)
		return nil
	}
	if *slot == nil {
		return errAliasUnknown
	}
	p.Topic = *slot
	return nil
}

// Bounds on the aliases that the server sets on a connection, whatever the
// client's Topic Alias Maximum: a client has few topics, and a sender must not
// be able to fill memory by way of somebody else's connection.
const (
	aliasesOut     = 256
	aliasBytesOut  = 16 << 10 // of topic names
	aliasTopicSize = 4        // bytes; an alias is three, so that shorter names gain nothing
)

// aliasesTo are the topic aliases towards a client that takes some
// [MQTT-3.1.2-26] [MQTT-3.1.2-27]. They are given to topics in the order of
// their first use, until there are no more, and are not given to others after:
// where a client has more topics than aliases, each exchange would cost three
// bytes and save nothing. The outbox's lock guards them.
type aliasesTo struct {
	maximum uint16 // of the client
	bytes   int    // of all topic names
	byTopic map[string]uint16
}

func newAliasesTo(maximum uint16) *aliasesTo {
	return &aliasesTo{maximum: min(maximum, aliasesOut), byTopic: make(map[string]uint16)}
}

// apply puts the alias of its topic, if it has one or gets one, into a packet
// that is going to be sent: with the topic name the first time, in its place
// later [MQTT-3.3.2-8] [MQTT-3.3.2-10] [MQTT-3.3.2-11]. maxPacket is the
// client's maximum packet size in bytes, which p is within.
func (a *aliasesTo) apply(p *mqtt.Publish, maxPacket int) {
	if alias, known := a.byTopic[string(p.Topic)]; known {
		p.TopicAlias, p.Topic = alias, nil
		return
	}
	n := len(p.Topic)
	if n < aliasTopicSize || len(a.byTopic) >= int(a.maximum) || a.bytes+n > aliasBytesOut {
		return
	}
	alias := uint16(len(a.byTopic) + 1)
	p.TopicAlias = alias
	if p.Size(mqtt.V5) > maxPacket {
		p.TopicAlias = 0
		return
	}
	a.byTopic[string(p.Topic)] = alias
	a.bytes += n
}
