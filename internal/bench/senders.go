package bench

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strconv"

	"github.com/homing-mq/homing/internal/mqtt"
)

// Via is what the senders of a P2P speak.
type Via string

// What they can speak; "" is ViaMQTT. With RocketMQ a sender is what a producer
// of its SDKs is to a server, with one connection for itself.
const (
	ViaMQTT     Via = "mqtt"
	ViaRemoting Via = "rocketmq"      // remoting, as the SDKs of RocketMQ 4
	ViaGRPC     Via = "rocketmq-grpc" // as the SDKs of RocketMQ 5
)

// text begins a line about a run.
func (v Via) text() string {
	switch v {
	case ViaRemoting:
		return "RocketMQ remoting to "
	case ViaGRPC:
		return "RocketMQ gRPC to "
	}
	return ""
}

// Senders say how the senders of a P2P connect.
type Senders struct {
	Via               Via
	Address           string // of the RocketMQ listener, host:port; plaintext
	AccessKey, Secret string // "": requests are not signed
}

func (s *Senders) check() error {
	switch s.Via {
	case "", ViaMQTT, ViaRemoting, ViaGRPC:
		return nil
	}
	return fmt.Errorf("senders cannot speak %q", s.Via)
}

// errand is an MQTT message as a RocketMQ producer sends it: to the topic parent
// with properties, name and value (contract section 8).
type errand struct {
	parent     string
	properties [][2]string
}

// newErrand returns what leads to the topic of m, which has several levels.
func newErrand(m *mqtt.Publish, keep bool) errand {
	parent, second, _ := bytes.Cut(m.Topic, []byte{'/'})
	e := errand{string(parent), [][2]string{{"mqttSecondTopic", "/" + string(second)}}}
	if m.QoS != 1 { // the QoS of a message that does not say
		e.properties = append(e.properties, [2]string{"qoslevel", strconv.Itoa(int(m.QoS))})
	}
	if keep {
		e.properties = append(e.properties, [2]string{"cleansessionflag", "false"})
	}
	return e
}

// messageID makes the IDs that an SDK gives its messages, as long as its own.
type messageID struct {
	text []byte // upper-case hexadecimal; its end counts
	n    uint32
}

// newMessageID makes IDs of so many digits, at least 8; prefix is the start of
// all.
func newMessageID(prefix string, digits int) messageID {
	text := make([]byte, digits)
	for i := range text {
		text[i] = "0123456789ABCDEF"[rand.N(16)]
	}
	copy(text, prefix)
	return messageID{text: text}
}

// next returns the next ID, which is valid until the one after it.
func (id *messageID) next() []byte {
	id.n++
	count := [4]byte{byte(id.n >> 24), byte(id.n >> 16), byte(id.n >> 8), byte(id.n)}
	end := id.text[len(id.text)-8:]
	hex.Encode(end, count[:])
	copy(end, bytes.ToUpper(end))
	return id.text
}
