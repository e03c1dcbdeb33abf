package broker

import "github.com/homing-mq/homing/internal/mq"

// PublishSystem sets the value of one of the server's own topics, $SYS/..., and
// tells its subscribers, with QoS 0. New subscribers get the last one. Nothing
// of it is stored. The caller flushes the batch.
func (b *Broker) PublishSystem(topic string, payload []byte, batch *Batch) {
	m := mq.Message{Topic: []byte(topic), Payload: payload, Retain: true}
	b.retained.setSystem(topic, mq.AppendRecord(nil, &m))
	d := &delivery{m: &m, kind: PubSub, rights: b.auth.Version()}
	batch.matches = b.topics.match(m.Topic, nil, batch.matches[:0])
	b.offerAll(d, nil, batch)
	clear(batch.matches)
}
