package rocketmqserver

import (
	"errors"
	"fmt"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/rocketmq"
	pb "github.com/homing-mq/homing/internal/rocketmqpb"
)

// outcome is what a client is told of an mq.Code: in both protocols, and in
// words where the error has none of its own.
//
// SDKs of remoting try a send again elsewhere with 1, 2, 14, 16, 17, 204 and 205
// (DefaultMQProducer), so what cannot get better has another code.
type outcome struct {
	remoting rocketmq.ResponseCode
	grpc     pb.Code
	drop     mq.DropReason // of what is refused before it comes to the core
	text     string
}

var outcomes = [...]outcome{
	mq.OK: {rocketmq.Success, pb.Code_OK, mq.DropBadMessage, "ok"},
	mq.NoTarget: {rocketmq.ConsumerNotOnline, pb.Code_NOT_FOUND, mq.DropOffline,
		"the target is offline and the message is not kept, or it is larger than the target takes; with property cleansessionflag = false it is kept"},
	mq.NotAuthorized: {rocketmq.NoPermission, pb.Code_FORBIDDEN, mq.DropNotAuthorized,
		"no permission to publish to this topic, or to the one that property mqttRealTopic shows; see auth.rules and topics in the server's configuration"},
	mq.BadTopic:        {rocketmq.MessageIllegal, pb.Code_ILLEGAL_TOPIC, mq.DropBadTopic, "malformed topic"},
	mq.InboxFull:       {rocketmq.FlowControl, pb.Code_TOO_MANY_REQUESTS, mq.DropInboxFull, "the target's inbox is full"},
	mq.StoreFull:       {rocketmq.ServiceNotAvailable, pb.Code_INTERNAL_SERVER_ERROR, mq.DropStoreFull, "the disk limit is reached"},
	mq.StoreFailed:     {rocketmq.SystemError, pb.Code_INTERNAL_SERVER_ERROR, mq.DropStoreFailed, "the store cannot write; see the server's log"},
	mq.ShuttingDown:    {rocketmq.ServiceNotAvailable, pb.Code_HA_NOT_AVAILABLE, mq.DropShutdown, "the server is shutting down"},
	mq.BadCredentials:  {rocketmq.NoPermission, pb.Code_UNAUTHORIZED, mq.DropNotAuthorized, "unknown access key or wrong signature"},
	mq.TooManyAttempts: {rocketmq.NoPermission, pb.Code_UNAUTHORIZED, mq.DropNotAuthorized, "too many failed logins from this address; try again in a minute"},
	mq.BadClientID:     {rocketmq.NoPermission, pb.Code_UNAUTHORIZED, mq.DropNotAuthorized, "client ID not allowed"},
	mq.Malformed:       {rocketmq.MessageIllegal, pb.Code_ILLEGAL_MESSAGE_PROPERTY_KEY, mq.DropBadMessage, "malformed message"},
	mq.TooLarge:        {rocketmq.MessageIllegal, pb.Code_MESSAGE_BODY_TOO_LARGE, mq.DropTooLarge, "the message is too large"},
	mq.Overloaded:      {rocketmq.SystemBusy, pb.Code_TOO_MANY_REQUESTS, mq.DropSlowConsumer, "the server is overloaded"},
	mq.RetainedFull:    {rocketmq.FlowControl, pb.Code_TOO_MANY_REQUESTS, mq.DropRetainedFull, "too many retained messages"},
	mq.BadPayload:      {rocketmq.MessageIllegal, pb.Code_MESSAGE_CORRUPTED, mq.DropBadPayload, "the body is damaged"},
	mq.QoSTooHigh:      {rocketmq.MessageIllegal, pb.Code_ILLEGAL_MESSAGE_PROPERTY_KEY, mq.DropQoSTooHigh, "QoS too high"},
	mq.DelayedFull:     {rocketmq.FlowControl, pb.Code_TOO_MANY_REQUESTS, mq.DropDelayedFull, "too many delayed messages"},
	mq.InboxesFull:     {rocketmq.FlowControl, pb.Code_TOO_MANY_REQUESTS, mq.DropInboxesFull, "too many inboxes hold messages (limits.inboxes, limits.inbox-name-bytes)"},
	mq.RetainedBytes:   {rocketmq.FlowControl, pb.Code_TOO_MANY_REQUESTS, mq.DropRetainedBytes, "too many bytes of retained messages"},
	mq.DelayedBytes:    {rocketmq.FlowControl, pb.Code_TOO_MANY_REQUESTS, mq.DropDelayedBytes, "too many bytes of delayed messages"},
	mq.WillsFull:       {rocketmq.FlowControl, pb.Code_TOO_MANY_REQUESTS, mq.DropInboxesFull, "too many wills"},
}

// What is wrong with a message itself, which no other time or server makes right.
var (
	badTopic    = outcomes[mq.BadTopic]
	badMessage  = outcomes[mq.Malformed]
	badBody     = outcomes[mq.BadPayload]
	tooLarge    = outcomes[mq.TooLarge]
	badDelay    = outcome{rocketmq.MessageIllegal, pb.Code_ILLEGAL_DELIVERY_TIME, mq.DropBadMessage, ""}
	growthFull  = outcome{rocketmq.FlowControl, pb.Code_TOO_MANY_REQUESTS, mq.DropTooLarge, ""}
	noTopic     = outcome{rocketmq.TopicNotExist, pb.Code_TOPIC_NOT_FOUND, mq.DropNotAuthorized, ""}
	unsupported = outcome{rocketmq.MessageIllegal, pb.Code_UNSUPPORTED, mq.DropBadMessage, ""}
)

var errTransaction = refuse(unsupported, "transactional messages are not supported; send an ordinary one once the transaction is committed")

// refusal is an error that refuses a request, with what the client is told.
type refusal struct{ outcome }

func (r *refusal) Error() string { return r.text }

func refuse(as outcome, format string, args ...any) *refusal {
	as.text = fmt.Sprintf(format, args...)
	return &refusal{as}
}

func badProperty(key, value []byte, must string) *refusal {
	return refuse(badMessage, "property %s is %q: it %s", clip(key), clip(value), must)
}

// told returns what a client is told of an error: a refusal, or an *mq.Error.
func told(err error) outcome {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.outcome
	}
	e, ok := errors.AsType[*mq.Error](err)
	if !ok {
		return outcomes[mq.StoreFailed]
	}
	o := outcomes[e.Code]
	o.text = e.Text
	return o
}

// plainTopic marks the token of a publish to an ordinary topic, for settled.
const plainTopic = 1 << 63

// settled is what the sender is told: to an ordinary topic that nobody has
// subscribed to nothing is owed.
func settled(token uint64, code mq.Code) mq.Code {
	if token&plainTopic != 0 && code == mq.NoTarget {
		return mq.OK
	}
	return code
}
