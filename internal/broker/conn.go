package broker

import "github.com/homing-mq/homing/internal/mq"

// SendResult says what became of a PUBLISH offered to a connection.
type SendResult uint8

// The results of Conn.SendPublish.
const (
	Sent         SendResult = iota
	SendFull                // the outbox is over its bound; Drained will be called
	SendTooLarge            // over the client's maximum packet size [MQTT-3.1.2-24]
	SendClosed              // the connection is closing
)

// Header is what a PUBLISH packet to one client says besides the message.
type Header struct {
	Seq      uint64 // of the client's inbox; 0 with QoS 0
	PacketID uint16 // 0 with QoS 0
	QoS      mq.QoS
	Dup      bool
	Retain   bool // [MQTT3-3.3.1-8] [MQTT3-3.3.1-9] [MQTT-3.3.1-12] [MQTT-3.3.1-13]
	// SubscriptionIDs are those of the client's subscriptions that match
	// [MQTT-3.3.4-3]. Of an addressed message they are in its properties.
	SubscriptionIDs []uint32
}

// AckKind is one of the MQTT acknowledgement packets.
type AckKind uint8

// The acknowledgements a connection can send.
const (
	Puback AckKind = iota
	Pubrec
	Pubrel
	Pubcomp
	PubcompUnknown // PUBCOMP that says that the identifier is not known: its message was refused
)

// CloseReason says why the core wants a connection closed.
type CloseReason uint8

// The reasons.
const (
	TakenOver      CloseReason = iota // same client ID connected again [MQTT-3.1.4-3]
	ServerShutdown                    //
	SessionLost                       // the store cannot keep the session's promises
	Revoked                           // what its client logged in with would not let it in any more
)

// Conn is what the core sees of a connection. The Send methods append to the
// connection's outbox and do nothing else: they may be called with a session
// locked, from any goroutine. They note the connection in b.
type Conn interface {
	// SendConnack accepts the connection for s. Nothing else is sent before.
	SendConnack(s *Session, sessionPresent bool, b *Batch)
	// SendPublish sends m. m and what h refers to are borrowed for the call.
	SendPublish(m *mq.Message, h Header, b *Batch) SendResult
	// Takes reports whether m is within the client's maximum packet size.
	Takes(m *mq.Message, h Header) bool
	// SendAck sends an acknowledgement, always, however full the outbox is.
	SendAck(kind AckKind, pid uint16, code mq.Code, b *Batch)
	Flusher
	// Close starts closing the connection and returns. The gateway calls
	// Broker.Disconnect when it is closed, also then.
	Close(reason CloseReason)
	// Revoked reports whether what the client has logged in with would not let it
	// in any more. It may be called with a session locked.
	Revoked() bool
	// Settle waits until what the client has sent on this connection up to now, as
	// far as the server has received it, is handled: a client that comes back has
	// sent it before. If it ends the connection, Broker.Disconnect has returned,
	// too. The wait is bounded, also for a client that goes on sending, and there
	// is none for one that is silent. No lock may be held.
	Settle()
	// Quiesce waits until no packet of a closing connection is being handled;
	// none will be after.
	Quiesce()
}
