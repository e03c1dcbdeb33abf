package mq

// DropReason names why a message that was accepted, or offered, reached
// nobody. The list is closed: each reason is a metric label and a trace entry.
type DropReason uint8

// All reasons.
const (
	DropOffline       DropReason = iota // target offline, message not kept
	DropExpired                         // message expiry or retention
	DropInboxFull                       // pushed out by the inbox limit, or refused under policy reject
	DropSlowConsumer                    // QoS 0 to a socket or queue that stays full
	DropTooLarge                        // larger than the target's maximum packet size
	DropSessionEnded                    // kept for a session that started clean or expired
	DropNotAuthorized                   // the sender may not publish there
	DropBadTopic                        // malformed P2P topic
	DropStoreFull                       // disk limit
	DropStoreFailed                     // write or read error
	DropNoSubscriber                    // ordinary topic without a matching subscription
	DropShutdown                        // not deliverable before the server closed
	DropRetainedFull                    // the limit on retained messages, under retain
	DropBadPayload                      // not what its payload format indicator says
	DropQoSTooHigh                      // over the server's maximum QoS
	DropDelayedFull                     // the limit on messages that wait for their delivery time
	DropBadMessage                      // a RocketMQ message whose properties or body are not what they must be
	DropInboxesFull                     // the limit on inboxes that hold messages, or on their names
	DropRetainedBytes                   // the limit on bytes of retained messages, under retain
	DropDelayedBytes                    // the limit on bytes of messages that wait for their delivery time
	DropOtherOwner                      // waited for a client ID that another login has taken over
	DropRevoked                         // the target may not have it any more, though it has subscribed
	DropReasons                         // number of reasons
)

var dropText = [DropReasons]string{
	"offline", "expired", "inbox_full", "slow_consumer", "too_large", "session_ended", "not_authorized",
	"bad_topic", "store_full", "store_failed", "no_subscriber", "shutdown",
	"retained_full", "bad_payload", "qos_too_high", "delayed_full", "bad_message",
	"inboxes_full", "retained_bytes", "delayed_bytes", "other_owner", "revoked",
}

func (r DropReason) String() string { return dropText[r] }
