package test

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/homing-mq/homing/internal/mqtt"
)

// packetWords are the words of each packet but the properties; those with =
// have a value. What begins with will- is the will's, in CONNECT only.
var packetWords = map[string]string{
	"CONNECT":     "clean id= keep-alive= username= password= will-topic= will-payload= will-q0 will-q1 will-q2 will-retain",
	"CONNACK":     "code session-present",
	"PUBLISH":     "q0 q1 q2 id= dup maybe-dup retain maybe-retain topic= payload= payload-size= alias= sub-id=",
	"PUBACK":      "id= code",
	"PUBREC":      "id= code",
	"PUBREL":      "id= code",
	"PUBCOMP":     "id= code",
	"SUBSCRIBE":   "id= filter= q0 q1 q2 no-local rap rh0 rh1 rh2",
	"SUBACK":      "id= code",
	"UNSUBSCRIBE": "id= filter=",
	"UNSUBACK":    "id= code",
	"PINGREQ":     "",
	"PINGRESP":    "",
	"DISCONNECT":  "code",
	"AUTH":        "code",
}

// fromClients and fromServers are the packets that each may send.
var (
	fromClients = "CONNECT PUBLISH PUBACK PUBREC PUBREL PUBCOMP SUBSCRIBE UNSUBSCRIBE PINGREQ DISCONNECT AUTH"
	fromServers = "CONNACK PUBLISH PUBACK PUBREC PUBREL PUBCOMP SUBACK UNSUBACK PINGRESP DISCONNECT AUTH"
)

// properties are the words of the properties of MQTT 5. user:KEY=VALUE is a
// user property. field returns a pointer to the value.
var properties = []struct {
	name  string
	id    mqtt.Prop
	field func(*mqtt.Properties) any
	in    string // the packets, and "will"
}{
	{"format", mqtt.PropPayloadFormat, func(p *mqtt.Properties) any { return &p.PayloadFormat }, "PUBLISH will"},
	{"expiry", mqtt.PropMessageExpiry, func(p *mqtt.Properties) any { return &p.MessageExpiry }, "PUBLISH will"},
	{"content-type", mqtt.PropContentType, func(p *mqtt.Properties) any { return &p.ContentType }, "PUBLISH will"},
	{"response-topic", mqtt.PropResponseTopic, func(p *mqtt.Properties) any { return &p.ResponseTopic }, "PUBLISH will"},
	{"correlation", mqtt.PropCorrelationData, func(p *mqtt.Properties) any { return &p.CorrelationData }, "PUBLISH will"},
	{"delay", mqtt.PropWillDelay, func(p *mqtt.Properties) any { return &p.WillDelay }, "will"},
	{"sub-id", mqtt.PropSubscriptionID, func(p *mqtt.Properties) any { return &p.SubscriptionID }, "SUBSCRIBE"},
	{"session-expiry", mqtt.PropSessionExpiry, func(p *mqtt.Properties) any { return &p.SessionExpiry }, "CONNECT CONNACK DISCONNECT"},
	{"assigned-id", mqtt.PropAssignedClientID, func(p *mqtt.Properties) any { return &p.AssignedClientID }, "CONNACK"},
	{"server-keep-alive", mqtt.PropServerKeepAlive, func(p *mqtt.Properties) any { return &p.ServerKeepAlive }, "CONNACK"},
	{"auth-method", mqtt.PropAuthMethod, func(p *mqtt.Properties) any { return &p.AuthMethod }, "CONNECT CONNACK AUTH"},
	{"auth-data", mqtt.PropAuthData, func(p *mqtt.Properties) any { return &p.AuthData }, "CONNECT CONNACK AUTH"},
	{"problem-info", mqtt.PropRequestProblemInfo, func(p *mqtt.Properties) any { return &p.RequestProblemInfo }, "CONNECT"},
	{"request-response-info", mqtt.PropRequestResponseInfo, func(p *mqtt.Properties) any { return &p.RequestResponseInfo }, "CONNECT"},
	{"response-info", mqtt.PropResponseInfo, func(p *mqtt.Properties) any { return &p.ResponseInfo }, "CONNACK"},
	{"server-reference", mqtt.PropServerReference, func(p *mqtt.Properties) any { return &p.ServerReference }, "CONNACK DISCONNECT"},
	{"reason", mqtt.PropReasonString, func(p *mqtt.Properties) any { return &p.ReasonString },
		"CONNACK PUBACK PUBREC PUBREL PUBCOMP SUBACK UNSUBACK DISCONNECT AUTH"},
	{"receive-max", mqtt.PropReceiveMaximum, func(p *mqtt.Properties) any { return &p.ReceiveMaximum }, "CONNECT CONNACK"},
	{"alias-max", mqtt.PropTopicAliasMaximum, func(p *mqtt.Properties) any { return &p.TopicAliasMaximum }, "CONNECT CONNACK"},
	{"max-qos", mqtt.PropMaximumQoS, func(p *mqtt.Properties) any { return &p.MaximumQoS }, "CONNACK"},
	{"retain-available", mqtt.PropRetainAvailable, func(p *mqtt.Properties) any { return &p.RetainAvailable }, "CONNACK"},
	{"max-packet", mqtt.PropMaximumPacketSize, func(p *mqtt.Properties) any { return &p.MaximumPacketSize }, "CONNECT CONNACK"},
	{"wildcard-available", mqtt.PropWildcardAvailable, func(p *mqtt.Properties) any { return &p.WildcardAvailable }, "CONNACK"},
	{"sub-id-available", mqtt.PropSubscriptionIDAvailable, func(p *mqtt.Properties) any { return &p.SubscriptionIDAvailable }, "CONNACK"},
	{"shared-available", mqtt.PropSharedAvailable, func(p *mqtt.Properties) any { return &p.SharedAvailable }, "CONNACK"},
}

// keyed reports whether a word has a value.
func keyed(key string) bool {
	if strings.HasPrefix(key, "user:") || strings.HasPrefix(key, "will-user:") {
		return true
	}
	for _, p := range properties {
		if p.name == key || "will-"+p.name == key {
			return true
		}
	}
	for _, list := range packetWords {
		if slices.Contains(strings.Fields(list), key+"=") {
			return true
		}
	}
	return false
}

// checkWords finds words that the packet does not have.
func checkWords(packet string, words []word, v mqtt.Version, expected bool) error {
	senders := fromClients
	if expected {
		senders = fromServers
	}
	if !slices.Contains(strings.Fields(senders), packet) || packet == "AUTH" && v != mqtt.V5 {
		return fmt.Errorf("unknown packet %q", packet)
	}
	for _, w := range words {
		key := w.key
		if expected {
			key = strings.TrimPrefix(key, "-")
		}
		if !knows(packet, key, v) {
			return fmt.Errorf("unknown word %q in %s of MQTT %v", w, packet, v)
		}
	}
	if expected {
		return nil
	}
	var b builder
	b.vars = map[string]string{}
	_, err := b.build(packet, words)
	return err
}

func knows(packet, key string, v mqtt.Version) bool {
	own := strings.Fields(packetWords[packet])
	five := v == mqtt.V5
	switch {
	case key == "code" && !five && packet != "CONNACK" && packet != "SUBACK":
		return false
	case slices.Contains([]string{"no-local", "rap", "rh0", "rh1", "rh2", "alias", "sub-id"}, key) && !five:
		return false
	case slices.Contains(own, key), slices.Contains(own, key+"="):
		return true
	case strings.HasPrefix(key, "will-") && packet == "CONNECT":
		return five && isProperty("will", strings.TrimPrefix(key, "will-"))
	}
	return five && isProperty(packet, key)
}

func isProperty(in, key string) bool {
	if strings.HasPrefix(key, "user:") {
		return in != "PINGREQ" && in != "PINGRESP"
	}
	for _, p := range properties {
		if p.name == key && slices.Contains(strings.Fields(p.in), in) {
			return true
		}
	}
	return false
}

// builder makes packets of words.
type builder struct {
	vars     map[string]string
	level    string // before each topic, with a slash; "": none
	idSuffix string // after each client ID
}

// topic is a topic or filter as the server sees it.
func (b *builder) topic(s string) []byte {
	if rest, ok := strings.CutPrefix(s, "$share/"); ok && b.level != "" {
		if group, filter, ok := strings.Cut(rest, "/"); ok && filter != "" {
			return []byte("$share/" + group + "/" + b.level + filter)
		}
		return []byte(s)
	}
	if s == "" {
		return nil
	}
	return []byte(b.level + s)
}

// bareTopic is the reverse.
func (b *builder) bareTopic(s []byte) string { return strings.TrimPrefix(string(s), b.level) }

func (b *builder) clientID(s string) string {
	if full := expand(s, b.vars); full != s || s == "" {
		return full
	}
	return s + b.idSuffix
}

// build makes the packet that a client sends.
func (b *builder) build(name string, words []word) (packet, error) {
	switch name {
	case "CONNECT":
		return b.connect(words)
	case "PUBLISH":
		return b.publish(words)
	case "SUBSCRIBE", "UNSUBSCRIBE":
		return b.filters(name, words)
	case "PINGREQ":
		return &mqtt.Pingreq{}, nil
	}
	var code mqtt.ReasonCode
	var id uint16
	var p mqtt.Properties
	for _, w := range words {
		var err error
		switch w.key {
		case "code":
			code, err = parseCode(w.value)
		case "id":
			err = parseNumber(expand(w.value, b.vars), &id)
		default:
			err = b.setProperty(&p, w)
		}
		if err != nil {
			return nil, fmt.Errorf("%v: %w", w, err)
		}
	}
	switch name {
	case "DISCONNECT":
		return &mqtt.Disconnect{Code: code, Properties: p}, nil
	case "AUTH":
		return &mqtt.Auth{Code: code, Properties: p}, nil
	}
	for t := mqtt.PUBACK; t <= mqtt.PUBCOMP; t++ {
		if t.String() == name {
			return &mqtt.Ack{Type: t, PacketID: id, Code: code, Properties: p}, nil
		}
	}
	return nil, fmt.Errorf("unknown packet %q", name)
}

func (b *builder) connect(words []word) (packet, error) {
	c := &mqtt.Connect{}
	for _, w := range words {
		var err error
		value := expand(w.value, b.vars)
		switch w.key {
		case "clean":
			c.CleanStart = true
		case "id":
			c.ClientID = []byte(b.clientID(w.value))
		case "keep-alive":
			err = parseNumber(value, &c.KeepAlive)
		case "username":
			c.HasUsername, c.Username = true, []byte(value)
		case "password":
			c.HasPassword, c.Password = true, []byte(value)
		case "will-topic":
			c.Will.Topic = b.topic(value)
		case "will-payload":
			c.Will.Payload = []byte(value)
		case "will-q0", "will-q1", "will-q2":
			c.Will.QoS = w.key[len(w.key)-1] - '0'
		case "will-retain":
			c.Will.Retain = true
		default:
			if key, ok := strings.CutPrefix(w.key, "will-"); ok {
				err = b.setProperty(&c.Will.Properties, word{key: key, value: w.value})
			} else {
				err = b.setProperty(&c.Properties, w)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%v: %w", w, err)
		}
		c.HasWill = c.HasWill || strings.HasPrefix(w.key, "will-")
	}
	return c, nil
}

func (b *builder) publish(words []word) (packet, error) {
	m := &mqtt.Publish{}
	for _, w := range words {
		var err error
		value := expand(w.value, b.vars)
		switch w.key {
		case "q0", "q1", "q2":
			m.QoS = w.key[1] - '0'
		case "id":
			err = parseNumber(value, &m.PacketID)
		case "dup":
			m.Dup = true
		case "retain":
			m.Retain = true
		case "topic":
			m.Topic = b.topic(value)
		case "payload":
			m.Payload = []byte(value)
		case "payload-size":
			var n uint32
			err = parseNumber(value, &n)
			m.Payload = []byte(strings.Repeat("x", int(n)))
		case "alias":
			err = parseNumber(value, &m.TopicAlias)
		case "expiry":
			m.HasExpiry = true
			err = parseNumber(value, &m.Expiry)
		case "sub-id":
			var id uint32
			err = parseNumber(value, &id)
			m.SubscriptionIDs = append(m.SubscriptionIDs, id)
		case "maybe-dup", "maybe-retain":
			err = fmt.Errorf("it is for expectations only")
		default:
			var p mqtt.Properties // one at a time: their order is that of the words
			err = b.setProperty(&p, w)
			m.Props = p.AppendTravelling(m.Props)
		}
		if err != nil {
			return nil, fmt.Errorf("%v: %w", w, err)
		}
	}
	return m, nil
}

func (b *builder) filters(name string, words []word) (packet, error) {
	var id uint16
	var list []mqtt.Filter
	var p mqtt.Properties
	for _, w := range words {
		var err error
		value := expand(w.value, b.vars)
		option := w.key != "filter" && w.value == ""
		if option && len(list) == 0 {
			return nil, fmt.Errorf("the option %v stands before the first filter", w)
		}
		switch {
		case w.key == "id":
			err = parseNumber(value, &id)
		case w.key == "filter":
			list = append(list, mqtt.Filter{Topic: b.topic(value)})
		case option:
			f := &list[len(list)-1]
			last := w.key[len(w.key)-1] - '0'
			switch w.key {
			case "no-local":
				f.NoLocal = true
			case "rap":
				f.RetainAsPublished = true
			case "rh0", "rh1", "rh2":
				f.RetainHandling = last
			default:
				f.QoS = last
			}
		default:
			err = b.setProperty(&p, w)
		}
		if err != nil {
			return nil, fmt.Errorf("%v: %w", w, err)
		}
	}
	if name == "SUBSCRIBE" {
		return &mqtt.Subscribe{PacketID: id, Filters: list, Properties: p}, nil
	}
	u := &mqtt.Unsubscribe{PacketID: id, Properties: p}
	for _, f := range list {
		u.Filters = append(u.Filters, f.Topic)
	}
	return u, nil
}

func (b *builder) setProperty(p *mqtt.Properties, w word) error {
	value := expand(w.value, b.vars)
	if key, ok := strings.CutPrefix(w.key, "user:"); ok {
		p.User = mqtt.AppendUserProperty(p.User, key, value)
		return nil
	}
	for _, row := range properties {
		if row.name != w.key {
			continue
		}
		p.Set(row.id)
		switch f := row.field(p).(type) {
		case *[]byte:
			*f = []byte(value)
			if row.id == mqtt.PropResponseTopic {
				*f = b.topic(value)
			}
			return nil
		case *bool:
			*f = value == "1"
			return nil
		case *byte:
			return parseNumber(value, f)
		case *uint16:
			return parseNumber(value, f)
		case *uint32:
			return parseNumber(value, f)
		}
	}
	return fmt.Errorf("unknown word")
}

func parseNumber[T byte | uint16 | uint32](s string, to *T) error {
	if strings.HasPrefix(s, "{") { // a variable without a value, when a file is checked
		return nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if *to = T(n); err == nil && uint64(*to) != n {
		return fmt.Errorf("%d is too large", n)
	}
	return err
}

func parseCode(s string) (mqtt.ReasonCode, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "0x"), 16, 8)
	return mqtt.ReasonCode(n), err
}

func rawBytes(words []word) ([]byte, error) {
	var b []byte
	for _, w := range words {
		x, err := hex.DecodeString(w.key)
		if err != nil || len(x) == 0 {
			return nil, fmt.Errorf("%q are no bytes", w.key)
		}
		b = append(b, x...)
	}
	return b, nil
}

// describe is the reverse of build, for what a server sends: the packet's name
// and its words.
func (b *builder) describe(x any, v mqtt.Version) (string, []word) {
	switch x := x.(type) {
	case *mqtt.Connack:
		words := codes(x.Code)
		if x.SessionPresent {
			words = append(words, word{key: "session-present"})
		}
		return "CONNACK", append(words, b.properties(&x.Properties)...)
	case *mqtt.Publish:
		return "PUBLISH", b.published(x)
	case *mqtt.Ack:
		words := []word{number("id", uint32(x.PacketID))}
		if v == mqtt.V5 {
			words = append(words, codes(x.Code)...)
		}
		return x.Type.String(), append(words, b.properties(&x.Properties)...)
	case *mqtt.Suback:
		return "SUBACK", slices.Concat([]word{number("id", uint32(x.PacketID))}, codes(x.Codes...), b.properties(&x.Properties))
	case *mqtt.Unsuback:
		return "UNSUBACK", slices.Concat([]word{number("id", uint32(x.PacketID))}, codes(x.Codes...), b.properties(&x.Properties))
	case *mqtt.Pingresp:
		return "PINGRESP", nil
	case *mqtt.Disconnect:
		return "DISCONNECT", append(codes(x.Code), b.properties(&x.Properties)...)
	case *mqtt.Auth:
		return "AUTH", append(codes(x.Code), b.properties(&x.Properties)...)
	}
	return fmt.Sprintf("%T", x), nil
}

func (b *builder) published(m *mqtt.Publish) []word {
	words := []word{{key: fmt.Sprint("q", m.QoS)}}
	if m.QoS > 0 {
		words = append(words, number("id", uint32(m.PacketID)))
	}
	if m.Dup {
		words = append(words, word{key: "dup"})
	}
	if m.Retain {
		words = append(words, word{key: "retain"})
	}
	words = append(words, word{key: "topic", value: b.bareTopic(m.Topic)}, word{key: "payload", value: string(m.Payload)})
	if m.TopicAlias != 0 {
		words = append(words, number("alias", uint32(m.TopicAlias)))
	}
	if m.HasExpiry {
		words = append(words, number("expiry", m.Expiry))
	}
	for _, id := range m.SubscriptionIDs {
		words = append(words, number("sub-id", id))
	}
	var p mqtt.Properties
	if err := mqtt.DecodeProps(m.Props, &p); err != nil {
		return append(words, word{key: "payload", value: err.Error()})
	}
	return append(words, b.properties(&p)...)
}

func (b *builder) properties(p *mqtt.Properties) []word {
	var words []word
	for _, row := range properties {
		if !p.Has(row.id) {
			continue
		}
		w := word{key: row.name}
		switch f := row.field(p).(type) {
		case *[]byte:
			w.value = string(*f)
			if row.id == mqtt.PropResponseTopic {
				w.value = b.bareTopic(*f)
			}
		case *bool:
			w.value = "0"
			if *f {
				w.value = "1"
			}
		case *byte:
			w.value = fmt.Sprint(*f)
		case *uint16:
			w.value = fmt.Sprint(*f)
		case *uint32:
			w.value = fmt.Sprint(*f)
		}
		words = append(words, w)
	}
	for k, v := range mqtt.UserProperties(p.User) {
		words = append(words, word{key: "user:" + string(k), value: string(v)})
	}
	return words
}

func number(key string, n uint32) word { return word{key: key, value: fmt.Sprint(n)} }

func codes(list ...mqtt.ReasonCode) []word {
	var words []word
	for _, c := range list {
		words = append(words, word{key: "code", value: fmt.Sprintf("0x%02X", byte(c))})
	}
	return words
}
