package rocketmqserver

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
)

// translation makes MQTT messages of one RocketMQ message: begin, then set for
// every property, then finish. It is used again and again by one goroutine.
// What it is given must not change until the messages are published.
type translation struct {
	srv *Server
	now int64 // the server's time, Unix ms

	// What the properties say.
	second   []byte // mqttSecondTopic
	real     []byte // mqttRealTopic
	multi    []byte // INNER_MULTI_DISPATCH
	id, keys []byte
	qos      mq.QoS
	keep     bool
	expiry   int64  // ms; 0: none
	at       int64  // time of day of the delivery, Unix ms on the wall clock; 0: none
	delay    int64  // ms until the delivery; 0: none. At most one of the two is set
	props    []byte // MQTT 5 properties, in their wire encoding
	room     int    // bytes that a compressed body may become, of a gRPC message
	grown    int    // bytes that it has become, or may have if it was refused
	topics   []byte // the memory of the messages' topics

	// messages are what to publish: one, or several with INNER_MULTI_DISPATCH.
	messages []mq.Message
}

// The names of the user properties that an MQTT 5 receiver sees.
const (
	propMessageID = "messageId"
	propKeys      = "keys"
)

// The properties of contract section 8.
const (
	keySecondTopic   = "mqttSecondTopic"
	keyRealTopic     = "mqttRealTopic"
	keyQoS           = "qoslevel"
	keyCleanSession  = "cleansessionflag"
	keyUserProperty  = "mqtt5UserProperty"
	keyExpiry        = "mqtt5MsgExpireInterval"
	keyContentType   = "mqtt5ContentType"
	keyMultiDispatch = "INNER_MULTI_DISPATCH"
)

// maxUserProperty bounds the JSON of mqtt5UserProperty, bytes, as the original
// service does.
const maxUserProperty = 8 << 10

func (t *translation) begin(srv *Server, now int64) {
	clear(t.messages)
	*t = translation{srv: srv, now: now, qos: mq.AtLeastOnce, props: t.props[:0], topics: t.topics[:0], messages: t.messages[:0]}
}

// forget lets go of the message, and of memory that an unusual one has needed.
func (t *translation) forget() {
	const kept = 4 << 10 // bytes
	clear(t.messages)
	memory := translation{props: t.props, topics: t.topics, messages: t.messages}
	if cap(t.props)+cap(t.topics) > kept || cap(t.messages) > 4 {
		memory = translation{}
	}
	*t = memory
}

// set takes one property of the message.
func (t *translation) set(key, value []byte) error {
	switch string(key) {
	case keySecondTopic:
		t.second = value
	case keyRealTopic:
		t.real = value
	case keyMultiDispatch:
		t.multi = value
	case keyQoS:
		if len(value) != 1 || value[0] < '0' || value[0] > '2' {
			return badProperty(key, value, "must be 0, 1 or 2")
		}
		t.qos = mq.QoS(value[0] - '0')
	case keyCleanSession:
		switch string(value) {
		case "true":
			t.keep = false
		case "false":
			t.keep = true
		default:
			return badProperty(key, value, "must be true or false")
		}
	case keyUserProperty:
		return t.setUserProperties(value)
	case keyExpiry:
		seconds, err := strconv.ParseUint(string(value), 10, 32)
		if err != nil {
			return badProperty(key, value, "must be a number of seconds")
		}
		t.expiry = int64(seconds) * 1000
	case keyContentType:
		if !validText(value) {
			return badProperty(key, value, notText)
		}
		t.props = mqtt.AppendContentType(t.props, value)
	case "UNIQ_KEY":
		t.id = value
	case "KEYS":
		t.keys = value
	case "TRAN_MSG":
		if string(value) == "true" {
			return errTransaction
		}
	case "DELAY", "TIMER_DELAY_SEC", "TIMER_DELAY_MS", "TIMER_DELIVER_MS", "__STARTDELIVERTIME":
		return t.setDelay(key, value)
	default:
		if isSystemProperty(key) {
			return nil
		}
		if !validText(key) || !validText(value) {
			return badProperty(key, value, notText)
		}
		t.props = mqtt.AppendUserProperty(t.props, key, value)
	}
	return nil
}

const notText = "must be UTF-8 without U+0000, up to 65535 bytes: MQTT 5 receivers get it"

// validText reports whether b can be a UTF-8 string of MQTT (MQTT 5, 1.5.4).
func validText(b []byte) bool {
	return len(b) <= 65535 && utf8.Valid(b) && bytes.IndexByte(b, 0) < 0
}

// setUserProperties takes a JSON array of {"key":k,"value":v}.
func (t *translation) setUserProperties(list []byte) error {
	var pairs []struct{ Key, Value *string }
	if len(list) > maxUserProperty {
		return refuse(badMessage, "property %s has %d bytes; %d are allowed", keyUserProperty, len(list), maxUserProperty)
	}
	if err := json.Unmarshal(list, &pairs); err != nil {
		return badProperty([]byte(keyUserProperty), list, `must be JSON like [{"key":"k","value":"v"}]`)
	}
	for _, p := range pairs {
		if p.Key == nil || p.Value == nil {
			return badProperty([]byte(keyUserProperty), list, `must be JSON like [{"key":"k","value":"v"}]`)
		}
		if !validText([]byte(*p.Key)) || !validText([]byte(*p.Value)) {
			return badProperty([]byte(keyUserProperty), list, notText)
		}
		t.props = mqtt.AppendUserProperty(t.props, *p.Key, *p.Value)
	}
	return nil
}

// delayLevels are the delays of the property DELAY, from 1 (RocketMQ's
// MessageStoreConfig.messageDelayLevel).
var delayLevels = [...]time.Duration{
	0, 1 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, 1 * time.Minute, 2 * time.Minute, 3 * time.Minute,
	4 * time.Minute, 5 * time.Minute, 6 * time.Minute, 7 * time.Minute, 8 * time.Minute, 9 * time.Minute, 10 * time.Minute,
	20 * time.Minute, 30 * time.Minute, 1 * time.Hour, 2 * time.Hour,
}

func (t *translation) setDelay(key, value []byte) error {
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil {
		return badProperty(key, value, "must be a whole number")
	}
	if n <= 0 {
		return nil // no delay, as RocketMQ has it
	}
	const far = int64(1) << 50 // ms: sums do not overflow, and every limit is less
	t.at, t.delay = 0, 0
	switch string(key) {
	case "DELAY":
		level := delayLevels[min(n, int64(len(delayLevels)-1))] // a higher level is the highest, as in ScheduleMessageService
		t.delay = level.Milliseconds()
	case "TIMER_DELAY_SEC":
		t.delay = min(n, far) * 1000
	case "TIMER_DELAY_MS":
		t.delay = min(n, far)
	default:
		t.at = min(n, far)
	}
	return nil
}

// finish makes the messages. topic is the RocketMQ topic, with a namespace in
// front perhaps.
func (t *translation) finish(topic, body []byte) error {
	parent, err := t.srv.parentTopic(topic)
	if err != nil {
		return err
	}
	start, err := t.schedule()
	if err != nil {
		return err
	}
	if err := t.identify(); err != nil {
		return err
	}
	m := mq.Message{Payload: body, Props: t.props, QoS: t.qos}
	if t.expiry > 0 {
		m.Expiry = start + t.expiry
	}
	if len(t.second) == 0 && len(t.multi) > 0 {
		return t.dispatch(parent, &m)
	}
	return t.add(t.join(parent, t.second), parent, &m, keySecondTopic, t.second)
}

// schedule checks the delay, and returns when the message is delivered: on the
// wall clock if it has a time of day, which may have passed, else in the server's
// time.
func (t *translation) schedule() (start int64, err error) {
	delay, start := t.delay, t.now+t.delay
	if t.at > 0 {
		delay, start = t.at-t.srv.broker.Wall(), t.at
	}
	if delay <= 0 {
		t.at, t.delay = 0, 0
		return t.now, nil
	}
	if limit := t.srv.opt.MaxDelay; limit > 0 && delay > limit.Milliseconds() {
		return 0, refuse(badDelay, "the delay is longer than %s (rocketmq.max-delay)", limit)
	}
	return start, nil
}

// identify lets MQTT 5 receivers see the message's ID and keys.
func (t *translation) identify() error {
	for _, p := range []struct {
		name  string
		key   string
		value []byte
	}{{propMessageID, "UNIQ_KEY", t.id}, {propKeys, "KEYS", t.keys}} {
		if len(p.value) == 0 {
			continue
		}
		if !validText(p.value) {
			return badProperty([]byte(p.key), p.value, notText)
		}
		t.props = mqtt.AppendUserProperty(t.props, p.name, p.value)
	}
	return nil
}

// join returns parent/sub, in memory of the translation; a slash in front of
// sub is left away, and without sub it is the parent.
func (t *translation) join(parent, sub []byte) []byte {
	sub = bytes.TrimPrefix(sub, []byte{'/'})
	if len(sub) == 0 {
		return parent
	}
	from := len(t.topics)
	t.topics = append(append(append(t.topics, parent...), '/'), sub...)
	return t.topics[from:len(t.topics):len(t.topics)]
}

// add takes one topic to publish m to. key and value are the property it is
// from.
func (t *translation) add(topic, parent []byte, m *mq.Message, key string, value []byte) error {
	kind, _ := mq.ParseTopic(topic)
	switch {
	case kind == mq.TopicBadP2P:
		return refuse(badTopic, "property %s is %q, which names no client: it must be /p2p/{client ID}, and a client ID has no / + #", key, clip(value))
	case kind == mq.TopicInvalid && len(value) == 0:
		return refuse(badTopic, "topic %q cannot be an MQTT topic", clip(topic))
	case kind == mq.TopicInvalid:
		return refuse(badTopic, "property %s is %q, which gives no MQTT topic: no + or #, UTF-8, up to 65535 bytes", key, clip(value))
	}
	one := *m
	one.Topic = topic
	if kind == mq.TopicP2P {
		one.Keep = t.keep
		if len(t.real) > 0 {
			one.RealTopic = t.join(parent, t.real)
			if !mq.ValidTopic(one.RealTopic) {
				return badProperty([]byte(keyRealTopic), t.real, "must be the rest of an MQTT topic")
			}
		}
	}
	if over := t.srv.message.Check(&one); over != mq.BreachNone {
		return t.srv.refuseOver(over, &one)
	}
	t.messages = append(t.messages, one)
	return nil
}

// refuseOver says which limit a message is over.
func (s *Server) refuseOver(over mq.Breach, m *mq.Message) error {
	as, l := outcomes[over.Code()], &s.message
	as.drop = over.Drop()
	switch over {
	case mq.BreachTopicLength:
		return refuse(as, "the MQTT topic has %d bytes; this server takes %d (limits.topic-length)", max(len(m.Topic), len(m.RealTopic)), l.TopicLength)
	case mq.BreachTopicText:
		return refuse(as, "the MQTT topic %q has a control character or non-character, which this server does not take (mqtt.strict-utf8)", clip(m.SeenTopic()))
	case mq.BreachQoS:
		return refuse(as, "property %s is %d, and this server takes %d at most (limits.qos)", keyQoS, m.QoS, l.MaxQoS)
	case mq.BreachSize:
		return refuse(as, "with its topic and properties the message is larger, %d bytes, than what this server takes (limits.packet-size)", m.PublishSize())
	}
	return refuse(as, "%v", over)
}

// maxDispatch bounds the topics of one message.
const maxDispatch = 64

// dispatch takes the queues of INNER_MULTI_DISPATCH, which Apache's MQTT gateway
// reads: %LMQ% and a topic with % in place of slashes. Those with a wildcard are
// for subscriptions that its back-ends have matched themselves; they are left
// out, as subscriptions are matched here.
func (t *translation) dispatch(parent []byte, m *mq.Message) error {
	for queue := range bytes.SplitSeq(t.multi, []byte{','}) {
		name, ok := bytes.CutPrefix(bytes.TrimSpace(queue), []byte("%LMQ%"))
		name = bytes.TrimRight(name, "%")
		if !ok || len(name) == 0 {
			return badProperty([]byte(keyMultiDispatch), queue, "must be %LMQ% and a topic with % in place of slashes")
		}
		topic := bytes.ReplaceAll(name, []byte{'%'}, []byte{'/'})
		switch {
		case bytes.HasPrefix(topic, []byte("/p2p/")): // of no parent topic: the message's
			topic = t.join(parent, topic)
		case bytes.ContainsAny(topic, "+#"):
			continue
		}
		if t.has(topic) {
			continue
		}
		if len(t.messages) == maxDispatch {
			return refuse(badMessage, "property %s has more than %d topics", keyMultiDispatch, maxDispatch)
		}
		// Each topic has a copy in the store: a body counts for each.
		if limit := maxBodies * t.srv.opt.BodySize; len(m.Payload)*(len(t.messages)+1) > limit {
			return errBodies(limit)
		}
		if err := t.add(topic, parent, m, keyMultiDispatch, queue); err != nil {
			return err
		}
	}
	if len(t.messages) == 0 { // wildcards only
		return t.add(parent, parent, m, keyMultiDispatch, nil)
	}
	return nil
}

// size is how many bytes the bodies of the messages have: each topic has a copy.
func (t *translation) size() int { return len(t.messages) * len(t.messages[0].Payload) }

func (t *translation) has(topic []byte) bool {
	for i := range t.messages {
		if bytes.Equal(t.messages[i].Topic, topic) {
			return true
		}
	}
	return false
}

// clip shortens what is shown of a client's input.
func clip(b []byte) []byte { return b[:min(len(b), 128)] }

// isSystemProperty reports whether a property is RocketMQ's own
// (MessageConst.STRING_HASH_SET): it says nothing to a device.
func isSystemProperty(key []byte) bool {
	return bytes.HasPrefix(key, []byte("__")) || systemProperties[string(key)]
}

var systemProperties = func() map[string]bool {
	set := make(map[string]bool)
	for _, key := range []string{
		"TAGS", "WAIT", "SHARDING_KEY", "RETRY_TOPIC", "REAL_TOPIC", "REAL_QID", "PGROUP", "MIN_OFFSET", "MAX_OFFSET", "BUYER_ID",
		"ORIGIN_MESSAGE_ID", "TRANSFER_FLAG", "CORRECTION_FLAG", "MQ2_FLAG", "RECONSUME_TIME", "MSG_REGION", "TRACE_ON",
		"EXTEND_UNIQ_INFO", "MAX_RECONSUME_TIMES", "CONSUME_START_TIME", "POP_CK", "POP_CK_OFFSET", "1ST_POP_TIME",
		"TRAN_PREPARED_QUEUE_OFFSET", "DUP_INFO", "INSTANCE_ID", "CORRELATION_ID", "REPLY_TO_CLIENT", "TTL", "ARRIVE_TIME",
		"PUSH_REPLY_TIME", "CLUSTER", "MSG_TYPE", "INNER_MULTI_QUEUE_OFFSET", "INNER_NUM", "INNER_BASE", "TIMER_ENQUEUE_MS",
		"TIMER_DEQUEUE_MS", "TIMER_ROLL_TIMES", "TIMER_OUT_MS", "TIMER_DEL_UNIQKEY", "TIMER_DEL_MSG", "TIMER_ENGINE_TYPE",
		"PROPERTY_TIMER_DELIVER_MS", "UNIQUE_MSG_QUERY_FLAG", "CRC32", "DELAY_LEVEL", "CHECK_IMMUNITY_TIME_IN_SECONDS",
		"namespace", "retryTimes", "traceParent", "TRACE_CONTEXT", "TRAN_MSG_ID", "LITE_TOPIC", "PRIORITY",
	} {
		set[key] = true
	}
	return set
}()
