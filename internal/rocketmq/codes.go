package rocketmq

import "strconv"

// RequestCode says what a request asks for.
type RequestCode int32

// The requests that clients send, and those that a server sends to them
// (RequestCode).
const (
	SendMessage                 RequestCode = 10
	PullMessage                 RequestCode = 11
	QueryMessage                RequestCode = 12
	QueryBrokerOffset           RequestCode = 13
	QueryConsumerOffset         RequestCode = 14
	UpdateConsumerOffset        RequestCode = 15
	UpdateAndCreateTopic        RequestCode = 17
	SearchOffsetByTimestamp     RequestCode = 29
	GetMaxOffset                RequestCode = 30
	GetMinOffset                RequestCode = 31
	GetEarliestMsgStoreTime     RequestCode = 32
	ViewMessageByID             RequestCode = 33
	HeartBeat                   RequestCode = 34
	UnregisterClient            RequestCode = 35
	ConsumerSendMsgBack         RequestCode = 36
	EndTransaction              RequestCode = 37
	GetConsumerListByGroup      RequestCode = 38
	CheckTransactionState       RequestCode = 39 // server to client
	NotifyConsumerIDsChanged    RequestCode = 40 // server to client
	LockBatchMQ                 RequestCode = 41
	UnlockBatchMQ               RequestCode = 42
	CheckClientConfig           RequestCode = 46
	GetRouteInfoByTopic         RequestCode = 105
	GetBrokerClusterInfo        RequestCode = 106
	UpdateAndCreateGroup        RequestCode = 200
	GetAllTopicList             RequestCode = 206
	ResetConsumerClientOffset   RequestCode = 220 // server to client
	GetConsumerStatusFromClient RequestCode = 221 // server to client
	GetConsumerRunningInfo      RequestCode = 307 // server to client
	ConsumeMessageDirectly      RequestCode = 309 // server to client
	SendMessageV2               RequestCode = 310
	SendBatchMessage            RequestCode = 320
	SendReplyMessage            RequestCode = 324
	SendReplyMessageV2          RequestCode = 325
	PushReplyMessageToClient    RequestCode = 326 // server to client
	LitePullMessage             RequestCode = 361
	RecallMessage               RequestCode = 370
	QueryAssignment             RequestCode = 400
	PopMessage                  RequestCode = 200050
	AckMessage                  RequestCode = 200051
	PeekMessage                 RequestCode = 200052
	ChangeMessageInvisibleTime  RequestCode = 200053
	Notification                RequestCode = 200054
	BatchAckMessage             RequestCode = 200151
)

var requestNames = map[RequestCode]string{
	SendMessage:                 "SEND_MESSAGE",
	PullMessage:                 "PULL_MESSAGE",
	QueryMessage:                "QUERY_MESSAGE",
	QueryBrokerOffset:           "QUERY_BROKER_OFFSET",
	QueryConsumerOffset:         "QUERY_CONSUMER_OFFSET",
	UpdateConsumerOffset:        "UPDATE_CONSUMER_OFFSET",
	UpdateAndCreateTopic:        "UPDATE_AND_CREATE_TOPIC",
	SearchOffsetByTimestamp:     "SEARCH_OFFSET_BY_TIMESTAMP",
	GetMaxOffset:                "GET_MAX_OFFSET",
	GetMinOffset:                "GET_MIN_OFFSET",
	GetEarliestMsgStoreTime:     "GET_EARLIEST_MSG_STORETIME",
	ViewMessageByID:             "VIEW_MESSAGE_BY_ID",
	HeartBeat:                   "HEART_BEAT",
	UnregisterClient:            "UNREGISTER_CLIENT",
	ConsumerSendMsgBack:         "CONSUMER_SEND_MSG_BACK",
	EndTransaction:              "END_TRANSACTION",
	GetConsumerListByGroup:      "GET_CONSUMER_LIST_BY_GROUP",
	CheckTransactionState:       "CHECK_TRANSACTION_STATE",
	NotifyConsumerIDsChanged:    "NOTIFY_CONSUMER_IDS_CHANGED",
	LockBatchMQ:                 "LOCK_BATCH_MQ",
	UnlockBatchMQ:               "UNLOCK_BATCH_MQ",
	CheckClientConfig:           "CHECK_CLIENT_CONFIG",
	GetRouteInfoByTopic:         "GET_ROUTEINFO_BY_TOPIC",
	GetBrokerClusterInfo:        "GET_BROKER_CLUSTER_INFO",
	UpdateAndCreateGroup:        "UPDATE_AND_CREATE_SUBSCRIPTIONGROUP",
	GetAllTopicList:             "GET_ALL_TOPIC_LIST_FROM_NAMESERVER",
	ResetConsumerClientOffset:   "RESET_CONSUMER_CLIENT_OFFSET",
	GetConsumerStatusFromClient: "GET_CONSUMER_STATUS_FROM_CLIENT",
	GetConsumerRunningInfo:      "GET_CONSUMER_RUNNING_INFO",
	ConsumeMessageDirectly:      "CONSUME_MESSAGE_DIRECTLY",
	SendMessageV2:               "SEND_MESSAGE_V2",
	SendBatchMessage:            "SEND_BATCH_MESSAGE",
	SendReplyMessage:            "SEND_REPLY_MESSAGE",
	SendReplyMessageV2:          "SEND_REPLY_MESSAGE_V2",
	PushReplyMessageToClient:    "PUSH_REPLY_MESSAGE_TO_CLIENT",
	LitePullMessage:             "LITE_PULL_MESSAGE",
	RecallMessage:               "RECALL_MESSAGE",
	QueryAssignment:             "QUERY_ASSIGNMENT",
	PopMessage:                  "POP_MESSAGE",
	AckMessage:                  "ACK_MESSAGE",
	PeekMessage:                 "PEEK_MESSAGE",
	ChangeMessageInvisibleTime:  "CHANGE_MESSAGE_INVISIBLETIME",
	Notification:                "NOTIFICATION",
	BatchAckMessage:             "BATCH_ACK_MESSAGE",
}

// String returns the name of the code in RocketMQ, or the number of one
// without a name here.
func (c RequestCode) String() string {
	if name, ok := requestNames[c]; ok {
		return name
	}
	return "request " + strconv.Itoa(int(c))
}

// ResponseCode says how a request went.
type ResponseCode int32

// The answers (ResponseCode, RemotingSysResponseCode). Java's sync send tries
// TOPIC_NOT_EXIST, SERVICE_NOT_AVAILABLE, SYSTEM_ERROR, SYSTEM_BUSY,
// NO_PERMISSION and GO_AWAY again, up to twice (DefaultMQProducer).
const (
	Success                   ResponseCode = 0
	SystemError               ResponseCode = 1
	SystemBusy                ResponseCode = 2
	RequestCodeNotSupported   ResponseCode = 3
	TransactionFailed         ResponseCode = 4
	FlushDiskTimeout          ResponseCode = 10
	SlaveNotAvailable         ResponseCode = 11
	FlushSlaveTimeout         ResponseCode = 12
	MessageIllegal            ResponseCode = 13
	ServiceNotAvailable       ResponseCode = 14
	VersionNotSupported       ResponseCode = 15
	NoPermission              ResponseCode = 16
	TopicNotExist             ResponseCode = 17
	PullNotFound              ResponseCode = 19
	PullRetryImmediately      ResponseCode = 20
	PullOffsetMoved           ResponseCode = 21
	QueryNotFound             ResponseCode = 22
	SubscriptionParseFailed   ResponseCode = 23
	SubscriptionNotExist      ResponseCode = 24
	SubscriptionNotLatest     ResponseCode = 25
	SubscriptionGroupNotExist ResponseCode = 26
	InvalidParameter          ResponseCode = 29
	NoBuyerID                 ResponseCode = 204
	NotInCurrentUnit          ResponseCode = 205
	ConsumerNotOnline         ResponseCode = 206
	NoMessage                 ResponseCode = 208
	PollingFull               ResponseCode = 209
	PollingTimeout            ResponseCode = 210
	FlowControl               ResponseCode = 215
	GoAway                    ResponseCode = 1500
)

var responseNames = map[ResponseCode]string{
	Success:                   "SUCCESS",
	SystemError:               "SYSTEM_ERROR",
	SystemBusy:                "SYSTEM_BUSY",
	RequestCodeNotSupported:   "REQUEST_CODE_NOT_SUPPORTED",
	TransactionFailed:         "TRANSACTION_FAILED",
	FlushDiskTimeout:          "FLUSH_DISK_TIMEOUT",
	SlaveNotAvailable:         "SLAVE_NOT_AVAILABLE",
	FlushSlaveTimeout:         "FLUSH_SLAVE_TIMEOUT",
	MessageIllegal:            "MESSAGE_ILLEGAL",
	ServiceNotAvailable:       "SERVICE_NOT_AVAILABLE",
	VersionNotSupported:       "VERSION_NOT_SUPPORTED",
	NoPermission:              "NO_PERMISSION",
	TopicNotExist:             "TOPIC_NOT_EXIST",
	PullNotFound:              "PULL_NOT_FOUND",
	PullRetryImmediately:      "PULL_RETRY_IMMEDIATELY",
	PullOffsetMoved:           "PULL_OFFSET_MOVED",
	QueryNotFound:             "QUERY_NOT_FOUND",
	SubscriptionParseFailed:   "SUBSCRIPTION_PARSE_FAILED",
	SubscriptionNotExist:      "SUBSCRIPTION_NOT_EXIST",
	SubscriptionNotLatest:     "SUBSCRIPTION_NOT_LATEST",
	SubscriptionGroupNotExist: "SUBSCRIPTION_GROUP_NOT_EXIST",
	InvalidParameter:          "INVALID_PARAMETER",
	NoBuyerID:                 "NO_BUYER_ID",
	NotInCurrentUnit:          "NOT_IN_CURRENT_UNIT",
	ConsumerNotOnline:         "CONSUMER_NOT_ONLINE",
	NoMessage:                 "NO_MESSAGE",
	PollingFull:               "POLLING_FULL",
	PollingTimeout:            "POLLING_TIMEOUT",
	FlowControl:               "FLOW_CONTROL",
	GoAway:                    "GO_AWAY",
}

// String returns the name of the code in RocketMQ, or the number of one
// without a name here.
func (c ResponseCode) String() string {
	if name, ok := responseNames[c]; ok {
		return name
	}
	return "response " + strconv.Itoa(int(c))
}

// Language is what the sender of a command is written in.
type Language byte

// The languages (LanguageCode). A name that is not known is read as
// LanguageOther.
const (
	LanguageJava Language = iota
	LanguageCPP
	LanguageDotNet
	LanguagePython
	LanguageDelphi
	LanguageErlang
	LanguageRuby
	LanguageOther
	LanguageHTTP
	LanguageGo
	LanguagePHP
	LanguageOMS
	LanguageRust
	LanguageNodeJS
)

var languageNames = [...]string{
	LanguageJava:   "JAVA",
	LanguageCPP:    "CPP",
	LanguageDotNet: "DOTNET",
	LanguagePython: "PYTHON",
	LanguageDelphi: "DELPHI",
	LanguageErlang: "ERLANG",
	LanguageRuby:   "RUBY",
	LanguageOther:  "OTHER",
	LanguageHTTP:   "HTTP",
	LanguageGo:     "GO",
	LanguagePHP:    "PHP",
	LanguageOMS:    "OMS",
	LanguageRust:   "RUST",
	LanguageNodeJS: "NODE_JS",
}

// String returns the name of the language on the wire, OTHER for an unknown
// one.
func (l Language) String() string {
	if int(l) < len(languageNames) {
		return languageNames[l]
	}
	return languageNames[LanguageOther]
}

// languageOf returns the language with this name.
func languageOf(name []byte) Language {
	for l, known := range languageNames {
		if string(name) == known {
			return Language(l)
		}
	}
	return LanguageOther
}
