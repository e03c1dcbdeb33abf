package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/mqttclient"
)

// textLine is a message for people.
func textLine(m *mqttclient.Message) []byte {
	flags := ""
	if m.Dup {
		flags += " dup"
	}
	if m.Retain {
		flags += " retained"
	}
	return fmt.Appendf(nil, "%s QoS %d%s: %s\n", plain(m.Topic), m.QoS, flags, plain(m.Payload))
}

// plain returns b if it can be shown on one line as it is, and as a quoted Go
// string otherwise: a message must not write to the terminal what it likes.
func plain(b []byte) string {
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 || !unicode.IsPrint(r) && r != '\t' {
			return strconv.Quote(string(b))
		}
		i += n
	}
	return string(b)
}

// jsonMessage is a message for programs. Payload is there if it is UTF-8,
// PayloadBase64 if not.
type jsonMessage struct {
	Time            time.Time      `json:"time"` // of arrival
	Topic           string         `json:"topic"`
	QoS             byte           `json:"qos"`
	Dup             bool           `json:"dup"`
	Retain          bool           `json:"retain"`
	Payload         *string        `json:"payload,omitempty"`
	PayloadBase64   []byte         `json:"payloadBase64,omitempty"`
	Expiry          *uint32        `json:"expiry,omitempty"` // seconds left
	ContentType     string         `json:"contentType,omitempty"`
	ResponseTopic   string         `json:"responseTopic,omitempty"`
	CorrelationData []byte         `json:"correlationData,omitempty"` // base64
	PayloadFormat   *byte          `json:"payloadFormat,omitempty"`
	UserProperties  []jsonProperty `json:"userProperties,omitempty"`
	SubscriptionIDs []uint32       `json:"subscriptionIds,omitempty"`
}

type jsonProperty struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// jsonLine is a message as a JSON object and a newline.
func jsonLine(m *mqttclient.Message, now time.Time) ([]byte, error) {
	j := jsonMessage{
		Time: now, Topic: string(m.Topic), QoS: m.QoS, Dup: m.Dup, Retain: m.Retain,
		SubscriptionIDs: m.SubscriptionIDs,
	}
	if utf8.Valid(m.Payload) {
		s := string(m.Payload)
		j.Payload = &s
	} else {
		j.PayloadBase64 = m.Payload
	}
	if m.HasExpiry {
		j.Expiry = &m.Expiry
	}
	var p mqtt.Properties
	if err := mqtt.DecodeProps(m.Props, &p); err != nil {
		return nil, fmt.Errorf("properties of a message: %w", err)
	}
	j.ContentType, j.ResponseTopic, j.CorrelationData = string(p.ContentType), string(p.ResponseTopic), p.CorrelationData
	if p.Has(mqtt.PropPayloadFormat) {
		j.PayloadFormat = &p.PayloadFormat
	}
	for k, v := range mqtt.UserProperties(m.Props) {
		j.UserProperties = append(j.UserProperties, jsonProperty{string(k), string(v)})
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(&j)
	return b.Bytes(), err
}
